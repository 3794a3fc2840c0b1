//! Tasks of the project that are no part of the product: `cargo xtask --help`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

mod bench;
mod cgroup2;
mod fuzz;
mod oracle;
mod peer;
mod release;
mod running;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Tasks of the project")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make the table of API facts anew from the Go modules of Kubernetes. Needs Go.
    Facts {
        /// Fail if the table would change, and leave it.
        #[arg(long)]
        check: bool,
    },
    /// Make the pairs of JSON and protobuf anew from the Go types of Kubernetes. Needs Go.
    Wire {
        /// Fail if they would change, and leave them.
        #[arg(long)]
        check: bool,
    },
    /// Kill the store at random points under writers, and check what is there afterwards.
    Crash {
        /// How often.
        #[arg(long, default_value_t = 200)]
        rounds: u32,
    },
    /// Build the release binary for what it does most: twice, with a little work in between.
    Release(release::ReleaseArgs),
    /// Measure the release build and write docs/benchmarks.md.
    Bench(bench::BenchArgs),
    /// Run a cluster on control groups of version 2, in a virtual machine. Needs qemu.
    Cgroup2,
    /// Fuzz what reads what clients send. Needs cargo-fuzz and a nightly compiler.
    Fuzz(fuzz::FuzzArgs),
    /// Compare the API server's answers with those of kube-apiserver.
    Oracle(oracle::OracleArgs),
    /// Build the programs of e2e/go and e2e/kube-rs, and run the end-to-end tests that need them. Needs Go and etcd.
    ClientsGo {
        /// Run only the tests whose name has this.
        only: Option<String>,
        /// A folder with kube-apiserver, kube-controller-manager and kube-scheduler: they are put in place of Corral's, too.
        #[arg(long, value_name = "DIR")]
        peer_binaries: Option<PathBuf>,
    },
    /// What CI runs besides the tests: formatting and lints.
    Lint,
}

/// The root of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the project")
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Facts { check } => facts(check),
        Task::Wire { check } => wire(check),
        Task::Crash { rounds } => run(cargo()
            .args([
                "test",
                "--package",
                "corral-storage",
                "--test",
                "it",
                "crash",
                "--",
                "--nocapture",
            ])
            .env("CORRAL_CRASH_ROUNDS", rounds.to_string())),
        Task::Release(args) => release::build(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Cgroup2 => cgroup2::check(),
        Task::Fuzz(args) => fuzz::check(&args),
        Task::Oracle(args) => oracle::check(&args),
        Task::ClientsGo {
            only,
            peer_binaries,
        } => clients_go(only.as_deref(), peer_binaries.as_deref()),
        Task::Lint => {
            run(cargo().args(["fmt", "--all", "--check"]))?;
            run(cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]))
        }
    }
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root());
    command
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

fn clients_go(only: Option<&str>, peers: Option<&Path>) -> anyhow::Result<()> {
    run(Command::new(root().join("scripts/clients")).arg("--go"))?;
    run(cargo().args(["build", "--locked", "--package", "corral"]))?;
    let test = [
        "test",
        "--locked",
        "--package",
        "corral-e2e",
        "--test",
        "it",
    ];
    let mut tests = cargo();
    tests.args(test).args(["--features", "go-clients"]);
    if let Some(folder) = peers {
        tests.args(["--features", "peers"]);
        tests.env("CORRAL_PEER_BINARIES", std::path::absolute(folder)?);
    }
    run(tests.arg("--").arg(only.unwrap_or("go::")))
}

fn facts(check: bool) -> anyhow::Result<()> {
    let table: PathBuf = root().join("apiserver/kinds/src/facts.json");
    let output = go("xtask/facts")?;
    if check {
        let kept = std::fs::read(&table)?;
        ensure!(
            kept == output,
            "{} has drifted; run cargo xtask facts",
            table.display()
        );
        return Ok(());
    }
    std::fs::write(&table, &output)?;
    Ok(())
}

fn wire(check: bool) -> anyhow::Result<()> {
    let table = root().join("apiserver/kinds/tests/data/protobuf.jsonl.gz");
    let output = go("xtask/wire")?;
    if check {
        let mut kept = Vec::new();
        GzDecoder::new(std::fs::File::open(&table)?).read_to_end(&mut kept)?;
        ensure!(
            kept == output,
            "{} has drifted; run cargo xtask wire",
            table.display()
        );
        return Ok(());
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&output)?;
    std::fs::write(&table, packed.finish()?)?;
    Ok(())
}

/// What a Go program of ours prints.
fn go(folder: &str) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("go")
        .args(["run", "."])
        .current_dir(root().join(folder))
        .output()
        .with_context(|| format!("Go is needed for {folder}"))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}
