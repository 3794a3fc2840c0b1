//! The user that a client certificate names: common name and organizations.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, Peer, User};

/// Reads the user off a certificate that the TLS layer has verified.
pub fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
    let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    let digest = Sha256::digest(der);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut user = User {
        name,
        groups,
        ..Default::default()
    };
    let key = "authentication.kubernetes.io/credential-id".to_owned();
    user.extra.insert(key, vec![format!("X509SHA256={digest}")]);
    Some(user)
}

/// Who may sign certificates that clients show.
pub struct Signers {
    users: Arc<dyn ClientCertVerifier>,
    proxies: Option<Arc<dyn ClientCertVerifier>>,
}

impl Signers {
    /// The cluster's own CA, and that of proxies.
    pub fn new(
        users: Arc<dyn ClientCertVerifier>,
        proxies: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Self {
        Self { users, proxies }
    }

    /// Who showed certificates that the TLS layer has verified, by either of the signers.
    pub fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Peer {
        let Some((first, more)) = chain.and_then(<[_]>::split_first) else {
            return Peer::default();
        };
        let Some(proxies) = &self.proxies else {
            return Peer {
                user: user(first),
                proxy: None,
            };
        };
        let now = UnixTime::now();
        let is_by = |signer: &Arc<dyn ClientCertVerifier>| {
            signer.verify_client_cert(first, more, now).is_ok()
        };
        Peer {
            user: is_by(&self.users).then(|| user(first)).flatten(),
            proxy: is_by(proxies).then(|| common_name(first)).flatten(),
        }
    }
}

fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}
