//! Keys of tokens that somebody else has made for this server, as an administrator of Kubernetes, or a test of an operator,
//! hands them to kube-apiserver.

use std::path::{Path, PathBuf};

use rcgen::PublicKeyData;

use crate::authn::tokens;

/// What was made elsewhere; what is not given the server makes itself.
#[derive(Debug, Clone)]
pub struct Given {
    /// The key that signs tokens of ServiceAccounts.
    pub signing_key: Option<PathBuf>,
    /// Public keys, or certificates with them, that such tokens are checked with: they must be of the signing key.
    pub checking_keys: Vec<PathBuf>,
    /// Who issues such tokens.
    pub issuer: String,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            signing_key: None,
            checking_keys: Vec::new(),
            issuer: tokens::ISSUER.to_owned(),
        }
    }
}

/// What is wrong with a file.
fn told(path: &Path, why: impl std::fmt::Display) -> String {
    format!("{}: {why}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| told(path, error))
}

impl Given {
    /// The key that signs tokens. Keys that check them must be its own: this server believes no tokens but those that it
    /// has issued.
    pub(crate) fn signing_key(&self) -> Result<Option<rcgen::KeyPair>, String> {
        let Some(path) = &self.signing_key else {
            return match self.checking_keys.first() {
                Some(path) => Err(told(
                    path,
                    "a key that checks tokens needs the one that signs them",
                )),
                None => Ok(None),
            };
        };
        let pem = String::from_utf8(read(path)?).map_err(|error| told(path, error))?;
        let key = rcgen::KeyPair::from_pem(&pem).map_err(|error| told(path, error))?;
        if !key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            return Err(told(
                path,
                "tokens are signed with keys on the curve P-256 only",
            ));
        }
        for path in &self.checking_keys {
            if public_key(path)? != key.subject_public_key_info() {
                return Err(told(path, "it is not the key that signs tokens"));
            }
        }
        Ok(Some(key))
    }
}

/// The public key in a file, or that of the certificate in it.
fn public_key(path: &Path) -> Result<Vec<u8>, String> {
    let pem = read(path)?;
    let item = rustls_pemfile::read_one(&mut pem.as_slice()).map_err(|error| told(path, error))?;
    match item {
        None => Err(told(path, "there is no key in it")),
        Some(rustls_pemfile::Item::SubjectPublicKeyInfo(key)) => Ok(key.to_vec()),
        Some(rustls_pemfile::Item::X509Certificate(certificate)) => {
            let (_, read) = x509_parser::parse_x509_certificate(&certificate)
                .map_err(|error| told(path, error))?;
            Ok(read.public_key().raw.to_vec())
        }
        Some(_) => {
            let text = String::from_utf8_lossy(&pem);
            let key = rcgen::KeyPair::from_pem(&text).map_err(|error| told(path, error))?;
            Ok(key.subject_public_key_info())
        }
    }
}
