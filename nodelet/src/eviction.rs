//! When the machine runs short of memory or disk: which thresholds are crossed, which conditions the node shows, and
//! which pod has to go. Pure; [`crate::agent::pressure`] reads, removes and evicts.
//!
//! As in a kubelet: below a hard threshold unused images go first, if the disk is short. If that does not help, one pod
//! at a time is evicted: first those that use more than they requested, of these the least important, of these the one
//! that exceeds its request by most.

use std::time::Duration;

use corral_api::k8s::api::core::v1::{PodSpec, Toleration};
use corral_api::quantity::Quantity;
use jiff::Timestamp;

use crate::runtime::spec::resources::{Qos, qos};

/// Pods of this priority and above are vital to the cluster and not evicted.
pub const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// How long a condition is shown after it was last seen, Kubernetes' default: a node that hovers about a threshold does
/// not attract pods and throw them out again.
const TRANSITION: Duration = Duration::from_secs(5 * 60);

/// The taint of a node that is short of memory.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Something that may run short, by its name in the configuration of kubelets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`: the disk with volumes, logs and writable layers.
    Nodefs,
    /// `nodefs.inodesFree`
    NodefsInodes,
    /// `imagefs.available`: the disk with images.
    Imagefs,
    /// `imagefs.inodesFree`
    ImagefsInodes,
}

impl Signal {
    /// The resource that pods use of it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Nodefs | Self::Imagefs => "ephemeral-storage",
            Self::NodefsInodes | Self::ImagefsInodes => "inodes",
        }
    }

    /// What the node shows.
    pub fn condition(self) -> Condition {
        match self {
            Self::Memory => Condition::Memory,
            _ => Condition::Disk,
        }
    }
}

/// What a node shows of a shortage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// `MemoryPressure`
    Memory,
    /// `DiskPressure`
    Disk,
}

impl Condition {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
        }
    }
}

/// How much there is, and how much of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// All of it.
    pub capacity: u64,
    /// What is left.
    pub available: u64,
}

/// What the machine has left; what cannot be read is never short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readings {
    /// Memory, in bytes.
    pub memory: Option<Amount>,
    /// The disk with pods, in bytes.
    pub nodefs: Option<Amount>,
    /// Its inodes.
    pub nodefs_inodes: Option<Amount>,
    /// The disk with images, in bytes.
    pub imagefs: Option<Amount>,
    /// Its inodes.
    pub imagefs_inodes: Option<Amount>,
}

impl Readings {
    fn of(&self, signal: Signal) -> Option<Amount> {
        match signal {
            Signal::Memory => self.memory,
            Signal::Nodefs => self.nodefs,
            Signal::NodefsInodes => self.nodefs_inodes,
            Signal::Imagefs => self.imagefs,
            Signal::ImagefsInodes => self.imagefs_inodes,
        }
    }
}

/// The least that must be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// So much.
    Absolute(u64),
    /// A part of all there is.
    Percent(u8),
}

impl Bound {
    fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Absolute(amount) => amount,
            Self::Percent(percent) => {
                u64::try_from(u128::from(capacity) * u128::from(percent) / 100).unwrap_or(u64::MAX)
            }
        }
    }
}

/// When pods are evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Hard thresholds, memory first: what is crossed is acted upon in this order.
    pub hard: Vec<(Signal, Bound)>,
    /// How long a condition is shown after it was last seen.
    pub transition: Duration,
}

impl Default for Policy {
    /// Kubernetes' values for memory. For disks it has 10 and 15 %, which on the large disks of today is much room
    /// unused; these are the values of k3s.
    fn default() -> Self {
        Self {
            hard: vec![
                (Signal::Memory, Bound::Absolute(100 << 20)),
                (Signal::Nodefs, Bound::Percent(5)),
                (Signal::NodefsInodes, Bound::Percent(5)),
                (Signal::Imagefs, Bound::Percent(5)),
                (Signal::ImagefsInodes, Bound::Percent(5)),
            ],
            transition: TRANSITION,
        }
    }
}

/// Why thresholds cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Something else than `SIGNAL<QUANTITY`.
    #[error("{0:?} is not SIGNAL<QUANTITY")]
    Form(String),
    /// There is no such signal here.
    #[error("unknown eviction signal {0:?}")]
    Signal(String),
    /// Neither a quantity nor a percentage from 0 to 100.
    #[error("{0:?} is no quantity and no percentage")]
    Quantity(String),
}

impl std::str::FromStr for Policy {
    type Err = ParseError;

    /// Thresholds as a kubelet's `--eviction-hard` takes them: `memory.available<100Mi,nodefs.available<10%`. What is not
    /// named has none.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        let mut hard = parts.map(threshold).collect::<Result<Vec<_>, _>>()?;
        hard.sort_by_key(|(signal, _)| *signal != Signal::Memory);
        Ok(Self {
            hard,
            ..Self::default()
        })
    }
}

fn threshold(text: &str) -> Result<(Signal, Bound), ParseError> {
    let (name, amount) = text
        .split_once('<')
        .ok_or_else(|| ParseError::Form(text.to_owned()))?;
    let signal = match name {
        "memory.available" => Signal::Memory,
        "nodefs.available" => Signal::Nodefs,
        "nodefs.inodesFree" => Signal::NodefsInodes,
        "imagefs.available" => Signal::Imagefs,
        "imagefs.inodesFree" => Signal::ImagefsInodes,
        _ => return Err(ParseError::Signal(name.to_owned())),
    };
    let wrong = || ParseError::Quantity(amount.to_owned());
    let bound = match amount.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse().ok().filter(|percent| *percent <= 100);
            Bound::Percent(percent.ok_or_else(wrong)?)
        }
        None => {
            let amount = Quantity::parse(amount).map_err(|_| wrong())?;
            Bound::Absolute(u64::try_from(amount.value()).map_err(|_| wrong())?)
        }
    };
    Ok((signal, bound))
}

/// A threshold that is crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossed {
    /// Which.
    pub signal: Signal,
    /// What should be left.
    pub threshold: u64,
    /// What is.
    pub available: u64,
}

impl Policy {
    /// What is short.
    pub fn crossed(&self, readings: &Readings) -> Vec<Crossed> {
        let crossed = self.hard.iter().filter_map(|(signal, bound)| {
            let Amount {
                capacity,
                available,
            } = readings.of(*signal)?;
            let threshold = bound.of(capacity);
            (available < threshold).then_some(Crossed {
                signal: *signal,
                threshold,
                available,
            })
        });
        crossed.collect()
    }
}

/// When each shortage was last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    memory: Option<Timestamp>,
    disk: Option<Timestamp>,
}

impl Seen {
    /// Takes in what is short now and says what the node shows.
    pub fn look(
        &mut self,
        crossed: &[Crossed],
        transition: Duration,
        now: Timestamp,
    ) -> Vec<Condition> {
        for one in crossed {
            match one.signal.condition() {
                Condition::Memory => self.memory = Some(now),
                Condition::Disk => self.disk = Some(now),
            }
        }
        let lasts = |at: Option<Timestamp>| {
            let age = at.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
            age.is_some_and(|age| age < transition) || at == Some(now)
        };
        [
            (Condition::Memory, self.memory),
            (Condition::Disk, self.disk),
        ]
        .into_iter()
        .filter(|(_, at)| lasts(*at))
        .map(|(condition, _)| condition)
        .collect()
    }
}

/// A pod that could be evicted, with its use of what is short.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Candidate {
    /// Its uid.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// What it uses.
    pub used: u64,
    /// What it requested.
    pub requested: u64,
    /// Its containers: name, use and request.
    pub containers: Vec<(String, u64, u64)>,
}

/// The pod to evict, if any may be.
pub fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    let excess = |one: &Candidate| i128::from(one.used) - i128::from(one.requested);
    candidates
        .into_iter()
        .filter(|one| one.priority < CRITICAL_PRIORITY)
        .min_by_key(|one| (one.used <= one.requested, one.priority, -excess(one)))
}

/// The message of an eviction, in Kubernetes' words.
pub fn message(crossed: &Crossed, chosen: &Candidate) -> String {
    let resource = crossed.signal.resource();
    let amount = |amount: u64| {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        match resource {
            "inodes" => Quantity::units(amount),
            _ => Quantity::bytes(amount),
        }
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        amount(crossed.threshold),
        amount(crossed.available)
    );
    for (name, used, requested) in &chosen.containers {
        if used > requested {
            text.push_str(&format!(
                "Container {name} was using {}, request is {}, has larger consumption of {resource}. ",
                amount(*used),
                amount(*requested)
            ));
        }
    }
    text
}

/// Why a node with these conditions takes no such pod on.
pub fn refusal(spec: &PodSpec, conditions: &[Condition]) -> Option<String> {
    if conditions.is_empty() || spec.priority.unwrap_or(0) >= CRITICAL_PRIORITY {
        return None;
    }
    if conditions == [Condition::Memory] {
        // A pod that said what it needs is not the one that surprises.
        let mut tolerations = spec.tolerations.iter().flatten();
        if qos(spec) != Qos::BestEffort || tolerations.any(tolerates_memory_pressure) {
            return None;
        }
    }
    let names: Vec<&str> = conditions.iter().map(|one| one.name()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

fn tolerates_memory_pressure(toleration: &Toleration) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let exists = toleration.operator.as_deref() == Some("Exists");
    let named = match key.as_str() {
        "" => exists,
        key => key == MEMORY_TAINT && (exists || text(&toleration.value).is_empty()),
    };
    named && matches!(effect.as_str(), "" | "NoSchedule")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn amount(capacity: u64, available: u64) -> Option<Amount> {
        Some(Amount {
            capacity,
            available,
        })
    }

    fn pod(uid: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        Candidate {
            uid: uid.into(),
            priority,
            used,
            requested,
            containers: vec![("c".into(), used, requested)],
        }
    }

    #[test]
    fn thresholds_are_those_of_kubelets() {
        let policy = Policy::default();
        let signals = |readings: Readings| -> Vec<Signal> {
            let crossed = policy.crossed(&readings);
            crossed.iter().map(|one| one.signal).collect()
        };
        let enough = Readings {
            memory: amount(1 << 30, 100 << 20),
            nodefs: amount(1000, 50),
            nodefs_inodes: amount(1000, 50),
            imagefs: amount(1000, 50),
            imagefs_inodes: amount(1000, 50),
        };
        assert!(signals(enough).is_empty() && signals(Readings::default()).is_empty());
        let short = Readings {
            memory: amount(1 << 30, (100 << 20) - 1),
            nodefs: amount(1000, 49),
            nodefs_inodes: amount(1000, 49),
            imagefs: amount(1000, 49),
            imagefs_inodes: amount(1000, 49),
        };
        let all: Vec<Signal> = policy.hard.iter().map(|(signal, _)| *signal).collect();
        assert_eq!(signals(short), all);
    }

    #[test]
    fn thresholds_are_written_as_for_kubelets() {
        let read = |text: &str| text.parse::<Policy>().map(|policy| policy.hard);
        let all = "nodefs.available<5%,nodefs.inodesFree<5%,imagefs.available<5%,imagefs.inodesFree<5%,memory.available<100Mi";
        assert_eq!(read(all), Ok(Policy::default().hard));
        assert_eq!(read(""), Ok(vec![]));
        let wrong = |text: &str| read(text).expect_err("refused").to_string();
        assert_eq!(
            wrong("memory.available=1"),
            "\"memory.available=1\" is not SIGNAL<QUANTITY"
        );
        assert_eq!(
            wrong("pid.available<1"),
            "unknown eviction signal \"pid.available\""
        );
        for amount in ["101%", "x", "-1", ""] {
            let text = wrong(&format!("memory.available<{amount}"));
            assert_eq!(text, format!("{amount:?} is no quantity and no percentage"));
        }
    }

    #[test]
    fn conditions_outlast_what_they_tell_by_five_minutes() {
        let policy = Policy::default();
        let crossed = policy.crossed(&Readings {
            memory: amount(1 << 30, 1),
            ..Readings::default()
        });
        let mut seen = Seen::default();
        let mut look =
            |crossed: &[Crossed], second| seen.look(crossed, policy.transition, at(second));
        assert_eq!(look(&crossed, 0), [Condition::Memory]);
        assert_eq!(look(&[], 299), [Condition::Memory]);
        assert!(look(&[], 300).is_empty());
    }

    #[test]
    fn who_exceeds_its_request_goes_then_the_least_important_then_the_largest() {
        let chosen = |pods: &[Candidate]| choose(pods.to_vec()).map(|one| one.uid);
        let within = pod("within", -10, 900, 1000);
        let (vital, keen) = (
            pod("vital", CRITICAL_PRIORITY, 9000, 0),
            pod("keen", 5, 800, 0),
        );
        let (small, large) = (pod("small", 0, 60, 50), pod("large", 0, 700, 600));
        let order = [large, small, keen, within, vital];
        for first in 0..4 {
            let mut left = order[first..].to_vec();
            left.reverse();
            assert_eq!(chosen(&left).as_deref(), Some(order[first].uid.as_str()));
        }
        assert_eq!(chosen(&order[4..]), None, "what is vital stays");
    }

    #[test]
    fn messages_name_what_was_short_and_who_took_it() {
        let crossed = |signal| Crossed {
            signal,
            threshold: 100 << 20,
            available: 50 << 20,
        };
        let mut chosen = pod("p", 0, 3 << 20, 1 << 20);
        chosen.containers.push(("d".into(), 1, 2));
        assert_eq!(
            message(&crossed(Signal::Memory), &chosen),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 3Mi, request is 1Mi, has larger consumption of memory. "
        );
        let disk = message(&crossed(Signal::Imagefs), &pod("p", 0, 0, 0));
        assert!(disk.ends_with("ephemeral-storage. Threshold quantity: 100Mi, available: 50Mi. "));
    }

    #[test]
    fn new_pods_are_refused_under_pressure() {
        let spec = |yaml: &str| -> PodSpec { serde_saphyr::from_str(yaml).expect("a spec") };
        let modest = spec("{containers: [{name: c, resources: {requests: {memory: 1Mi}}}]}");
        let greedy = spec("{containers: [{name: c}]}");
        let tolerant = spec(
            "{tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists}], containers: [{name: c}]}",
        );
        let vital = spec("{priority: 2000000000, containers: [{name: c}]}");
        let memory = [Condition::Memory];
        let both = [Condition::Memory, Condition::Disk];
        assert_eq!(refusal(&greedy, &[]), None);
        for taken in [&modest, &tolerant, &vital] {
            assert_eq!(refusal(taken, &memory), None);
        }
        assert_eq!(refusal(&vital, &both), None);
        assert_eq!(
            refusal(&greedy, &memory).as_deref(),
            Some("The node had condition: [MemoryPressure]. ")
        );
        for refused in [&modest, &greedy, &tolerant] {
            assert_eq!(
                refusal(refused, &both).as_deref(),
                Some("The node had condition: [MemoryPressure DiskPressure]. ")
            );
        }
    }
}
