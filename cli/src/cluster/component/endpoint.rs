//! Health and metrics over HTTPS, on the ports and paths, and for those, that kube-controller-manager and kube-scheduler
//! have them: health is told to everybody, the rest to whom the API knows and allows that path.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use corral_api::k8s::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use corral_api::k8s::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::api::PostParams;
use kube::{Api, Client};
use prometheus::{Encoder, Registry, TextEncoder};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::shown::{ShownArgs, read};

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The most connections at once: probes, and a few who collect metrics.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take over the TLS handshake, and over the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// What everybody is told.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// Where health and metrics are served; flags named as Kubernetes' components name them.
#[derive(Debug, Clone, Args)]
pub struct EndpointArgs {
    /// The address that health and metrics are served on.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    bind_address: IpAddr,
    /// The port for health and metrics (default: as Kubernetes' own component has it); 0 serves none.
    #[arg(long, value_name = "PORT")]
    secure_port: Option<u16>,
    #[command(flatten)]
    shown: ShownArgs,
}

impl EndpointArgs {
    /// Listens, on `port` unless the flags name another.
    ///
    /// # Errors
    /// When the port is taken, or a file makes no sense.
    pub fn open(&self, port: u16) -> anyhow::Result<Option<Endpoint>> {
        let port = self.secure_port.unwrap_or(port);
        if port == 0 {
            return Ok(None);
        }
        let address = SocketAddr::new(self.bind_address, port);
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot serve health and metrics on {address}"))?;
        listener.set_nonblocking(true)?;
        let tls = Arc::new(self.tls()?);
        Ok(Some(Endpoint { listener, tls }))
    }

    fn tls(&self) -> anyhow::Result<rustls::ServerConfig> {
        let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
        let names = ["localhost", "127.0.0.1", &host].map(str::to_owned);
        let identity = self.shown.identity(names.into())?;
        let (chain, key) = identity.to_rustls()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let config = match &self.shown.client_ca_file {
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(read(file)?.as_bytes()) {
                    roots.add(
                        certificate.with_context(|| format!("cannot use {}", file.display()))?,
                    )?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .allow_unauthenticated()
                        .build()
                        .with_context(|| format!("cannot use {}", file.display()))?;
                config.with_client_cert_verifier(verifier)
            }
            None => config.with_no_client_auth(),
        };
        let mut config = config
            .with_single_cert(chain, key)
            .context("cannot use the certificate for health and metrics")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// A port that is listened on.
pub struct Endpoint {
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
}

impl Endpoint {
    /// Where.
    pub fn address(&self) -> String {
        let address = self.listener.local_addr();
        address.map_or_else(|_| String::new(), |address| address.to_string())
    }

    /// Serves until dropped.
    pub async fn run(self, api: Client, registry: Registry) {
        let listener = match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "health and metrics are not served");
                return;
            }
        };
        let acceptor = TlsAcceptor::from(self.tls);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        // Ends its connections when it is dropped.
        let mut connections = tokio::task::JoinSet::new();
        let pages = Pages { api, registry };
        loop {
            while connections.try_join_next().is_some() {}
            let permit = permits.clone().acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (pages, acceptor) = (pages.clone(), acceptor.clone());
                    connections.spawn(async move {
                        pages.connection(stream, acceptor).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What is served.
#[derive(Clone)]
struct Pages {
    api: Client,
    registry: Registry,
}

type Answer = Response<Full<Bytes>>;

impl Pages {
    async fn connection(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let handshake = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await;
        let Ok(Ok(stream)) = handshake else { return };
        let shown = stream.get_ref().1.peer_certificates();
        let certified = shown.and_then(<[_]>::first).and_then(|der| subject(der));
        let service = hyper::service::service_fn(move |request| {
            let (pages, certified) = (self.clone(), certified.clone());
            async move { Ok::<_, Infallible>(pages.answer(&request, certified).await) }
        });
        let serve = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = serve.await {
            tracing::debug!(%error, "a connection for health or metrics broke");
        }
    }

    async fn answer(&self, request: &Request<Incoming>, certified: Option<UserInfo>) -> Answer {
        let path = request.uri().path();
        if !OPEN_PATHS.contains(&path) {
            match self.may(request, certified).await {
                Ok(()) => {}
                Err(refusal) => return refusal,
            }
        }
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        }
        match path {
            path if OPEN_PATHS.contains(&path) => text(StatusCode::OK, "ok"),
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn metrics(&self) -> Answer {
        let encoder = TextEncoder::new();
        let mut page = Vec::new();
        match encoder.encode(&self.registry.gather(), &mut page) {
            Ok(()) => {
                let mut answer = Response::new(Full::new(page.into()));
                let type_ = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                answer.headers_mut().insert(CONTENT_TYPE, type_);
                answer
            }
            Err(error) => {
                tracing::warn!(%error, "metrics cannot be told");
                text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n")
            }
        }
    }

    /// Whether the API allows the path.
    async fn may(
        &self,
        request: &Request<Incoming>,
        certified: Option<UserInfo>,
    ) -> Result<(), Answer> {
        let failed = |error: kube::Error| {
            tracing::warn!(%error, "cannot ask the API about a request");
            text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n")
        };
        let user = match certified {
            Some(user) => user,
            None => match bearer(request) {
                Some(token) => {
                    let user = self.review(token).await.map_err(failed)?;
                    user.ok_or_else(|| text(StatusCode::UNAUTHORIZED, "Unauthorized\n"))?
                }
                None => anonymous(),
            },
        };
        let path = request.uri().path();
        let name = user.username.clone().unwrap_or_default();
        let verb = request.method().as_str().to_lowercase();
        match self.allows(user, &verb, path).await.map_err(failed)? {
            true => Ok(()),
            false => Err(text(
                StatusCode::FORBIDDEN,
                format!("forbidden: User \"{name}\" cannot {verb} path \"{path}\"\n"),
            )),
        }
    }

    async fn review(&self, token: &str) -> kube::Result<Option<UserInfo>> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews = Api::<TokenReview>::all(self.api.clone());
        let told = reviews.create(&PostParams::default(), &review).await?;
        let status = told.status.unwrap_or_default();
        Ok(status.user.filter(|_| status.authenticated == Some(true)))
    }

    async fn allows(&self, user: UserInfo, verb: &str, path: &str) -> kube::Result<bool> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some(verb.to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(self.api.clone());
        let told = reviews.create(&PostParams::default(), &review).await?;
        Ok(told.status.is_some_and(|status| status.allowed))
    }
}

fn bearer(request: &Request<Incoming>) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn anonymous() -> UserInfo {
    UserInfo {
        username: Some("system:anonymous".to_owned()),
        groups: Some(vec!["system:unauthenticated".to_owned()]),
        ..UserInfo::default()
    }
}

/// Whom a certificate names.
fn subject(der: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let names = subject.iter_common_name();
    // Of several the last counts, as in Go.
    let name = names.filter_map(|name| name.as_str().ok()).last()?;
    let groups = subject.iter_organization();
    let groups = groups.filter_map(|group| group.as_str().ok().map(str::to_owned));
    let everybody = "system:authenticated".to_owned();
    Some(UserInfo {
        username: Some(name.to_owned()),
        groups: Some(groups.chain([everybody]).collect()),
        ..UserInfo::default()
    })
}

fn text(code: StatusCode, body: impl Into<String>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.into())));
    *answer.status_mut() = code;
    let type_ = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, type_);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_a_user_and_groups() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "prometheus");
        name.push(rcgen::DnType::OrganizationName, "monitors");
        let made = params.self_signed(&key).expect("a certificate");
        let user = subject(made.der()).expect("it names somebody");
        assert_eq!(user.username.as_deref(), Some("prometheus"));
        let groups = user.groups.unwrap_or_default();
        assert_eq!(groups, ["monitors", "system:authenticated"]);
    }
}
