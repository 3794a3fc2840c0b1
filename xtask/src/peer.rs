//! The real kube-apiserver with etcd, started by a script that is not part of the project.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// How long a control plane may take to start.
const START_MAX: Duration = Duration::from_secs(120);
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// What runs; it ends when this is dropped.
pub struct Peer {
    process: Child,
    state: PathBuf,
}

impl Peer {
    /// Runs `SCRIPT STATE etcd apiserver` with `BIN=BINARIES` and `FRESH=1`, which leaves kubeconfigs and `NAME.pid` files in
    /// STATE, says `up`, and runs until it is told to end.
    pub fn start(script: &Path, binaries: &Path, state: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state)?;
        let said = state.join("said");
        let process = Command::new(script)
            .arg(state)
            .args(["etcd", "apiserver"])
            .env("BIN", binaries)
            .env("FRESH", "1")
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&said)?)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", script.display()))?;
        let peer = Self {
            process,
            state: state.to_owned(),
        };
        let deadline = Instant::now() + START_MAX;
        while !std::fs::read_to_string(&said)?
            .lines()
            .any(|line| line == "up")
        {
            ensure!(Instant::now() < deadline, "the peer does not start");
            std::thread::sleep(LOOK_PERIOD);
        }
        Ok(peer)
    }

    /// The pid of a part.
    pub fn pid(&self, name: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.state.join(format!("{name}.pid"))).ok()?;
        text.trim().parse().ok()
    }

    /// A user whose rights come from a binding, so that they are evaluated.
    pub fn administrator(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    /// A user who may do everything.
    pub fn master(&self) -> PathBuf {
        self.state.join("super.kubeconfig")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The script ends its children when it is told to, so it is not killed outright.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let _ = self.process.wait();
    }
}
