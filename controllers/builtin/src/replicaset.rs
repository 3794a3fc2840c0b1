//! ReplicaSet, and ReplicationController, which is one by another name: keeps a number of pods of one template running.
//!
//! Promises never to delete or count a pod that it does not control, to start slowly when creation fails, and to pick
//! the pods that are missed least when there are too many.

mod owner;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::apps::v1::{
    ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus,
};
use corral_api::k8s::api::core::v1::{Pod, ReplicationController};
use corral_api::meta::controller_of;
use corral_api::selector::LabelSelector;
use corral_api::time::{Time, truncate_to_seconds};
use corral_runtime::key::uid_of;
use corral_runtime::objects::Deletion;
use corral_runtime::{
    Action, Change, Controller, Error, ObjectKey, Objects, Reconciler, Recorder, burst,
};
use jiff::Timestamp;

use self::owner::Owner;
use crate::context::Context;
use crate::ownership::{self, Claims};
use crate::pods;

/// Pods created or deleted in one go, so that one huge set does not starve the others.
const BURST_MAX: usize = 500;
/// Lower values are deleted first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub set: Arc<ReplicaSet>,
    /// Pods that point at the set, and the orphans of its namespace.
    pub candidates: Vec<Arc<Pod>>,
    /// Active pods per node of all sets with the same owner: crowded nodes are thinned out first.
    pub related: HashMap<String, usize>,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    pub claims: Claims<Pod>,
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
    /// The status if every step succeeds.
    pub status: ReplicaSetStatus,
    /// When another pod becomes available by waiting.
    pub look_again: Option<Timestamp>,
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let set = &world.set;
    let spec = set.spec.clone().unwrap_or_default();
    let selector = LabelSelector::from_object(Some(&spec.selector))
        .unwrap_or_else(|_| LabelSelector::nothing());
    let claims = ownership::claim(&set.metadata, &selector, world.candidates.iter().cloned());
    let active: Vec<_> = claims
        .held()
        .filter(|pod| pods::is_active(pod))
        .cloned()
        .collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let (mut create, mut delete) = (0, Vec::new());
    if !pods::is_deleted(&set.metadata) {
        create = wanted.saturating_sub(active.len()).min(BURST_MAX);
        let surplus = active.len().saturating_sub(wanted).min(BURST_MAX);
        delete = least_missed(active.clone(), &world.related, surplus);
    }
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let look_again = pods::next_available(active.iter().map(|pod| &**pod), min_ready, now);
    let status = counted(set, &spec, &claims, &active, now);
    Plan {
        claims,
        create,
        delete,
        status,
        look_again,
    }
}

fn counted(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    claims: &Claims<Pod>,
    active: &[Arc<Pod>],
    now: Timestamp,
) -> ReplicaSetStatus {
    let template = spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref());
    let labels = LabelSelector::from_set(
        template
            .and_then(|meta| meta.labels.as_ref())
            .into_iter()
            .flatten(),
    );
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let count = |keep: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|pod| keep(pod)).count());
    let leaving = |pod: &&Arc<Pod>| pods::is_deleted(&pod.metadata) && !pods::is_terminal(pod);
    let old = set.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: nonzero(count(&|pod| {
            labels.matches_opt(pod.metadata.labels.as_ref())
        })),
        ready_replicas: nonzero(count(&pods::is_ready)),
        available_replicas: nonzero(count(&|pod| pods::is_available(pod, min_ready, now))),
        terminating_replicas: Some(number(claims.held().filter(leaving).count())),
        observed_generation: set.metadata.generation,
        conditions: old.conditions.map(|conditions| {
            conditions
                .into_iter()
                .filter(|condition| condition.type_ != "ReplicaFailure")
                .collect()
        }),
    }
}

/// Zero counts are left out, as the API does.
pub(crate) fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

pub(crate) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The pods to delete, in Kubernetes' order of preference: not placed, pending, not ready, cheap, on crowded nodes,
/// ready for a shorter time, restarted more often, younger.
pub(crate) fn least_missed(
    mut active: Vec<Arc<Pod>>,
    related: &HashMap<String, usize>,
    count: usize,
) -> Vec<Arc<Pod>> {
    if count < active.len() {
        active.sort_by_cached_key(|pod| {
            let node = pods::node_of(pod);
            let crowd = node
                .and_then(|node| related.get(node))
                .copied()
                .unwrap_or(0);
            let phase = match pods::phase(pod) {
                "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            };
            (
                node.is_some(),
                phase,
                pods::is_ready(pod),
                deletion_cost(pod),
                Reverse(crowd),
                Reverse(pods::ready_since(pod)),
                Reverse(pods::restarts(pod)),
                Reverse(pod.metadata.creation_timestamp.clone()),
                pod.metadata.name.clone(),
            )
        });
    }
    active.truncate(count);
    active
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The status with a failure to create or delete noted in it.
fn with_failure(
    mut status: ReplicaSetStatus,
    old: Option<&ReplicaSetStatus>,
    reason: &str,
    error: &Error,
    now: Timestamp,
) -> ReplicaSetStatus {
    let known = old
        .and_then(|old| old.conditions.as_ref())
        .into_iter()
        .flatten();
    let mut known =
        known.filter(|c| c.type_ == "ReplicaFailure" && c.reason.as_deref() == Some(reason));
    // Kubernetes keeps the first message for as long as the reason stays.
    let condition = known
        .next()
        .cloned()
        .unwrap_or_else(|| ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(error.message()),
            last_transition_time: Some(Time(truncate_to_seconds(now))),
        });
    status.conditions.get_or_insert_default().push(condition);
    status
}

/// The controller of a kind.
struct Sets<K> {
    sets: Objects<K>,
    pods: Objects<Pod>,
    events: Recorder,
}

/// Starts the controller of ReplicaSets.
pub fn start(context: &Context) {
    start_for::<ReplicaSet>(context, "replicaset", "replicaset-controller");
}

/// Starts the controller of ReplicationControllers.
pub fn start_replication(context: &Context) {
    start_for::<ReplicationController>(context, "replicationcontroller", "replication-controller");
}

fn start_for<K: Owner>(context: &Context, queue: &'static str, name: &str) {
    let (sets, pods) = (context.objects::<K>(name), context.objects::<Pod>(name));
    ownership::index_orphans(pods.cache());
    let owners = sets.cache().clone();
    let controller = Controller::new(queue)
        .watch(sets.cache())
        .owned(pods.cache(), K::KIND)
        .map(pods.cache(), move |change| adopters(&owners, change));
    let reconciler = Sets {
        sets,
        pods,
        events: context.recorder(name),
    };
    controller.run_planned(
        reconciler,
        4,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

/// The sets whose selector matches a pod that nobody controls.
fn adopters<K: Owner>(sets: &corral_runtime::Cache<K>, change: &Change<Pod>) -> Vec<ObjectKey> {
    let meta = &change.latest().metadata;
    if controller_of(meta).is_some()
        || meta.labels.is_none()
        || matches!(change, Change::Deleted(_))
    {
        return Vec::new();
    }
    let in_namespace = sets.in_namespace(meta.namespace.as_deref().unwrap_or_default());
    let matching = in_namespace
        .iter()
        .filter(|set| set.selector().matches_opt(meta.labels.as_ref()));
    matching.map(|set| ObjectKey::of(set.meta())).collect()
}

/// What is reconciled, with what the plan sees of it.
struct Observed<K> {
    owner: Arc<K>,
    world: World,
}

#[async_trait]
impl<K: Owner> Reconciler for Sets<K> {
    type World = Observed<K>;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<Observed<K>> {
        let owner = self.sets.get(key)?;
        let set = K::as_set(&owner);
        let candidates = ownership::candidates(self.pods.cache(), &set.metadata);
        let wanted = set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let active = candidates.iter().filter(|pod| pods::is_active(pod)).count();
        let related = if number(active) > wanted {
            self.related(&set)
        } else {
            HashMap::new()
        };
        let world = World {
            set,
            candidates,
            related,
        };
        Some(Observed { owner, world })
    }

    fn plan(&self, observed: &Observed<K>, now: Timestamp) -> Plan {
        plan(&observed.world, now)
    }

    async fn apply(
        &self,
        observed: &Observed<K>,
        plan: Plan,
        now: Timestamp,
    ) -> Result<Action, Error> {
        let (owner, set) = (&*observed.owner, &*observed.world.set);
        ownership::apply_claims(&self.sets, owner, &self.pods, &plan.claims).await?;
        let created = self.create(owner, set, plan.create).await;
        let deleted = self.delete(owner, &plan.delete).await;
        let old = set.status.as_ref();
        let status = match (&created, &deleted) {
            (Err(error), _) => with_failure(plan.status, old, "FailedCreate", error, now),
            (_, Err(error)) => with_failure(plan.status, old, "FailedDelete", error, now),
            _ => plan.status,
        };
        self.write_status(owner, set, status).await?;
        match created.and(deleted) {
            Err(error) if error.is_namespace_terminating() => Ok(Action::Done),
            Err(error) => Err(error),
            Ok(()) => Ok(Action::at(plan.look_again, now)),
        }
    }
}

impl<K: Owner> Sets<K> {
    /// Counts, per node, the active pods of all sets of the same owner.
    fn related(&self, set: &ReplicaSet) -> HashMap<String, usize> {
        let siblings = match controller_of(&set.metadata) {
            Some(owner) => self.sets.cache().owned_by(&owner.uid),
            None => Vec::new(),
        };
        let mut related = HashMap::new();
        for sibling in siblings {
            for pod in self.pods.cache().owned_by(uid_of(sibling.meta())) {
                if let Some(node) = pods::node_of(&pod).filter(|_| pods::is_active(&pod)) {
                    *related.entry(node.to_owned()).or_insert(0) += 1;
                }
            }
        }
        related
    }

    async fn create(&self, owner: &K, set: &ReplicaSet, count: usize) -> Result<(), Error> {
        let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
            return Ok(());
        };
        let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
        let reference = ownership::controller_reference(owner);
        let namespace = set.metadata.namespace.as_ref();
        let pod = pods::from_template(template, namespace, &prefix, reference);
        let outcomes = burst::slow_start(count, |_| async {
            let outcome = self.pods.create(&pod).await;
            match &outcome {
                Ok(pod) => {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    self.events
                        .normal(owner, "SuccessfulCreate", format!("Created pod: {name}"));
                }
                Err(error) if error.is_namespace_terminating() => {}
                Err(error) => {
                    self.events.warning(
                        owner,
                        "FailedCreate",
                        format!("Error creating: {}", error.message()),
                    );
                }
            }
            outcome
        });
        Error::collect(outcomes.await).map(drop)
    }

    async fn delete(&self, owner: &K, surplus: &[Arc<Pod>]) -> Result<(), Error> {
        let outcomes = burst::each(surplus, |pod| async move {
            let outcome = self.pods.delete(pod, Deletion::default()).await;
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match &outcome {
                Ok(()) => {
                    self.events
                        .normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"))
                }
                Err(error) => {
                    let text = format!("Error deleting: {}", error.message());
                    self.events.warning(owner, "FailedDelete", text);
                }
            }
            outcome
        });
        Error::collect(outcomes.await).map(drop)
    }

    async fn write_status(
        &self,
        owner: &K,
        set: &ReplicaSet,
        mut status: ReplicaSetStatus,
    ) -> Result<(), Error> {
        if status.conditions.as_ref().is_some_and(Vec::is_empty) {
            status.conditions = None;
        }
        let written = Arc::new(owner.with_status(status));
        // Compared in its own form: not every kind has every field.
        if K::as_set(&written).status == set.status {
            return Ok(());
        }
        ownership::gone_is_fine(self.sets.replace_status(&written).await.map(drop))
    }
}

#[cfg(test)]
mod tests;
