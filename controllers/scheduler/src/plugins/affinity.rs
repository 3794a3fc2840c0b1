//! Node selector and node affinity: required terms filter, preferred terms score.

use corral_runtime::placement::{matches_affinity, matches_term};

use super::{Filter, SCORE_MAX, Score};
use crate::requests::PodInfo;
use crate::snapshot::{Slot, Snapshot};

/// Filter and score.
pub struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> Vec<String> {
        if snapshot
            .node(slot)
            .is_some_and(|node| matches_affinity(pod.spec(), node))
        {
            return Vec::new();
        }
        vec!["node(s) didn't match Pod's node affinity/selector".into()]
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    /// The weight of the preferences that the node meets, as a share of all of them.
    fn score(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> i64 {
        let affinity = pod
            .spec()
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let preferred = affinity
            .and_then(|affinity| {
                affinity
                    .preferred_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default();
        let total: i64 = preferred.iter().map(|term| i64::from(term.weight)).sum();
        let Some(node) = snapshot.node(slot).filter(|_| total > 0) else {
            return 0;
        };
        let met = preferred
            .iter()
            .filter(|term| matches_term(&term.preference, node));
        met.map(|term| i64::from(term.weight)).sum::<i64>() * SCORE_MAX / total
    }
}
