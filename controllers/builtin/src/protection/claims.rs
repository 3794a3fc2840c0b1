//! Claims that pods on nodes use.

use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{PersistentVolumeClaim, Pod};
use corral_runtime::{Action, Cache, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;
use kube::api::{Api, ListParams};

use super::Plan;
use crate::context::Context;

const NAME: &str = "pvc-protection-controller";
const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Everything that the plan may look at.
pub struct World {
    pub claim: Arc<PersistentVolumeClaim>,
    /// The pods of its namespace.
    pub pods: Vec<Arc<Pod>>,
}

/// Decides about the claim's finalizer.
pub fn plan(world: &World) -> Plan {
    let name = world.claim.metadata.name.as_deref().unwrap_or_default();
    let in_use = world.pods.iter().any(|pod| uses(pod, name));
    super::plan(&world.claim.metadata, FINALIZER, in_use)
}

/// Whether a pod may have the claim's volume mounted. A pod without a node does not, and none starts that names a claim
/// on its way out.
fn uses(pod: &Pod, claim: &str) -> bool {
    let spec = pod.spec.as_ref();
    let placed = spec.is_some_and(|spec| spec.node_name.as_ref().is_some_and(|n| !n.is_empty()));
    placed && claims_of(pod).any(|used| used == claim)
}

/// Names of the claims that a pod's volumes are, or are made from.
fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let shut_down = pod.metadata.deletion_timestamp.is_some()
        && pod.metadata.deletion_grace_period_seconds == Some(0);
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some(claim.claim_name.clone());
        }
        let made = volume.ephemeral.is_some() && !shut_down;
        made.then(|| format!("{own}-{}", volume.name))
    })
}

struct Claims {
    claims: Objects<PersistentVolumeClaim>,
    pods: Cache<Pod>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let claims = context.objects::<PersistentVolumeClaim>(NAME);
    let pods = context.caches.cache::<Pod>();
    let controller = Controller::new("pvcprotection")
        .watch(claims.cache())
        .map(&pods, |change| {
            let states = change.states();
            states
                .flat_map(|pod| {
                    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                    claims_of(pod).map(move |claim| ObjectKey::new(&namespace, &claim))
                })
                .collect()
        });
    controller.run_planned(
        Claims { claims, pods },
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for Claims {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        Some(World {
            claim: self.claims.get(key)?,
            pods: self.pods.in_namespace(&key.namespace),
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        if plan == Plan::Remove && self.is_used_now(&world.claim).await? {
            // The cache will tell when the pod is gone.
            return Ok(Action::Done);
        }
        super::apply(&self.claims, &*world.claim, FINALIZER, plan).await?;
        Ok(Action::Done)
    }
}

impl Claims {
    /// A pod that was placed a moment ago may not be in the cache yet.
    async fn is_used_now(&self, claim: &PersistentVolumeClaim) -> Result<bool, Error> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let pods = Api::<Pod>::namespaced(self.claims.client().clone(), namespace);
        let pods = pods.list(&ListParams::default()).await?;
        Ok(pods.items.iter().any(|pod| uses(pod, name)))
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_claim_waits_for_pods_on_nodes() {
        let pod = |node: &str, volume: Value| -> Arc<Pod> {
            Arc::new(object(json!({
                "metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": [], "volumes": [volume]},
            })))
        };
        let plan_with = |name: &str, pod| {
            let meta = json!({
                "name": name, "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z",
            });
            let claim = Arc::new(object(json!({"metadata": meta})));
            plan(&World {
                claim,
                pods: vec![pod],
            })
        };
        let claim = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        assert_eq!(plan_with("c", pod("n", claim.clone())), Plan::Keep);
        assert_eq!(plan_with("d", pod("n", claim.clone())), Plan::Remove);
        assert_eq!(plan_with("c", pod("", claim)), Plan::Remove);
        let made = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        assert_eq!(plan_with("p-v", pod("n", made)), Plan::Keep);
    }
}
