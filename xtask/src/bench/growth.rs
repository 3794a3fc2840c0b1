//! How figures grow with what there is: objects stored, watchers, definitions, nodes; each at once, four times and sixteen
//! times a base.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::target::{Figure, MEMORY, Measure, SELECTED, Server, Tools, cell};

/// How many times the base there is of whatever grows.
const SCALES: [usize; 3] = [1, 4, 16];
/// Pods created for the figure of creates, and pods that are read and changed: enough for some tenths of a second of CPU, which
/// is counted in hundredths, and few beside what is stored.
const PROBED: usize = 1_000;
/// LISTs at the largest scale. At smaller ones there are more, so that each time as much is sent.
const LISTS: usize = 3;
/// Leases created at each scale.
const LEASES: usize = 2_000;
/// The bases of what is no stored pod. Sixteen times as many watchers are far below the 250,000 that ours allows at a time.
const WATCHERS: usize = 100;
const DEFINITIONS: usize = 10;
const NODES: usize = 250;

/// What grows, on a server of its own.
struct Subject {
    /// The folder of the server.
    name: &'static str,
    /// The load that brings about what there is to be, where the measures do not by themselves.
    fill: Option<&'static str>,
    measures: &'static [Measure],
    /// Whether the start on what is stored counts.
    restarts: bool,
}

const PODS: Subject = Subject {
    name: "pods",
    fill: Some("create --kind pods --n {missing} --workers 32 --offset {stored}"),
    measures: &[
        Measure {
            what: "create of pods, server CPU per 1,000",
            load: "create --kind pods --n {probed} --workers 32 --offset {pods}",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        Measure {
            what: "GET of a pod, server CPU per 1,000",
            load: "get --objects {probed} --n 10000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        Measure {
            what: "merge patch of pods, server CPU per 1,000",
            load: "patch --kind pods --objects {probed} --n 1000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        Measure {
            what: "server-side apply of pods, server CPU per 1,000",
            load: "apply --kind pods --objects {probed} --n 1000",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        Measure {
            what: "status update of pods (get and update), protobuf, server CPU per 1,000",
            load: "status --objects {probed} --n 1000 --content protobuf",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        Measure {
            what: "LIST of the pods, MB per second of server CPU",
            load: "list --n-times {lists}",
            figure: Figure::ListPerCpu,
            unit: "",
        },
        Measure {
            what: "LIST by a selector that matches one of a hundred, p50",
            load: SELECTED,
            figure: Figure::Field("p50_ms"),
            unit: "ms",
        },
        Measure {
            what: "create of leases, protobuf, server CPU per 1,000",
            load: "create --kind leases --content protobuf --n 2000 --workers 32 --offset {leases}",
            figure: Figure::Servers("cpu_s_per_1000"),
            unit: "s",
        },
        Measure {
            what: "RSS of all processes afterwards",
            load: MEMORY,
            figure: Figure::Servers("rss_mib"),
            unit: "MiB",
        },
        Measure {
            what: "JSON of the pods stored",
            load: MEMORY,
            figure: Figure::Field("stored_mib"),
            unit: "MiB",
        },
    ],
    restarts: true,
};

const SUBJECTS: [Subject; 4] = [
    PODS,
    Subject {
        name: "watchers",
        fill: None,
        measures: &[
            Measure {
                what: "watch, 100, 400 and 1,600 watchers, server CPU per million events delivered",
                load: WATCH,
                figure: Figure::Servers("cpu_s_per_million_delivered"),
                unit: "s",
            },
            Measure {
                what: "the same, events not delivered",
                load: WATCH,
                figure: Figure::Field("missing"),
                unit: "",
            },
        ],
        restarts: false,
    },
    Subject {
        name: "definitions",
        fill: None,
        measures: &[
            Measure {
                what: "definitions with a 22 kB schema, up to 10, 40 and 160, create to served, p50 of 8 at a time",
                load: DEFINE,
                figure: Figure::Field("create_to_served.p50_ms"),
                unit: "ms",
            },
            Measure {
                what: "the same, RSS each, of all processes",
                load: DEFINE,
                figure: Figure::Servers("rss_mib_per_crd"),
                unit: "MiB",
            },
        ],
        restarts: false,
    },
    Subject {
        name: "nodes",
        fill: None,
        measures: &[
            Measure {
                what: "250, 1,000 and 4,000 nodes that renew a lease every 10 s, server CPU per 1,000 renewals",
                load: RENEW,
                figure: Figure::Servers("cpu_s_per_1000_renewals"),
                unit: "s",
            },
            Measure {
                what: "the same, p99 of a renewal",
                load: RENEW,
                figure: Figure::Field("lease.p99_ms"),
                unit: "ms",
            },
        ],
        restarts: false,
    },
];

const WATCH: &str = "watch --watchers {watchers} --events 100 --rate 20";
const DEFINE: &str = "crds --n {definitions} --settle 5s --offset {defined}";
const RENEW: &str = "lease --nodes {nodes} --duration 15s";

const RESTART: &str = "restart, to ready";
const FAILED: &str = "requests answered by an error, of all of these";

/// Figures by what they are of and whose server; one for each scale.
type Found = BTreeMap<(&'static str, usize), [Option<f64>; SCALES.len()]>;

/// Measures ours, then the peer's, so that neither takes memory from the other.
pub fn measure(tools: &Tools, base: usize, scratch: &Path) -> anyhow::Result<String> {
    let mut found = Found::new();
    for (index, side) in tools.sides().into_iter().enumerate() {
        for subject in SUBJECTS {
            let directory = scratch.join(format!("{}-{index}", subject.name));
            let server = side.start(&directory)?;
            grow(&subject, server, index, tools, base, &mut found)?;
            std::fs::remove_dir_all(&directory)?;
        }
    }
    Ok(table(&found, base))
}

/// Measures one subject at each scale, smallest first.
fn grow(
    subject: &Subject,
    mut server: Server,
    side: usize,
    tools: &Tools,
    base: usize,
    found: &mut Found,
) -> anyhow::Result<()> {
    for at in 0..SCALES.len() {
        let target = server.target()?;
        let filled = |load: &str| filled(load, &[numbers(base, at)]);
        if let Some(fill) = subject.fill {
            target.run(&tools.kload, &filled(fill))?;
        }
        let measured = target.measure(&tools.kload, subject.measures, filled)?;
        let mut add = |what, figure| found.entry((what, side)).or_default()[at] = figure;
        for (measure, figure) in subject.measures.iter().zip(measured.figures) {
            add(measure.what, figure);
        }
        if subject.restarts {
            let (restarted, took) = server.restart()?;
            add(RESTART, took.map(|took| took.as_secs_f64()));
            server = restarted;
        }
        let failed = &mut found.entry((FAILED, side)).or_default()[at];
        *failed = Some(failed.unwrap_or(0.0) + measured.failed);
    }
    Ok(())
}

/// The numbers that placeholders stand for at a scale.
fn numbers(base: usize, at: usize) -> [(&'static str, usize); 10] {
    let scale = SCALES[at];
    let before = at.checked_sub(1).map_or(0, |before| SCALES[before]);
    // With small bases fewer, or the next scale would be reached by probing.
    let probed = PROBED.min(base);
    let stored = if before == 0 {
        0
    } else {
        before * base + probed
    };
    [
        ("{stored}", stored),
        ("{missing}", scale * base - stored),
        ("{pods}", scale * base),
        ("{probed}", probed),
        ("{lists}", LISTS * SCALES[SCALES.len() - 1] / scale),
        ("{leases}", LEASES * at),
        ("{watchers}", WATCHERS * scale),
        ("{definitions}", DEFINITIONS * (scale - before)),
        // The load tool counts them from one.
        ("{defined}", DEFINITIONS * before + 1),
        ("{nodes}", NODES * scale),
    ]
}

/// A load with its numbers; where they differ between scales, all of them.
fn filled(load: &str, scales: &[[(&'static str, usize); 10]]) -> String {
    let mut text = load.to_owned();
    for (index, (placeholder, _)) in scales[0].iter().enumerate() {
        let mut values: Vec<String> = scales.iter().map(|n| n[index].1.to_string()).collect();
        values.dedup();
        text = text.replace(placeholder, &values.join("/"));
    }
    text
}

/// The load of a measure as the table tells it: at all scales, and without what only tells runs apart.
fn command(load: &str, base: usize) -> String {
    let scales: Vec<_> = (0..SCALES.len()).map(|at| numbers(base, at)).collect();
    let text = filled(load, &scales);
    let shown = text.split(" --offset ").next().unwrap_or_default();
    format!("`kload {shown}`")
}

fn table(found: &Found, base: usize) -> String {
    let [one, four, sixteen] = SCALES.map(|scale| base * scale);
    let mut report = format!(
        "Figures at one, four and sixteen times a base, on a server that grows. Down to the restart: with {one}, {four} and \
         {sixteen} pods stored; ours is killed and started again after each size. Watchers, definitions and nodes have a \
         server each. Servers are those of \"Load on the API\", one at a time, and measured once. Memory is that right after \
         the load.\n\n\
         | figure | Corral 1× | 4× | 16× | kube-apiserver + etcd 1× | 4× | 16× | command |\n|---|---|---|---|---|---|---|---|\n"
    );
    let mut row = |what: &'static str, unit: &str, command: &str| {
        let _ = write!(report, "| {what} |");
        for side in [0, 1] {
            let figures = found.get(&(what, side)).copied().unwrap_or_default();
            for figure in figures {
                let _ = write!(report, " {} |", cell(figure, unit));
            }
        }
        let _ = writeln!(report, " {command} |");
    };
    for subject in SUBJECTS {
        for measure in subject.measures {
            row(measure.what, measure.unit, &command(measure.load, base));
        }
        if subject.restarts {
            row(RESTART, "s", "");
        }
    }
    row(FAILED, "", "");
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(base: usize, at: usize, placeholder: &str) -> usize {
        let numbers = numbers(base, at);
        let found = numbers.iter().find(|(name, _)| *name == placeholder);
        found.expect("the placeholder is known").1
    }

    #[test]
    fn each_scale_begins_where_the_one_before_ended() {
        for base in [1, 200, 5_000] {
            let (mut pods, mut definitions) = (0, 0);
            for (at, scale) in SCALES.into_iter().enumerate() {
                let number = |placeholder| number(base, at, placeholder);
                assert_eq!(number("{stored}"), pods);
                pods += number("{missing}");
                assert_eq!(pods, scale * base);
                assert_eq!(number("{pods}"), pods);
                pods += number("{probed}");
                assert_eq!(number("{defined}"), definitions + 1);
                definitions += number("{definitions}");
                assert_eq!(definitions, scale * DEFINITIONS);
            }
        }
    }

    #[test]
    fn every_load_has_all_its_numbers() {
        for subject in &SUBJECTS {
            let loads = subject.measures.iter().map(|measure| measure.load);
            for load in loads.chain(subject.fill) {
                let text = filled(load, &[numbers(5_000, 1)]);
                assert!(
                    !text.contains(['{', '}', '/']) || load == MEMORY || load == SELECTED,
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_command_tells_the_numbers_of_all_scales_once_each() {
        assert_eq!(
            command(PODS.measures[0].load, 5_000),
            "`kload create --kind pods --n 1000 --workers 32`"
        );
        assert_eq!(
            command(WATCH, 5_000),
            "`kload watch --watchers 100/400/1600 --events 100 --rate 20`"
        );
    }

    #[test]
    fn a_side_that_was_not_measured_has_dashes() {
        let found = Found::from([((RESTART, 0), [Some(0.1), Some(0.4), Some(2.0)])]);
        let table = table(&found, 5_000);
        assert!(
            table.contains("| restart, to ready | 0.100 s | 0.400 s | 2.00 s | – | – | – |  |\n"),
            "{table}"
        );
    }
}
