//! Verbs for people without kubectl. They talk HTTP only, as any client does.
//!
//! Reading order: [`api`] (requests), [`resources`] (which types there are), [`table`], then a verb.

use clap::Args;

use crate::client::ClientArgs;

pub mod api;
pub mod apply;
pub mod delete;
pub mod describe;
pub mod events;
pub mod exec;
pub mod get;
pub mod image;
pub mod logs;
pub mod manifest;
pub mod resources;
pub mod table;
pub mod wait;

/// Which API and which namespace.
#[derive(Debug, Clone, Args)]
pub struct Scope {
    #[command(flatten)]
    pub client: ClientArgs,
    /// The namespace (default: that of the kubeconfig's context).
    #[arg(long, short = 'n', value_name = "NAME")]
    pub namespace: Option<String>,
}

impl Scope {
    /// Connects; answers the API and the namespace.
    pub async fn open(&self) -> anyhow::Result<(api::Api, String)> {
        let config = self.client.config().await?;
        let namespace = self
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config)?;
        Ok((api::Api::new(client), namespace))
    }
}

/// Prints to standard output; a reader that has gone away is no failure.
pub fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}
