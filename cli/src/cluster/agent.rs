//! `corral agent`: a node that joins a control plane elsewhere.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use corral_nodelet::network::node_network::{NodeNetwork, NodeNetworkConfig};
use corral_nodelet::network::range::Range;
use corral_nodelet::network::{bridge, routes};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_util::task::TaskTracker;

use super::join::{self, Joined};
use super::node::{self, NodeArgs, NodeConfig};
use super::signals;
use crate::kubeconfig;
use crate::logging::{self, LogFormat};

/// Start a node that joins a control plane.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The API to join, https://HOST:PORT.
    #[arg(long, value_name = "URL")]
    server: http::Uri,
    /// The file with the token that `corral token create` made.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Where pods, images and logs live.
    #[arg(long, default_value = "/var/lib/corral-agent", value_name = "DIR")]
    data_dir: PathBuf,
    /// Addresses of Services, as the server has them.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "NETWORK")]
    service_range: Range,
    #[command(flatten)]
    node: NodeArgs,
    /// What is logged, in the syntax of tracing's filters.
    #[arg(long, default_value = logging::DEFAULT_FILTER, value_name = "FILTER")]
    log: String,
    /// The shape of log lines.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Runs until told to stop. Containers go on running; the next start takes them up.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    let AgentArgs {
        server,
        token_file,
        data_dir,
        service_range,
        node,
        log,
        log_format,
    } = args;
    logging::start(&log, log_format)?;
    let stop = signals::stop_token()?;
    let name = node.name()?;
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let text = std::fs::read_to_string(&token_file)
        .with_context(|| format!("cannot read the token file {}", token_file.display()))?;
    let token = join::Token::parse(text.trim())?;
    let joined = join::join(&server, &token, &name).await?;
    let client = client(&server, &name, &joined, &data_dir).await?;
    let address = joined.address;
    let tasks = TaskTracker::new();
    let cluster_id = node::cluster_id(&data_dir)?;
    let pod_range = node::claim_range(&client, &name, None).await?;
    let network = NodeNetwork::start(NodeNetworkConfig {
        cluster_id: cluster_id.clone(),
        directory: data_dir.join("node").join("network"),
        client: client.clone(),
        node_name: name.clone(),
        pod_range,
        service_range,
        domain: node::DOMAIN.to_owned(),
        vxlan_port: node::VXLAN_PORT,
        mtu: bridge::MTU - routes::OVERHEAD,
        shutdown: stop.clone(),
    })
    .await
    .context("cannot set up the network")?;
    node::start(
        NodeConfig {
            args: node,
            cluster_id,
            data_dir: data_dir.join("node"),
            client,
            addresses: vec![address],
            identity: joined.identity,
            ca: joined.ca,
            network,
            stop: stop.clone(),
        },
        &tasks,
    )
    .await?;
    tasks.close();
    println!("server      {server}");
    println!("node        {name} ({address})");
    tasks.wait().await;
    Ok(())
}

/// A client with the node's certificate, also written as a kubeconfig for people who look into problems.
async fn client(
    server: &http::Uri,
    name: &str,
    joined: &Joined,
    data_dir: &Path,
) -> anyhow::Result<kube::Client> {
    let user = format!("system:node:{name}");
    let url = server.to_string();
    let text = kubeconfig::render(
        url.trim_end_matches('/'),
        &joined.ca,
        &user,
        &joined.identity,
    );
    let path = data_dir.join("node.kubeconfig");
    corral_server::pki::write_private(&path, &text)?;
    let kubeconfig = Kubeconfig::from_yaml(&text)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// The address of this machine that the server is reached from.
pub fn local_address(stream: &tokio::net::TcpStream) -> anyhow::Result<IpAddr> {
    Ok(stream.local_addr()?.ip())
}
