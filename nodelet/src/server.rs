//! The node's own API, on the paths that a kubelet has, for the API server alone.
//!
//! | path | what |
//! |---|---|
//! | `/containerLogs/{ns}/{pod}/{container}` | logs, followed or not |
//! | `/exec/…`, `/attach/…` | processes and streams over WebSocket or SPDY/3.1 ([`exec`]) |
//! | `/portForward/{ns}/{pod}` | connections into the pod ([`port_forward`]) |
//! | `/pods`, `/stats/summary`, `/metrics` | what runs, what it uses |
//! | `/healthz` | `ok` |
//!
//! Reading order: [`tls`] (who may ask), this file (routes), [`logs`], [`socket`], [`exec`], [`port_forward`],
//! [`spdy`], [`stats`].

pub mod exec;
pub mod logs;
pub mod port_forward;
pub mod socket;
pub mod spdy;
pub mod stats;
pub mod tls;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::agent::Views;
use crate::node::Node;
use crate::pod::ContainerState;
use crate::worker::PodView;

/// The most connections at once: each is a log reader, an exec or a forwarded port of somebody.
const CONNECTIONS_MAX: usize = 1024;

/// How long a client may take over the TLS handshake.
const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The most parameters of a query; `command` is repeated for each argument.
const PARAMETERS_MAX: usize = 4096;

/// A body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An answer.
pub type Answer = Response<Body>;

/// What requests are served from.
#[derive(Clone)]
pub struct Server {
    pub(crate) node: Arc<Node>,
    pub(crate) views: Views,
    pub(crate) shutdown: CancellationToken,
}

/// A request that cannot be served.
#[derive(Debug)]
pub struct Refusal {
    pub(crate) code: StatusCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl Server {
    /// Serves what `Agent::shared` gives.
    pub fn new((node, views): (Arc<Node>, Views), shutdown: CancellationToken) -> Self {
        Self {
            node,
            views,
            shutdown,
        }
    }

    /// Accepts connections until shutdown.
    pub async fn run(self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = permits
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, most likely: others must end first.
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = self.shutdown.cancelled() => return,
            };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                server.connection(stream, acceptor).await;
                drop(permit);
            });
        }
    }

    async fn connection(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
        let Ok(Ok(stream)) = handshake else { return };
        let allowed = tls::is_api_server(stream.get_ref().1.peer_certificates());
        let shutdown = self.shutdown.clone();
        let service = hyper::service::service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request, allowed).await) }
        });
        let serve = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            _ = serve => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>, allowed: bool) -> Answer {
        let outcome = match allowed {
            true => self.route(request).await,
            false => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "only the API server may ask this node",
            )),
        };
        outcome.unwrap_or_else(|refusal| text(refusal.code, refusal.message))
    }

    async fn route(&self, mut request: Request<Incoming>) -> Result<Answer, Refusal> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let query = Query::parse(request.uri().query().unwrap_or(""))?;
        let read_only = request.method() == Method::GET;
        match parts.as_slice() {
            ["healthz"] if read_only => Ok(text(StatusCode::OK, "ok")),
            ["pods"] if read_only => Ok(stats::pods(self)),
            ["stats", "summary"] if read_only => Ok(stats::summary(self)),
            ["metrics"] if read_only => Ok(stats::metrics(self)),
            ["containerLogs", namespace, pod, container] if read_only => {
                logs::serve(self, namespace, pod, container, &query)
            }
            ["exec", namespace, pod, container] => {
                exec::exec(self, &mut request, namespace, pod, container, &query).await
            }
            ["attach", namespace, pod, container] => {
                exec::attach(self, &mut request, namespace, pod, container, &query).await
            }
            ["portForward", namespace, pod] => {
                port_forward::serve(self, &mut request, namespace, pod, &query)
            }
            _ => Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Result<PodView, Refusal> {
        let view = self.views.find(namespace, name, None);
        let missing = || Refusal::new(StatusCode::NOT_FOUND, format!("pod {name:?} not found"));
        view.map(|view| view.borrow().clone()).ok_or_else(missing)
    }
}

/// The container called `name`.
pub(crate) fn container<'a>(view: &'a PodView, name: &str) -> Result<&'a ContainerState, Refusal> {
    let missing = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("container not found ({name:?})"),
        )
    };
    view.state.container(name).ok_or_else(missing)
}

/// A query taken apart.
#[derive(Debug, Default)]
pub struct Query {
    parameters: HashMap<String, Vec<String>>,
}

impl Query {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let mut parameters: HashMap<String, Vec<String>> = HashMap::new();
        for (number, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if number >= PARAMETERS_MAX {
                return Err(Refusal::bad_request("the query has too many parameters"));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters
                .entry(decode(key))
                .or_default()
                .push(decode(value));
        }
        Ok(Self { parameters })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .get(name)?
            .first()
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.parameters.get(name).cloned().unwrap_or_default()
    }

    /// Whether one of the names is set: streams have other names at a node than at the API server. As in Kubernetes
    /// every value but `0` and `false` sets it, for some clients write `True`.
    pub(crate) fn on(&self, names: &[&str]) -> bool {
        let set = |value: &String| value != "0" && !value.eq_ignore_ascii_case("false");
        names.iter().any(|name| {
            self.parameters
                .get(*name)
                .and_then(|v| v.first())
                .is_some_and(set)
        })
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A short text as an answer.
pub(crate) fn text(code: StatusCode, body: impl Into<String>) -> Answer {
    typed(code, "text/plain; charset=utf-8", body.into().into())
}

/// Bytes of a type as an answer.
pub(crate) fn typed(code: StatusCode, media_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body).boxed_unsync());
    *answer.status_mut() = code;
    let value = http::HeaderValue::from_static(media_type);
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, value);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_may_repeat() {
        let query =
            Query::parse("command=sh&command=-c&command=echo%20%2B+x&input=1&tty=true&empty=")
                .expect("short");
        assert_eq!(query.all("command"), ["sh", "-c", "echo + x"]);
        assert!(query.on(&["stdin", "input"]) && query.on(&["tty"]) && !query.on(&["error"]));
        assert_eq!(query.get("empty"), None);
    }
}
