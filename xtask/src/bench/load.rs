//! Load on the API, by the load tool `kload`, on our server and on the real one in turns.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Running, median};
use crate::peer::Peer;

/// Where the programs of the load and of the peer are.
pub struct Tools {
    /// The load tool.
    pub kload: PathBuf,
    /// The peer's start script and the folder of its binaries.
    pub peer: Option<(PathBuf, PathBuf)>,
}

/// One thing measured.
struct Measure {
    what: &'static str,
    /// Arguments of the load tool; `{offset}` is the number of the first object of this round, `{definition}` that of the
    /// first definition.
    args: &'static [&'static str],
    /// How the figure follows from the tool's answer.
    figure: Figure,
    unit: &'static str,
    target: &'static str,
}

#[derive(Clone, Copy)]
enum Figure {
    /// A field as it is.
    Field(&'static str),
    /// CPU seconds of all server processes, by their field's suffix.
    Cpu(&'static str),
    /// Megabytes of lists for each second of server CPU.
    ListPerCpu,
}

/// Objects created in a round.
const CREATED: usize = 10_000;
/// Numbers of definitions that a round may take.
const DEFINED: usize = 1_000;
/// Nodes that one server is to hold.
const NODES: &str = "50000";

const MEASURES: &[Measure] = &[
    Measure {
        what: "create of 3.6 kB pods, server CPU per 1,000",
        args: CREATE,
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.25 s",
    },
    Measure {
        what: "the same, creates per second",
        args: CREATE,
        figure: Figure::Field("created_per_s"),
        unit: "",
        target: "3,000",
    },
    Measure {
        what: "the same, p99",
        args: CREATE,
        figure: Figure::Field("p99_ms"),
        unit: "ms",
        target: "",
    },
    Measure {
        what: "create of leases, protobuf, server CPU per 1,000",
        args: &[
            "create",
            "--kind",
            "leases",
            "--content",
            "protobuf",
            "--n",
            "2000",
            "--workers",
            "32",
            "--offset",
            "{offset}",
        ],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.12 s",
    },
    Measure {
        what: "create of custom resources with a 20 kB schema, server CPU per 1,000",
        args: &[
            "create",
            "--kind",
            "widgets",
            "--n",
            "2000",
            "--workers",
            "32",
            "--offset",
            "{offset}",
        ],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.3 s",
    },
    Measure {
        what: "GET of a pod, server CPU per 1,000",
        args: &["get", "--objects", "1000", "--n", "10000"],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.1 s",
    },
    Measure {
        what: "merge patch of pods, server CPU per 1,000",
        args: &["patch", "--kind", "pods", "--n", "1000"],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.4 s",
    },
    Measure {
        what: "merge patch of custom resources, server CPU per 1,000",
        args: &["patch", "--kind", "widgets", "--n", "1000"],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.5 s",
    },
    Measure {
        what: "server-side apply of pods, server CPU per 1,000",
        args: &["apply", "--kind", "pods", "--n", "1000"],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.7 s",
    },
    Measure {
        what: "server-side apply of ConfigMaps, server CPU per 1,000",
        args: &["apply", "--kind", "configmaps", "--n", "1000"],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.35 s",
    },
    Measure {
        what: "server-side apply of custom resources, server CPU per 1,000",
        args: &["apply", "--kind", "widgets", "--n", "1000"],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.6 s",
    },
    Measure {
        what: "status update of pods (get and update), protobuf, server CPU per 1,000",
        args: &["status", "--n", "1000", "--content", "protobuf"],
        figure: Figure::Cpu("cpu_s_per_1000"),
        unit: "s",
        target: "0.5 s",
    },
    Measure {
        what: "LIST of the pods, MB per second",
        args: LIST,
        figure: Figure::Field("mb_per_s"),
        unit: "",
        target: "",
    },
    Measure {
        what: "the same, MB per second of server CPU",
        args: LIST,
        figure: Figure::ListPerCpu,
        unit: "",
        target: "700",
    },
    Measure {
        what: "the same in protobuf",
        args: &["list", "--n-times", "3", "--content", "protobuf"],
        figure: Figure::ListPerCpu,
        unit: "",
        target: "250",
    },
    Measure {
        what: "the same as a Table",
        args: &["list", "--n-times", "3", "--content", "table"],
        figure: Figure::ListPerCpu,
        unit: "",
        target: "250",
    },
    Measure {
        what: "LIST of custom resources, MB per second of server CPU",
        args: &["list", "--n-times", "10", "--kind", "widgets"],
        figure: Figure::ListPerCpu,
        unit: "",
        target: "700",
    },
    Measure {
        what: "watch, 1,000 watchers, server CPU per million events delivered",
        args: WATCH,
        figure: Figure::Cpu("cpu_s_per_million_delivered"),
        unit: "s",
        target: "2.5 s",
    },
    Measure {
        what: "the same, events not delivered",
        args: WATCH,
        figure: Figure::Field("missing"),
        unit: "",
        target: "0",
    },
    Measure {
        what: "watch of pods, 100 watchers, server CPU per million events delivered",
        args: &[
            "watch",
            "--kind",
            "pods",
            "--watchers",
            "100",
            "--events",
            "200",
            "--rate",
            "50",
        ],
        figure: Figure::Cpu("cpu_s_per_million_delivered"),
        unit: "s",
        target: "6 s",
    },
    Measure {
        what: "1,000 nodes that renew a lease every 10 s, server CPU per 1,000 renewals",
        args: &["lease", "--nodes", "1000", "--duration", "15s"],
        figure: Figure::Cpu("cpu_s_per_1000_renewals"),
        unit: "s",
        target: "0.15 s",
    },
    Measure {
        what: "definitions with a 22 kB schema, create to served, p50 of 8 at a time",
        args: DEFINITIONS,
        figure: Figure::Field("create_to_served.p50_ms"),
        unit: "ms",
        target: "50 ms",
    },
    Measure {
        what: "the same, create to first object",
        args: DEFINITIONS,
        figure: Figure::Field("create_to_first_object.p50_ms"),
        unit: "ms",
        target: "100 ms",
    },
    Measure {
        what: "the same, RSS each",
        args: DEFINITIONS,
        figure: Figure::Cpu("rss_mib_per_crd"),
        unit: "MiB",
        target: "0.3 MiB",
    },
];

const CREATE: &[&str] = &[
    "create",
    "--kind",
    "pods",
    "--n",
    "10000",
    "--workers",
    "32",
    "--offset",
    "{offset}",
];
const DEFINITIONS: &[&str] = &[
    "crds",
    "--n",
    "40",
    "--first-object",
    "--settle",
    "5s",
    "--offset",
    "{definition}",
];
const LIST: &[&str] = &["list", "--n-times", "3"];
const WATCH: &[&str] = &[
    "watch",
    "--watchers",
    "1000",
    "--events",
    "200",
    "--rate",
    "20",
];

/// A server that is asked.
struct Target {
    kubeconfig: PathBuf,
    pids: Vec<u32>,
}

impl Target {
    fn peer(peer: &Peer) -> Self {
        Self {
            kubeconfig: peer.administrator(),
            pids: ["apiserver", "etcd"]
                .into_iter()
                .filter_map(|name| peer.pid(name))
                .collect(),
        }
    }

    fn ours(running: &Running) -> Self {
        Self {
            kubeconfig: running.kubeconfig(),
            pids: vec![running.process.id()],
        }
    }

    /// Runs the load tool; its last line of JSON.
    fn run(&self, kload: &Path, args: &[String]) -> anyhow::Result<Value> {
        let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        let output = Command::new(kload)
            .args(args)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--pid", &pids.join(",")])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "kload {args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let line = text.lines().rev().find(|line| line.starts_with('{'));
        let value: Value = serde_json::from_str(line.context("kload tells no result")?)?;
        println!("{value}");
        Ok(value)
    }
}

fn number(value: &Value, key: &str) -> Option<f64> {
    value.get(key).and_then(Value::as_f64)
}

/// A figure by suffix, of all processes together where there are several.
fn of_servers(value: &Value, suffix: &str) -> Option<f64> {
    let whole = number(value, &format!("servers.{suffix}"));
    whole.or_else(|| {
        let fields = value.as_object()?;
        let own = |key: &str| key.starts_with("kload.") || key.starts_with("others.");
        let found = fields
            .iter()
            .find(|(key, _)| !own(key) && key.ends_with(&format!(".{suffix}")));
        found.and_then(|(_, value)| value.as_f64())
    })
}

fn figure(value: &Value, figure: Figure) -> Option<f64> {
    match figure {
        Figure::Field(key) => number(value, key),
        Figure::Cpu(suffix) => of_servers(value, suffix),
        Figure::ListPerCpu => {
            Some(number(value, "mb_per_list")? / of_servers(value, "cpu_s_per_list")?)
        }
    }
}

/// Measures ours and the peer in turns, and adds a table of medians.
pub fn compare(
    tools: &Tools,
    rounds: usize,
    scratch: &Path,
    report: &mut String,
) -> anyhow::Result<()> {
    let (server, _) = Running::start_server(
        &scratch.join("ours"),
        &["--no-controllers", "--no-scheduler"],
    )?;
    let peer = match &tools.peer {
        Some((script, binaries)) => Some(Peer::start(script, binaries, &scratch.join("peer"))?),
        None => None,
    };
    let mut targets = vec![Target::ours(&server)];
    targets.extend(peer.as_ref().map(Target::peer));
    let mut found: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for (side, target) in targets.iter().enumerate() {
            let mut last: Option<(&[&str], Value)> = None;
            for (index, measure) in MEASURES.iter().enumerate() {
                let value = match &last {
                    Some((args, value)) if *args == measure.args => value.clone(),
                    _ => {
                        let offset = (round * CREATED).to_string();
                        let definition = (round * DEFINED + 1).to_string();
                        let filled = |arg: &&str| {
                            arg.replace("{offset}", &offset)
                                .replace("{definition}", &definition)
                        };
                        let args: Vec<String> = measure.args.iter().map(filled).collect();
                        target.run(&tools.kload, &args)?
                    }
                };
                if let Some(figure) = figure(&value, measure.figure) {
                    found.entry((index, side)).or_default().push(figure);
                }
                last = Some((measure.args, value));
            }
        }
    }
    let _ = writeln!(
        report,
        "\n## Load on the API\n\nMedians of {rounds} rounds of {CREATED} creates and the rest, one server after the other in each \
         round. CPU is user and system time of all processes of a server: ours is `corral server --no-controllers \
         --no-scheduler` with the embedded store, fsync on; theirs is kube-apiserver v1.36.3 with etcd.\n\n\
         | figure | Corral | kube-apiserver + etcd | target | command |\n|---|---|---|---|---|"
    );
    for (index, measure) in MEASURES.iter().enumerate() {
        let cell = |side: usize| match found.get(&(index, side)) {
            Some(figures) => format!("{} {}", rounded(median(figures.clone())), measure.unit),
            None => "–".to_owned(),
        };
        let command = measure.args.join(" ");
        let command = command
            .replace(" --offset {offset}", "")
            .replace(" --offset {definition}", "");
        let _ = writeln!(
            report,
            "| {} | {} | {} | {} | `kload {command}` |",
            measure.what,
            cell(0).trim(),
            cell(1).trim(),
            measure.target
        );
    }
    Ok(())
}

/// Three digits that count.
fn rounded(figure: f64) -> String {
    match figure.abs() {
        n if n >= 100.0 || n == 0.0 => format!("{figure:.0}"),
        n if n >= 10.0 => format!("{figure:.1}"),
        n if n >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

/// Memory and lists with many pods stored.
pub fn many(
    tools: &Tools,
    objects: usize,
    scratch: &Path,
    report: &mut String,
) -> anyhow::Result<()> {
    let (directory, flags) = (scratch.join("many"), ["--no-controllers", "--no-scheduler"]);
    let (server, _) = Running::start_server(&directory, &flags)?;
    let target = Target::ours(&server);
    let call = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        target.run(&tools.kload, &args)
    };
    let n = objects.to_string();
    let created = call(&["create", "--kind", "pods", "--n", &n, "--workers", "32"])?;
    let list = call(LIST)?;
    let selected = call(&SELECTED)?;
    call(&["patch", "--kind", "pods", "--n", "5000"])?;
    let memory = call(&["memory", "--resources", "/api/v1/pods"])?;
    server.end()?;
    let (_server, restarted) = Running::start_server(&directory, &flags)?;
    let text = |value: &Value, figure: Figure| {
        self::figure(value, figure).map_or_else(|| "–".to_owned(), rounded)
    };
    let stored = number(&memory, "stored_mib").unwrap_or(0.0);
    let target_mib = stored.mul_add(1.5, 40.0e6 / 1024.0 / 1024.0);
    let _ = writeln!(
        report,
        "\n## {objects} pods stored\n\n| figure | measured | target | command |\n|---|---|---|---|"
    );
    for (what, measured, target, command) in [
        (
            "creates per second, from none to all",
            text(&created, Figure::Field("created_per_s")),
            "3,000".to_owned(),
            format!("create --kind pods --n {n} --workers 32"),
        ),
        (
            "server CPU per 1,000 creates",
            format!("{} s", text(&created, Figure::Cpu("cpu_s_per_1000"))),
            "0.25 s".to_owned(),
            String::new(),
        ),
        (
            "LIST of all, MB per second of server CPU",
            text(&list, Figure::ListPerCpu),
            "700".to_owned(),
            LIST.join(" "),
        ),
        (
            "LIST by a selector that matches one of a hundred, p50",
            format!("{} ms", text(&selected, Figure::Field("p50_ms"))),
            "20 ms".to_owned(),
            SELECTED.join(" "),
        ),
        (
            "RSS afterwards, and after 5,000 patches",
            format!(
                "{} MiB for {stored:.0} MiB of JSON",
                text(&memory, Figure::Cpu("rss_mib"))
            ),
            format!("1.5 × stored + 40 MB = {target_mib:.0} MiB"),
            "memory --resources /api/v1/pods".to_owned(),
        ),
        (
            "restart, to ready",
            format!("{:.2} s", restarted.as_secs_f64()),
            "1 s".to_owned(),
            "-".to_owned(),
        ),
    ] {
        let command = match command.as_str() {
            "" => "the same".to_owned(),
            "-" => String::new(),
            command => format!("`kload {command}`"),
        };
        let _ = writeln!(report, "| {what} | {measured} | {target} | {command} |");
    }
    Ok(())
}

const SELECTED: [&str; 5] = ["list", "--n-times", "20", "--selector", "kload/slot=7"];

/// A cluster's nodes that renew their leases and write their status now and then.
pub fn nodes(tools: &Tools, scratch: &Path, report: &mut String) -> anyhow::Result<()> {
    let (server, _) = Running::start_server(
        &scratch.join("nodes"),
        &["--no-controllers", "--no-scheduler"],
    )?;
    let args = ["lease", "--nodes", NODES, "--duration", "60s"];
    let args = args.map(str::to_owned);
    let leases = Target::ours(&server).run(&tools.kload, &args)?;
    let figure = |figure| self::figure(&leases, figure).map_or_else(|| "–".to_owned(), rounded);
    let _ = writeln!(
        report,
        "\n## {NODES} nodes\n\nEach renews its lease every 10 s (get and update) and writes its status every 5 minutes: `kload {}`.\n\n\
         | figure | measured | target |\n|---|---|---|\n\
         | renewals per second | {} of {} | all |\n\
         | p99 of a renewal | {} ms | 1,000 ms |\n\
         | server CPU per 1,000 renewals | {} s | 0.15 s |",
        args.join(" "),
        figure(Figure::Field("renewals_per_s")),
        figure(Figure::Field("renewals_wanted_per_s")),
        figure(Figure::Field("lease.p99_ms")),
        figure(Figure::Cpu("cpu_s_per_1000_renewals")),
    );
    Ok(())
}
