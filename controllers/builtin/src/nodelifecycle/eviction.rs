//! Which pods a NoExecute taint drives away, and when. Pure.

use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Pod, PodCondition, Taint};
use corral_api::time::{Time, truncate_to_seconds};
use corral_runtime::placement::tolerates;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pods;

/// The pods to be evicted now, and when the next one is due.
pub fn due(
    taints: &[Taint],
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (Vec<Arc<Pod>>, Option<Timestamp>) {
    let driving: Vec<_> = taints
        .iter()
        .filter(|taint| taint.effect == "NoExecute")
        .collect();
    let (mut evict, mut next) = (Vec::new(), None::<Timestamp>);
    if driving.is_empty() {
        return (evict, next);
    }
    for pod in pods.iter().filter(|pod| !pods::is_deleted(&pod.metadata)) {
        match leaves_at(pod, &driving, now) {
            Some(at) if at <= now => evict.push(Arc::clone(pod)),
            Some(at) => next = Some(next.map_or(at, |known| known.min(at))),
            None => {}
        }
    }
    (evict, next)
}

/// When a pod has to leave; nothing if it tolerates the taints for ever. The shortest toleration counts.
fn leaves_at(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Option<Timestamp> {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let mut leaves: Option<Timestamp> = None;
    for taint in taints {
        let matching: Vec<_> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        if matching.is_empty() {
            return Some(now);
        }
        let Some(seconds) = matching
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
            .min()
        else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let stay = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let at = since.checked_add(stay).unwrap_or(Timestamp::MAX);
        leaves = Some(leaves.map_or(at, |known| known.min(at)));
    }
    leaves
}

/// The condition that tells why a pod is evicted.
pub fn marked(pod: &Pod, now: Timestamp) -> Value {
    let mut conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        message: Some("Taint manager: deleting due to NoExecute taint".into()),
        last_transition_time: Some(Time(truncate_to_seconds(now))),
        ..PodCondition::default()
    });
    json!({"status": {"conditions": conditions}})
}
