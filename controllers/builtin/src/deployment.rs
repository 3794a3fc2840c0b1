//! Deployment: brings pods from one template to the next, at the pace its strategy allows, and keeps the way back.
//!
//! One plan makes one step (create the new set, scale it, scale the old ones); the change of the sets that follows
//! wakes the next. Never more pods than replicas + maxSurge are asked for, never fewer than replicas − maxUnavailable
//! are left available, and no set is touched that the Deployment does not control.
//!
//! ```text
//! claim sets ─▶ pick the new one ─▶ paused? scaled? ─▶ recreate / rolling update ─▶ clean up ─▶ status
//! ```

mod revision;
mod rollout;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet};
use corral_api::k8s::api::core::v1::Pod;
use corral_api::meta::controller_of;
use corral_api::selector::LabelSelector;
use corral_runtime::key::uid_of;
use corral_runtime::objects::Deletion;
use corral_runtime::{Action, Change, Controller, Error, ObjectKey, Objects, Reconciler, Recorder};
use jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::ownership::{self, Claims};
use crate::pods;

pub use revision::{same_template, template_hash};

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub deployment: Arc<Deployment>,
    pub candidates: Vec<Arc<ReplicaSet>>,
    /// Pods that have not ended, by the uid of their set; only needed to recreate.
    pub running: BTreeMap<String, usize>,
}

/// A set with what is to become of it.
#[derive(Debug, Clone)]
pub struct Set {
    pub set: Arc<ReplicaSet>,
    /// Replicas that it shall have.
    pub replicas: i32,
    /// Annotations that it shall have beside its own.
    pub annotations: BTreeMap<String, String>,
    pub min_ready_seconds: Option<i32>,
}

impl Set {
    fn new(set: Arc<ReplicaSet>) -> Self {
        let replicas = spec_replicas(&set);
        let min_ready_seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        Self {
            set,
            replicas,
            annotations: BTreeMap::new(),
            min_ready_seconds,
        }
    }

    fn available(&self) -> i32 {
        self.set
            .status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0)
    }

    /// Whether the set differs from what it shall be.
    fn is_changed(&self) -> bool {
        let spec = self.set.spec.as_ref();
        let known = self.set.metadata.annotations.as_ref();
        self.replicas != spec_replicas(&self.set)
            || self.min_ready_seconds != spec.and_then(|spec| spec.min_ready_seconds)
            || self
                .annotations
                .iter()
                .any(|(key, value)| known.and_then(|k| k.get(key)) != Some(value))
    }
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    pub claims: Claims<ReplicaSet>,
    /// The set for the present template, if there is none yet.
    pub create: Option<ReplicaSet>,
    /// Sets to be changed.
    pub update: Vec<Set>,
    /// Old sets past the revision history limit.
    pub delete: Vec<Arc<ReplicaSet>>,
    /// The Deployment's own revision, if it is to change.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    pub look_again: Option<Timestamp>,
}

pub(crate) fn spec_replicas(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let deployment = &*world.deployment;
    let spec = deployment.spec.clone().unwrap_or_default();
    let selector = LabelSelector::from_object(Some(&spec.selector))
        .unwrap_or_else(|_| LabelSelector::nothing());
    let claims = ownership::claim(
        &deployment.metadata,
        &selector,
        world.candidates.iter().cloned(),
    );
    let mut sets: Vec<Set> = claims.held().cloned().map(Set::new).collect();
    sets.sort_by_key(|set| {
        (
            set.set.metadata.creation_timestamp.clone(),
            set.set.metadata.name.clone(),
        )
    });
    let new = sets
        .iter()
        .position(|set| same_template(&set.set, &spec.template))
        .map(|at| sets.remove(at));
    let mut rollout = rollout::Rollout {
        deployment,
        spec: &spec,
        new,
        old: sets,
        create: None,
        delete: Vec::new(),
    };

    let mut revision = None;
    if !pods::is_deleted(&deployment.metadata) && selector_is_usable(&spec) {
        revision = rollout.step(&world.running);
    }
    let (status, look_again) = status::of(&rollout, now);
    let rollout::Rollout {
        new,
        old,
        create,
        delete,
        ..
    } = rollout;
    let update = new.into_iter().chain(old).filter(Set::is_changed).collect();
    Plan {
        claims,
        create,
        update,
        delete,
        revision,
        status,
        look_again,
    }
}

/// A selector that selects everything would make a Deployment grab every pod.
fn selector_is_usable(spec: &DeploymentSpec) -> bool {
    let selector = &spec.selector;
    selector
        .match_labels
        .as_ref()
        .is_some_and(|labels| !labels.is_empty())
        || selector
            .match_expressions
            .as_ref()
            .is_some_and(|expressions| !expressions.is_empty())
}

/// The controller.
struct Deployments {
    deployments: Objects<Deployment>,
    sets: Objects<ReplicaSet>,
    pods: Objects<Pod>,
    events: Recorder,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "deployment-controller";
    let deployments = context.objects::<Deployment>(name);
    let (sets, pods) = (
        context.objects::<ReplicaSet>(name),
        context.objects::<Pod>(name),
    );
    ownership::index_orphans(sets.cache());
    let (owners, set_cache) = (deployments.cache().clone(), sets.cache().clone());
    let controller = Controller::new("deployment")
        .watch(deployments.cache())
        .owned(sets.cache(), "Deployment")
        .map(sets.cache(), move |change| adopters(&owners, change))
        .map(pods.cache(), move |change| {
            recreating_owner(&set_cache, change)
        });
    let reconciler = Deployments {
        deployments,
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

/// The Deployments whose selector matches a set that nobody controls.
fn adopters(
    deployments: &corral_runtime::Cache<Deployment>,
    change: &Change<ReplicaSet>,
) -> Vec<ObjectKey> {
    let meta = &change.latest().metadata;
    if controller_of(meta).is_some() || meta.labels.is_none() {
        return Vec::new();
    }
    let in_namespace = deployments.in_namespace(meta.namespace.as_deref().unwrap_or_default());
    let matching = in_namespace.iter().filter(|deployment| {
        let selector =
            LabelSelector::from_object(deployment.spec.as_ref().map(|spec| &spec.selector));
        selector.is_ok_and(|selector| selector.matches_opt(meta.labels.as_ref()))
    });
    matching
        .map(|deployment| ObjectKey::of(&deployment.metadata))
        .collect()
}

/// A Deployment that recreates waits for pods to be gone, which its sets' status alone does not tell.
fn recreating_owner(
    sets: &corral_runtime::Cache<ReplicaSet>,
    change: &Change<Pod>,
) -> Vec<ObjectKey> {
    let pod = change.latest();
    let ended = matches!(change, Change::Deleted(_)) || pods::is_terminal(pod);
    let owner = controller_of(&pod.metadata).filter(|owner| ended && owner.kind == "ReplicaSet");
    let set = owner.and_then(|owner| sets.get(&ObjectKey::of_owner(&pod.metadata, owner)));
    let above = set.as_ref().and_then(|set| {
        let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
        Some(ObjectKey::of_owner(&set.metadata, owner))
    });
    above.into_iter().collect()
}

#[async_trait]
impl Reconciler for Deployments {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let deployment = self.deployments.get(key)?;
        let candidates = ownership::candidates(self.sets.cache(), &deployment.metadata);
        let strategy = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.strategy.as_ref());
        let mut running = BTreeMap::new();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            for set in &candidates {
                let uid = uid_of(&set.metadata);
                let pods = self.pods.cache().owned_by(uid);
                running.insert(
                    uid.to_owned(),
                    pods.iter().filter(|pod| !pods::is_terminal(pod)).count(),
                );
            }
        }
        Some(World {
            deployment,
            candidates,
            running,
        })
    }

    fn plan(&self, world: &World, now: Timestamp) -> Plan {
        plan(world, now)
    }

    async fn apply(&self, world: &World, plan: Plan, now: Timestamp) -> Result<Action, Error> {
        let deployment = Arc::clone(&world.deployment);
        ownership::apply_claims(&self.deployments, &deployment, &self.sets, &plan.claims).await?;
        let mut status = plan.status;
        let mut outcomes = Vec::new();
        if let Some(set) = plan.create {
            outcomes.push(self.create(&deployment, &set, &mut status, now).await);
        }
        for set in &plan.update {
            outcomes.push(self.update(&deployment, set).await);
        }
        for set in &plan.delete {
            let how = Deletion {
                at_revision: true,
                ..Deletion::default()
            };
            outcomes.push(self.sets.delete(set, how).await);
        }
        if plan.revision.is_some() || deployment.status.as_ref() != Some(&status) {
            let mut written = (*deployment).clone();
            if let Some(revision) = plan.revision {
                // With the status, which leaves `generation` as it is.
                let annotations = written.metadata.annotations.get_or_insert_default();
                annotations.insert(revision::REVISION.into(), revision);
            }
            written.status = Some(status);
            let outcome = self.deployments.replace_status(&written).await.map(drop);
            outcomes.push(ownership::gone_is_fine(outcome));
        }
        Error::collect(outcomes)?;
        Ok(Action::at(plan.look_again, now))
    }
}

impl Deployments {
    async fn create(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        status: &mut DeploymentStatus,
        now: Timestamp,
    ) -> Result<(), Error> {
        let replicas = spec_replicas(set);
        match self.sets.create(set).await {
            Ok(_) => {
                self.scaled(deployment, set, 0, replicas);
                Ok(())
            }
            Err(error) if error.is_already_exists() => {
                self.taken(deployment, set, status).await;
                Err(error)
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let text = format!(
                    "Failed to create new replica set {name:?}: {}",
                    error.message()
                );
                self.events
                    .warning(deployment, "ReplicaSetCreateError", text.clone());
                status::progressing(status, "False", "ReplicaSetCreateError", text, now);
                Err(error)
            }
        }
    }

    /// The name of the new set is in use. If by our own set (a cache that lags), waiting is enough; otherwise the hash
    /// must come out differently next time.
    async fn taken(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        status: &mut DeploymentStatus,
    ) {
        let Ok(Some(live)) = self.sets.get_live(&ObjectKey::of(&set.metadata)).await else {
            return;
        };
        let ours = controller_of(&live.metadata)
            .is_some_and(|owner| owner.uid == uid_of(&deployment.metadata));
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        if !(ours && template.is_some_and(|template| same_template(&live, template))) {
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        }
    }

    async fn update(&self, deployment: &Deployment, set: &Set) -> Result<(), Error> {
        let patch = json!({
            "metadata": {"annotations": set.annotations},
            "spec": {"replicas": set.replicas, "minReadySeconds": set.min_ready_seconds},
        });
        self.sets.patch(&set.set, patch).await?;
        self.scaled(deployment, &set.set, spec_replicas(&set.set), set.replicas);
        Ok(())
    }

    fn scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32, to: i32) {
        if from != to {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let way = if to > from { "up" } else { "down" };
            let text = format!("Scaled {way} replica set {name} from {from} to {to}");
            self.events.normal(deployment, "ScalingReplicaSet", text);
        }
    }
}

#[cfg(test)]
mod tests;
