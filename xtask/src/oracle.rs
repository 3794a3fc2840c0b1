//! `cargo xtask oracle`: asks kube-apiserver anew where it is at hand, then compares.

use std::path::PathBuf;

use crate::peer::{self, Peer, Programs};
use crate::{cargo, run};

/// Arguments of `cargo xtask oracle`.
#[derive(Debug, clap::Args)]
pub struct OracleArgs {
    /// A script that starts kube-apiserver and etcd; without it the kept answers are used.
    #[arg(long, value_name = "FILE", requires = "peer_binaries")]
    peer_script: Option<PathBuf>,
    /// Where their programs are.
    #[arg(long, value_name = "DIR", requires = "peer_script")]
    peer_binaries: Option<PathBuf>,
    /// Arguments of the comparison: --only TEXT, --show N, --write-open.
    #[arg(last = true)]
    compare: Vec<String>,
}

/// Runs it.
pub fn check(args: &OracleArgs) -> anyhow::Result<()> {
    let oracle = || {
        let mut command = cargo();
        command.args(["run", "--quiet", "--package", "corral-oracle", "--"]);
        command
    };
    if let (Some(script), Some(binaries)) = (&args.peer_script, &args.peer_binaries) {
        let state = std::env::temp_dir().join(format!("corral-oracle-{}", std::process::id()));
        let programs = Programs {
            script: script.clone(),
            binaries: binaries.clone(),
        };
        let peer = Peer::start(&programs, &state, peer::PORT)?;
        let outcome = run(oracle().args(["record", "--peer"]).arg(peer.master()));
        drop(peer);
        std::fs::remove_dir_all(&state)?;
        outcome?;
    }
    run(oracle().arg("compare").args(&args.compare))
}
