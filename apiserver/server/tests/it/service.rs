//! Services beside the server: they answer requests as a test says, over HTTP or HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// What a service says to a path and a body.
pub type Handler = Arc<dyn Fn(&str, &[u8]) -> (u16, Value) + Send + Sync>;

/// A service that runs until its test ends.
pub struct Service {
    pub address: SocketAddr,
}

/// Somebody who signs certificates.
pub struct Signer(CertifiedIssuer<'static, KeyPair>);

impl Signer {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a name, and its key.
    pub fn sign(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        self.sign_with(name, |_| ())
    }

    /// The same with something of it changed.
    pub fn sign_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let ip = rcgen::SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        params.subject_alt_names.push(ip);
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (certificate.der().clone(), key)
    }
}

async fn answer<S>(stream: S, handler: Handler)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let handler = handler.clone();
        async move {
            let path = request.uri().to_string();
            let body = request.into_body().collect().await.expect("a body");
            let (code, value) = handler(&path, &body.to_bytes());
            let body = Full::new(Bytes::from(value.to_string()));
            http::Response::builder().status(code).body(body)
        }
    });
    // A client that goes is none of a test's business.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Service {
    async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { address }
    }

    pub async fn http(handler: Handler) -> Self {
        Self::listen(move |stream| answer(stream, handler.clone())).await
    }

    pub async fn https(signer: &Signer, handler: Handler) -> Self {
        let (certificate, key) = signer.sign("service");
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a configuration");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        Self::listen(move |stream| {
            let (acceptor, handler) = (acceptor.clone(), handler.clone());
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream, handler).await;
                }
            }
        })
        .await
    }

    /// A kubeconfig file in a folder that names a path of the service.
    pub fn kubeconfig(&self, folder: &tempfile::TempDir, path: &str) -> std::path::PathBuf {
        let file = folder
            .path()
            .join(format!("{}.kubeconfig", self.address.port()));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}{path}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&file, config.to_string()).expect("written");
        file
    }
}
