//! Resources: a pod must fit; of the nodes where it does, the emptiest and most evenly used is best.

use super::{Filter, SCORE_MAX, Score};
use crate::requests::PodInfo;
use crate::snapshot::{Slot, Snapshot};

/// Filter for what fits, score for the least allocated.
pub struct NodeResourcesFit;

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> Vec<String> {
        let (has, used, asks) = (
            snapshot.allocatable(slot),
            snapshot.requested(slot),
            &pod.requests,
        );
        let mut reasons = Vec::new();
        if snapshot.pod_count(slot) + 1 > snapshot.pods_max(slot) {
            reasons.push("Too many pods".to_owned());
        }
        let mut check = |name: &str, asks: i64, used: i64, has: i64| {
            if asks > 0 && asks > has - used {
                reasons.push(format!("Insufficient {name}"));
            }
        };
        check("cpu", asks.cpu, used.cpu, has.cpu);
        check("memory", asks.memory, used.memory, has.memory);
        check(
            "ephemeral-storage",
            asks.ephemeral,
            used.ephemeral,
            has.ephemeral,
        );
        for (name, amount) in &asks.extended {
            let of = |list: &std::collections::BTreeMap<String, i64>| {
                list.get(name).copied().unwrap_or(0)
            };
            check(name, *amount, of(&used.extended), of(&has.extended));
        }
        reasons
    }
}

/// CPU and memory as (wanted, had) with the pod on the node.
fn shares(pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> [(i64, i64); 2] {
    let (has, used) = (snapshot.allocatable(slot), snapshot.scored(slot));
    [
        (used.cpu + pod.scored.cpu, has.cpu),
        (used.memory + pod.scored.memory, has.memory),
    ]
}

impl Score for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> i64 {
        let free = shares(pod, snapshot, slot).map(|(wanted, has)| {
            if has <= 0 || wanted > has {
                0
            } else {
                i128::from(has - wanted) * i128::from(SCORE_MAX) / i128::from(has)
            }
        });
        i64::try_from((free[0] + free[1]) / 2).unwrap_or(0)
    }
}

/// Scores nodes whose CPU and memory are used alike, so that neither is left over.
pub struct NodeResourcesBalancedAllocation;

impl Score for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn score(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> i64 {
        let [cpu, memory] = shares(pod, snapshot, slot).map(|(wanted, has)| {
            if has <= 0 {
                1.0
            } else {
                (wanted as f64 / has as f64).min(1.0)
            }
        });
        let deviation = (cpu - memory).abs() / 2.0;
        ((1.0 - deviation) * SCORE_MAX as f64) as i64
    }
}
