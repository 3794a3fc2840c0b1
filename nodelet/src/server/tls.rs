//! TLS of the node's API: a server that demands the API server's certificate, and probes that trust anybody.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The name in the API server's certificate for nodes.
const API_SERVER: &str = "kube-apiserver-kubelet-client";

/// Why the server's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key makes no sense.
    #[error("cannot read the {0} in PEM")]
    Pem(&'static str),
    /// The library refuses them.
    #[error("cannot use the certificate")]
    Rustls(#[from] rustls::Error),
    /// The CA cannot verify anybody.
    #[error("cannot use the cluster's CA")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Pem(what))
}

/// The certificate that a server shows. It can be replaced while the server runs.
#[derive(Debug)]
pub struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ServerCertificate {
    /// From PEM.
    ///
    /// # Errors
    /// When the certificate or key makes no sense, or one is not the other's.
    pub fn new(certificate: &str, key: &str) -> Result<Self, Error> {
        Ok(Self(ArcSwap::from_pointee(certified(certificate, key)?)))
    }

    /// Shows another one from now on.
    ///
    /// # Errors
    /// As [`ServerCertificate::new`]; the old one is shown on.
    pub fn replace(&self, certificate: &str, key: &str) -> Result<(), Error> {
        self.0.store(Arc::new(certified(certificate, key)?));
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(certificate: &str, key: &str) -> Result<CertifiedKey, Error> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Error::Pem("key"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let chain = certificates(certificate, "certificate")?;
    Ok(CertifiedKey::from_der(chain, key, &provider)?)
}

/// A server's TLS: its certificate, and the CA in PEM that clients must come from.
///
/// # Errors
/// When the CA makes no sense.
pub fn server_config(
    certificate: Arc<ServerCertificate>,
    ca: &str,
) -> Result<Arc<ServerConfig>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, "CA")? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whether a client is the API server: the CA also signs users and nodes, who have no business here.
pub(crate) fn is_api_server(certificates: Option<&[CertificateDer<'_>]>) -> bool {
    let Some(first) = certificates.and_then(<[CertificateDer<'_>]>::first) else {
        return false;
    };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(first) else {
        return false;
    };
    certificate
        .subject()
        .iter_common_name()
        .any(|name| name.as_str() == Ok(API_SERVER))
}

/// Connects for an HTTPS probe, which asks whether somebody answers and not who.
pub async fn connect_unverified(stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a valid name");
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Accepts every certificate.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
