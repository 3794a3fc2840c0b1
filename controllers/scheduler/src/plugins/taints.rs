//! Taints keep pods away unless they tolerate them; soft taints only count against a node.

use corral_runtime::placement::{first_untolerated, tolerates};

use super::{Filter, SCORE_MAX, Score};
use crate::requests::PodInfo;
use crate::snapshot::{Slot, Snapshot};

/// Filter for NoSchedule and NoExecute, score for PreferNoSchedule.
pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> Vec<String> {
        let spec = snapshot.node(slot).and_then(|node| node.spec.as_ref());
        let taints = spec
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default();
        let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
        match first_untolerated(taints, tolerations, &["NoSchedule", "NoExecute"]) {
            Some(_) => vec!["node(s) had untolerated taint(s)".into()],
            None => Vec::new(),
        }
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> i64 {
        let spec = snapshot.node(slot).and_then(|node| node.spec.as_ref());
        let soft = spec
            .into_iter()
            .flat_map(|spec| spec.taints.iter().flatten());
        let soft = soft.filter(|taint| taint.effect == "PreferNoSchedule");
        let covered = |taint| {
            pod.spec()
                .tolerations
                .iter()
                .flatten()
                .any(|t| tolerates(t, taint))
        };
        let against = soft.filter(|taint| !covered(taint)).count();
        SCORE_MAX / (1 + i64::try_from(against).unwrap_or(SCORE_MAX))
    }
}
