//! Flags of encryption at rest, named as kube-apiserver names them.

use std::path::{Path, PathBuf};

use clap::Args;
use corral_server::encryption::Source;

/// The configuration that is made when none is named: beside the other keys that all servers of a cluster share.
const GENERATED: &str = "pki/encryption-config.yaml";

/// How values are encrypted in the store.
#[derive(Debug, Clone, Args)]
pub struct EncryptionArgs {
    /// Which resources are encrypted in the store, how, and by which keys: an EncryptionConfiguration (default: Secrets,
    /// with a key that is made once, in pki/encryption-config.yaml in the data directory; all servers of one etcd need the
    /// same file).
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Take changes of that file while the server runs.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        requires = "encryption_provider_config"
    )]
    encryption_provider_config_automatic_reload: bool,
}

impl EncryptionArgs {
    /// Where the configuration comes from.
    pub fn source(&self, data_dir: &Path) -> Source {
        self.given()
            .unwrap_or_else(|| Source::Generated(data_dir.join(GENERATED)))
    }

    /// The configuration that is given, if one is.
    pub fn given(&self) -> Option<Source> {
        let Self {
            encryption_provider_config,
            encryption_provider_config_automatic_reload: reload,
        } = self;
        let path = encryption_provider_config.clone()?;
        Some(Source::Given {
            path,
            reload: *reload,
        })
    }
}
