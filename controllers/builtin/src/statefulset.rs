//! StatefulSet: pods with names that stay, made and removed in order.
//!
//! Promises never to have two pods of one name, to make the next pod only when those before it are available (unless
//! `podManagementPolicy` is `Parallel`), and to replace one at a time, from the last. Claims for volumes are not made.

mod identity;
mod revisions;

use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::apps::v1::{
    ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use corral_api::k8s::api::core::v1::Pod;
use corral_api::selector::LabelSelector;
use corral_runtime::objects::Deletion;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler, Recorder, burst};
use jiff::Timestamp;

use self::revisions::Revisions;
use crate::context::Context;
use crate::history::{self, Recorded};
use crate::ownership::{self, Claims};
use crate::pods;
use crate::replicaset::{nonzero, number};

/// Pods created or deleted in one go, so that one huge set does not starve the others.
const BURST_MAX: usize = 500;

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub set: Arc<StatefulSet>,
    pub candidates: Vec<Arc<Pod>>,
    pub revisions: Vec<Arc<ControllerRevision>>,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    pub claims: Claims<Pod>,
    pub revisions: Revisions,
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that have lost the labels that tell who they are.
    pub name: Vec<Arc<Pod>>,
    pub status: StatefulSetStatus,
    pub look_again: Option<Timestamp>,
}

/// The pods of a set by what becomes of them.
struct Places {
    /// By ordinal from the first; those that are not there are none.
    replicas: Vec<(i32, Option<Arc<Pod>>)>,
    /// Beyond the range of ordinals, highest first.
    condemned: Vec<Arc<Pod>>,
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let set = &world.set;
    let spec = set.spec.clone().unwrap_or_default();
    let selector = LabelSelector::from_object(Some(&spec.selector))
        .unwrap_or_else(|_| LabelSelector::nothing());
    let named = |pod: &&Arc<Pod>| identity::ordinal(set, pod).is_some();
    let candidates = world.candidates.iter().filter(named).cloned();
    let claims = ownership::claim(&set.metadata, &selector, candidates);
    let revisions = revisions::plan(set, &selector, &world.revisions, &claims);
    let places = places(set, &spec, &claims);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let look_again = pods::next_available(claims.held().map(|pod| &**pod), min_ready, now);
    let status = status(set, &spec, &claims, &revisions, now);
    let mut plan = Plan {
        claims,
        revisions,
        create: Vec::new(),
        delete: Vec::new(),
        name: Vec::new(),
        status,
        look_again,
    };
    if pods::is_deleted(&set.metadata) || selector.is_everything() {
        return plan;
    }
    let is_done = if spec.pod_management_policy.as_deref() == Some("Parallel") {
        all_at_once(&mut plan, set, &places);
        true
    } else {
        one_by_one(&mut plan, set, &spec, &places, now)
    };
    if is_done {
        update(&mut plan, &spec, &places, now);
    }
    plan.create.truncate(BURST_MAX);
    plan.delete.truncate(BURST_MAX);
    plan
}

fn places(set: &StatefulSet, spec: &StatefulSetSpec, claims: &Claims<Pod>) -> Places {
    let start = identity::start(spec);
    let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1));
    let mut replicas: Vec<_> = wanted.clone().map(|ordinal| (ordinal, None)).collect();
    let mut condemned = Vec::new();
    for pod in claims.held() {
        let Some(ordinal) = identity::ordinal(set, pod) else {
            continue;
        };
        let place = usize::try_from(ordinal - start).ok();
        match place.and_then(|place| replicas.get_mut(place)) {
            Some((_, slot)) => *slot = Some(Arc::clone(pod)),
            None => condemned.push((ordinal, Arc::clone(pod))),
        }
    }
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    Places {
        replicas,
        condemned: condemned.into_iter().map(|(_, pod)| pod).collect(),
    }
}

fn is_available(pod: &Pod, spec: &StatefulSetSpec, now: Timestamp) -> bool {
    pods::phase(pod) == "Running"
        && pods::is_available(pod, spec.min_ready_seconds.unwrap_or(0), now)
        && !pods::is_deleted(&pod.metadata)
}

/// The next step of an ordered set; whether there is none.
fn one_by_one(
    plan: &mut Plan,
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    places: &Places,
    now: Timestamp,
) -> bool {
    for (ordinal, place) in &places.replicas {
        let Some(pod) = place else {
            plan.create.push(new_pod(plan, set, *ordinal));
            return false;
        };
        if pods::is_terminal(pod) {
            remove(plan, pod);
            return false;
        }
        if !is_available(pod, spec, now) {
            return false;
        }
        name(plan, set, pod);
    }
    // Here all replicas are available, so that only a condemned pod can be the first that is not.
    let mut from_lowest = places.condemned.iter().rev();
    let first_unhealthy = from_lowest.find(|pod| !is_available(pod, spec, now));
    if let Some(pod) = places.condemned.first() {
        let is_first = first_unhealthy.is_some_and(|first| Arc::ptr_eq(first, pod));
        if is_first || is_available(pod, spec, now) {
            remove(plan, pod);
        }
        return false;
    }
    true
}

fn all_at_once(plan: &mut Plan, set: &StatefulSet, places: &Places) {
    for (ordinal, place) in &places.replicas {
        match place {
            None => plan.create.push(new_pod(plan, set, *ordinal)),
            Some(pod) if pods::is_terminal(pod) => remove(plan, pod),
            Some(pod) => name(plan, set, pod),
        }
    }
    for pod in &places.condemned {
        remove(plan, pod);
    }
}

/// Replaces the last pod that is of another revision, unless one after it is not available.
fn update(plan: &mut Plan, spec: &StatefulSetSpec, places: &Places, now: Timestamp) {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let partition = usize::try_from(rolling.partition.unwrap_or(0)).unwrap_or(0);
    for (_, place) in places.replicas.iter().skip(partition).rev() {
        let Some(pod) = place else { return };
        let is_new = identity::revision(pod) == Some(&*plan.revisions.update);
        if !is_new && !pods::is_deleted(&pod.metadata) {
            remove(plan, pod);
            return;
        }
        if !is_available(pod, spec, now) {
            return;
        }
    }
}

fn remove(plan: &mut Plan, pod: &Arc<Pod>) {
    let is_planned = plan.delete.iter().any(|other| Arc::ptr_eq(other, pod));
    if !pods::is_deleted(&pod.metadata) && !is_planned {
        plan.delete.push(Arc::clone(pod));
    }
}

fn name(plan: &mut Plan, set: &StatefulSet, pod: &Arc<Pod>) {
    if !identity::is_labelled(set, pod) && !pods::is_deleted(&pod.metadata) {
        plan.name.push(Arc::clone(pod));
    }
}

/// The pod of an ordinal; those below the partition are made as before the update.
fn new_pod(plan: &Plan, set: &StatefulSet, ordinal: i32) -> Pod {
    let spec = set.spec.clone().unwrap_or_default();
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let is_rolling = strategy.type_.as_deref() != Some("OnDelete");
    let kept = match strategy.rolling_update {
        Some(rolling) => rolling.partition.unwrap_or(0),
        None if is_rolling => {
            let status = set.status.as_ref();
            status.and_then(|s| s.current_replicas).unwrap_or(0)
        }
        None => 0,
    };
    let is_kept = ordinal < identity::start(&spec).saturating_add(kept);
    match &plan.revisions.kept {
        Some(template) if is_kept => identity::pod(set, template, ordinal, &plan.revisions.current),
        _ => identity::pod(set, &spec.template, ordinal, &plan.revisions.update),
    }
}

fn status(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    claims: &Claims<Pod>,
    revisions: &Revisions,
    now: Timestamp,
) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let count = |keep: &dyn Fn(&Pod) -> bool| number(claims.held().filter(|pod| keep(pod)).count());
    let is_ready = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let of = |name: &str| {
        count(&|pod| !pods::is_deleted(&pod.metadata) && identity::revision(pod) == Some(name))
    };
    let (replicas, ready) = (count(&|_| true), count(&is_ready));
    let available = count(&|pod| is_ready(pod) && pods::is_available(pod, min_ready, now));
    let updated = of(&revisions.update);
    let wanted = spec.replicas.unwrap_or(1);
    let strategy = spec
        .update_strategy
        .as_ref()
        .and_then(|s| s.type_.as_deref());
    let is_complete = strategy != Some("OnDelete") && [updated, ready, replicas] == [wanted; 3];
    let (current_revision, current) = if is_complete {
        (&revisions.update, updated)
    } else {
        (&revisions.current, of(&revisions.current))
    };
    StatefulSetStatus {
        replicas,
        ready_replicas: nonzero(ready),
        available_replicas: Some(available),
        current_replicas: nonzero(current),
        updated_replicas: nonzero(updated),
        current_revision: Some(current_revision.clone()),
        update_revision: Some(revisions.update.clone()),
        observed_generation: set.metadata.generation,
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    }
}

struct Sets {
    sets: Objects<StatefulSet>,
    revisions: Objects<ControllerRevision>,
    pods: Objects<Pod>,
    events: Recorder,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "statefulset-controller";
    let sets = context.objects::<StatefulSet>(name);
    let pods = context.objects::<Pod>(name);
    let revisions = context.objects::<ControllerRevision>(name);
    ownership::index_orphans(pods.cache());
    ownership::index_orphans(revisions.cache());
    let controller = Controller::new("statefulset")
        .watch(sets.cache())
        .owned(pods.cache(), "StatefulSet")
        .owned(revisions.cache(), "StatefulSet");
    let reconciler = Sets {
        sets,
        revisions,
        pods,
        events: context.recorder(name),
    };
    controller.run_planned(
        reconciler,
        2,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for Sets {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let set = self.sets.get(key)?;
        Some(World {
            candidates: ownership::candidates(self.pods.cache(), &set.metadata),
            revisions: ownership::candidates(self.revisions.cache(), &set.metadata),
            set,
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
            let count = plan.status.collision_count.unwrap_or(0);
            plan.status.collision_count = Some(count + 1);
            self.write_status(set, plan.status).await?;
            return Ok(Action::Done);
        }
        let named = burst::each(&plan.name, |pod| async move {
            let labels = identity::labels_of(pod);
            ownership::gone_is_fine(self.pods.patch(pod, labels).await.map(drop))
        });
        let mut outcomes = named.await;
        outcomes.extend(burst::each(&plan.delete, |pod| self.delete(set, pod)).await);
        outcomes.extend(
            burst::slow_start(plan.create.len(), |n| self.create(set, &plan.create[n])).await,
        );
        self.write_status(set, plan.status).await?;
        match Error::collect(outcomes) {
            Err(error) if error.is_namespace_terminating() => Ok(Action::Done),
            Err(error) => Err(error),
            Ok(_) => Ok(Action::at(plan.look_again, now)),
        }
    }
}

impl Sets {
    async fn record(&self, set: &StatefulSet, steps: &Revisions) -> Result<Recorded, Error> {
        ownership::apply_claims(&self.sets, set, &self.revisions, &steps.claims).await?;
        let recorded = history::record(&self.revisions, &steps.change).await?;
        let gone = burst::each(&steps.delete, |revision| async move {
            self.revisions.delete(revision, Deletion::default()).await
        });
        Error::collect(gone.await)?;
        Ok(recorded)
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let outcome = self.pods.create(pod).await.map(drop);
        self.tell(set, pod, "create", &outcome);
        outcome
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let outcome = self.pods.delete(pod, Deletion::default()).await;
        self.tell(set, pod, "delete", &outcome);
        outcome
    }

    fn tell(&self, set: &StatefulSet, pod: &Pod, verb: &str, outcome: &Result<(), Error>) {
        let of = |meta: &corral_api::meta::ObjectMeta| meta.name.clone().unwrap_or_default();
        let what = format!(
            "{verb} Pod {} in StatefulSet {}",
            of(&pod.metadata),
            of(&set.metadata)
        );
        let is_create = verb == "create";
        match outcome {
            Ok(()) => {
                let reason = if is_create {
                    "SuccessfulCreate"
                } else {
                    "SuccessfulDelete"
                };
                self.events
                    .normal(set, reason, format!("{what} successful"));
            }
            Err(error) if error.is_namespace_terminating() => {}
            Err(error) => {
                let reason = if is_create {
                    "FailedCreate"
                } else {
                    "FailedDelete"
                };
                let text = format!("{what} failed error: {}", error.message());
                self.events.warning(set, reason, text);
            }
        }
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let written = StatefulSet {
            status: Some(status),
            ..set.clone()
        };
        ownership::gone_is_fine(self.sets.replace_status(&written).await.map(drop))
    }
}

#[cfg(test)]
mod tests;
