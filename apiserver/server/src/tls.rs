//! TLS of the server: the certificates that it shows, and who may sign those of clients. Files are read again when they have
//! changed, so that certificates are rotated without a restart; connections that are open go on with the certificate that
//! they were made with, and with whom the authorities of now believe.
//!
//! The cluster's own certificate is shown to whoever asks for one of the cluster's own names or addresses, where nodes and
//! pods know the authority that signed it; one of the administrator's is shown to those who ask for a name in it, and to
//! those who ask by an address if it has addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authn::x509::Signers;
use crate::authn::{self, Reload};
use crate::pki::{Pki, Subject};
use crate::{Error, Shared};

/// How long the cluster's own certificate is shown before another is made: half of its life.
const OWN_LIFE: Duration = Duration::from_secs(365 * 86_400 / 2);

/// A certificate with its key, in files.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    /// The certificate, and those that signed it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What TLS is made of.
#[derive(Debug, Clone)]
pub struct Material {
    /// More names and addresses that clients use.
    pub names: Vec<String>,
    /// Addresses of the server.
    pub addresses: Vec<IpAddr>,
    /// A certificate of the administrator's.
    pub shown: Option<KeyFiles>,
    /// More authorities that sign certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// Those of proxies.
    pub proxy_ca: Option<PathBuf>,
    /// How often the files are looked at.
    pub reload: Reload,
}

impl Material {
    /// The further authorities of clients, as they are in their file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn client_ca_text(&self) -> Result<String, Error> {
        let Some(path) = &self.client_ca else {
            return Ok(String::new());
        };
        let text = std::fs::read_to_string(path);
        text.map_err(|error| Error::Tls(format!("{}: {error}", path.display())))
    }
}

/// What connections are made with from now on.
pub struct Tls {
    /// For the handshake.
    pub config: ArcSwap<ServerConfig>,
    /// To tell users from proxies.
    pub signers: ArcSwap<Signers>,
    /// The files as they were before they were read first: what changes from then on is seen.
    first: Contents,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them makes no sense.
    pub async fn new(pki: &Pki, material: &Material) -> Result<Self, Error> {
        let first = contents(material).await;
        let (config, signers) = make(pki, material)?;
        Ok(Self {
            config: ArcSwap::from(config),
            signers: ArcSwap::from_pointee(signers),
            first,
        })
    }
}

fn make(pki: &Pki, material: &Material) -> Result<(Arc<ServerConfig>, Signers), Error> {
    let (holders, signers) = signers(pki, material)?;
    let shown = material.shown.as_ref().map(given).transpose()?;
    let certificates = Certificates {
        own: own(pki, material)?,
        shown,
    };
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(Arc::new(holders))
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(config), signers))
}

/// Makes TLS anew whenever a file has changed, and before the cluster's own certificate is too old. What makes no sense
/// changes nothing.
pub async fn reload(shared: Arc<Shared>, material: Material, stop: CancellationToken) {
    let mut known = shared.tls.first.clone();
    let mut made = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(material.reload.0) => {}
        }
        let now = contents(&material).await;
        if now == known && made.elapsed() < OWN_LIFE {
            continue;
        }
        let is_file = now != known;
        (known, made) = (now, Instant::now());
        match make(&shared.pki, &material) {
            Ok((config, signers)) => {
                shared.tls.config.store(config);
                shared.tls.signers.store(Arc::new(signers));
                tracing::info!(is_file, "certificates are taken anew");
            }
            // Certificate and key change one after the other; the next look finds both.
            Err(error) => {
                tracing::error!(%error, "certificates have changed and are refused; the last ones stay");
            }
        }
    }
}

/// What files say, those that cannot be read included.
type Contents = Vec<Option<Vec<u8>>>;

async fn contents(material: &Material) -> Contents {
    let shown = material.shown.iter();
    let shown = shown.flat_map(|files| [&files.certificate, &files.key]);
    let others = material.client_ca.iter().chain(&material.proxy_ca);
    let mut contents = Vec::new();
    for path in shown.chain(others) {
        contents.push(tokio::fs::read(path).await.ok());
    }
    contents
}

/// The certificates that are shown.
#[derive(Debug)]
struct Certificates {
    own: Arc<CertifiedKey>,
    shown: Option<Given>,
}

/// A certificate of the administrator's.
#[derive(Debug)]
struct Given {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    has_addresses: bool,
}

impl Given {
    fn is_for(&self, name: Option<&str>) -> bool {
        let Some(name) = name else {
            return self.has_addresses;
        };
        self.names
            .iter()
            .any(|known| match known.strip_prefix("*.") {
                Some(domain) => name
                    .split_once('.')
                    .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
                None => known.eq_ignore_ascii_case(name),
            })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let given = self.shown.as_ref();
        let given = given.filter(|given| given.is_for(hello.server_name()));
        Some(given.map_or(&self.own, |given| &given.key).clone())
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &rustls::pki_types::PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Error> {
    let key = any_supported_type(key).map_err(|error| Error::Tls(error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // Some keys cannot tell.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(error) => Err(Error::Tls(error.to_string())),
    }
}

fn given(files: &KeyFiles) -> Result<Given, Error> {
    let told = |path: &PathBuf, error: &dyn std::fmt::Display| {
        Error::Tls(format!("{}: {error}", path.display()))
    };
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| told(path, &error));
    let chain = rustls_pemfile::certs(&mut read(&files.certificate)?.as_slice())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| told(&files.certificate, &error))?;
    let first = chain.first();
    let first = first.ok_or_else(|| told(&files.certificate, &"there is no certificate in it"))?;
    let (names, has_addresses) = {
        let (_, parsed) =
            X509Certificate::from_der(first).map_err(|error| told(&files.certificate, &error))?;
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        let alternatives = alternatives.map(|found| found.value.general_names.clone());
        let alternatives = alternatives.unwrap_or_default();
        let names = alternatives.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let is_address = |name: &GeneralName<'_>| matches!(name, GeneralName::IPAddress(_));
        (names.collect(), alternatives.iter().any(is_address))
    };
    let key = rustls_pemfile::private_key(&mut read(&files.key)?.as_slice())
        .map_err(|error| told(&files.key, &error))?
        .ok_or_else(|| told(&files.key, &"there is no private key in it"))?;
    let certified = certified(chain, &key).map_err(|error| told(&files.key, &error))?;
    Ok(Given {
        key: Arc::new(certified),
        names,
        has_addresses,
    })
}

/// Takes certificates of clients whoever signed them, if the client has the key: who asks is found out for each request,
/// as kube-apiserver does, so that one whose certificate has ended is told so, and may come with a token instead.
#[derive(Debug)]
struct Holders {
    /// Whom clients are asked for certificates of.
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Holders {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Who signs the certificates of clients: what the handshake tells of them, and each to tell users from proxies.
fn signers(pki: &Pki, material: &Material) -> Result<(Holders, Signers), Error> {
    let mut users = roots(pki)?;
    if let Some(path) = &material.client_ca {
        add_all(&mut users, path, "CA of clients")?;
    }
    let mut hints = users.subjects();
    let proxies = match &material.proxy_ca {
        None => None,
        Some(path) => {
            let mut proxies = RootCertStore::empty();
            add_all(&mut proxies, path, "CA of proxies")?;
            hints.extend(proxies.subjects());
            Some(proxies)
        }
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let signers = Signers::new(users, proxies, algorithms);
    Ok((Holders { hints, algorithms }, signers))
}

fn add_all(roots: &mut RootCertStore, path: &PathBuf, what: &str) -> Result<(), Error> {
    let told = |error: &dyn std::fmt::Display| {
        Error::Authentication(format!("{what} {}: {error}", path.display()))
    };
    let pem = std::fs::read(path).map_err(|e| told(&e))?;
    let before = roots.len();
    for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
        let certificate = certificate.map_err(|e| told(&e))?;
        roots.add(certificate).map_err(|e| told(&e))?;
    }
    match roots.len() > before {
        true => Ok(()),
        false => Err(told(&"there is no certificate in it")),
    }
}

fn roots(pki: &Pki) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pki.ca().as_bytes()) {
        let certificate = certificate.map_err(|e| Error::Tls(e.to_string()))?;
        roots
            .add(certificate)
            .map_err(|e| Error::Tls(e.to_string()))?;
    }
    Ok(roots)
}

/// The cluster's own certificate, made anew.
fn own(pki: &Pki, material: &Material) -> Result<Arc<CertifiedKey>, Error> {
    let mut all: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut reached = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    for name in &material.names {
        match name.parse() {
            Ok(address) => reached.push(address),
            Err(_) => all.push(name.clone()),
        }
    }
    let addresses = material.addresses.iter().copied();
    reached.extend(addresses.filter(|a| !a.is_unspecified()));
    let subject = Subject {
        user: "kube-apiserver",
        group: "corral",
    };
    let (mut chain, key) = pki.server(subject, &all, &reached)?.to_rustls()?;
    // Nodes that join know only the hash of the CA, so it is shown to them.
    for certificate in rustls_pemfile::certs(&mut pki.ca().as_bytes()) {
        chain.push(certificate.map_err(|e| Error::Tls(e.to_string()))?);
    }
    Ok(Arc::new(certified(chain, &key)?))
}

/// TLS towards nodes.
///
/// # Errors
/// When a certificate cannot be made.
pub fn node_tls(pki: &Pki) -> Result<Arc<rustls::ClientConfig>, Error> {
    let subject = Subject {
        user: "kube-apiserver-kubelet-client",
        group: authn::MASTERS,
    };
    let (chain, key) = pki.client(subject)?.to_rustls()?;
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(chain, key)
        .map_err(|e| Error::Tls(e.to_string()))?;
    Ok(Arc::new(config))
}
