//! Keys and certificates: a CA made at first start, what it signs, and the key of service-account tokens.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Years that the CA is good for.
const CA_YEARS: i32 = 10;
/// How long a leaf certificate is good for; it is made anew at each start.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Certificates are good from a little earlier, for clocks that disagree.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// A key or certificate makes no sense.
    #[error("{what}: {why}")]
    Invalid {
        /// What it was to be.
        what: String,
        /// Why.
        why: String,
    },
}

fn invalid(what: &str) -> impl Fn(rcgen::Error) -> Error + '_ {
    move |why| Error::Invalid {
        what: what.to_owned(),
        why: why.to_string(),
    }
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Identity {
    /// In the form of rustls.
    ///
    /// # Errors
    /// When the PEM makes no sense.
    pub fn to_rustls(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let bad = |why: String| Error::Invalid {
            what: "identity".to_owned(),
            why,
        };
        let certificates = rustls_pemfile::certs(&mut self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| bad(e.to_string()))?;
        let key = rustls_pemfile::private_key(&mut self.key.as_bytes())
            .map_err(|e| bad(e.to_string()))?
            .ok_or_else(|| bad("no private key".to_owned()))?;
        Ok((certificates, key))
    }
}

/// Whom a client certificate names.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Common name: the user.
    pub user: &'a str,
    /// Organization: the group. Certificates with several come from elsewhere; ours need one.
    pub group: &'a str,
}

/// The name by which a node's API is known in certificates. It lies in a domain of its own, so that whoever may
/// join as a node cannot choose the name of something else.
pub fn node_server_name(node: &str) -> String {
    format!("{node}.nodes.corral.internal")
}

/// The keys of a cluster.
pub struct Pki {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    tokens: KeyPair,
    front_pem: String,
    front: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Reads the keys in a directory, and makes those that are not there.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds something else.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let file = |why| Error::File {
            path: directory.to_owned(),
            why,
        };
        fs::create_dir_all(directory).map_err(file)?;
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !key.exists() {
            let (pem, pair) = new_ca("corral-ca")?;
            write_private(&key, &pair.serialize_pem())?;
            write_public(&certificate, &pem)?;
        }
        let tokens = directory.join("sa.key");
        if !tokens.exists() {
            let pair = KeyPair::generate().map_err(invalid("token key"))?;
            write_private(&tokens, &pair.serialize_pem())?;
        }
        let ca_pem = read(&certificate)?;
        let ca_key = KeyPair::from_pem(&read(&key)?).map_err(invalid("ca.key"))?;
        let (front_certificate, front_key) = (
            directory.join("front-proxy-ca.crt"),
            directory.join("front-proxy-ca.key"),
        );
        if !front_key.exists() {
            let (pem, pair) = new_ca("corral-front-proxy-ca")?;
            write_private(&front_key, &pair.serialize_pem())?;
            write_public(&front_certificate, &pem)?;
        }
        let front_pem = read(&front_certificate)?;
        let front_key =
            KeyPair::from_pem(&read(&front_key)?).map_err(invalid("front-proxy-ca.key"))?;
        Ok(Self {
            front: Issuer::from_ca_cert_pem(&front_pem, front_key)
                .map_err(invalid("front-proxy-ca.crt"))?,
            front_pem,
            issuer: Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(invalid("ca.crt"))?,
            ca_pem,
            tokens: KeyPair::from_pem(&read(&tokens)?).map_err(invalid("sa.key"))?,
        })
    }

    /// The CA's certificate in PEM.
    pub fn ca(&self) -> &str {
        &self.ca_pem
    }

    /// The CA's certificate with its key.
    pub fn ca_identity(&self) -> Identity {
        Identity {
            certificate: self.ca_pem.clone(),
            key: self.issuer.key().serialize_pem(),
        }
    }

    /// The private key of service-account tokens that this server has made, in PEM.
    pub fn token_key(&self) -> String {
        self.tokens.serialize_pem()
    }

    /// A certificate for a server that answers to the given names and addresses.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn server(
        &self,
        subject: Subject<'_>,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Identity, Error> {
        let mut params = leaf(subject)?;
        for name in names {
            let name = name.as_str().try_into().map_err(invalid("server name"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let addresses = addresses.iter().map(|address| SanType::IpAddress(*address));
        params.subject_alt_names.extend(addresses);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A certificate for a client.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn client(&self, subject: Subject<'_>) -> Result<Identity, Error> {
        let mut params = leaf(subject)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// The certificate, in PEM, of the CA that vouches for this server where it speaks for others.
    pub fn front_proxy_ca(&self) -> &str {
        &self.front_pem
    }

    /// The certificate that this server shows where it speaks for others.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn front_proxy_client(&self, name: &str) -> Result<Identity, Error> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, name);
        params.distinguished_name = subject;
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + LEAF_LIFE).into();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        signed(params, &self.front)
    }

    fn sign(&self, params: CertificateParams) -> Result<Identity, Error> {
        signed(params, &self.issuer)
    }

    /// Signs the public key of a node's request, for the name that the server chooses and addresses that it has
    /// found to be the node's.
    ///
    /// # Errors
    /// When the request makes no sense or is not signed by its key.
    pub fn sign_node(
        &self,
        request: &str,
        node: &str,
        addresses: &[IpAddr],
    ) -> Result<String, Error> {
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(invalid("certificate request"))?;
        let user = format!("{}{node}", crate::authz::node::USER_PREFIX);
        let mut params = leaf(Subject {
            user: &user,
            group: crate::authz::node::NODES,
        })?;
        let name = node_server_name(node);
        let name = name.try_into().map_err(invalid("node name"))?;
        params.subject_alt_names.push(SanType::DnsName(name));
        let addresses = addresses.iter().map(|address| SanType::IpAddress(*address));
        params.subject_alt_names.extend(addresses);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(invalid("certificate"))?;
        Ok(certificate.pem())
    }
}

fn signed(params: CertificateParams, issuer: &Issuer<'static, KeyPair>) -> Result<Identity, Error> {
    let key = KeyPair::generate().map_err(invalid("key"))?;
    let certificate = params
        .signed_by(&key, issuer)
        .map_err(invalid("certificate"))?;
    Ok(Identity {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn new_ca(common_name: &str) -> Result<(String, KeyPair), Error> {
    let key = KeyPair::generate().map_err(invalid("ca key"))?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    // The clock of the machine's own zone would be looked for among all zones that there are.
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    params.not_before = rcgen::date_time_ymd(i32::from(now.year()) - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(i32::from(now.year()) + CA_YEARS, 1, 1);
    let certificate = params
        .self_signed(&key)
        .map_err(invalid("ca certificate"))?;
    Ok((certificate.pem(), key))
}

fn leaf(subject: Subject<'_>) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject.user);
    name.push(DnType::OrganizationName, subject.group);
    params.distinguished_name = name;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + LEAF_LIFE).into();
    Ok(params)
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|why| Error::File {
        path: path.to_owned(),
        why,
    })
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    write(path, text, 0o600)
}

fn write_public(path: &Path, text: &str) -> Result<(), Error> {
    write(path, text, 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let failed = |why| Error::File {
        path: path.to_owned(),
        why,
    };
    let part = path.with_extension("part");
    // A left-over of a crash may have other rights.
    let _ = fs::remove_file(&part);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&part)
        .map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    fs::rename(&part, path).map_err(failed)
}
