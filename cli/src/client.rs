//! How user verbs reach an API: a kubeconfig, as every client has it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// The kubeconfig of a cluster that `corral up` started with its default data directory.
const DEFAULT_ADMIN: &str = "/var/lib/corral/admin.kubeconfig";

/// Which API, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The kubeconfig (default: $KUBECONFIG, ~/.kube/config, then that of `corral up`).
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

impl ClientArgs {
    /// Reads the kubeconfig.
    pub async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..Default::default()
        };
        let file = match &self.kubeconfig {
            Some(path) => Some(path.clone()),
            None if Kubeconfig::read().is_err() => Some(PathBuf::from(DEFAULT_ADMIN)),
            None => None,
        };
        let kubeconfig = match &file {
            Some(path) => Kubeconfig::read_from(path).with_context(|| {
                format!(
                    "cannot read the kubeconfig {}; name one with --kubeconfig",
                    path.display()
                )
            })?,
            None => Kubeconfig::read()?,
        };
        Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?)
    }
}
