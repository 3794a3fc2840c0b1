//! In place of etcd: it answers for a store that the API server opens itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::cluster::signals;

/// Where it tells of the store.
const STORE_PATH: &str = "/corral/store";
/// Bytes of that answer: a path and a word.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// In place of etcd for tests: it keeps no objects itself, and speaks no gRPC.
#[derive(Debug, Parser)]
#[command(name = "etcd", version)]
pub struct EtcdArgs {
    /// Where everything is kept.
    #[arg(long, value_name = "DIR", default_value = "default.etcd")]
    data_dir: PathBuf,
    /// Where clients are listened to.
    #[arg(
        long,
        value_name = "URLS",
        value_delimiter = ',',
        default_value = "http://localhost:2379"
    )]
    listen_client_urls: Vec<String>,
    /// The same as clients know it; this one must be among those listened on.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    advertise_client_urls: Vec<String>,
    /// Where other members would be listened to; there are none, and nobody is answered.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    listen_peer_urls: Vec<String>,
    /// Do not wait for the disk.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = clap::ArgAction::Set)]
    unsafe_no_fsync: bool,
}

/// Where a store is, and how it is to be opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Store {
    /// Its directory.
    pub directory: PathBuf,
    /// Whether writes wait for the disk.
    pub synced: bool,
}

/// Answers until told to stop.
pub async fn run(args: EtcdArgs) -> anyhow::Result<()> {
    let EtcdArgs {
        data_dir,
        listen_client_urls,
        advertise_client_urls,
        listen_peer_urls,
        unsafe_no_fsync,
    } = args;
    let stop = signals::stop_token()?;
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("cannot make {}", data_dir.display()))?;
    for url in &advertise_client_urls {
        let listened = listen_client_urls.contains(url);
        ensure!(
            listened,
            "--advertise-client-urls: {url} is not listened on"
        );
    }
    let store = Store {
        directory: std::path::absolute(data_dir.join("corral"))?,
        synced: !unsafe_no_fsync,
    };
    let told = Bytes::from(serde_json::to_vec(&store)?);
    let mut serving = tokio::task::JoinSet::new();
    for url in &listen_client_urls {
        serving.spawn(serve(listen(url).await?, told.clone(), stop.clone()));
    }
    let mut peers = Vec::new();
    for url in &listen_peer_urls {
        peers.push(listen(url).await?);
    }
    stop.cancelled().await;
    drop(peers);
    serving.join_all().await;
    Ok(())
}

async fn listen(url: &str) -> anyhow::Result<TcpListener> {
    let (host, port) = place(url)?;
    let listener = TcpListener::bind((host.as_str(), port)).await;
    listener.with_context(|| format!("cannot listen on {url}"))
}

fn place(url: &str) -> anyhow::Result<(String, u16)> {
    let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
    let is_plain = uri.scheme_str() == Some("http");
    ensure!(is_plain, "{url}: only http is spoken in place of etcd");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri
        .port_u16()
        .with_context(|| format!("{url} names no port"))?;
    Ok((host.to_owned(), port))
}

async fn serve(listener: TcpListener, told: Bytes, stop: CancellationToken) {
    // Connections end with the listener.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, _)) = accepted else { continue };
        let told = told.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let answer = answer(request.uri().path(), &told);
                std::future::ready(Ok::<_, std::convert::Infallible>(answer))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no event.
            let _ = connection
                .serve_connection(TokioIo::new(tcp), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(path: &str, told: &Bytes) -> Response<Full<Bytes>> {
    match path {
        "/health" => Response::new(Full::from(r#"{"health":"true","reason":""}"#)),
        STORE_PATH => Response::new(Full::new(told.clone())),
        _ => {
            let mut response = Response::new(Full::from("404 page not found\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// Asks what is at a URL: a store, or nothing if that is a real etcd.
///
/// # Errors
/// When nobody answers, or not as one should.
pub async fn ask(url: &str) -> anyhow::Result<Option<Store>> {
    let Ok((host, port)) = place(url) else {
        return Ok(None);
    };
    let found = tokio::net::lookup_host((host.as_str(), port)).await?;
    let addresses: Vec<SocketAddr> = found.collect();
    let tcp = TcpStream::connect(addresses.as_slice()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    let request = Request::get(STORE_PATH)
        .header("host", format!("{host}:{port}"))
        .body(http_body_util::Empty::<Bytes>::new())?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Ok(None);
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        let body = body.await.map_err(anyhow::Error::from_boxed)?;
        Ok(Some(serde_json::from_slice(&body.to_bytes())?))
    };
    tokio::select! {
        store = asking => store,
        end = connection => {
            end?;
            Ok(None)
        }
    }
}
