//! How a node joins: a token proves the node to the server, and the server's CA to the node.
//!
//! A token is `ID.SECRET@sha256:HASH`, where the hash is that of the CA's certificate. The node accepts a server only
//! if it shows that CA and a certificate signed by it; then it has its own key signed.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use corral_server::pki::Identity;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rcgen::KeyPair;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::identity::Credentials;

/// Longest answer to a request to join.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// The port of an API unless the URL names one.
const DEFAULT_PORT: u16 = 6443;
/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What lets a node join.
#[derive(Clone)]
pub struct Token {
    bearer: String,
    ca_hash: String,
}

impl Token {
    /// Reads a token.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let wrong = "the token must read ID.SECRET@sha256:HASH; make one with corral token create";
        let (bearer, ca_hash) = text.split_once("@sha256:").context(wrong)?;
        ensure!(
            ca_hash.len() == 64 && ca_hash.bytes().all(|b| b.is_ascii_hexdigit()),
            wrong
        );
        ensure!(
            corral_server::authn::bootstrap::split(bearer).is_some(),
            wrong
        );
        Ok(Self {
            bearer: bearer.to_owned(),
            ca_hash: ca_hash.to_lowercase(),
        })
    }
}

/// The hash of a CA, as tokens carry it.
pub fn ca_hash(der: &[u8]) -> String {
    Sha256::digest(der)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Where a server listens.
struct Place {
    host: String,
    port: u16,
}

impl Place {
    fn of(server: &Uri) -> anyhow::Result<Self> {
        ensure!(
            server.scheme_str() == Some("https"),
            "--server must be https://HOST:PORT"
        );
        let host = server.host().context("--server names no host")?;
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: server.port_u16().unwrap_or(DEFAULT_PORT),
        })
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(anyhow::Error::from)
            .and_then(|stream| stream.map_err(anyhow::Error::from))
            .with_context(|| format!("cannot reach the server {}:{}", self.host, self.port))
    }

    fn name(&self) -> anyhow::Result<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).context("--server names no valid host")
    }
}

/// The address of this machine that the server is reached from.
pub async fn local_address(server: &Uri) -> anyhow::Result<IpAddr> {
    let stream = Place::of(server)?.connect().await?;
    Ok(stream.local_addr()?.ip())
}

/// Joins a server.
pub async fn join(
    server: &Uri,
    token: &Token,
    node: &str,
    address: IpAddr,
) -> anyhow::Result<Credentials> {
    let verifier = Arc::new(PinnedCa::new(token.ca_hash.clone()));
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    request_certificate(server, config, Some(&token.bearer), node, address)
        .await
        .with_context(|| format!("cannot join the server {server}"))
}

/// Asks for the next certificate with the one that a node has.
pub async fn renew(
    server: &Uri,
    credentials: &Credentials,
    node: &str,
    address: IpAddr,
) -> anyhow::Result<Credentials> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(credentials.ca.as_bytes()) {
        roots.add(certificate.context("the cluster's CA is not PEM")?)?;
    }
    let (chain, key) = credentials.identity.to_rustls()?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    request_certificate(server, config, None, node, address).await
}

async fn request_certificate(
    server: &Uri,
    config: ClientConfig,
    bearer: Option<&str>,
    node: &str,
    address: IpAddr,
) -> anyhow::Result<Credentials> {
    let place = Place::of(server)?;
    let key = KeyPair::generate()?;
    let certificate_request = rcgen::CertificateParams::default()
        .serialize_request(&key)?
        .pem()?;
    let body = serde_json::json!({
        "nodeName": node, "certificateRequest": certificate_request, "addresses": [address],
    });
    let tls = TlsConnector::from(Arc::new(config))
        .connect(place.name()?, place.connect().await?)
        .await
        .context("the server is not one of this cluster")?;
    let answer = ask(tls, &place.host, bearer, &body).await?;
    let text = |key: &str| {
        answer[key]
            .as_str()
            .map(str::to_owned)
            .context("the server's answer lacks a certificate")
    };
    Ok(Credentials {
        identity: Identity {
            certificate: text("certificate")?,
            key: key.serialize_pem(),
        },
        ca: text("ca")?,
    })
}

async fn ask(
    tls: tokio_rustls::client::TlsStream<TcpStream>,
    host: &str,
    bearer: Option<&str>,
    body: &serde_json::Value,
) -> anyhow::Result<serde_json::Value> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
    tokio::spawn(connection);
    let mut request = Request::post("/corral/v1/node-certificates")
        .header(http::header::HOST, host)
        .header(http::header::CONTENT_TYPE, "application/json");
    if let Some(bearer) = bearer {
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let request = request.body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?;
    let answer = sender.send_request(request).await?;
    let code = answer.status();
    let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!("the server's answer cannot be read: {e}"))?
        .to_bytes();
    let answer: serde_json::Value =
        serde_json::from_slice(&bytes).context("the server's answer is no JSON")?;
    if code == http::StatusCode::UNAUTHORIZED {
        bail!(
            "the server does not accept the token: it may have expired; make another with corral token create"
        );
    }
    ensure!(
        code.is_success(),
        "the server refused: {}",
        answer["message"].as_str().unwrap_or("no reason given")
    );
    Ok(answer)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Accepts a server whose chain holds the CA with the hash, and whose certificate that CA has signed.
#[derive(Debug)]
struct PinnedCa {
    hash: String,
    // Holds the verifier of the CA found, from the certificate's check to the signature's.
    found: Mutex<Option<Arc<WebPkiServerVerifier>>>,
}

impl PinnedCa {
    fn new(hash: String) -> Self {
        Self {
            hash,
            found: Mutex::new(None),
        }
    }

    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let found = self.found.lock().expect("no panic under the lock").clone();
        found.ok_or_else(|| rustls::Error::General("no certificate was checked".to_owned()))
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |why: &str| rustls::Error::General(why.to_owned());
        let ca = intermediates
            .iter()
            .find(|der| ca_hash(der) == self.hash)
            .ok_or_else(|| refused("the server does not show the CA that the token names"))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| refused(&e.to_string()))?;
        *self.found.lock().expect("no panic under the lock") = Some(verifier.clone());
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_the_hash_of_the_ca() {
        let hash = "a".repeat(64);
        assert!(Token::parse(&format!("abcdef.0123456789abcdef@sha256:{hash}")).is_ok());
        for text in [
            "abcdef.0123456789abcdef",
            "x@sha256:",
            &format!("abc@sha256:{hash}"),
        ] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
    }
}
