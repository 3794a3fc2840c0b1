//! Runs the fuzz targets of `fuzz/`, one after the other.

use std::process::Command;

use anyhow::{Context, ensure};
use clap::Args;

use crate::{root, run};

/// All targets, in the order in which they run.
const TARGETS: [&str; 7] = [
    "json",
    "yaml",
    "protobuf",
    "patches",
    "selectors",
    "cel",
    "apply",
];
/// Seconds that one input may take; whoever sends such a one in a request holds up others.
const INPUT_SECONDS_MAX: u32 = 5;
/// Longest input that is made up. What takes long to read is for tests that measure it.
const INPUT_BYTES_MAX: u32 = 4096;
/// Megabytes that the process may take.
const MEGABYTES_MAX: u32 = 2048;

#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// Run only this target.
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 900)]
    seconds: u32,
}

/// Runs them until one finds something. Needs cargo-fuzz and a nightly compiler.
pub fn check(args: &FuzzArgs) -> anyhow::Result<()> {
    let wanted = |target: &&&str| args.target.as_ref().is_none_or(|only| only == **target);
    for target in TARGETS.iter().filter(wanted) {
        fuzz(target, args.seconds)?;
    }
    Ok(())
}

fn fuzz(target: &str, seconds: u32) -> anyhow::Result<()> {
    let folder = root().join("fuzz");
    let corpus = folder.join("corpus").join(target);
    std::fs::create_dir_all(&corpus)?;
    let seeds = folder.join("seeds").join(target);
    ensure!(seeds.is_dir(), "there are no seeds of {target}");
    let mut command = Command::new("cargo");
    // Without the sanitizer of addresses: nothing here is unsafe, and without it there is time for more.
    command.current_dir(&folder).args([
        "+nightly",
        "fuzz",
        "run",
        "--fuzz-dir",
        ".",
        "--sanitizer",
        "none",
        target,
    ]);
    command.args([&corpus, &seeds]).arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-rss_limit_mb={MEGABYTES_MAX}"),
    ]);
    run(&mut command)
        .with_context(|| format!("the target {target} found something, or could not run"))
}
