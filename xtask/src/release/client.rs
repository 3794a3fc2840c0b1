//! A client of the API over HTTP/2, with the client certificate of a kubeconfig.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub const JSON: &str = "application/json";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Full<Bytes>>,
    authority: Arc<str>,
}

impl Client {
    /// Connects to the server of a kubeconfig of ours.
    pub async fn connect(kubeconfig: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let field = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            value.with_context(|| format!("the kubeconfig has no {name}"))
        };
        let pem = |name: &str| anyhow::Ok(STANDARD.decode(field(name)?)?);
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&pem("certificate-authority-data")?) {
            roots.add(root?)?;
        }
        let chain = pem("client-certificate-data")?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];

        let server = field("server")?;
        let authority = server
            .strip_prefix("https://")
            .context("the server has no https URL")?;
        let tcp = TcpStream::connect(authority).await?;
        tcp.set_nodelay(true)?;
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
        let (requests, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends with the last client; what goes wrong the requests tell.
        tokio::spawn(connection);
        Ok(Self {
            requests,
            authority: authority.into(),
        })
    }

    /// Sends a request, and answers the head of what comes back.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        (accept, content): (&str, &str),
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header("accept", accept)
            .header("content-type", content)
            .header("user-agent", "training/v1")
            .body(Full::new(body))?;
        let mut requests = self.requests.clone();
        requests.ready().await?;
        Ok(requests.send_request(request).await?)
    }

    /// Sends a request that must succeed, and answers the body.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        types: (&str, &str),
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Bytes> {
        let told = format!("{method} {path}");
        let answer = self.send(method, path, types, body.into()).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "{told}: {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }

    pub async fn get(&self, path: &str, accept: &str) -> anyhow::Result<Bytes> {
        self.call(Method::GET, path, (accept, JSON), Bytes::new())
            .await
    }

    pub async fn post(&self, path: &str, object: &Value) -> anyhow::Result<Bytes> {
        self.call(Method::POST, path, (JSON, JSON), object.to_string())
            .await
    }

    pub async fn put(&self, path: &str, object: &Value) -> anyhow::Result<Bytes> {
        self.call(Method::PUT, path, (JSON, JSON), object.to_string())
            .await
    }

    pub async fn patch(&self, path: &str, content: &str, patch: &Value) -> anyhow::Result<Bytes> {
        self.call(Method::PATCH, path, (JSON, content), patch.to_string())
            .await
    }

    /// Reads an object as protobuf, puts one text in place of another of the same length, and writes it back to `to`.
    pub async fn put_protobuf(
        &self,
        path: &str,
        to: &str,
        [before, after]: [&str; 2],
    ) -> anyhow::Result<()> {
        ensure!(before.len() == after.len(), "texts of different lengths");
        let mut message = self.get(path, PROTOBUF).await?.to_vec();
        let places: Vec<usize> = message
            .windows(before.len())
            .enumerate()
            .filter_map(|(at, text)| (text == before.as_bytes()).then_some(at))
            .collect();
        if places.is_empty() {
            bail!("{path} has no {before}");
        }
        for at in places {
            message[at..at + after.len()].copy_from_slice(after.as_bytes());
        }
        self.call(Method::PUT, to, (PROTOBUF, PROTOBUF), message)
            .await?;
        Ok(())
    }

    /// Watches until the watch ends.
    pub async fn watch(&self, path: &str, accept: &str) -> anyhow::Result<()> {
        let answer = self.send(Method::GET, path, (accept, JSON), Bytes::new());
        let mut body = answer.await?.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(())
    }
}
