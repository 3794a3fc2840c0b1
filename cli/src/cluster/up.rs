//! `corral up`: a whole cluster in one process, plus one shim per pod.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use corral_nodelet::network::node_network::{NodeNetwork, NodeNetworkConfig};
use corral_nodelet::network::range::Range;
use corral_nodelet::server::tls::ServerCertificate;
use corral_server::authn::User;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control_plane::{ControlPlane, ControlPlaneArgs};
use super::node::{self, NodeArgs, NodeConfig};
use super::process_lock::ProcessLock;
use super::ranges::{self, Ranges};
use super::signals;
use crate::footprint;

/// Start a whole cluster on this machine.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub control_plane: ControlPlaneArgs,
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs until told to stop. Containers go on running; the next start takes them up.
pub async fn run(args: UpArgs) -> anyhow::Result<()> {
    let UpArgs {
        mut control_plane,
        node,
    } = args;
    footprint::begin();
    control_plane.log.start()?;
    let stop = signals::stop_token()?;
    let node_name = node.name()?;
    let data_dir = control_plane.data_dir.clone();
    let lock = ProcessLock::create(&data_dir)?;
    let cluster_id = node::cluster_id(&data_dir)?;
    let services = control_plane
        .service_range
        .map(|range| Range::new(range.base, range.prefix));
    let ranges = ranges::choose(&data_dir, &cluster_id, control_plane.pod_range, services)?;
    control_plane.pod_range = Some(ranges.pods);
    control_plane.service_range = Some(
        ranges
            .services
            .to_string()
            .parse()
            .map_err(anyhow::Error::msg)?,
    );

    let plane = ControlPlane::start(&control_plane).await?;
    let tasks = TaskTracker::new();
    let node_stop = CancellationToken::new();
    let started = start_node(
        &plane,
        &control_plane,
        node,
        &node_name,
        cluster_id,
        ranges,
        &node_stop,
        &tasks,
    )
    .await;
    tasks.close();
    if started.is_ok() {
        println!("API         https://{}", plane.server.address());
        println!("kubeconfig  {}", plane.kubeconfig.display());
        println!("node        {node_name}");
        tokio::spawn(footprint::settle());
        stop.cancelled().await;
        plane.leave().await;
    }
    node_stop.cancel();
    tasks.wait().await;
    plane.stop().await;
    drop(lock);
    started
}

#[allow(clippy::too_many_arguments)]
async fn start_node(
    plane: &ControlPlane,
    control_plane: &ControlPlaneArgs,
    args: NodeArgs,
    node_name: &str,
    cluster_id: String,
    ranges: Ranges,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let user = User::new(&format!("system:node:{node_name}"), &["system:nodes"]);
    let client = plane.local(user).client();
    // The first node has the first part of the cluster's range; others are given theirs when they join.
    let first = Range::new(ranges.pods.base(), node::POD_RANGE_PREFIX);
    let pod_range = node::claim_range(&client, node_name, Some(first)).await?;
    let data_dir = control_plane.data_dir.join("node");
    let network = NodeNetwork::start(NodeNetworkConfig {
        cluster_id: cluster_id.clone(),
        directory: data_dir.join("network"),
        client: client.clone(),
        node_name: node_name.to_owned(),
        pod_range,
        service_range: ranges.services,
        domain: node::DOMAIN.to_owned(),
        vxlan_port: node::VXLAN_PORT,
        mtu: node::POD_MTU,
        shutdown: stop.clone(),
    })
    .await
    .context("cannot set up the network")?;
    let gateway = IpAddr::V4(pod_range.gateway());
    let listening = plane.server.address();
    let address = if listening.ip().is_loopback() {
        plane
            .server
            .listen_for_pods(SocketAddr::new(gateway, listening.port()))
            .await?;
        gateway
    } else {
        control_plane
            .advertise
            .unwrap_or(if listening.ip().is_unspecified() {
                gateway
            } else {
                listening.ip()
            })
    };
    let addresses = vec![address];
    let identity = plane.server.node_identity(node_name, &addresses)?;
    node::start(
        NodeConfig {
            args,
            data_dir,
            cluster_id,
            client,
            certificate: Arc::new(ServerCertificate::new(
                &identity.certificate,
                &identity.key,
            )?),
            addresses,
            ca: plane.server.ca().to_owned(),
            network,
            stop: stop.clone(),
        },
        tasks,
    )
    .await
}
