//! `corral down`: stops a cluster and everything that it runs on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{node, ranges, up};

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
        data_dir.join("store").exists() || data_dir.join("node").exists(),
        "there is no cluster in {}; name its directory with --data-dir",
        data_dir.display()
    );
    if let Some(pid) = running(&data_dir) {
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop process {pid}"))?;
        let ended = async {
            // The process is not our child, so its end cannot be awaited otherwise.
            while running(&data_dir).is_some() {
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        if tokio::time::timeout(STOP_MAX, ended).await.is_err() {
            anyhow::bail!(
                "process {pid} does not end; look at its log, then stop it with kill -9 {pid}"
            );
        }
        println!("stopped process {pid}");
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

/// The process that runs the cluster, if it does.
fn running(data_dir: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(up::pid_file(data_dir)).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    // A pid may have been given to another program since.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = command.split(|byte| *byte == 0).next()?;
    first.ends_with(b"corral").then(|| Pid::from_raw(pid))
}
