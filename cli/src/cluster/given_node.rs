//! A node that was made by others: its kubeconfig and its certificates are files, as a kubelet's are.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use corral_nodelet::server::tls::ServerCertificate;

use super::component::api::RemoteApi;
use super::component::shown::{ShownArgs, read};
use super::join;

/// Who the node is; flags named as a kubelet names them.
#[derive(Debug, Clone, Args)]
pub struct GivenArgs {
    /// Be the node whose kubeconfig this is, instead of joining: for API servers that nodes do not join by tokens.
    #[arg(long, value_name = "FILE", requires = "client_ca_file")]
    pub kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    shown: ShownArgs,
}

/// A node with a kubeconfig.
pub struct GivenNode {
    pub client: kube::Client,
    /// Where the API is.
    pub url: String,
    /// The address of this machine towards the server.
    pub address: IpAddr,
    /// The certificate of the node's own API.
    pub certificate: Arc<ServerCertificate>,
    /// The CA of those who may ask the node, in PEM.
    pub ca: String,
}

impl GivenNode {
    /// Takes the files up, and waits for the server.
    ///
    /// # Errors
    /// When a file makes no sense, or the server does not know the kubeconfig's user.
    pub async fn enter(args: &GivenArgs, kubeconfig: &Path, node: &str) -> anyhow::Result<Self> {
        let api = RemoteApi::open(kubeconfig).await?;
        let ca = args.shown.client_ca_file.as_deref();
        let ca = read(ca.context("--kubeconfig needs --client-ca-file")?)?;
        api.reach().await?;
        let address = join::local_address(&api.url().parse()?).await?;
        let names = vec![node.to_owned(), address.to_string()];
        let shown = args.shown.identity(names)?;
        let certificate = ServerCertificate::new(&shown.certificate, &shown.key)?;
        Ok(Self {
            client: api.client()?,
            url: api.url(),
            address,
            certificate: Arc::new(certificate),
            ca,
        })
    }
}
