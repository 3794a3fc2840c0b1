//! Flags of the etcd that a control plane may keep its objects in.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use corral_server::encryption::KEYS;
use corral_server::expiry::EVENT_LIFE;
use corral_storage::etcd::{EtcdConfig, EtcdTls, ShortLived};

/// Which etcd, and how it is reached. The names of the files' flags are those of kube-apiserver.
#[derive(Debug, Clone, Args)]
pub struct EtcdArgs {
    /// etcd to use instead of the embedded store.
    #[arg(
        long,
        visible_alias = "etcd-servers",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub etcd_endpoints: Vec<String>,
    /// How keys in etcd begin; other servers of the cluster, and kube-apiserver, must begin them likewise.
    #[arg(long, default_value = KEYS, value_name = "PREFIX", requires = "etcd_endpoints")]
    pub etcd_prefix: String,
    /// The authority that signed the certificates of etcd's members, in PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_endpoints")]
    pub etcd_cafile: Option<PathBuf>,
    /// The certificate shown to etcd, in PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
}

impl EtcdArgs {
    /// How keys begin in the store, as kube-apiserver would take it.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn prefix(&self) -> anyhow::Result<String> {
        let parts = self.etcd_prefix.split('/');
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        ensure!(
            !parts.is_empty() && !parts.contains(&"..") && !parts.contains(&"."),
            "--etcd-prefix {:?} is no prefix such as /registry",
            self.etcd_prefix
        );
        Ok(format!("/{}", parts.join("/")))
    }

    /// The cluster to connect to; `None` for the embedded store.
    ///
    /// # Errors
    /// When a file cannot be read, or certificates are given for endpoints without TLS.
    pub fn config(&self) -> anyhow::Result<Option<EtcdConfig>> {
        if self.etcd_endpoints.is_empty() {
            return Ok(None);
        }
        let mut config = EtcdConfig::new(self.etcd_endpoints.clone());
        config.short_lived = Some(ShortLived {
            prefix: format!("{}/events/", self.prefix()?),
            life: EVENT_LIFE,
        });
        let secure = |url: &String| url.starts_with("https://");
        let with_files = self.etcd_cafile.is_some() || self.etcd_certfile.is_some();
        ensure!(
            !with_files || self.etcd_endpoints.iter().all(secure),
            "certificates for etcd are of use only with endpoints that begin with https://"
        );
        if self.etcd_endpoints.iter().any(secure) {
            let identity = match (&self.etcd_certfile, &self.etcd_keyfile) {
                (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                _ => None,
            };
            config.tls = Some(EtcdTls {
                ca_certificate: self.etcd_cafile.as_deref().map(read).transpose()?,
                client_identity: identity,
                server_name: None,
            });
        }
        Ok(Some(config))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
