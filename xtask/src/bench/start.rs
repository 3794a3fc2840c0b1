//! Starts, idle cost and pods, measured with `corral` itself.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::target::median;
use crate::running::{Running, wait};

/// How long a server is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(10);
/// How long the CPU of an idle cluster is counted.
const IDLE: Duration = Duration::from_secs(30);

/// Measures them; `times` is how often each start is.
pub fn measure(times: usize, scratch: &Path) -> anyhow::Result<String> {
    let mut report = format!(
        "Starts are medians of {times}.\n\n| figure | measured | target |\n|---|---|---|\n"
    );
    let none: [&str; 0] = [];
    let mut starts = Vec::new();
    for index in 0..times {
        let directory = scratch.join(format!("start-{index}"));
        let (_running, took) = Running::start("server", &directory, &none)?;
        starts.push(took.as_secs_f64() * 1000.0);
    }
    row(
        &mut report,
        "API ready after exec, empty store",
        &format!("{:.0} ms", median(&starts)),
        "100 ms",
    );

    let (server, _) = Running::start("server", &scratch.join("idle"), &none)?;
    std::thread::sleep(SETTLE);
    row(
        &mut report,
        "`corral server` idle, RSS",
        &format!("{:.0} MiB", server.stat()?.rss_mib),
        "40 MiB",
    );
    drop(server);

    let (up, _) = Running::start("up", &scratch.join("up"), &none)?;
    wait(|| {
        up.corral(&["get", "nodes"])
            .is_ok_and(|out| out.contains("Ready"))
    })?;
    std::thread::sleep(SETTLE);
    let before = up.stat()?;
    std::thread::sleep(IDLE);
    let after = up.stat()?;
    let share = (after.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    row(
        &mut report,
        "`corral up` idle, RSS",
        &format!("{:.0} MiB", after.rss_mib),
        "80 MB",
    );
    row(
        &mut report,
        "`corral up` idle, CPU of one core",
        &format!("{share:.2} %"),
        "1 %",
    );
    pods(&up, &mut report)?;
    Ok(report)
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
        let file = up.directory().join(format!("{name}.yaml"));
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
