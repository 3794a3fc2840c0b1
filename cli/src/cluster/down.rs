//! `corral down`: stops a cluster and everything that it runs on this machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use nix::sys::signal::{Signal, kill};

use super::process_lock::ProcessLock;
use super::{node, ranges};

/// How long the cluster's process may take to end.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Stop the cluster of a data directory.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// The data directory of the cluster.
    #[arg(long, default_value = "/var/lib/corral", value_name = "DIR")]
    data_dir: PathBuf,
}

/// Stops the process, then the pods, then the network. What is stored stays; `corral up` brings it back.
pub async fn run(args: DownArgs) -> anyhow::Result<()> {
    let DownArgs { data_dir } = args;
    anyhow::ensure!(
        ["store", "node", "pki"]
            .iter()
            .any(|part| data_dir.join(part).exists()),
        "there is no cluster in {}; name its directory with --data-dir",
        data_dir.display()
    );
    let running = || ProcessLock::holder(&data_dir);
    if let Some(pid) = running()? {
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop process {pid}"))?;
        let ended = async {
            // The process is not our child, so its end cannot be awaited otherwise.
            while running()? == Some(pid) {
                tokio::time::sleep(LOOK_PERIOD).await;
            }
            anyhow::Ok(())
        };
        let Ok(ended) = tokio::time::timeout(STOP_MAX, ended).await else {
            anyhow::bail!(
                "process {pid} does not end; look at its log, then stop it with kill -9 {pid}"
            );
        };
        ended?;
        println!("stopped process {pid}");
    } else {
        println!("no process was running");
    }
    let node_dir = data_dir.join("node");
    if node_dir.exists() {
        let cluster_id = node::cluster_id(&data_dir)?;
        let n_pods =
            corral_nodelet::agent::stop_all(&node_dir, &cluster_id, node::shim_command()?).await?;
        println!("stopped {n_pods} pods");
        corral_nodelet::network::node_network::teardown(&cluster_id)
            .await
            .context("cannot remove the network")?;
        ranges::forget(&cluster_id);
        println!("removed the network");
    }
    Ok(())
}
