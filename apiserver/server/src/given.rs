//! Keys of tokens that somebody else has made for this server, as an administrator of Kubernetes, or a test of an operator,
//! hands them to kube-apiserver.

use std::path::{Path, PathBuf};

use crate::authn::issuer::{PublicKey, SigningKey};
use crate::authn::tokens;

/// What was made elsewhere; what is not given the server makes itself.
#[derive(Debug, Clone)]
pub struct Given {
    /// The key that signs tokens of ServiceAccounts.
    pub signing_key: Option<PathBuf>,
    /// Keys that such tokens are checked with besides: public ones, private ones, or certificates, several in a file.
    pub checking_keys: Vec<PathBuf>,
    /// Who issues such tokens: the first, in whose name they are signed, and others who are believed, too.
    pub issuers: Vec<String>,
    /// Whom tokens for the API name; the issuers if nobody is named here.
    pub audiences: Vec<String>,
    /// Whether the tokens that pods get are good for longer than is told.
    pub extend_expiration: bool,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            signing_key: None,
            checking_keys: Vec::new(),
            issuers: vec![tokens::ISSUER.to_owned()],
            audiences: Vec::new(),
            extend_expiration: true,
        }
    }
}

/// What is wrong with a file.
fn told(path: &Path, why: impl std::fmt::Display) -> String {
    format!("{}: {why}", path.display())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| told(path, error))
}

impl Given {
    /// The key that signs tokens, which is the server's own if none is given.
    pub(crate) fn signing_key(&self, own: &str) -> Result<SigningKey, String> {
        match &self.signing_key {
            Some(path) => SigningKey::of_pem(&read(path)?).map_err(|error| told(path, error)),
            None => SigningKey::of_pem(own),
        }
    }

    /// The keys that tokens are checked with besides the one that signs them.
    pub(crate) fn checking_keys(&self) -> Result<Vec<PublicKey>, String> {
        let mut keys = Vec::new();
        for path in &self.checking_keys {
            let pem = read(path)?;
            keys.extend(PublicKey::all_of_pem(pem.as_bytes()).map_err(|error| told(path, error))?);
        }
        Ok(keys)
    }
}
