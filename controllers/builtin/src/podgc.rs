//! Pod garbage collection: ended pods beyond a threshold, pods of nodes that no longer exist, and deleted pods that
//! never got a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{Node, Pod, PodCondition};
use corral_api::time::{Time, truncate_to_seconds};
use corral_runtime::objects::Deletion;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler, burst};
use jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::pods;

/// How often everything is gone through.
const PERIOD: Duration = Duration::from_secs(20);
/// Ended pods that are kept for people to look at.
const ENDED_MAX: usize = 12_500;
/// How long a node must have been missing before its pods go: it may only be late in the cache.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub pods: Vec<Arc<Pod>>,
    pub nodes: BTreeSet<String>,
    /// Nodes that are named by pods but not there, and since when.
    pub missing: BTreeMap<String, Timestamp>,
    pub ended_max: usize,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods to be deleted without grace.
    pub delete: Vec<Arc<Pod>>,
    /// Pods of missing nodes: failed first, then deleted, once the server confirms that the node is missing.
    pub orphans: Vec<Arc<Pod>>,
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut ended: Vec<&Arc<Pod>> = Vec::new();
    for pod in &world.pods {
        let node = pods::node_of(pod);
        let since = node.and_then(|node| world.missing.get(node));
        if node.is_some_and(|node| !world.nodes.contains(node)) {
            if since.is_some_and(|since| *since + QUARANTINE <= now) {
                plan.orphans.push(Arc::clone(pod));
            }
        } else if node.is_none() && pods::is_deleted(&pod.metadata) {
            plan.delete.push(Arc::clone(pod));
        } else if pods::is_terminal(pod) {
            ended.push(pod);
        }
    }
    ended.sort_by_key(|pod| {
        (
            pod.metadata.creation_timestamp.clone(),
            pod.metadata.name.clone(),
        )
    });
    let surplus = ended.len().saturating_sub(world.ended_max);
    plan.delete.extend(ended.into_iter().take(surplus).cloned());
    plan
}

struct PodGc {
    pods: Objects<Pod>,
    nodes: Objects<Node>,
    /// Guards since when nodes have been missing.
    missing: Mutex<BTreeMap<String, Timestamp>>,
    clock: Arc<dyn corral_runtime::Clock>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "pod-garbage-collector";
    let (pods, nodes) = (context.objects::<Pod>(name), context.objects::<Node>(name));
    let controller = Controller::new("podgc")
        .needs(pods.cache())
        .needs(nodes.cache());
    controller.queue().add(ObjectKey::cluster("sweep"));
    let reconciler = PodGc {
        pods,
        nodes,
        missing: Mutex::default(),
        clock: Arc::clone(&context.clock),
    };
    controller.run_planned(
        reconciler,
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for PodGc {
    type World = World;
    type Plan = Plan;

    fn observe(&self, _key: &ObjectKey) -> Option<World> {
        let nodes: BTreeSet<_> = self
            .nodes
            .cache()
            .keys()
            .into_iter()
            .map(|key| key.name)
            .collect();
        let pods = self.pods.cache().list();
        let now = self.clock.now();
        let mut missing = self.missing.lock().expect("no panic while held");
        let named: BTreeSet<_> = pods
            .iter()
            .filter_map(|pod| pods::node_of(pod))
            .filter(|n| !nodes.contains(*n))
            .collect();
        missing.retain(|node, _| named.contains(node.as_str()));
        for node in named {
            missing.entry(node.to_owned()).or_insert(now);
        }
        let missing = missing.clone();
        Some(World {
            pods,
            nodes,
            missing,
            ended_max: ENDED_MAX,
        })
    }

    fn plan(&self, world: &World, now: Timestamp) -> Plan {
        plan(world, now)
    }

    async fn apply(&self, _world: &World, plan: Plan, now: Timestamp) -> Result<Action, Error> {
        let mut outcomes = burst::each(&plan.delete, |pod| self.remove(pod)).await;
        outcomes.extend(burst::each(&plan.orphans, |pod| self.remove_orphan(pod, now)).await);
        if let Err(error) = Error::collect(outcomes) {
            tracing::debug!(%error, "some pods were not removed; next sweep tries again");
        }
        Ok(Action::After(PERIOD))
    }
}

impl PodGc {
    async fn remove(&self, pod: &Pod) -> Result<(), Error> {
        self.pods
            .delete(
                pod,
                Deletion {
                    grace_seconds: Some(0),
                    ..Deletion::default()
                },
            )
            .await
    }

    async fn remove_orphan(&self, pod: &Pod, now: Timestamp) -> Result<(), Error> {
        let node = pods::node_of(pod).unwrap_or_default();
        if self
            .nodes
            .get_live(&ObjectKey::cluster(node))
            .await?
            .is_some()
        {
            return Ok(());
        }
        if !pods::is_terminal(pod) {
            let mut conditions = pod
                .status
                .as_ref()
                .and_then(|s| s.conditions.clone())
                .unwrap_or_default();
            conditions.retain(|condition| condition.type_ != "DisruptionTarget");
            conditions.push(PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some("DeletionByPodGC".into()),
                message: Some("PodGC: node no longer exists".into()),
                last_transition_time: Some(Time(truncate_to_seconds(now))),
                ..PodCondition::default()
            });
            let patch = json!({"status": {"phase": "Failed", "conditions": conditions}});
            crate::ownership::gone_is_fine(self.pods.patch_status(pod, patch).await.map(drop))?;
        }
        self.remove(pod).await
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).expect("valid")
    }

    fn any_pod() -> impl Strategy<Value = Value> {
        let phase = prop_oneof![
            Just("Running"),
            Just("Succeeded"),
            Just("Failed"),
            Just("Pending")
        ];
        (phase, prop::option::of(0..3_u8), any::<bool>()).prop_map(|(phase, node, leaving)| {
            let node = node.map(|n| format!("n{n}"));
            let deleted = leaving.then_some("2023-01-01T00:00:00Z");
            json!({
                "metadata": {"deletionTimestamp": deleted}, "status": {"phase": phase},
                "spec": {"nodeName": node, "containers": []},
            })
        })
    }

    proptest! {
        #[test]
        fn only_what_nobody_needs_is_removed(
            pods in prop::collection::vec(any_pod(), 0..20), ended_max in 0..5_usize, quarantined in any::<bool>(),
        ) {
            let pods: Vec<Arc<Pod>> = pods.into_iter().enumerate().map(|(n, mut pod)| {
                pod["metadata"]["name"] = json!(format!("p{n}"));
                Arc::new(object(pod))
            }).collect();
            // Node n0 is there; n1 and n2 are missing, one of them for long enough.
            let since = if quarantined { now() } else { now() - QUARANTINE };
            let missing = BTreeMap::from([("n1".to_owned(), now()), ("n2".to_owned(), since)]);
            let nodes = BTreeSet::from(["n0".to_owned()]);
            let world = World { pods: pods.clone(), nodes, missing, ended_max };
            let plan = plan(&world, now());
            for pod in &plan.orphans {
                prop_assert!(!quarantined && pods::node_of(pod) == Some("n2"));
            }
            for pod in &plan.delete {
                let unplaced = pods::node_of(pod).is_none() && pods::is_deleted(&pod.metadata);
                prop_assert!(unplaced || pods::is_terminal(pod));
            }
            let left = pods.iter().filter(|pod| {
                let here = pods::node_of(pod).is_none_or(|node| node == "n0");
                here && pods::is_terminal(pod) && !plan.delete.iter().any(|gone| Arc::ptr_eq(gone, pod))
            });
            prop_assert!(left.count() <= ended_max);
        }
    }
}
