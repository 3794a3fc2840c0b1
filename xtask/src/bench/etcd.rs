//! Our server in front of etcd, beside kube-apiserver in front of the same one.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::load::{CREATE, CREATED};
use super::target::{
    FLAGS, Figure, MEMORY, Target, Tools, cell, median, number, of_rounds, rss_target,
};
use crate::peer::{self, Peer, Programs};
use crate::running::Running;

/// How many times as many creates for the same CPU ours is to do.
const RATIO_MIN: f64 = 3.0;
/// Names of the API servers' processes: ours, theirs.
const NAMES: [&str; 2] = ["corral", "kube-apiserver"];

/// What the load tool told of one round on one side.
struct Round {
    created: Value,
    memory: Value,
}

/// Measures both in turns, with an empty etcd for each of them in each round: a table of medians.
pub fn compare(tools: &Tools, rounds: usize, scratch: &Path) -> anyhow::Result<String> {
    let programs = tools.peer.as_ref().context("etcd is one of the peer's")?;
    let mut sides = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let directory = scratch.join(format!("ours-{round}"));
        sides[0].push(ours(programs, tools, &directory)?);
        std::fs::remove_dir_all(&directory)?;
        let directory = scratch.join(format!("theirs-{round}"));
        sides[1].push(theirs(programs, tools, &directory)?);
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(table(&sides))
}

fn ours(programs: &Programs, tools: &Tools, directory: &Path) -> anyhow::Result<Round> {
    let etcd = Peer::start_etcd(programs, &directory.join("etcd"))?;
    let file = |name| etcd.file(name).to_string_lossy().into_owned();
    let mut flags = FLAGS.map(str::to_owned).to_vec();
    for (flag, value) in [
        ("--etcd-endpoints", etcd.etcd_endpoint()),
        ("--etcd-cafile", file("ca.crt")),
        ("--etcd-certfile", file("etcd.crt")),
        ("--etcd-keyfile", file("etcd.key")),
    ] {
        flags.extend([flag.to_owned(), value]);
    }
    // Dropped before etcd, which it needs to the end.
    let (server, _) = Running::start("server", &directory.join("server"), &flags)?;
    let mut target = Target::ours(&server);
    target.pids.push(etcd.pid("etcd")?);
    load(tools, &target)
}

fn theirs(programs: &Programs, tools: &Tools, directory: &Path) -> anyhow::Result<Round> {
    let peer = Peer::start(programs, directory, peer::free_port()?)?;
    load(tools, &Target::peer(&peer)?)
}

fn load(tools: &Tools, target: &Target) -> anyhow::Result<Round> {
    Ok(Round {
        created: target.run(&tools.kload, &CREATE.replace("{offset}", "0"))?,
        memory: target.run(&tools.kload, MEMORY)?,
    })
}

fn table(sides: &[Vec<Round>; 2]) -> String {
    let medians = |figure: &dyn Fn(&Round, &str) -> Option<f64>| {
        [0, 1].map(|side| {
            let figures = sides[side].iter();
            let figures: Vec<f64> = figures.filter_map(|r| figure(r, NAMES[side])).collect();
            (!figures.is_empty()).then(|| median(&figures))
        })
    };
    let of_all = |round: &Round| Figure::Servers("cpu_s_per_1000").of(&round.created);
    let per_cpu = medians(&|round, _| {
        of_all(round)
            .filter(|cpu| *cpu > 0.0)
            .map(|cpu| 1000.0 / cpu)
    });
    let [ours, theirs] = per_cpu;
    let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
    let stored = medians(&|round, _| number(&round.memory, "stored_mib"));
    let create = CREATE.replace(" --offset {offset}", "");
    let (create, memory) = (format!("`kload {create}`"), format!("`kload {MEMORY}`"));
    let mut report = format!(
        "{} of {CREATED} creates, one server after the other in each round, each in front of an etcd of its \
         own that is empty: `corral server {} --etcd-endpoints …` and kube-apiserver v1.36.3, the same etcd, over TLS with \
         client certificates, fsync on. CPU is user and system time.\n\n\
         | figure | Corral + etcd | kube-apiserver + etcd | target | command |\n|---|---|---|---|---|\n",
        of_rounds(sides[0].len()),
        FLAGS.join(" ")
    );
    let mut row = |what: &str, [ours, theirs]: [String; 2], target: &str, command: &str| {
        let _ = writeln!(
            report,
            "| {what} | {ours} | {theirs} | {target} | {command} |"
        );
    };
    let cells = |figures: [Option<f64>; 2], unit: &str| figures.map(|figure| cell(figure, unit));
    let process = |suffix: &'static str| {
        move |round: &Round, name: &str| number(&round.created, &format!("{name}.{suffix}"))
    };
    row(
        "creates of 3.6 kB pods per second of CPU of all processes",
        cells(per_cpu, ""),
        &format!("≥ {RATIO_MIN:.0} × the peer's"),
        &create,
    );
    row(
        "the same, as a multiple of the peer's",
        [cell(ratio, "×"), String::new()],
        &format!("≥ {RATIO_MIN:.0} ×"),
        "the same",
    );
    row(
        "CPU per 1,000 creates, all processes",
        cells(medians(&|round, _| of_all(round)), "s"),
        "",
        "the same",
    );
    row(
        "of this the API server",
        cells(medians(&process("cpu_s_per_1000")), "s"),
        "",
        "the same",
    );
    row(
        "of this etcd",
        cells(
            medians(&|round, _| number(&round.created, "etcd.cpu_s_per_1000")),
            "s",
        ),
        "",
        "the same",
    );
    row(
        "creates per second",
        cells(
            medians(&|round, _| number(&round.created, "created_per_s")),
            "",
        ),
        "",
        "the same",
    );
    row(
        "p99 of a create",
        cells(medians(&|round, _| number(&round.created, "p99_ms")), "ms"),
        "",
        "the same",
    );
    let rss = medians(&|round, name| number(&round.memory, &format!("{name}.rss_mib")));
    let mut rss = rss
        .into_iter()
        .zip(stored)
        .map(|(rss, stored)| format!("{} for {} of JSON", cell(rss, "MiB"), cell(stored, "MiB")));
    row(
        "RSS of the API server's process afterwards",
        [
            rss.next().unwrap_or_default(),
            rss.next().unwrap_or_default(),
        ],
        &rss_target(stored[0].unwrap_or(0.0)),
        &memory,
    );
    report
}
