//! Measures the release build and writes `docs/benchmarks.md`, part by part.
//!
//! Start, idle cost and pods are measured with `corral` itself. Load on the API is measured by `kload`, a load tool outside
//! the project, if `--kload` names it, and on the real control plane, too, if its start script and binaries are named.
//! What is not there leaves parts out. A run of every part is a whole one, whose commit the head of the page names; any
//! other replaces the sections that it measured, and each of them names its commit.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::peer::Programs;
use crate::release::{self, ReleaseArgs};
use crate::root;

mod document;
mod etcd;
mod growth;
mod load;
mod start;
mod target;

use document::{Document, Section};
use target::Tools;

/// Measure the release build.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// The parts to measure; without it all for which the tools are there.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART[,PART…]")]
    only: Vec<Part>,
    /// Measure the release binary that is there.
    #[arg(long)]
    no_build: bool,
    /// How often each start is measured; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    times: u16,
    /// Pods stored for the figures about memory and lists.
    #[arg(long, default_value_t = 100_000)]
    objects: usize,
    /// Pods stored at the smallest of the three sizes of growth, the others being 4 and 16 times as many; 0 leaves growth out.
    #[arg(long, default_value_t = 5_000)]
    growth_objects: usize,
    /// Rounds of load and of load on etcd; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
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

/// What is measured and written as one section, in the order of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Part {
    /// Starts, idle servers, pods.
    Start,
    /// Each kind of load, beside the peer.
    Load,
    /// Memory and lists with many pods.
    Many,
    /// Leases of many nodes.
    Nodes,
    /// Figures at three sizes.
    Growth,
    /// Creates on etcd, beside the peer.
    Etcd,
}

impl Part {
    pub const ALL: [Self; 6] = [
        Self::Start,
        Self::Load,
        Self::Many,
        Self::Nodes,
        Self::Growth,
        Self::Etcd,
    ];

    /// The heading, behind the number that some begin with.
    fn title(self) -> &'static str {
        match self {
            Self::Start => "Start, idle and pods",
            Self::Load => "Load on the API",
            Self::Many => "pods stored",
            Self::Nodes => "nodes",
            Self::Growth => "Growth",
            Self::Etcd => "On etcd",
        }
    }

    fn heading(self, objects: usize) -> String {
        let title = self.title();
        match self {
            Self::Many => format!("{objects} {title}"),
            Self::Nodes => format!("{} {title}", load::NODES),
            Self::Start | Self::Load | Self::Growth | Self::Etcd => title.to_owned(),
        }
    }

    /// Whether a heading is of this part, with whatever number.
    fn is_headed(self, heading: &str) -> bool {
        let bare = heading.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_numbered = bare.len() < heading.len();
        bare.trim_start() == self.title() && is_numbered == matches!(self, Self::Many | Self::Nodes)
    }

    /// What would have to be given for it.
    fn lacks(self, args: &BenchArgs) -> Option<&'static str> {
        match self {
            Self::Start => None,
            _ if args.kload.is_none() => Some("--kload"),
            Self::Etcd if args.peer_script.is_none() => Some("--peer-script"),
            Self::Growth if args.growth_objects == 0 => Some("--growth-objects above 0"),
            _ => None,
        }
    }
}

/// Which program was measured, and where.
struct Origin {
    commit: String,
    /// Cores, kernel, and how the program was built.
    circumstances: String,
}

impl Origin {
    fn of(is_built: bool) -> anyhow::Result<Self> {
        let output = Command::new("git")
            .args(["rev-parse", "--short", "HEAD"])
            .current_dir(root())
            .output()?;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let build = if is_built {
            "build of `cargo xtask release`"
        } else {
            "release build made before (`--no-build`)"
        };
        Ok(Self {
            commit: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            circumstances: format!("{cores} cores, Linux {}, {build}", kernel.trim()),
        })
    }

    fn head(&self) -> String {
        let Self {
            commit,
            circumstances,
        } = self;
        format!(
            "# Benchmarks\n\nMade by `cargo xtask bench` at commit {commit}, {circumstances}. CPU and RSS are read from `/proc` \
             of the server's process. `--only PART,…` (start, load, many, nodes, growth, etcd) measures parts again: their \
             sections then name their commit. `--no-build` measures the release binary that is there. Sections of other \
             headings are written by hand, and kept.\n"
        )
    }

    fn mark(&self) -> String {
        let Self {
            commit,
            circumstances,
        } = self;
        format!("Measured on its own at commit {commit}, {circumstances}.\n\n")
    }

    /// The page with what was measured in it.
    fn put(&self, measured: &[(Part, Section)], page: &str) -> String {
        let is_whole = measured.len() == Part::ALL.len();
        let mut document = Document::parse(page);
        if is_whole || !document.has_head() {
            document.set_head(&self.head());
        }
        for (part, section) in measured {
            let mut section = section.clone();
            if !is_whole {
                section.text.insert_str(0, &self.mark());
            }
            document.put(*part, section);
        }
        document.render()
    }
}

/// Builds, measures and writes.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let parts = parts(args)?;
    if !args.no_build {
        release::build(&ReleaseArgs::default())?;
    }
    let origin = Origin::of(!args.no_build)?;
    let scratch = std::env::temp_dir().join(format!("corral-bench-{}", std::process::id()));
    let outcome = measure_all(args, &parts, &origin, &scratch);
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

/// The parts asked for, or those for which there is what they need.
fn parts(args: &BenchArgs) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for part in Part::ALL {
        let is_asked = args.only.contains(&part);
        match part.lacks(args) {
            None if is_asked || args.only.is_empty() => parts.push(part),
            Some(flag) if is_asked => bail!("{:?} needs {flag}", part.title()),
            Some(flag) if args.only.is_empty() => {
                println!("{:?} is left out: it needs {flag}", part.title());
            }
            None | Some(_) => {}
        }
    }
    Ok(parts)
}

/// The page is written after each part, so that a later one that fails takes nothing away.
fn measure_all(
    args: &BenchArgs,
    parts: &[Part],
    origin: &Origin,
    scratch: &Path,
) -> anyhow::Result<()> {
    let page = root().join("docs/benchmarks.md");
    let mut sections = Vec::new();
    for &part in parts {
        let text = measure(
            part,
            args,
            &scratch.join(format!("{part:?}").to_lowercase()),
        )
        .with_context(|| format!("{:?} was not measured", part.title()))?;
        let heading = part.heading(args.objects);
        sections.push((part, Section { heading, text }));
        let before = std::fs::read_to_string(&page).unwrap_or_default();
        std::fs::write(&page, origin.put(&sections, &before))?;
    }
    Ok(())
}

fn measure(part: Part, args: &BenchArgs, scratch: &Path) -> anyhow::Result<String> {
    let rounds = usize::from(args.rounds);
    let tools = || {
        let kload = args.kload.clone().context("no load tool")?;
        let peer = args.peer_script.clone().zip(args.peer_binaries.clone());
        let peer = peer.map(|(script, binaries)| Programs { script, binaries });
        anyhow::Ok(Tools { kload, peer })
    };
    match part {
        Part::Start => start::measure(usize::from(args.times), scratch),
        Part::Load => load::compare(&tools()?, rounds, scratch),
        Part::Many => load::many(&tools()?, args.objects, scratch),
        Part::Nodes => load::nodes(&tools()?, scratch),
        Part::Growth => growth::measure(&tools()?, args.growth_objects, scratch),
        Part::Etcd => etcd::compare(&tools()?, rounds, scratch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Benchmarks\n\nMade at commit old.\n\n## Start, idle and pods\n\n| old |\n\n## Where the time goes\n\nBy hand.\n";

    fn origin() -> Origin {
        Origin {
            commit: "new".to_owned(),
            circumstances: "2 cores".to_owned(),
        }
    }

    fn section(part: Part) -> (Part, Section) {
        let heading = part.heading(100);
        let text = "| new |\n".to_owned();
        (part, Section { heading, text })
    }

    #[test]
    fn a_part_measured_on_its_own_names_its_commit_and_leaves_the_rest() {
        let text = origin().put(&[section(Part::Start)], PAGE);
        let mark = "Measured on its own at commit new, 2 cores.\n\n| new |";
        assert_eq!(text, PAGE.replace("| old |", mark));
    }

    #[test]
    fn a_whole_run_names_its_commit_once_and_keeps_what_is_written_by_hand() {
        let all = Part::ALL.map(section);
        let on_its_own = origin().put(&all[1..], PAGE);
        assert_eq!(on_its_own.matches("at commit new").count(), 5);
        assert!(on_its_own.contains("Made at commit old."));
        let whole = origin().put(&all, &on_its_own);
        assert_eq!(whole.matches("at commit").count(), 1, "{whole}");
        assert!(whole.starts_with(&origin().head()));
        assert!(whole.contains("## Where the time goes\n\nBy hand.\n"));
        let headings: Vec<&str> = whole.lines().filter(|l| l.starts_with("## ")).collect();
        let expected = [
            "## Start, idle and pods",
            "## Load on the API",
            "## 100 pods stored",
            "## 50000 nodes",
            "## Growth",
            "## On etcd",
            "## Where the time goes",
        ];
        assert_eq!(headings, expected);
    }

    #[test]
    fn every_part_knows_its_heading_and_no_other() {
        for part in Part::ALL {
            for other in Part::ALL {
                assert_eq!(part.is_headed(&other.heading(100)), part == other);
            }
        }
        for heading in ["nodes", "12 Growth", "Where the time goes", "3 nodes more"] {
            assert!(!Part::ALL.into_iter().any(|part| part.is_headed(heading)));
        }
    }
}
