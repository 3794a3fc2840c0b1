//! The servers that are asked.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use corral_server::authn::{MASTERS, User};
use corral_server::flow::Bounds;
use corral_server::{Server, ServerConfig};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use futures::StreamExt;
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::case::{Answer, Pair, Request};
use crate::normalise;

/// How many requests that do not depend on each other are under way at once.
const PARALLEL: usize = 16;

/// How long a kind that was described may take to be served.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that can be asked.
pub struct Target {
    client: kube::Client,
    _ours: Option<Ours>,
}

struct Ours {
    stop: CancellationToken,
    _server: Server,
    _directory: tempfile::TempDir,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Target {
    /// The server of a kubeconfig.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn peer(kubeconfig: &Path) -> anyhow::Result<Self> {
        let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        Ok(Self {
            client: kube::Client::try_from(config)?,
            _ours: None,
        })
    }

    /// Corral's own, in this process, over an empty store.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn ours() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = EmbeddedConfig::new(directory.path().join("store"));
        let storage = EmbeddedStore::open(config, EmbeddedMetrics::default())?;
        let stop = CancellationToken::new();
        let server = Server::start(ServerConfig {
            listen: "127.0.0.1:0".parse()?,
            advertise: None,
            names: Vec::new(),
            pki: directory.path().join("pki"),
            given: Default::default(),
            service_range: "10.0.0.0/16".parse().map_err(anyhow::Error::msg)?,
            node_ports: 30_000..=32_767,
            storage,
            authz: Default::default(),
            authn: Default::default(),
            audit: Default::default(),
            admission: Default::default(),
            bounds: Bounds::default(),
            serving: Default::default(),
            registry: prometheus::Registry::new(),
            stop: stop.clone(),
        })
        .await?;
        let client = server.local(User::new("admin", &[MASTERS])).client();
        Ok(Self {
            client,
            _ours: Some(Ours {
                stop,
                _server: server,
                _directory: directory,
            }),
        })
    }

    /// Asks for JSON, and answers it as it is.
    ///
    /// # Errors
    /// When there is no connection, or no JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = http::Request::get(path).body(Body::empty())?;
        let answer = self.client.send(request).await?;
        let bytes = answer.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Asks one request, again and again if it is one that may come too early.
    async fn ask_patiently(&self, request: &Request) -> anyhow::Result<Answer> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = match self.ask(request).await {
                Ok(answer) => answer,
                // The peer gives up on some requests, and the connection with them.
                Err(error) if error.is::<kube::Error>() => {
                    eprintln!("{}: no answer: {error}", request.name);
                    return Ok(Answer::none());
                }
                Err(error) => return Err(error),
            };
            let early = match request.until {
                Some(code) => answer.code != code,
                None => request.patient && matches!(answer.code, 404 | 405),
            };
            if !early || tokio::time::Instant::now() > until {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks one request.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        let mut message = http::Request::builder()
            .method(request.method.as_str())
            .uri(&request.path)
            .header("user-agent", "oracle/1");
        if !request.content.is_empty() {
            message = message.header("content-type", &request.content);
        }
        let accept = match request.accept.as_str() {
            "" => "application/json",
            accept => accept,
        };
        message = message.header("accept", accept);
        let message = message.body(Body::from(request.body.clone().into_bytes()))?;
        let answer = self.client.send(message).await?;
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok(normalise::answer(request, &parts, &bytes))
    }

    /// Asks all: those that are ordered one after the other, the others between them at once.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn ask_all(&self, requests: &[Request]) -> anyhow::Result<Vec<Pair>> {
        let mut pairs = Vec::with_capacity(requests.len());
        for group in requests.chunk_by(|a, b| !a.ordered && !b.ordered) {
            let answers = futures::stream::iter(group).map(async |request| {
                let answer = self.ask_patiently(request).await;
                let answer = answer.with_context(|| request.name.clone())?;
                let request = request.clone();
                anyhow::Ok(Pair { request, answer })
            });
            let mut answers = answers.buffered(PARALLEL);
            while let Some(pair) = answers.next().await {
                pairs.push(pair?);
            }
        }
        Ok(pairs)
    }
}
