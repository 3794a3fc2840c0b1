//! Verdicts about nodes, shared by pods of one equivalence class and kept until the node changes.

use std::collections::{BTreeMap, HashMap};

use crate::plugins::Plugins;
use crate::requests::PodInfo;
use crate::snapshot::{Slot, Snapshot};

/// Classes remembered; a cluster has about one per workload that is scaling at the moment.
const CLASSES_MAX: usize = 64;

#[derive(Debug, Clone)]
enum Verdict {
    Fits(i64),
    Refused(Vec<String>),
}

#[derive(Debug, Default)]
struct Class {
    /// The slot's version at which each verdict was found; 0 for none.
    versions: Vec<u64>,
    verdicts: Vec<Option<Verdict>>,
    used: u64,
}

/// The verdicts of all classes.
#[derive(Debug, Default)]
pub struct Classes {
    classes: HashMap<u64, Class>,
    clock: u64,
}

impl Classes {
    /// The best node for a pod, or for each reason the number of nodes that it keeps the pod from.
    pub fn best(
        &mut self,
        plugins: &Plugins,
        snapshot: &Snapshot,
        pod: &PodInfo,
    ) -> Result<Slot, BTreeMap<String, usize>> {
        self.clock += 1;
        self.shrink();
        let class = self.classes.entry(pod.class).or_default();
        class.used = self.clock;
        class.versions.resize(snapshot.n_slots(), 0);
        class.verdicts.resize(snapshot.n_slots(), None);
        let mut best: Option<(i64, Slot)> = None;
        let n_slots = snapshot.n_slots();
        // Equal nodes take turns: the scan starts elsewhere each time and the first best wins.
        let start = usize::try_from(self.clock).unwrap_or(0) % n_slots.max(1);
        for slot in (start..n_slots).chain(0..start) {
            if snapshot.node(slot).is_none() {
                continue;
            }
            let version = snapshot.version(slot);
            if class.versions[slot] != version || class.verdicts[slot].is_none() {
                class.versions[slot] = version;
                class.verdicts[slot] = Some(judge(plugins, snapshot, pod, slot));
            }
            if let Some(Verdict::Fits(score)) = &class.verdicts[slot]
                && best.is_none_or(|(known, _)| *score > known)
            {
                best = Some((*score, slot));
            }
        }
        match best {
            Some((_, slot)) => Ok(slot),
            None => Err(reasons(class, snapshot)),
        }
    }

    fn shrink(&mut self) {
        if self.classes.len() >= CLASSES_MAX {
            let oldest = self
                .classes
                .iter()
                .min_by_key(|(_, class)| class.used)
                .map(|(key, _)| *key);
            oldest.and_then(|key| self.classes.remove(&key));
        }
    }
}

fn judge(plugins: &Plugins, snapshot: &Snapshot, pod: &PodInfo, slot: Slot) -> Verdict {
    for filter in &plugins.filters {
        let reasons = filter.filter(pod, snapshot, slot);
        if !reasons.is_empty() {
            return Verdict::Refused(reasons);
        }
    }
    let scores = plugins
        .scores
        .iter()
        .map(|score| score.weight() * score.score(pod, snapshot, slot));
    Verdict::Fits(scores.sum())
}

fn reasons(class: &Class, snapshot: &Snapshot) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for slot in (0..snapshot.n_slots()).filter(|slot| snapshot.node(*slot).is_some()) {
        if let Some(Verdict::Refused(reasons)) = &class.verdicts[slot] {
            for reason in reasons {
                *counts.entry(reason.clone()).or_insert(0) += 1;
            }
        }
    }
    counts
}

/// The message of a pod that fits nowhere, as Kubernetes words it.
pub fn no_fit_message(n_nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if n_nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut texts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    texts.sort();
    format!("0/{n_nodes} nodes are available: {}.", texts.join(", "))
}
