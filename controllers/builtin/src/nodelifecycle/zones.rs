//! How fast the nodes of a zone may be given up. Pure but for being updated in place.
//!
//! A node that fails costs its pods; many that fail together are more likely one fault of the zone, or of us. So nodes
//! are given up one after the other, slowly where most of a zone fails, and not at all when nothing is ready anywhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use corral_api::k8s::api::core::v1::Node;
use jiff::Timestamp;

use super::health;

/// The time between two nodes of a zone (Kubernetes' `--node-eviction-rate` of 0.1).
const INTERVAL: Duration = Duration::from_secs(10);
/// The time between two nodes where most fail (`--secondary-node-eviction-rate` of 0.01).
const DISRUPTED_INTERVAL: Duration = Duration::from_secs(100);
/// The share of a zone's nodes that fail when most do (`--unhealthy-zone-threshold`), in hundredths.
const DISRUPTED_SHARE: usize = 55;
/// As many failing nodes never are most of a zone, however small it is.
const FEW: usize = 2;
/// Zones of at most so many nodes wait for the fault to be mended where most fail (`--large-cluster-size-threshold`).
const SMALL_ZONE_MAX: usize = 50;
/// A node with this label says nothing about its zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// When a node may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Not while nothing is ready anywhere; nodes that were given up are taken back.
    Never,
    /// Not yet; the node is woken when that may have changed.
    Later,
    At(Timestamp),
    Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Normal,
    /// Most nodes fail.
    Disrupted,
    /// No node is ready.
    Down,
}

/// What matters of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    zone: String,
    name: String,
    ready: bool,
    given_up: bool,
    counts: bool,
}

impl Facts {
    fn of(node: &Node) -> Self {
        let labels = node.metadata.labels.as_ref();
        Self {
            zone: zone_of(node),
            name: node.metadata.name.clone().unwrap_or_default(),
            ready: health::ready_of(node.status.as_ref()) == "True",
            given_up: health::is_given_up(node),
            counts: labels.is_none_or(|labels| !labels.contains_key(EXCLUDED)),
        }
    }

    fn waits(&self) -> bool {
        !self.ready && !self.given_up
    }
}

/// Region and zone.
fn zone_of(node: &Node) -> String {
    let label = |name: &str| {
        let labels = node.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(name)).cloned()
    };
    let either = |old: &str, new: &str| label(old).or_else(|| label(new)).unwrap_or_default();
    let region = either(
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    );
    let zone = either(
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    );
    format!("{region}:\0:{zone}")
}

#[derive(Debug, Default)]
struct Zone {
    n_ready: usize,
    n_failing: usize,
    /// Nodes that fail and are not given up yet, in the order in which they asked.
    waiting: BTreeMap<u64, String>,
    places: HashMap<String, u64>,
    given_up: BTreeSet<String>,
    /// When the last one was given up.
    taken: Option<Timestamp>,
}

impl Zone {
    fn state(&self) -> State {
        let (failing, all) = (self.n_failing, self.n_failing + self.n_ready);
        if self.n_ready == 0 && failing > 0 {
            State::Down
        } else if failing > FEW && failing * 100 >= all * DISRUPTED_SHARE {
            State::Disrupted
        } else {
            State::Normal
        }
    }

    /// The time between two nodes; nothing when none is given up.
    fn interval(&self) -> Option<Duration> {
        match self.state() {
            State::Normal | State::Down => Some(INTERVAL),
            State::Disrupted if self.n_ready + self.n_failing > SMALL_ZONE_MAX => {
                Some(DISRUPTED_INTERVAL)
            }
            State::Disrupted => None,
        }
    }

    fn is_empty(&self) -> bool {
        self.n_ready + self.n_failing == 0 && self.waiting.is_empty() && self.given_up.is_empty()
    }

    fn head(&self) -> Option<&String> {
        self.waiting.values().next()
    }

    fn count(&mut self, facts: &Facts) -> Option<&mut usize> {
        facts.counts.then_some(if facts.ready {
            &mut self.n_ready
        } else {
            &mut self.n_failing
        })
    }
}

/// All zones.
#[derive(Debug, Default)]
pub struct Zones {
    zones: BTreeMap<String, Zone>,
    next_place: u64,
}

impl Zones {
    /// Takes a change of a node in. Returns the nodes, other than this one, whose turn may have changed.
    pub fn note(&mut self, old: Option<&Node>, new: Option<&Node>) -> BTreeSet<String> {
        let (old, new) = (old.map(Facts::of), new.map(Facts::of));
        if old == new {
            return BTreeSet::new();
        }
        let touched: BTreeSet<_> = old
            .iter()
            .chain(&new)
            .map(|facts| facts.zone.clone())
            .collect();
        let before = self.summary(&touched);
        if let Some(old) = &old {
            let zone = self.zones.entry(old.zone.clone()).or_default();
            if let Some(count) = zone.count(old) {
                *count = count.saturating_sub(1);
            }
            zone.given_up.remove(&old.name);
            let stays = |new: &Facts| new.waits() && new.zone == old.zone;
            if !new.as_ref().is_some_and(stays)
                && let Some(place) = zone.places.remove(&old.name)
            {
                zone.waiting.remove(&place);
            }
        }
        if let Some(new) = &new {
            let zone = self.zones.entry(new.zone.clone()).or_default();
            if let Some(count) = zone.count(new) {
                *count += 1;
            }
            if new.given_up {
                zone.given_up.insert(new.name.clone());
            }
        }
        let after = self.summary(&touched);
        let woken = self.woken(&before, &after, &touched);
        self.zones.retain(|_, zone| !zone.is_empty());
        woken
    }

    fn woken(
        &self,
        before: &Summary,
        after: &Summary,
        touched: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let mut woken = BTreeSet::new();
        if before.nothing_ready != after.nothing_ready {
            for zone in self.zones.values() {
                woken.extend(zone.waiting.values().chain(&zone.given_up).cloned());
            }
        }
        for name in touched {
            if before.zones.get(name) != after.zones.get(name) {
                let zone = self.zones.get(name);
                woken.extend(zone.and_then(Zone::head).cloned());
            }
        }
        woken
    }

    /// Whether no node at all is ready.
    pub fn nothing_ready(&self) -> bool {
        let down = |zone: &Zone| zone.state() == State::Down;
        let mut counted = self
            .zones
            .values()
            .filter(|zone| zone.n_ready + zone.n_failing > 0);
        let first = counted.next();
        first.is_some_and(|first| down(first) && counted.all(down))
    }

    /// When a failing node may be given up; it waits in line from now on.
    pub fn turn(&mut self, node: &Node, now: Timestamp) -> Turn {
        let facts = Facts::of(node);
        let never = self.nothing_ready();
        let zone = self.zones.entry(facts.zone).or_default();
        if !facts.given_up && !zone.places.contains_key(&facts.name) {
            zone.places.insert(facts.name.clone(), self.next_place);
            zone.waiting.insert(self.next_place, facts.name.clone());
            self.next_place += 1;
        }
        if never {
            return Turn::Never;
        }
        let Some(interval) = zone.interval().filter(|_| zone.head() == Some(&facts.name)) else {
            return Turn::Later;
        };
        match zone.taken.map(|taken| taken + interval) {
            Some(at) if at > now => Turn::At(at),
            _ => Turn::Now,
        }
    }

    /// A node is being given up: the next one waits. The node leaves the line when it is seen to be given up.
    pub fn take(&mut self, node: &Node, now: Timestamp) {
        self.zones.entry(zone_of(node)).or_default().taken = Some(now);
    }

    fn summary(&self, touched: &BTreeSet<String>) -> Summary {
        let zones = touched.iter().filter_map(|name| {
            let zone = self.zones.get(name)?;
            Some((
                name.clone(),
                (zone.state(), zone.interval(), zone.head().cloned()),
            ))
        });
        Summary {
            nothing_ready: self.nothing_ready(),
            zones: zones.collect(),
        }
    }
}

/// What decides about turns besides time.
struct Summary {
    nothing_ready: bool,
    zones: BTreeMap<String, (State, Option<Duration>, Option<String>)>,
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("valid")
    }

    fn node(zone: &str, n: usize, ready: bool, given_up: bool) -> Node {
        let taint = json!({"key": health::NOT_READY, "effect": "NoExecute"});
        object(json!({
            "metadata": {"name": format!("{zone}{n}"), "labels": {"topology.kubernetes.io/zone": zone}},
            "spec": {"taints": if given_up { vec![taint] } else { vec![] }},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
    }

    /// Nodes of a zone, the first of which fail.
    fn zone(zones: &mut Zones, name: &str, n_failing: usize, n_ready: usize) {
        for n in 0..n_failing + n_ready {
            zones.note(None, Some(&node(name, n, n >= n_failing, false)));
        }
    }

    /// When each of the first nodes is given up, if every one asks every second.
    fn given_up(zones: &mut Zones, name: &str, n_failing: usize, seconds: i64) -> Vec<i64> {
        let (mut times, mut gone) = (Vec::new(), BTreeSet::new());
        for second in 0..seconds {
            for n in 0..n_failing {
                let failing = node(name, n, false, false);
                if !gone.contains(&n) && zones.turn(&failing, at(second)) == Turn::Now {
                    zones.take(&failing, at(second));
                    zones.note(Some(&failing), Some(&node(name, n, false, true)));
                    gone.insert(n);
                    times.push(second);
                }
            }
        }
        times
    }

    #[test]
    fn nodes_are_given_up_one_every_ten_seconds() {
        let mut zones = Zones::default();
        zone(&mut zones, "a", 3, 10);
        assert_eq!(given_up(&mut zones, "a", 3, 100), [0, 10, 20]);
    }

    #[test]
    fn a_small_zone_of_which_most_fails_is_left_alone() {
        let mut zones = Zones::default();
        zone(&mut zones, "a", 6, 4);
        zone(&mut zones, "b", 0, 1);
        assert_eq!(given_up(&mut zones, "a", 6, 1000), [0; 0]);
    }

    #[test]
    fn a_large_zone_of_which_most_fails_is_given_up_slowly() {
        let mut zones = Zones::default();
        zone(&mut zones, "a", 33, 27);
        assert_eq!(given_up(&mut zones, "a", 33, 250), [0, 100, 200]);
    }

    #[test]
    fn a_zone_without_a_ready_node_is_given_up_if_another_has_one() {
        let mut zones = Zones::default();
        zone(&mut zones, "a", 3, 0);
        assert_eq!(given_up(&mut zones, "a", 3, 100), [0; 0]);
        assert!(zones.nothing_ready());
        let woken = zones.note(None, Some(&node("b", 0, true, false)));
        assert_eq!(woken.len(), 3, "all that wait are told");
        assert_eq!(given_up(&mut zones, "a", 3, 100), [0, 10, 20]);
    }

    #[test]
    fn a_node_that_recovers_lets_the_next_one_go_first() {
        let mut zones = Zones::default();
        zone(&mut zones, "a", 2, 5);
        let (first, second) = (node("a", 0, false, false), node("a", 1, false, false));
        assert_eq!(zones.turn(&first, at(0)), Turn::Now);
        assert_eq!(zones.turn(&second, at(0)), Turn::Later);
        let woken = zones.note(Some(&first), Some(&node("a", 0, true, false)));
        assert_eq!(woken, ["a1".to_owned()].into());
        assert_eq!(zones.turn(&second, at(0)), Turn::Now);
    }

    proptest! {
        #[test]
        fn counts_follow_the_nodes_and_nobody_waits_unwoken(
            steps in prop::collection::vec((0..3_usize, 0..4_usize, 0..4_u8), 0..60),
        ) {
            let names = ["a", "b", "c"];
            let mut zones = Zones::default();
            let mut nodes = BTreeMap::<(usize, usize), Node>::new();
            // What each waiting node was told last; it asks again when it is woken.
            let mut told = BTreeMap::<String, Turn>::new();
            for (z, n, state) in steps {
                let old = nodes.remove(&(z, n));
                let new = (state > 0).then(|| node(names[z], n, state == 1, state == 3));
                let mut woken = zones.note(old.as_ref(), new.as_ref());
                woken.insert(format!("{}{n}", names[z]));
                nodes.extend(new.map(|new| ((z, n), new)));
                for (key, node) in &nodes {
                    let name = format!("{}{}", names[key.0], key.1);
                    let facts = Facts::of(node);
                    if !facts.waits() {
                        told.remove(&name);
                    } else if woken.contains(&name) {
                        told.insert(name, zones.turn(node, at(0)));
                    }
                }
                told.retain(|name, _| nodes.keys().any(|key| *name == format!("{}{}", names[key.0], key.1)));
                for (key, node) in &nodes {
                    let name = format!("{}{}", names[key.0], key.1);
                    if let Some(turn) = told.get(&name) {
                        prop_assert_eq!(zones.turn(node, at(0)), *turn, "{} was not woken", name);
                    }
                }
                let ready = nodes.values().filter(|node| Facts::of(node).ready).count();
                prop_assert_eq!(zones.nothing_ready(), ready == 0 && !nodes.is_empty());
                prop_assert_eq!(zones.zones.values().map(|zone| zone.n_ready).sum::<usize>(), ready);
            }
        }
    }
}
