//! A `corral` that runs, and what its process uses.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::peer::signal;
use crate::root;

/// How long anything is waited for.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// How often something is looked at that cannot be awaited; the error of start and pod times.
const LOOK_PERIOD: Duration = Duration::from_millis(2);

/// A server or a cluster of ours; it ends when this is dropped.
pub struct Running {
    process: Child,
    binary: PathBuf,
    directory: PathBuf,
    /// Whether what it has stored is somebody else's.
    is_over: bool,
}

impl Running {
    /// Starts a role of the release binary, and tells how long it took until the API answered.
    pub fn start<S: AsRef<str>>(
        role: &str,
        directory: &Path,
        flags: &[S],
    ) -> anyhow::Result<(Self, Duration)> {
        Self::start_of(
            &root().join("target/release/corral"),
            role,
            directory,
            flags,
        )
    }

    /// The same of another binary.
    pub fn start_of<S: AsRef<str>>(
        binary: &Path,
        role: &str,
        directory: &Path,
        flags: &[S],
    ) -> anyhow::Result<(Self, Duration)> {
        let _ = std::fs::remove_file(directory.join("admin.kubeconfig"));
        std::fs::create_dir_all(directory)?;
        let log = directory.join("log");
        let began = Instant::now();
        let process = Command::new(binary)
            .args([role, "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory)
            .args(flags.iter().map(AsRef::as_ref))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(directory.join("out"))?)
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("{} is not built", binary.display()))?;
        let mut running = Self {
            process,
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            is_over: false,
        };
        // The kubeconfig is written once the API answers.
        let kubeconfig = running.kubeconfig();
        let mut ended = None;
        wait(|| {
            ended = running.process.try_wait().ok().flatten();
            ended.is_some() || kubeconfig.exists()
        })?;
        if let Some(status) = ended {
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("corral {role}: {status}: {}", told.trim_end());
        }
        Ok((running, began.elapsed()))
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    pub fn stat(&self) -> anyhow::Result<Stat> {
        stat(self.pid())
    }

    /// What a user verb prints.
    pub fn corral(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.binary)
            .args(args)
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .output()?;
        ensure!(
            output.status.success(),
            "corral {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Ends the process as a crash would, and leaves what it has stored.
    pub fn crash(mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.is_over = true;
        Ok(())
    }

    /// Tells the process to end, waits until it has, and leaves what it has stored.
    pub fn stop(mut self) -> anyhow::Result<()> {
        signal("TERM", self.pid());
        wait(|| !matches!(self.process.try_wait(), Ok(None)))?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new(&self.binary)
            .arg("down")
            .arg("--data-dir")
            .arg(&self.directory)
            .output();
    }
}

/// What a process uses.
pub struct Stat {
    pub cpu: Duration,
    pub rss_mib: f64,
}

fn stat(pid: u32) -> anyhow::Result<Stat> {
    // Clock ticks are hundredths of a second on Linux.
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or("0");
    let kib: f64 = rss
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .unwrap_or(0.0);
    Ok(Stat {
        cpu: Duration::from_millis((ticks(11) + ticks(12)) * 10),
        rss_mib: kib / 1024.0,
    })
}

/// Waits, but not for ever.
pub fn wait(mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds() {
        ensure!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(LOOK_PERIOD);
    }
    Ok(())
}
