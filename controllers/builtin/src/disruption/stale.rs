//! Takes back the mark of an eviction that did not come to pass: a pod that says that it is about to be disrupted, and
//! is not deleted for a while.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use corral_api::disruption::TARGET;
use corral_api::k8s::api::core::v1::Pod;
use corral_api::time::{Time, truncate_to_seconds};
use corral_runtime::{Action, Change, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::Context;
use crate::ownership;
use crate::pods;

/// How long the mark may stay, as in Kubernetes.
const STALE_AFTER: Duration = Duration::from_secs(120);
/// A node takes as long as it takes.
const BY_NODE: &str = "TerminationByKubelet";

/// When the mark of a pod is stale; nothing for a pod without one.
fn stale_at(pod: &Pod) -> Option<Timestamp> {
    if pods::is_deleted(&pod.metadata) || pods::is_terminal(pod) {
        return None;
    }
    let mark = pods::condition(pod, TARGET)?;
    if mark.status != "True" || mark.reason.as_deref() == Some(BY_NODE) {
        return None;
    }
    let since = mark.last_transition_time.as_ref()?.0;
    since.checked_add(STALE_AFTER).ok()
}

/// The conditions with the mark taken back.
fn without_mark(pod: &Pod, now: Timestamp) -> Value {
    let mut conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    for condition in conditions.iter_mut().filter(|c| c.type_ == TARGET) {
        condition.status = "False".into();
        condition.reason = None;
        condition.message = None;
        condition.last_transition_time = Some(Time(truncate_to_seconds(now)));
    }
    json!({"status": {"conditions": conditions}})
}

struct Stale {
    pods: Objects<Pod>,
}

pub fn start(context: &Context, pods: Objects<Pod>) {
    let controller = Controller::new("disruption-stale").map(pods.cache(), marked);
    controller.run_planned(
        Stale { pods },
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

fn marked(change: &Change<Pod>) -> Vec<ObjectKey> {
    let pod = change.latest();
    let key = stale_at(pod).map(|_| ObjectKey::of(&pod.metadata));
    key.into_iter().collect()
}

#[async_trait]
impl Reconciler for Stale {
    type World = Arc<Pod>;
    type Plan = Option<Timestamp>;

    fn observe(&self, key: &ObjectKey) -> Option<Arc<Pod>> {
        self.pods.get(key)
    }

    fn plan(&self, pod: &Arc<Pod>, _now: Timestamp) -> Option<Timestamp> {
        stale_at(pod)
    }

    async fn apply(
        &self,
        pod: &Arc<Pod>,
        stale: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Action, Error> {
        match stale {
            Some(at) if at <= now => {
                let patch = without_mark(pod, now);
                let written = self.pods.patch_status(pod, patch).await.map(drop);
                ownership::gone_is_fine(written).map(|()| Action::Done)
            }
            later => Ok(Action::at(later, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;

    use super::*;

    fn pod(reason: &str, status: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"},
            {"type": TARGET, "status": "True", "reason": reason, "message": "m",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        for (key, value) in status.as_object().into_iter().flatten() {
            pod["status"][key] = value.clone();
        }
        object(pod)
    }

    #[test]
    fn a_mark_is_taken_back_after_a_while_and_the_rest_stays() {
        let evicted = pod("EvictionByEvictionAPI", json!({}));
        let at = stale_at(&evicted).expect("is marked");
        assert_eq!(at.to_string(), "2026-01-01T00:02:00Z");
        let patch = without_mark(&evicted, at);
        let conditions = &patch["status"]["conditions"];
        assert_eq!(conditions[0]["status"], "True");
        assert_eq!(
            conditions[1],
            json!({"type": TARGET, "status": "False", "lastTransitionTime": "2026-01-01T00:02:00Z"})
        );
    }

    #[test]
    fn marks_of_nodes_and_of_ended_pods_stay() {
        assert_eq!(stale_at(&pod(BY_NODE, json!({}))), None);
        assert_eq!(stale_at(&pod("Other", json!({"phase": "Failed"}))), None);
    }
}
