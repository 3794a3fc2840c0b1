//! `corral agent`: a node that joins a control plane elsewhere.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use corral_nodelet::network::node_network::{NodeNetwork, NodeNetworkConfig};
use corral_nodelet::network::range::Range;
use tokio_util::task::TaskTracker;

use super::identity::Member;
use super::node::{self, NodeArgs, NodeConfig};
use super::process_lock::ProcessLock;
use super::signals;
use crate::logging::{self, LogFormat};

/// Start a node that joins a control plane.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The API to join, https://HOST:PORT.
    #[arg(long, value_name = "URL")]
    server: http::Uri,
    /// The file with the token that `corral token create` made; needed until the node has joined.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
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
    #[arg(
        long,
        visible_alias = "logging-format",
        value_enum,
        default_value = "text"
    )]
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
    let lock = ProcessLock::create(&data_dir)?;
    let member = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        member = Member::enter(&server, token_file.as_deref(), &name, &data_dir) => member?,
    };
    let (client, address) = (member.client(), member.address());
    let tasks = TaskTracker::new();
    let cluster_id = node::cluster_id(&data_dir)?;
    let pod_range = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        range = node::claim_range(&client, &name, None) => range?,
    };
    let network = NodeNetwork::start(NodeNetworkConfig {
        cluster_id: cluster_id.clone(),
        directory: data_dir.join("node").join("network"),
        client: client.clone(),
        node_name: name.clone(),
        pod_range,
        service_range,
        domain: node::DOMAIN.to_owned(),
        vxlan_port: node::VXLAN_PORT,
        mtu: node::POD_MTU,
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
            certificate: member.certificate(),
            ca: member.ca().to_owned(),
            network,
            stop: stop.clone(),
        },
        &tasks,
    )
    .await?;
    tasks.spawn(member.keep(stop));
    tasks.close();
    println!("server      {server}");
    println!("node        {name} ({address})");
    tasks.wait().await;
    drop(lock);
    Ok(())
}
