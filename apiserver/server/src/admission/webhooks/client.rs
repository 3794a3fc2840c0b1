//! The connections to webhooks: kept and used again, one set for each place and certificate authority.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use corral_api::k8s::api::admissionregistration::v1::WebhookClientConfig;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Refusal;
use super::hooks::Hook;
use super::target::{self, Place, Target};
use super::trust::Trust;
use crate::api::Api;

/// Most bytes of a webhook's answer: a review holds at most a patch of an object, of which the store takes less.
const ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How many sets of connections are kept; beyond, all are let go.
const CLIENTS_MAX: usize = 64;
/// Connections to one webhook that are kept while nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// How long such a connection is kept, as Go does.
const IDLE_TIME: Duration = Duration::from_secs(90);
/// How long one address of a webhook may take to accept a connection before the next is tried.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Longest part of a webhook's error text that is passed on.
const ERROR_TEXT_MAX: usize = 1024;
/// Files with the certificates that the machine trusts, where distributions have them.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

type Pool = Client<Connector, Full<Bytes>>;

/// What connections are told apart by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    place: Place,
    bundle: Vec<u8>,
}

/// Why there is no answer.
pub(crate) enum Unanswered {
    /// The configuration leads nowhere.
    NoTarget(String),
    /// The webhook could not be reached, or answered with an error.
    Failed {
        /// What went wrong.
        why: String,
        /// The code that it is told with.
        code: u16,
        /// Whether it took too long.
        late: bool,
    },
}

/// All clients.
#[derive(Default)]
pub struct Clients {
    known: Mutex<HashMap<Key, Arc<Pool>>>,
}

impl Clients {
    /// Asks a webhook of admission.
    ///
    /// # Errors
    /// When the webhook cannot be reached, takes too long, or answers with an error.
    pub(super) async fn post(
        &self,
        api: &Api,
        hook: &Hook,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, Refusal> {
        let config = &hook.webhook.client_config;
        let answer = self.send(api, config, body, timeout, ANSWER_BYTES_MAX);
        answer.await.map_err(|unanswered| match unanswered {
            Unanswered::NoTarget(why) => Refusal::Failed { why, code: 500 },
            Unanswered::Failed { why, code, .. } => Refusal::Failed {
                why: format!("failed to call webhook: {why}"),
                code,
            },
        })
    }

    /// Sends a question and reads the answer, of which no more than so many bytes are taken.
    ///
    /// # Errors
    /// When the webhook cannot be reached, takes too long, or answers with an error.
    pub(crate) async fn send(
        &self,
        api: &Api,
        config: &WebhookClientConfig,
        body: Bytes,
        timeout: Duration,
        answer_bytes_max: usize,
    ) -> Result<Bytes, Unanswered> {
        let target = target::of(config)
            .map_err(|why| Unanswered::NoTarget(format!("could not get REST client: {why}")))?;
        // Go tells whole seconds, rounded up.
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let url = format!("{}?timeout={seconds}s", target.url);
        let failed = |why: String, late: bool| Unanswered::Failed {
            why: format!("Post {url:?}: {why}"),
            code: 503,
            late,
        };
        let post = |why: String| failed(why, false);
        let bundle = config
            .ca_bundle
            .as_ref()
            .map_or(&[][..], |bundle| &bundle.0);
        let asking = async {
            let pool = self.pool(&target, bundle).map_err(&post)?;
            // Addresses are found each time: connections are kept, what is behind a Service is not.
            let addresses = target::addresses(api, &target.place).await.map_err(&post)?;
            let request = request(&target, seconds, body, addresses).map_err(&post)?;
            let answer = pool
                .request(request)
                .await
                .map_err(|error| post(cause(&error)))?;
            let status = answer.status();
            let limited = Limited::new(answer.into_body(), answer_bytes_max)
                .collect()
                .await;
            let bytes = limited.map_err(|error| post(error.to_string()))?.to_bytes();
            if status.is_success() {
                return Ok(bytes);
            }
            Err(Unanswered::Failed {
                why: refusal(status, &bytes),
                code: status.as_u16(),
                late: false,
            })
        };
        tokio::time::timeout(timeout, asking)
            .await
            .unwrap_or_else(|_| Err(failed("context deadline exceeded".to_owned(), true)))
    }

    fn pool(&self, target: &Target, bundle: &[u8]) -> Result<Arc<Pool>, String> {
        let key = Key {
            place: target.place.clone(),
            bundle: bundle.to_vec(),
        };
        if let Some(pool) = self
            .known
            .lock()
            .expect("no panic under the lock")
            .get(&key)
        {
            return Ok(pool.clone());
        }
        let tls = tls(bundle, target.http2)?;
        let server_name = ServerName::try_from(target.server_name.clone())
            .map_err(|error| format!("{}: {error}", target.server_name))?;
        let connector = Connector {
            tls: Arc::new(tls),
            server_name,
        };
        let pool = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        let pool = Arc::new(pool);
        let mut known = self.known.lock().expect("no panic under the lock");
        if known.len() >= CLIENTS_MAX {
            known.clear();
        }
        known.insert(key, pool.clone());
        Ok(pool)
    }
}

fn request(
    target: &Target,
    seconds: u64,
    body: Bytes,
    addresses: Vec<SocketAddr>,
) -> Result<Request<Full<Bytes>>, String> {
    // The first of the addresses is the host of the request's URI, so that connections to one that is gone are not used
    // for another; the webhook is told its own name.
    let first = addresses.first().ok_or("no address")?;
    let uri = format!("https://{first}{}?timeout={seconds}s", target.path);
    let uri: Uri = uri
        .parse()
        .map_err(|error| format!("invalid URL: {error}"))?;
    let host = match &target.place {
        Place::Host(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        Place::Host(host, port) => format!("{host}:{port}"),
        Place::Service(.., port) => format!("{}:{port}", target.server_name),
    };
    Request::post(uri)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|error| error.to_string())
}

/// What went wrong, in the words of Go where there are some.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// What an answer other than success means to a client of Kubernetes.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Told {
        kind: String,
        message: String,
    }
    if let Ok(told) = serde_json::from_slice::<Told>(body)
        && told.kind == "Status"
    {
        return told.message;
    }
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().take(ERROR_TEXT_MAX).collect();
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 if text.is_empty() => "forbidden".to_owned(),
        403 => text,
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        409 => "the server reported a conflict".to_owned(),
        413 => "the server responded with the status code 413 but did not return more information".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request"
            .to_owned(),
        500.. => {
            let shown = if text.is_empty() { "unknown".to_owned() } else { text };
            format!("an error on the server ({shown:?}) has prevented the request from succeeding")
        }
        code => format!("the server responded with the status code {code} but did not return more information"),
    }
}

/// Whom a bundle vouches for; an empty one stands for whom the machine trusts.
pub(crate) fn trust(bundle: &[u8]) -> Result<Arc<Trust>, String> {
    let trusted = if bundle.is_empty() {
        let found = SYSTEM_ROOTS
            .iter()
            .find_map(|path| std::fs::read(path).ok());
        certificates(&found.unwrap_or_default())
    } else {
        certificates(bundle)
    };
    if trusted.is_empty() {
        let why = "unable to load root certificates: unable to parse bytes as PEM block";
        return Err(why.to_owned());
    }
    Trust::new(trusted).map(Arc::new)
}

fn tls(bundle: &[u8], http2: bool) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(trust(bundle)?)
        .with_no_client_auth();
    config.alpn_protocols = match http2 {
        true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        false => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

fn certificates(mut pem: &[u8]) -> Vec<CertificateDer<'static>> {
    rustls_pemfile::certs(&mut pem)
        .filter_map(Result::ok)
        .collect()
}

/// Makes connections: TLS to the address in the URI, for the name of the webhook.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
}

impl tower::Service<Uri> for Connector {
    type Response = Link;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Link, io::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let address = uri
                .authority()
                .and_then(|authority| authority.as_str().parse().ok());
            let address: SocketAddr = address.ok_or_else(|| io::Error::other("no address"))?;
            connector.connect(address).await
        })
    }
}

impl Connector {
    pub(crate) async fn connect(self, address: SocketAddr) -> Result<Link, io::Error> {
        let tcp = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(address));
        let tcp = tcp
            .await
            .map_err(|_| io::Error::other(format!("dial tcp {address}: i/o timeout")))?
            .map_err(|error| {
                io::Error::other(format!("dial tcp {address}: connect: {}", words(&error)))
            })?;
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(self.tls)
            .connect(self.server_name, tcp)
            .await;
        let stream = stream.map_err(|error| io::Error::other(tls_words(&error)))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Link {
            io: TokioIo::new(stream),
            http2,
        })
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

fn tls_words(error: &io::Error) -> String {
    use rustls::{CertificateError, Error};
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    let why = match inner {
        // Somebody else's certificate may have the same name as the one that was wanted.
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "x509: certificate signed by unknown authority".to_owned(),
        Some(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "x509: certificate has expired or is not yet valid".to_owned(),
        Some(Error::InvalidCertificate(other)) => format!("x509: {other}"),
        _ => return error.to_string(),
    };
    format!("tls: failed to verify certificate: {why}")
}

/// A connection.
pub(crate) struct Link {
    io: TokioIo<TlsStream<TcpStream>>,
    http2: bool,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        match self.http2 {
            true => Connected::new().negotiated_h2(),
            false => Connected::new(),
        }
    }
}

impl hyper::rt::Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
