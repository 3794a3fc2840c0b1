//! `corral up`: a whole cluster in one process, plus one shim per pod.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use corral_nodelet::network::NoNetwork;
use corral_server::authn::User;
use tokio_util::task::TaskTracker;

use super::control_plane::{ControlPlane, ControlPlaneArgs};
use super::node::{self, NodeArgs, NodeConfig};
use super::signals;
use crate::logging;

/// Start a whole cluster on this machine.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    #[command(flatten)]
    node: NodeArgs,
}

/// The file with the process id of the running cluster.
pub fn pid_file(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("corral.pid")
}

/// Runs until told to stop. Containers go on running; the next start takes them up.
pub async fn run(args: UpArgs) -> anyhow::Result<()> {
    let UpArgs {
        control_plane,
        node,
    } = args;
    logging::start(&control_plane.log, control_plane.log_format)?;
    let stop = signals::stop_token()?;
    let node_name = node.name()?;
    let plane = ControlPlane::start(&control_plane).await?;
    std::fs::write(
        pid_file(&control_plane.data_dir),
        std::process::id().to_string(),
    )?;

    let cluster_id = node::cluster_id(&control_plane.data_dir)?;
    let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let user = User::new(&format!("system:node:{node_name}"), &["system:nodes"]);
    let tasks = TaskTracker::new();
    let node_stop = tokio_util::sync::CancellationToken::new();
    node::start(
        NodeConfig {
            args: node,
            data_dir: control_plane.data_dir.join("node"),
            cluster_id,
            client: plane.local(user).client(),
            identity: plane.server.node_identity(&node_name, &addresses)?,
            addresses,
            ca: plane.server.ca().to_owned(),
            network: Arc::new(NoNetwork),
            stop: node_stop.clone(),
        },
        &tasks,
    )
    .await?;
    tasks.close();

    println!("API         https://{}", plane.server.address());
    println!("kubeconfig  {}", plane.kubeconfig.display());
    println!("node        {node_name}");
    stop.cancelled().await;
    node_stop.cancel();
    tasks.wait().await;
    plane.stop().await;
    // Best effort: a pid that is no longer ours is told apart by the store's lock.
    let _ = std::fs::remove_file(pid_file(&control_plane.data_dir));
    Ok(())
}
