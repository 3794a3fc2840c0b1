//! Measures the release build and writes `docs/benchmarks.md`.
//!
//! Start, idle cost and pods are measured here, with `corral` itself. Load on the API is measured by `kload`, a load
//! tool outside the project, if `--kload` names it; without it those rows are left out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::root;

mod load;

/// How long anything is waited for.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// How often something is looked at that cannot be awaited; the error of start and pod times.
const LOOK_PERIOD: Duration = Duration::from_millis(2);

/// Measure the release build.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// How often each start is measured; the median counts.
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// Pods stored for the figures about memory and lists.
    #[arg(long, default_value_t = 100_000)]
    objects: usize,
    /// Rounds of load; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The load tool.
    #[arg(long, value_name = "FILE")]
    kload: Option<PathBuf>,
    /// The script that runs the real control plane, to be measured in turns with ours.
    #[arg(long, value_name = "FILE", requires_all = ["kload", "peer_binaries"])]
    peer_script: Option<PathBuf>,
    /// The folder of the real control plane's binaries.
    #[arg(long, value_name = "DIR", requires = "peer_script")]
    peer_binaries: Option<PathBuf>,
}

struct Running {
    process: Child,
    directory: PathBuf,
    /// Whether what it has stored is somebody else's.
    is_over: bool,
}

impl Running {
    fn start_server(directory: &Path, flags: &[&str]) -> anyhow::Result<(Self, Duration)> {
        Self::start("server", directory, flags)
    }

    fn start(role: &str, directory: &Path, flags: &[&str]) -> anyhow::Result<(Self, Duration)> {
        let _ = std::fs::remove_file(directory.join("admin.kubeconfig"));
        std::fs::create_dir_all(directory)?;
        let began = Instant::now();
        let process = Command::new(binary())
            .args([role, "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(directory.join("out"))?)
            .stderr(std::fs::File::create(directory.join("log"))?)
            .spawn()
            .context("the release binary is not built")?;
        let running = Self {
            process,
            directory: directory.to_owned(),
            is_over: false,
        };
        // The kubeconfig is written once the API answers.
        wait(|| directory.join("admin.kubeconfig").exists())?;
        Ok((running, began.elapsed()))
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    fn stat(&self) -> anyhow::Result<Stat> {
        stat(self.process.id())
    }

    fn corral(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(binary())
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
}

impl Running {
    /// Ends the process as a crash would, and leaves what it has stored.
    fn end(mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
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
        let _ = Command::new(binary())
            .arg("down")
            .arg("--data-dir")
            .arg(&self.directory)
            .output();
    }
}

struct Stat {
    cpu: Duration,
    rss_mib: f64,
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

fn binary() -> PathBuf {
    root().join("target/release/corral")
}

fn wait(mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds() {
        ensure!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(LOOK_PERIOD);
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures and writes.
pub fn run_all(args: &BenchArgs, report: &mut String) -> anyhow::Result<()> {
    let scratch = std::env::temp_dir().join(format!("corral-bench-{}", std::process::id()));
    let outcome = measure(args, &scratch, report);
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

fn measure(args: &BenchArgs, scratch: &Path, report: &mut String) -> anyhow::Result<()> {
    let mut starts = Vec::new();
    for index in 0..args.times {
        let (_running, took) = Running::start_server(&scratch.join(format!("start-{index}")), &[])?;
        starts.push(took.as_secs_f64() * 1000.0);
    }
    row(
        report,
        "API ready after exec, empty store",
        &format!("{:.0} ms", median(starts)),
        "100 ms",
    );

    let (server, _) = Running::start_server(&scratch.join("idle"), &[])?;
    std::thread::sleep(Duration::from_secs(10));
    row(
        report,
        "`corral server` idle, RSS",
        &format!("{:.0} MiB", server.stat()?.rss_mib),
        "40 MiB",
    );
    drop(server);

    let (up, _) = Running::start("up", &scratch.join("up"), &[])?;
    wait(|| {
        up.corral(&["get", "nodes"])
            .is_ok_and(|out| out.contains("Ready"))
    })?;
    std::thread::sleep(Duration::from_secs(10));
    let before = up.stat()?;
    let idle = Duration::from_secs(30);
    std::thread::sleep(idle);
    let after = up.stat()?;
    let share = (after.cpu - before.cpu).as_secs_f64() / idle.as_secs_f64() * 100.0;
    row(
        report,
        "`corral up` idle, RSS",
        &format!("{:.0} MiB", after.rss_mib),
        "80 MB",
    );
    row(
        report,
        "`corral up` idle, CPU of one core",
        &format!("{share:.2} %"),
        "1 %",
    );
    pods(&up, report)?;
    drop(up);

    if let Some(kload) = &args.kload {
        let tools = load::Tools {
            kload: kload.clone(),
            peer: args.peer_script.clone().zip(args.peer_binaries.clone()),
        };
        load::compare(&tools, args.rounds, scratch, report)?;
        load::many(&tools, args.objects, scratch, report)?;
        load::nodes(&tools, scratch, report)?;
    }
    Ok(())
}

fn manifest(name: &str, replicas: usize) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  selector: \
         {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 0\n      containers: [{{name: c, image: corral.dev/host, command: [sleep, '100000']}}]\n"
    )
}

fn pods(up: &Running, report: &mut String) -> anyhow::Result<()> {
    for (name, n, what, target) in [
        (
            "one",
            1,
            "first pod Running after apply (`corral.dev/host`)",
            "1 s",
        ),
        (
            "many",
            100,
            "100 pods applied at once, all Running",
            "5 s (20 a second)",
        ),
    ] {
        let file = up.directory.join(format!("{name}.yaml"));
        std::fs::write(&file, manifest(name, n))?;
        let began = Instant::now();
        up.corral(&["apply", "-f", &file.to_string_lossy()])?;
        wait(|| {
            let selector = format!("app={name}");
            let out = up
                .corral(&["get", "pods", "-l", &selector])
                .unwrap_or_default();
            out.lines().filter(|line| line.contains("Running")).count() == n
        })?;
        let took = began.elapsed().as_secs_f64();
        row(report, what, &format!("{took:.2} s"), target);
        up.corral(&["delete", "deployment", name])?;
    }
    Ok(())
}

fn row(report: &mut String, what: &str, figure: &str, target: &str) {
    println!("{what}: {figure} (target {target})");
    let _ = writeln!(report, "| {what} | {figure} | {target} |");
}

/// Builds, measures and writes.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    crate::run(
        Command::new("cargo")
            .args(["build", "--release", "--locked", "--bin", "corral"])
            .current_dir(root()),
    )?;
    let commit = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .current_dir(root())
        .output()?;
    let commit = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut report = format!(
        "# Benchmarks\n\nMade by `cargo xtask bench` at commit {commit}, {cores} cores, Linux {}, release build. Starts are \
         medians of {}. CPU and RSS are read from `/proc` of the server's process.\n\n| figure | measured | target |\n|---|---|---|\n",
        kernel.trim(),
        args.times
    );
    run_all(args, &mut report)?;
    std::fs::write(root().join("docs/benchmarks.md"), report)?;
    Ok(())
}
