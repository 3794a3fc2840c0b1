//! Whom the load tool `kload` asks, and how a figure follows from what it answers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::peer::{self, Peer, Programs};
use crate::running::Running;

/// How our server is started wherever it is measured beside the peer, which has no controllers either.
pub const FLAGS: [&str; 2] = ["--no-controllers", "--no-scheduler"];
/// Tells what the pods stored amount to, and the memory of the server before it tells them.
pub const MEMORY: &str = "memory --resources /api/v1/pods";
/// A LIST of which one object in a hundred is left.
pub const SELECTED: &str = "list --n-times 20 --selector kload/slot=7";

/// Where the programs of the load and of the peer are.
pub struct Tools {
    pub kload: PathBuf,
    pub peer: Option<Programs>,
}

impl Tools {
    /// Whose servers can be measured.
    pub fn sides(&self) -> Vec<Side<'_>> {
        let theirs = self.peer.as_ref().map(Side::Theirs);
        std::iter::once(Side::Ours).chain(theirs).collect()
    }
}

/// Whose server.
#[derive(Debug, Clone, Copy)]
pub enum Side<'a> {
    Ours,
    Theirs(&'a Programs),
}

impl Side<'_> {
    /// Starts one with nothing stored; its state is kept in the folder.
    pub fn start(self, directory: &Path) -> anyhow::Result<Server> {
        Ok(match self {
            Self::Ours => Server::Ours(Running::start("server", directory, &FLAGS)?.0),
            Self::Theirs(programs) => {
                Server::Theirs(Peer::start(programs, directory, peer::free_port()?)?)
            }
        })
    }
}

/// A server that runs; it ends when this is dropped.
pub enum Server {
    Ours(Running),
    Theirs(Peer),
}

impl Server {
    pub fn target(&self) -> anyhow::Result<Target> {
        Ok(match self {
            Self::Ours(running) => Target::ours(running),
            Self::Theirs(peer) => Target::peer(peer)?,
        })
    }

    /// Ends ours as a crash would and starts it on what it has stored; tells how long the start took. The peer runs on.
    pub fn restart(self) -> anyhow::Result<(Self, Option<Duration>)> {
        match self {
            Self::Ours(running) => {
                let directory = running.directory().to_owned();
                running.crash()?;
                let (running, took) = Running::start("server", &directory, &FLAGS)?;
                Ok((Self::Ours(running), Some(took)))
            }
            Self::Theirs(_) => Ok((self, None)),
        }
    }
}

/// What the load tool has to know of a server.
pub struct Target {
    pub kubeconfig: PathBuf,
    /// Its processes.
    pub pids: Vec<u32>,
}

impl Target {
    pub fn ours(running: &Running) -> Self {
        Self {
            kubeconfig: running.kubeconfig(),
            pids: vec![running.pid()],
        }
    }

    pub fn peer(peer: &Peer) -> anyhow::Result<Self> {
        Ok(Self {
            kubeconfig: peer.administrator(),
            pids: vec![peer.pid("apiserver")?, peer.pid("etcd")?],
        })
    }

    /// Runs the load tool; its last line of JSON.
    pub fn run(&self, kload: &Path, load: &str) -> anyhow::Result<Value> {
        let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        let output = Command::new(kload)
            .args(load.split_whitespace())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--pid", &pids.join(",")])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "kload {load}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let line = text.lines().rev().find(|line| line.starts_with('{'));
        let value: Value = serde_json::from_str(line.context("kload tells no result")?)?;
        println!("{value}");
        Ok(value)
    }

    /// Measures one after the other; those beside each other that follow from the same load share one run of it.
    /// `filled` puts numbers in place of a load's placeholders.
    pub fn measure<'a>(
        &self,
        kload: &Path,
        measures: impl IntoIterator<Item = &'a Measure>,
        filled: impl Fn(&str) -> String,
    ) -> anyhow::Result<Measured> {
        let mut measured = Measured::default();
        let mut last: Option<(&str, Value)> = None;
        for measure in measures {
            let value = match last {
                Some((load, value)) if load == measure.load => value,
                _ => {
                    let value = self.run(kload, &filled(measure.load))?;
                    measured.failed += failed(&value);
                    value
                }
            };
            measured.figures.push(measure.figure.of(&value));
            last = Some((measure.load, value));
        }
        Ok(measured)
    }
}

/// What came of measures, in their order.
#[derive(Debug, Default)]
pub struct Measured {
    pub figures: Vec<Option<f64>>,
    /// Requests that were answered by an error, of all loads together.
    pub failed: f64,
}

/// One thing measured.
pub struct Measure {
    pub what: &'static str,
    /// Arguments of the load tool, with placeholders in braces.
    pub load: &'static str,
    pub figure: Figure,
    pub unit: &'static str,
}

impl Measure {
    /// The figure as it stands in a table.
    pub fn cell(&self, figure: Option<f64>) -> String {
        cell(figure, self.unit)
    }
}

/// How a figure follows from the answer.
#[derive(Debug, Clone, Copy)]
pub enum Figure {
    /// A field as it is.
    Field(&'static str),
    /// The sum of a field of all server processes.
    Servers(&'static str),
    /// Megabytes of lists for each second of server CPU.
    ListPerCpu,
}

impl Figure {
    pub fn of(self, value: &Value) -> Option<f64> {
        match self {
            Self::Field(key) => number(value, key),
            Self::Servers(suffix) => of_servers(value, suffix),
            Self::ListPerCpu => {
                let cpu = of_servers(value, "cpu_s_per_list").filter(|cpu| *cpu > 0.0)?;
                Some(number(value, "mb_per_list")? / cpu)
            }
        }
    }
}

pub fn number(value: &Value, key: &str) -> Option<f64> {
    value.get(key).and_then(Value::as_f64)
}

/// The load tool's own sum where it tells one, which it does not for every field.
fn of_servers(value: &Value, suffix: &str) -> Option<f64> {
    let whole = number(value, &format!("servers.{suffix}"));
    whole.or_else(|| {
        let fields = value.as_object()?.iter();
        let of_process = |key: &str| {
            let name = key.strip_suffix(suffix).and_then(|k| k.strip_suffix('.'));
            name.is_some_and(|name| name != "kload" && name != "others")
        };
        let found = fields.filter(|(key, _)| of_process(key));
        let found: Vec<f64> = found.filter_map(|(_, value)| value.as_f64()).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    })
}

fn failed(value: &Value) -> f64 {
    let fields = value.as_object().into_iter().flatten();
    let failures = fields.filter(|(key, _)| key.split('.').any(|part| part == "failed"));
    failures.filter_map(|(_, value)| value.as_f64()).sum()
}

/// What memory is held to: half as much again as what is stored, and 40 MiB.
pub fn rss_target(stored_mib: f64) -> String {
    let target_mib = stored_mib.mul_add(1.5, 40.0);
    format!("1.5 × stored + 40 MiB = {} MiB", rounded(target_mib))
}

/// A figure with its unit, or a dash for none.
pub fn cell(figure: Option<f64>, unit: &str) -> String {
    let text = figure.map_or_else(
        || "–".to_owned(),
        |figure| format!("{} {unit}", rounded(figure)),
    );
    text.trim_end().to_owned()
}

/// Three digits that count.
pub fn rounded(figure: f64) -> String {
    match figure.abs() {
        n if n >= 100.0 || n == 0.0 => format!("{figure:.0}"),
        n if n >= 10.0 => format!("{figure:.1}"),
        n if n >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

/// How a section that has rounds begins.
pub fn of_rounds(rounds: usize) -> String {
    match rounds {
        1 => "One round".to_owned(),
        rounds => format!("Medians of {rounds} rounds"),
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_figure_of_all_processes_is_their_sum_where_no_sum_is_told() {
        let value = json!({
            "etcd.rss_mib_per_crd": 0.25, "kube-apiserver.rss_mib_per_crd": 1.5, "kube-apiserver.rss_mib": 300.0,
            "kload.rss_mib_per_crd": 9.0, "rss_mib_per_crd": 9.0,
        });
        assert_eq!(Figure::Servers("rss_mib_per_crd").of(&value), Some(1.75));
        assert_eq!(Figure::Servers("cpu_s_per_1000").of(&value), None);
        let value = json!({"etcd.cpu_s": 1.0, "corral.cpu_s": 2.0, "servers.cpu_s": 3.1});
        assert_eq!(Figure::Servers("cpu_s").of(&value), Some(3.1));
    }

    #[test]
    fn lists_too_short_to_cost_anything_have_no_figure() {
        let value = json!({"mb_per_list": 0.7, "corral.cpu_s_per_list": 0.0});
        assert_eq!(Figure::ListPerCpu.of(&value), None);
        let value = json!({"mb_per_list": 70.0, "corral.cpu_s_per_list": 0.1});
        assert_eq!(Figure::ListPerCpu.of(&value), Some(700.0));
    }

    #[test]
    fn failures_are_counted_whatever_they_are_of() {
        let value = json!({"failed.409": 3, "status.failed.500": 2, "created_per_s": 7.0});
        assert!((failed(&value) - 5.0).abs() < f64::EPSILON);
    }
}
