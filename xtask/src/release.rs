//! Builds the release binary for what it does most: it is built once to count which code runs, does the work of a small
//! cluster, and is built again with what was counted.
//!
//! ```text
//!   target/profiled/counting/   the build that counts
//!   target/profiled/raw/        what it counted, a file for each process
//!   target/profiled/profile     the same, merged
//!   target/profiled/HOST/release/corral  ─▶  target/release/corral
//! ```
//!
//! The two builds name the host as their target, so that build scripts and macros are built without either.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::{root, run};

mod client;
mod training;

/// Build the release binary for what it does most.
#[derive(Debug, Default, clap::Args)]
pub struct ReleaseArgs {
    /// Use what was counted by an earlier build, which need not be of the same commit.
    #[arg(long)]
    keep_profile: bool,
}

/// Leaves the binary in `target/release`.
pub fn build(args: &ReleaseArgs) -> anyhow::Result<()> {
    let host = host()?;
    let directory = root().join("target/profiled");
    let profile = directory.join("profile");
    if args.keep_profile {
        ensure!(
            profile.exists(),
            "nothing has been counted yet; leave out --keep-profile"
        );
    } else {
        // Before it is built for a long time.
        let tool = merging_tool(&host)?;
        let raw = directory.join("raw");
        let _ = std::fs::remove_dir_all(&raw);
        std::fs::create_dir_all(&raw)?;
        let counting = directory.join("counting");
        let flag = format!("-Cprofile-generate={}", text(&raw)?);
        println!("building the binary that counts");
        let binary = cargo_build(&host, &counting, &flag)?;
        println!("letting it do the work of a small cluster");
        training::run(&binary, &directory.join("scratch"))?;
        // One profile of what all processes counted.
        run(Command::new(tool)
            .args(["merge", "--output"])
            .arg(&profile)
            .arg(&raw))?;
        // Cargo does not know that what it built from the same sources was built with other counts.
        let _ = std::fs::remove_dir_all(directory.join(&host));
    }
    println!("building with what was counted");
    let flag = format!("-Cprofile-use={}", text(&profile)?);
    let built = cargo_build(&host, &directory, &flag)?;
    let release = root().join("target/release");
    std::fs::create_dir_all(&release)?;
    let binary = release.join("corral");
    // Whoever runs the one that is there keeps it, and so does cargo, which has linked it elsewhere.
    let _ = std::fs::remove_file(&binary);
    std::fs::copy(&built, &binary).with_context(|| format!("cannot write {}", binary.display()))?;
    println!("{}", binary.display());
    Ok(())
}

/// Both builds are of the same profile of cargo: its settings are part of the names by which functions are counted.
fn cargo_build(host: &str, target: &Path, flag: &str) -> anyhow::Result<PathBuf> {
    run(Command::new("cargo")
        .args(["build", "--release", "--locked", "--bin", "corral"])
        .args(["--target", host, "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flag)
        .current_dir(root()))?;
    Ok(target.join(host).join("release/corral"))
}

/// The compiler's own tool: each compiler counts in a format of its own.
fn merging_tool(host: &str) -> anyhow::Result<PathBuf> {
    let sysroot = rustc(&["--print", "sysroot"])?;
    let tool = Path::new(sysroot.trim()).join(format!("lib/rustlib/{host}/bin/llvm-profdata"));
    ensure!(
        tool.exists(),
        "merging what is counted needs a tool of the compiler; run `rustup component add llvm-tools`"
    );
    Ok(tool)
}

fn host() -> anyhow::Result<String> {
    let told = rustc(&["-vV"])?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its host")?.to_owned())
}

fn rustc(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("rustc")
        .args(args)
        .current_dir(root())
        .output()
        .context("cannot run rustc")?;
    ensure!(output.status.success(), "rustc {args:?} failed");
    Ok(String::from_utf8(output.stdout)?)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the project's path is not UTF-8")
}
