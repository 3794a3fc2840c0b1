//! Load on the API, by the load tool `kload`, on our server and on the real one in turns.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::target::{
    FLAGS, Figure, MEMORY, Measure, SELECTED, Target, Tools, cell, median, number, of_rounds,
    rounded, rss_target,
};
use crate::running::Running;

/// Objects created in a round.
pub const CREATED: usize = 10_000;
/// Starts whose median is told.
const RESTARTS: usize = 3;
/// Nodes that one server is to hold.
pub const NODES: usize = 50_000;

/// Pods as they are created in a round; `{offset}` is the number of the first one.
pub const CREATE: &str = "create --kind pods --n 10000 --workers 32 --offset {offset}";
const DEFINITIONS: &str = "crds --n 40 --first-object --settle 5s --offset 101";
/// Definitions before those that are measured: the first ones bring code and tables into memory that all others use, while
/// what the start needed is given back.
const FIRST_DEFINITIONS: &str = "crds --n 40 --first-object --settle 5s";
/// CPU is told in hundredths of a second, and a LIST takes a few of them.
const LIST: &str = "list --n-times 10";
/// LISTs of custom resources.
const WIDGETS: &str = "list --n-times 10 --kind widgets";
const WATCH: &str = "watch --watchers 1000 --events 200 --rate 20";

/// What is measured in each round, and the target.
const MEASURES: &[(Measure, &str)] = &[
    (
        Measure {
            what: "create of 3.6 kB pods, server CPU per 1,000",
            load: CREATE,
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.25 s",
    ),
    (
        Measure {
            what: "the same, creates per second",
            load: CREATE,
            figure: Figure::Field("created_per_s"),
            unit: "",
        },
        "3,000",
    ),
    (
        Measure {
            what: "the same, p99",
            load: CREATE,
            figure: Figure::Field("p99_ms"),
            unit: "ms",
        },
        "",
    ),
    (
        Measure {
            what: "create of leases, protobuf, server CPU per 1,000",
            load: "create --kind leases --content protobuf --n 2000 --workers 32 --offset {offset}",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.12 s",
    ),
    (
        Measure {
            what: "create of custom resources with a 20 kB schema, server CPU per 1,000",
            load: "create --kind widgets --n 2000 --workers 32 --offset {offset}",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.3 s",
    ),
    (
        Measure {
            what: "GET of a pod, server CPU per 1,000",
            load: "get --objects 1000 --n 10000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.1 s",
    ),
    (
        Measure {
            what: "merge patch of pods, server CPU per 1,000",
            load: "patch --kind pods --n 1000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.4 s",
    ),
    (
        Measure {
            what: "merge patch of custom resources, server CPU per 1,000",
            load: "patch --kind widgets --n 1000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.5 s",
    ),
    (
        Measure {
            what: "server-side apply of pods, server CPU per 1,000",
            load: "apply --kind pods --n 1000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.7 s",
    ),
    (
        Measure {
            what: "server-side apply of ConfigMaps, server CPU per 1,000",
            load: "apply --kind configmaps --n 1000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.35 s",
    ),
    (
        Measure {
            what: "server-side apply of custom resources, server CPU per 1,000",
            load: "apply --kind widgets --n 1000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.6 s",
    ),
    (
        Measure {
            what: "status update of pods (get and update), protobuf, server CPU per 1,000",
            load: "status --n 1000 --content protobuf",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        "0.5 s",
    ),
    (
        Measure {
            what: "LIST of the pods, MB per second",
            load: LIST,
            figure: Figure::Field("mb_per_s"),
            unit: "",
        },
        "",
    ),
    (
        Measure {
            what: "the same, MB per second of server CPU",
            load: LIST,
            figure: Figure::ListPerCpu,
            unit: "",
        },
        "700",
    ),
    (
        Measure {
            what: "the same in protobuf",
            load: "list --n-times 10 --content protobuf",
            figure: Figure::ListPerCpu,
            unit: "",
        },
        "250",
    ),
    (
        Measure {
            what: "the same as a Table",
            load: "list --n-times 10 --content table",
            figure: Figure::ListPerCpu,
            unit: "",
        },
        "250",
    ),
    (
        Measure {
            what: "LIST of custom resources, MB per second of server CPU",
            load: WIDGETS,
            figure: Figure::ListPerCpu,
            unit: "",
        },
        "700",
    ),
    (
        Measure {
            what: "watch, 1,000 watchers, server CPU per million events delivered",
            load: WATCH,
            figure: Figure::Servers("cpu_s_per_million_delivered"),
            unit: "s",
        },
        "2.5 s",
    ),
    (
        Measure {
            what: "the same, events not delivered",
            load: WATCH,
            figure: Figure::Field("missing"),
            unit: "",
        },
        "0",
    ),
    (
        Measure {
            what: "watch of pods, 100 watchers, server CPU per million events delivered",
            load: "watch --kind pods --watchers 100 --events 200 --rate 50",
            figure: Figure::Servers("cpu_s_per_million_delivered"),
            unit: "s",
        },
        "6 s",
    ),
    (
        Measure {
            what: "1,000 nodes that renew a lease every 10 s, server CPU per 1,000 renewals",
            load: "lease --nodes 1000 --duration 15s",
            figure: Figure::Servers("cpu_s_per_1000_renewals"),
            unit: "s",
        },
        "0.15 s",
    ),
];

/// What is measured of a server of its own in each round: memory that other loads have left would count for definitions.
const OF_NEW_SERVERS: &[(Measure, &str)] = &[
    (
        Measure {
            what: "definitions with a 22 kB schema, create to served, p50 of 8 at a time",
            load: DEFINITIONS,
            figure: Figure::Field("create_to_served.p50_ms"),
            unit: "ms",
        },
        "50 ms",
    ),
    (
        Measure {
            what: "the same, create to first object",
            load: DEFINITIONS,
            figure: Figure::Field("create_to_first_object.p50_ms"),
            unit: "ms",
        },
        "100 ms",
    ),
    (
        Measure {
            what: "the same, RSS each",
            load: DEFINITIONS,
            figure: Figure::Servers("rss_mib_per_crd"),
            unit: "MiB",
        },
        "0.3 MiB",
    ),
];

/// Measures ours and the peer in turns: a table of medians.
pub fn compare(tools: &Tools, rounds: usize, scratch: &Path) -> anyhow::Result<String> {
    let mut servers = Vec::new();
    for (side, name) in tools.sides().into_iter().zip(["ours", "peer"]) {
        servers.push(side.start(&scratch.join(name))?);
    }
    let mut found: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        let offset = (round * CREATED).to_string();
        let filled = |load: &str| load.replace("{offset}", &offset);
        for (side, server) in servers.iter().enumerate() {
            let measures = MEASURES.iter().map(|(measure, _)| measure);
            let mut figures = server
                .target()?
                .measure(&tools.kload, measures, filled)?
                .figures;
            let new = tools.sides()[side].start(&scratch.join(format!("new-{side}-{round}")))?;
            let new = new.target()?;
            new.run(&tools.kload, FIRST_DEFINITIONS)?;
            let measures = OF_NEW_SERVERS.iter().map(|(measure, _)| measure);
            let measured = new.measure(&tools.kload, measures, filled)?;
            figures.extend(measured.figures);
            for (index, figure) in figures.into_iter().enumerate() {
                found.entry((index, side)).or_default().extend(figure);
            }
        }
    }
    let mut report = format!(
        "{} of {CREATED} creates and the rest, one server after the other in each round. CPU is user \
         and system time of all processes of a server: ours is `corral server {}` with the embedded store, fsync on; theirs is \
         kube-apiserver v1.36.3 with etcd. Definitions have new servers in each round, and 40 others before them.\n\n\
         | figure | Corral | kube-apiserver + etcd | target | command |\n|---|---|---|---|---|\n",
        of_rounds(rounds),
        FLAGS.join(" ")
    );
    for (index, (measure, target)) in MEASURES.iter().chain(OF_NEW_SERVERS).enumerate() {
        let cell = |side: usize| {
            let figures = found.get(&(index, side)).filter(|found| !found.is_empty());
            measure.cell(figures.map(|figures| median(figures)))
        };
        let command = measure.load.split(" --offset").next().unwrap_or_default();
        let _ = writeln!(
            report,
            "| {} | {} | {} | {target} | `kload {command}` |",
            measure.what,
            cell(0),
            cell(1),
        );
    }
    Ok(report)
}

/// Memory and lists with many pods stored.
pub fn many(tools: &Tools, objects: usize, scratch: &Path) -> anyhow::Result<String> {
    let (server, _) = Running::start("server", scratch, &FLAGS)?;
    let target = Target::ours(&server);
    let call = |load: &str| target.run(&tools.kload, load);
    let create = format!("create --kind pods --n {objects} --workers 32");
    let created = call(&create)?;
    let list = call(LIST)?;
    let selected = call(SELECTED)?;
    call("patch --kind pods --n 5000")?;
    let memory = call(MEMORY)?;
    let (server, after_stop) = restarts(server, scratch, Running::stop)?;
    let (server, after_crash) = restarts(server, scratch, Running::crash)?;
    drop(server);
    let widgets = widgets(tools, objects, &scratch.join("widgets"))?;
    let stored = number(&memory, "stored_mib").unwrap_or(0.0);
    let mut report = "| figure | measured | target | command |\n|---|---|---|---|\n".to_owned();
    for (what, measured, target, command) in [
        (
            "creates per second, from none to all",
            cell(Figure::Field("created_per_s").of(&created), ""),
            "3,000".to_owned(),
            format!("`kload {create}`"),
        ),
        (
            "server CPU per 1,000 creates",
            cell(Figure::Servers("cpu_s_per_1000").of(&created), "s"),
            "0.25 s".to_owned(),
            "the same".to_owned(),
        ),
        (
            "LIST of all, MB per second of server CPU",
            cell(Figure::ListPerCpu.of(&list), ""),
            "700".to_owned(),
            format!("`kload {LIST}`"),
        ),
        (
            "LIST by a selector that matches one of a hundred, p50",
            cell(Figure::Field("p50_ms").of(&selected), "ms"),
            "20 ms".to_owned(),
            format!("`kload {SELECTED}`"),
        ),
        (
            "RSS afterwards, and after 5,000 patches",
            format!(
                "{} for {stored:.0} MiB of JSON",
                cell(Figure::Servers("rss_mib").of(&memory), "MiB")
            ),
            rss_target(stored),
            format!("`kload {MEMORY}`"),
        ),
        (
            "restart after a stop, to ready, median of 3",
            format!("{after_stop:.2} s"),
            "1 s".to_owned(),
            String::new(),
        ),
        (
            "restart after a kill, to ready, median of 3",
            format!("{after_crash:.2} s"),
            "1 s".to_owned(),
            String::new(),
        ),
        (
            "LIST of as many custom resources on a server of their own, MB per second of server CPU",
            cell(Figure::ListPerCpu.of(&widgets), ""),
            "700".to_owned(),
            format!("`kload {WIDGETS}`"),
        ),
    ] {
        let _ = writeln!(report, "| {what} | {measured} | {target} | {command} |");
    }
    Ok(report)
}

/// Ends a server and starts it again, some times; the median of how long starts took, in seconds.
fn restarts(
    mut server: Running,
    directory: &Path,
    end: impl Fn(Running) -> anyhow::Result<()>,
) -> anyhow::Result<(Running, f64)> {
    let mut took = Vec::new();
    for _ in 0..RESTARTS {
        end(server)?;
        let (started, start) = Running::start("server", directory, &FLAGS)?;
        server = started;
        took.push(start.as_secs_f64());
    }
    Ok((server, median(&took)))
}

/// LISTs of many custom resources.
fn widgets(tools: &Tools, objects: usize, scratch: &Path) -> anyhow::Result<Value> {
    let (server, _) = Running::start("server", scratch, &FLAGS)?;
    let target = Target::ours(&server);
    let create = format!("create --kind widgets --n {objects} --workers 32");
    target.run(&tools.kload, &create)?;
    target.run(&tools.kload, WIDGETS)
}

/// A cluster's nodes that renew their leases and write their status now and then.
pub fn nodes(tools: &Tools, scratch: &Path) -> anyhow::Result<String> {
    let (server, _) = Running::start("server", scratch, &FLAGS)?;
    let load = format!("lease --nodes {NODES} --duration 60s");
    let leases = Target::ours(&server).run(&tools.kload, &load)?;
    let figure = |figure: Figure| figure.of(&leases).map_or_else(|| "–".to_owned(), rounded);
    Ok(format!(
        "Each renews its lease every 10 s (get and update) and writes its status every 5 minutes: `kload {load}`.\n\n\
         | figure | measured | target |\n|---|---|---|\n\
         | renewals per second | {} of {} | all |\n\
         | p99 of a renewal | {} ms | 1,000 ms |\n\
         | server CPU per 1,000 renewals | {} s | 0.15 s |\n",
        figure(Figure::Field("renewals_per_s")),
        figure(Figure::Field("renewals_wanted_per_s")),
        figure(Figure::Field("lease.p99_ms")),
        figure(Figure::Servers("cpu_s_per_1000_renewals")),
    ))
}
