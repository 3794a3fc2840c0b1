//! The certificate that a process shows to those who connect to it; flags named as Kubernetes' components name them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use corral_server::pki::Identity;

/// Which certificate is shown.
#[derive(Debug, Clone, Args)]
pub struct ShownArgs {
    /// The certificate shown to those who connect here, in PEM (default: one that is made at each start and signed by
    /// nobody).
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Authorities that sign certificates of those who connect here, in PEM.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
}

impl ShownArgs {
    /// The certificate; one that is made bears `names`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn identity(&self, names: Vec<String>) -> anyhow::Result<Identity> {
        if let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_private_key_file) {
            return Ok(Identity {
                certificate: read(certificate)?,
                key: read(key)?,
            });
        }
        let made = rcgen::generate_simple_self_signed(names)?;
        Ok(Identity {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        })
    }
}

/// A file that a flag names.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
