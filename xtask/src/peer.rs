//! The real kube-apiserver with etcd, or etcd alone, started by a script that is not part of the project.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// How long a control plane may take to start.
const START_MAX: Duration = Duration::from_secs(120);
/// How long one may take to end before it is killed: the script waits ten seconds for each of its two parts.
const END_MAX: Duration = Duration::from_secs(30);
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// The API server's port unless another one is asked for. Answers tell it, so those that are kept were asked here.
pub const PORT: u16 = 43443;
/// How often three free ports in a row are looked for; nearly every try finds them.
const PORT_TRIES_MAX: u32 = 100;

/// What starts it.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The start script.
    pub script: PathBuf,
    /// The folder of etcd and kube-apiserver.
    pub binaries: PathBuf,
}

/// What runs; it ends when this is dropped.
pub struct Peer {
    process: Child,
    state: PathBuf,
    port: u16,
    parts: &'static [&'static str],
}

impl Peer {
    /// kube-apiserver with an empty etcd; `port` is the API server's.
    pub fn start(programs: &Programs, state: &Path, port: u16) -> anyhow::Result<Self> {
        let mut peer = Self::start_parts(programs, &["etcd", "apiserver"], state, port)?;
        // The binding is there by now, the role that it binds comes somewhat later.
        let namespaces = format!("https://127.0.0.1:{port}/api/v1/namespaces");
        peer.wait(|peer| peer.answers("admin", &namespaces))?;
        Ok(peer)
    }

    /// An empty etcd that nobody uses yet.
    pub fn start_etcd(programs: &Programs, state: &Path) -> anyhow::Result<Self> {
        let mut peer = Self::start_parts(programs, &["etcd"], state, free_port()?)?;
        peer.wait(|peer| peer.answers("etcd", &format!("{}/health", peer.etcd_endpoint())))?;
        Ok(peer)
    }

    /// Runs `SCRIPT STATE PART…` with `BIN=BINARIES`, `FRESH=1` and `PORT=PORT`, which leaves keys, kubeconfigs and `NAME.pid`
    /// files in STATE, says `up`, and runs until it is told to end.
    fn start_parts(
        programs: &Programs,
        parts: &'static [&'static str],
        state: &Path,
        port: u16,
    ) -> anyhow::Result<Self> {
        let Programs { script, binaries } = programs;
        std::fs::create_dir_all(state)?;
        let said = state.join("said");
        let process = Command::new(script)
            .arg(state)
            .args(parts)
            .env("BIN", binaries)
            .env("FRESH", "1")
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&said)?)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", script.display()))?;
        let mut peer = Self {
            process,
            state: state.to_owned(),
            port,
            parts,
        };
        peer.wait(|_| {
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            said.lines().any(|line| line == "up")
        })?;
        Ok(peer)
    }

    fn wait(&mut self, holds: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        while !holds(self) {
            if let Some(status) = self.process.try_wait()? {
                bail!("the script of {:?} ended: {status}", self.parts);
            }
            ensure!(
                Instant::now() < deadline,
                "{:?} did not start within {START_MAX:?}",
                self.parts
            );
            std::thread::sleep(LOOK_PERIOD);
        }
        Ok(())
    }

    /// Whether a GET by the one whose certificate has this name succeeds; by curl, which the script needs as well.
    fn answers(&self, name: &str, url: &str) -> bool {
        let status = Command::new("curl")
            .args(["--silent", "--fail", "--max-time", "1"])
            .args(["--cacert", "ca.crt"])
            .args(["--cert", &format!("{name}.crt"), "--key"])
            .args([&format!("{name}.key"), url])
            .current_dir(&self.state)
            .stdout(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }

    /// The pid of a part.
    pub fn pid(&self, name: &str) -> anyhow::Result<u32> {
        let file = self.state.join(format!("{name}.pid"));
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.trim().parse()?)
    }

    /// Where etcd serves.
    pub fn etcd_endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port - 1)
    }

    /// A file of the keys and certificates: `ca.crt`, and `etcd.crt` with `etcd.key`, which etcd takes from clients, too.
    pub fn file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// A user whose rights come from a binding, so that they are evaluated.
    pub fn administrator(&self) -> PathBuf {
        self.file("admin.kubeconfig")
    }

    /// A user who may do everything.
    pub fn master(&self) -> PathBuf {
        self.file("super.kubeconfig")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The script ends its children when it is told to, so it is not killed outright.
        signal("TERM", self.process.id());
        let deadline = Instant::now() + END_MAX;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let parts = self.parts.iter().filter_map(|part| self.pid(part).ok());
                parts.for_each(|pid| signal("KILL", pid));
                let _ = self.process.kill();
                let _ = self.process.wait();
                return;
            }
            std::thread::sleep(LOOK_PERIOD);
        }
    }
}

/// Sends a signal to a process.
pub fn signal(name: &str, pid: u32) {
    let _ = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

/// A port that is free, with the two below it, which etcd takes.
pub fn free_port() -> anyhow::Result<u16> {
    let taken = |port: u16| TcpListener::bind(("127.0.0.1", port));
    for _ in 0..PORT_TRIES_MAX {
        let highest = taken(0)?;
        let port = highest.local_addr()?.port();
        if port > 2 && taken(port - 1).is_ok() && taken(port - 2).is_ok() {
            return Ok(port);
        }
    }
    bail!("no three free ports in a row")
}
