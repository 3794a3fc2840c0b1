//! DaemonSet: one pod on every node that it fits on.
//!
//! The scheduler places the pods: each names its node in a required node affinity. Each state of the template is kept
//! as a ControllerRevision; its pods have the hash of it in the label `controller-revision-hash`.

mod failures;
mod placement;
mod revisions;
mod update;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use corral_api::k8s::api::apps::v1::{
    ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus,
};
use corral_api::k8s::api::core::v1::{Node, Pod};
use corral_api::selector::LabelSelector;
use corral_runtime::key::uid_of;
use corral_runtime::objects::Deletion;
use corral_runtime::{
    Action, Cache, Change, Clock, Controller, Error, ObjectKey, Objects, Reconciler, Recorder,
    burst,
};
use jiff::Timestamp;

use self::failures::{Failures, Waits};
use crate::context::Context;
use crate::history::{self, Recorded};
use crate::ownership::{self, Claims};
use crate::pods;
use crate::replicaset::{nonzero, number};

pub const REVISION_HASH: &str = "controller-revision-hash";
/// Pods made or deleted in one go.
const BURST_MAX: usize = 250;
/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub set: Arc<DaemonSet>,
    pub nodes: Vec<Arc<Node>>,
    pub candidates: Vec<Arc<Pod>>,
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Until when failed pods stay.
    pub waits: Waits,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    pub claims: Claims<Pod>,
    pub revisions: revisions::Steps,
    /// The nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Of those, the ones that have failed, and the ones that ended well, which a daemon does not do either.
    pub failed: Vec<Arc<Pod>>,
    pub succeeded: Vec<Arc<Pod>>,
    pub hash: String,
    pub status: DaemonSetStatus,
    pub look_again: Option<Timestamp>,
}

/// A node with what is on it.
pub(crate) struct Place {
    pub name: String,
    /// Whether a pod should be started there.
    pub wanted: bool,
    /// Whether a pod that is there may stay.
    pub tolerated: bool,
    /// The set's pods there that have not ended, oldest first.
    pub pods: Vec<Arc<Pod>>,
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let set = &world.set;
    let spec = set.spec.clone().unwrap_or_default();
    let selector = LabelSelector::from_object(Some(&spec.selector))
        .unwrap_or_else(|_| LabelSelector::nothing());
    let claims = ownership::claim(&set.metadata, &selector, world.candidates.iter().cloned());
    let revisions = revisions::plan(set, &selector, &world.revisions, &claims);
    let hash = revisions.hash.clone();
    let places = places(world, &spec, &claims);
    let mut plan = Plan {
        status: status(world, &spec, &places, &hash, now),
        claims,
        revisions,
        create: Vec::new(),
        delete: Vec::new(),
        failed: Vec::new(),
        succeeded: Vec::new(),
        hash,
        look_again: None,
    };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    plan.look_again = pods::next_available(
        places.iter().flat_map(|p| &p.pods).map(|pod| &**pod),
        min_ready,
        now,
    );
    if pods::is_deleted(&set.metadata) || selector.is_everything() {
        return plan;
    }
    manage(&mut plan, &places, &spec, &world.waits, now);
    if plan.create.is_empty() && plan.delete.is_empty() {
        update::plan(&mut plan, &places, &spec, now);
    }
    plan.create.truncate(BURST_MAX);
    plan.delete.truncate(BURST_MAX);
    let goes = |pod: &Arc<Pod>| plan.delete.iter().any(|gone| Arc::ptr_eq(gone, pod));
    plan.failed.retain(goes);
    plan.succeeded.retain(goes);
    plan
}

fn places(world: &World, spec: &DaemonSetSpec, claims: &Claims<Pod>) -> Vec<Place> {
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in claims.held() {
        if let Some(node) = placement::target(pod) {
            by_node.entry(node).or_default().push(Arc::clone(pod));
        }
    }
    let places = world.nodes.iter().map(|node| {
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut pods = by_node.remove(name.as_str()).unwrap_or_default();
        pods.sort_by_key(|pod| {
            (
                pod.metadata.creation_timestamp.clone(),
                pod.metadata.name.clone(),
            )
        });
        let (wanted, tolerated) = placement::fits(&spec.template, node);
        Place {
            name,
            wanted,
            tolerated,
            pods,
        }
    });
    places.collect()
}

/// Sees to it that there is one pod where one is wanted and none where it may not stay.
fn manage(plan: &mut Plan, places: &[Place], spec: &DaemonSetSpec, waits: &Waits, now: Timestamp) {
    for place in places {
        let (ended, living): (Vec<_>, Vec<_>) = place
            .pods
            .iter()
            .cloned()
            .partition(|pod| pods::is_terminal(pod));
        if !place.tolerated {
            plan.delete.extend(
                place
                    .pods
                    .iter()
                    .filter(|pod| !pods::is_deleted(&pod.metadata))
                    .cloned(),
            );
            continue;
        }
        for pod in ended.iter().filter(|pod| !pods::is_deleted(&pod.metadata)) {
            if pods::phase(pod) == "Succeeded" {
                plan.succeeded.push(Arc::clone(pod));
            } else if let Some(until) = waits.until(&place.name, now) {
                plan.look_again = plan.look_again.into_iter().chain([until]).min();
                continue;
            } else {
                plan.failed.push(Arc::clone(pod));
            }
            plan.delete.push(Arc::clone(pod));
        }
        if place.wanted && place.pods.is_empty() {
            plan.create.push(place.name.clone());
        }
        plan.delete
            .extend(update::doubles(&living, spec, &plan.hash));
    }
}

pub(crate) fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(REVISION_HASH))
        .is_some_and(|label| label == hash)
}

fn status(
    world: &World,
    spec: &DaemonSetSpec,
    places: &[Place],
    hash: &str,
    now: Timestamp,
) -> DaemonSetStatus {
    let old = world.set.status.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let count =
        |keep: &dyn Fn(&Place) -> bool| number(places.iter().filter(|place| keep(place)).count());
    let desired = count(&|place| place.wanted);
    let any = |place: &Place, keep: &dyn Fn(&Pod) -> bool| {
        place.wanted && place.pods.iter().any(|pod| keep(pod))
    };
    let available = count(&|place| any(place, &|pod| pods::is_available(pod, min_ready, now)));
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: count(&|place| any(place, &|_| true)),
        number_misscheduled: count(&|place| !place.wanted && !place.pods.is_empty()),
        number_ready: count(&|place| any(place, &pods::is_ready)),
        number_available: nonzero(available),
        number_unavailable: nonzero(desired - available),
        updated_number_scheduled: nonzero(count(&|place| any(place, &|pod| is_updated(pod, hash)))),
        observed_generation: world.set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

struct DaemonSets {
    sets: Objects<DaemonSet>,
    revisions: Objects<ControllerRevision>,
    nodes: Objects<Node>,
    pods: Objects<Pod>,
    events: Recorder,
    clock: Arc<dyn Clock>,
    /// Guards the last failures of all sets.
    failures: Mutex<Failures>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "daemon-set-controller";
    let (sets, nodes) = (
        context.objects::<DaemonSet>(name),
        context.objects::<Node>(name),
    );
    let pods = context.objects::<Pod>(name);
    let revisions = context.objects::<ControllerRevision>(name);
    ownership::index_orphans(pods.cache());
    ownership::index_orphans(revisions.cache());
    let known = sets.cache().clone();
    let controller = Controller::new("daemonset")
        .watch(sets.cache())
        .owned(pods.cache(), "DaemonSet")
        .owned(revisions.cache(), "DaemonSet")
        .map(nodes.cache(), move |change| of_node(&known, change));
    let reconciler = DaemonSets {
        sets,
        revisions,
        nodes,
        pods,
        events: context.recorder(name),
        clock: Arc::clone(&context.clock),
        failures: Mutex::default(),
    };
    controller.run_planned(
        reconciler,
        2,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

/// All sets, if a node changed in a way that placement looks at; heart-beats are none.
fn of_node(sets: &Cache<DaemonSet>, change: &Change<Node>) -> Vec<ObjectKey> {
    if let Change::Applied {
        old: Some(old),
        new,
    } = change
    {
        let seen = |node: &Node| (node.metadata.labels.clone(), node.spec.clone());
        if seen(old) == seen(new) {
            return Vec::new();
        }
    }
    sets.keys()
}

#[async_trait]
impl Reconciler for DaemonSets {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let set = self.sets.get(key)?;
        let candidates = ownership::candidates(self.pods.cache(), &set.metadata);
        let failures = self.failures.lock().expect("no panic while held");
        let waits = failures.of(&failure_key(&set));
        drop(failures);
        Some(World {
            waits,
            revisions: ownership::candidates(self.revisions.cache(), &set.metadata),
            set,
            nodes: self.nodes.cache().list(),
            candidates,
        })
    }

    fn plan(&self, world: &World, now: Timestamp) -> Plan {
        plan(world, now)
    }

    async fn apply(&self, world: &World, mut plan: Plan, now: Timestamp) -> Result<Action, Error> {
        let set = &*world.set;
        ownership::apply_claims(&self.sets, set, &self.pods, &plan.claims).await?;
        if self.record(set, &plan.revisions).await? == Recorded::Collision {
            // The next plan is made with another hash.
            plan.status.collision_count = Some(plan.status.collision_count.unwrap_or(0) + 1);
            self.write_status(set, plan.status).await?;
            return Ok(Action::Done);
        }
        self.tell_of_ended(set, &plan);
        let deleted = burst::each(&plan.delete, |pod| self.delete(set, pod)).await;
        let created = self.create(set, &plan.create, &plan.hash).await;
        self.write_status(set, plan.status).await?;
        match Error::collect(created.into_iter().chain(deleted).collect()) {
            Err(error) if error.is_namespace_terminating() => Ok(Action::Done),
            Err(error) => Err(error),
            Ok(_) => Ok(Action::at(plan.look_again, now)),
        }
    }
}

/// A changed set has not failed yet.
fn failure_key(set: &DaemonSet) -> failures::Key {
    let observed = set
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    (uid_of(&set.metadata).to_owned(), observed.unwrap_or(0))
}

impl DaemonSets {
    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let written = DaemonSet {
            status: Some(status),
            ..set.clone()
        };
        ownership::gone_is_fine(self.sets.replace_status(&written).await.map(drop))
    }

    async fn record(&self, set: &DaemonSet, steps: &revisions::Steps) -> Result<Recorded, Error> {
        ownership::apply_claims(&self.sets, set, &self.revisions, &steps.claims).await?;
        let recorded = history::record(&self.revisions, &steps.change).await?;
        let gone = burst::each(&steps.delete, |revision| async move {
            self.revisions.delete(revision, Deletion::default()).await
        });
        Error::collect(gone.await)?;
        Ok(recorded)
    }

    fn tell_of_ended(&self, set: &DaemonSet, plan: &Plan) {
        let text = |pod: &Pod, how: &str, what: &str| {
            let (key, node) = (
                ObjectKey::of(&pod.metadata),
                placement::target(pod).unwrap_or_default(),
            );
            format!("Found {how} daemon pod {key} on node {node}, will try to {what} it")
        };
        for pod in &plan.succeeded {
            let text = text(pod, "succeeded", "delete");
            self.events.normal(set, "SucceededDaemonPod", text);
        }
        let mut failures = self.failures.lock().expect("no panic while held");
        for pod in &plan.failed {
            let node = placement::target(pod).unwrap_or_default();
            failures.note(&failure_key(set), node, self.clock.now());
            let text = text(pod, "failed", "kill");
            self.events.warning(set, "FailedDaemonPod", text);
        }
    }

    async fn create(
        &self,
        set: &DaemonSet,
        nodes: &[String],
        hash: &str,
    ) -> Vec<Result<(), Error>> {
        burst::slow_start(nodes.len(), |n| async move {
            let pod = placement::pod_for(set, &nodes[n], hash);
            match self.pods.create(&pod).await {
                Ok(pod) => {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    self.events
                        .normal(set, "SuccessfulCreate", format!("Created pod: {name}"));
                    Ok(())
                }
                Err(error) => {
                    if !error.is_namespace_terminating() {
                        let text = format!("Error creating: {}", error.message());
                        self.events.warning(set, "FailedCreate", text);
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    async fn delete(&self, set: &DaemonSet, pod: &Pod) -> Result<(), Error> {
        self.pods.delete(pod, Deletion::default()).await?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.events
            .normal(set, "SuccessfulDelete", format!("Deleted pod: {name}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
