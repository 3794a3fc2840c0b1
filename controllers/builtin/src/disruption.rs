//! PodDisruptionBudget: tells how many pods of a selection may be evicted now.
//!
//! The API server counts down with each eviction and notes the pod; this controller counts anew, and takes back a note
//! whose pod is not deleted in time. It never evicts anything itself.

mod scale;
mod stale;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use corral_api::disruption;
use corral_api::int_or_string::{IntOrString, Rounding, scaled};
use corral_api::k8s::api::core::v1::Pod;
use corral_api::k8s::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use corral_api::selector::LabelSelector;
use corral_api::time::Time;
use corral_runtime::{
    Action, Cache, Change, Controller, Error, ObjectKey, Objects, Reconciler, Recorder,
};
use jiff::Timestamp;

use self::scale::{Scale, Scales};
use crate::context::Context;
use crate::ownership;
use crate::pods;
use crate::replicaset::number;

const UNMANAGED: &str = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of \
                         the PDB cannot be calculated correctly, which may result in undefined behavior. To account for \
                         these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods that the budget is about, each with what is known about the scale of its controller.
    pub pods: Vec<(Arc<Pod>, Scale)>,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    pub status: PodDisruptionBudgetStatus,
    pub warnings: Vec<(&'static str, String)>,
    /// Pods that were evicted and are still there.
    pub not_deleted: Vec<Arc<Pod>>,
    pub look_again: Option<Timestamp>,
}

/// The pods wanted, those that must be healthy, and whether some have no controller.
struct Expected {
    pods: i32,
    healthy: i32,
    unmanaged: bool,
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let budget = &world.budget;
    let old = budget.status.clone().unwrap_or_default();
    let spec = budget.spec.clone().unwrap_or_default();
    let mut plan = Plan {
        status: old.clone(),
        warnings: Vec::new(),
        not_deleted: Vec::new(),
        look_again: None,
    };
    let expected = match expected(&spec, &world.pods) {
        Ok(expected) => expected,
        Err(why) => {
            // What is not known is not allowed.
            plan.status.disruptions_allowed = Some(0);
            disruption::set_condition(
                &mut plan.status,
                "False",
                disruption::SYNC_FAILED,
                why.clone(),
                now,
            );
            let text = format!("Failed to calculate the number of expected pods: {why}");
            plan.warnings
                .push(("CalculateExpectedPodCountFailed", text));
            return plan;
        }
    };
    if expected.unmanaged {
        plan.warnings.push(("UnmanagedPods", UNMANAGED.to_owned()));
    }
    let disrupted = still_disrupted(&mut plan, &old, &world.pods, now);
    let healthy = world.pods.iter().filter(|(pod, _)| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        !pods::is_deleted(&pod.metadata) && !disrupted.contains_key(name) && pods::is_ready(pod)
    });
    let healthy = number(healthy.count());
    let allowed = if expected.pods > 0 {
        (healthy - expected.healthy).max(0)
    } else {
        // Pods that come later are not to be evicted before they have been counted.
        0
    };
    plan.status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: old.conditions,
    };
    disruption::set_allowed(&mut plan.status, now);
    plan
}

fn expected(
    spec: &PodDisruptionBudgetSpec,
    pods: &[(Arc<Pod>, Scale)],
) -> Result<Expected, String> {
    let (limit, is_missing) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(limit), _) => (limit, true),
        (None, Some(IntOrString::Int(healthy))) => {
            return Ok(Expected {
                pods: number(pods.len()),
                healthy: *healthy,
                unmanaged: false,
            });
        }
        (None, Some(limit)) => (limit, false),
        (None, None) => {
            return Ok(Expected {
                pods: 0,
                healthy: 0,
                unmanaged: false,
            });
        }
    };
    let (mut scales, mut unmanaged) = (BTreeMap::new(), false);
    for (pod, scale) in pods {
        match scale {
            Scale::Unmanaged => unmanaged = true,
            Scale::Of { uid, replicas } => {
                scales.insert(uid, *replicas);
            }
            Scale::Unknown => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                return Err(format!("found no controllers for pod {name:?}"));
            }
        }
    }
    let wanted: i32 = scales.values().sum();
    let n = scaled(limit, wanted, Rounding::Up)?;
    let healthy = if is_missing { (wanted - n).max(0) } else { n };
    Ok(Expected {
        pods: wanted,
        healthy,
        unmanaged,
    })
}

/// The noted evictions whose pods are still expected to go.
fn still_disrupted(
    plan: &mut Plan,
    old: &PodDisruptionBudgetStatus,
    pods: &[(Arc<Pod>, Scale)],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let mut left = BTreeMap::new();
    let noted = old.disrupted_pods.clone().unwrap_or_default();
    for (pod, _) in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(since) = noted.get(name) else {
            continue;
        };
        if pods::is_deleted(&pod.metadata) {
            continue;
        }
        let until = since.0 + disruption::DELETION_TIMEOUT;
        if until < now {
            plan.not_deleted.push(Arc::clone(pod));
        } else {
            plan.look_again = plan.look_again.into_iter().chain([until]).min();
            left.insert(name.to_owned(), since.clone());
        }
    }
    left
}

fn selector(budget: &PodDisruptionBudget) -> LabelSelector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    LabelSelector::from_object(selector).unwrap_or_else(|_| LabelSelector::nothing())
}

struct Budgets {
    budgets: Objects<PodDisruptionBudget>,
    pods: Cache<Pod>,
    scales: Scales,
    events: Recorder,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "disruption-controller";
    let budgets = context.objects::<PodDisruptionBudget>(name);
    let pods = context.objects::<Pod>(name);
    let scales = Scales::new(context, name);
    let known = budgets.cache().clone();
    let controller = Controller::new("disruption")
        .watch(budgets.cache())
        .map(pods.cache(), move |change| about(&known, change));
    let controller = scales.needed_by(controller);
    let reconciler = Budgets {
        budgets,
        pods: pods.cache().clone(),
        scales,
        events: context.recorder_signed(name, "controllermanager"),
    };
    controller.run_planned(
        reconciler,
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
    stale::start(context, pods);
}

/// The budgets that are about a pod, or were.
fn about(budgets: &Cache<PodDisruptionBudget>, change: &Change<Pod>) -> Vec<ObjectKey> {
    let namespace = change.latest().metadata.namespace.as_deref();
    let budgets = budgets.in_namespace(namespace.unwrap_or_default());
    let concerned = budgets.iter().filter(|budget| {
        let selector = selector(budget);
        let mut states = change.states();
        states.any(|pod| selector.matches_opt(pod.metadata.labels.as_ref()))
    });
    concerned
        .map(|budget| ObjectKey::of(&budget.metadata))
        .collect()
}

#[async_trait]
impl Reconciler for Budgets {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let budget = self.budgets.get(key)?;
        let selector = selector(&budget);
        let in_namespace = self.pods.in_namespace(&key.namespace).into_iter();
        let pods = in_namespace
            .filter(|pod| selector.matches_opt(pod.metadata.labels.as_ref()))
            .map(|pod| {
                let scale = self.scales.of(&pod);
                (pod, scale)
            });
        let pods = pods.collect();
        Some(World { budget, pods })
    }

    fn plan(&self, world: &World, now: Timestamp) -> Plan {
        plan(world, now)
    }

    async fn apply(&self, world: &World, plan: Plan, now: Timestamp) -> Result<Action, Error> {
        let budget = &*world.budget;
        if world.pods.is_empty() {
            self.events
                .normal(budget, "NoPods", "No matching pods found");
        }
        for (reason, text) in plan.warnings {
            self.events.warning(budget, reason, text);
        }
        for pod in &plan.not_deleted {
            let key = ObjectKey::of(&budget.metadata);
            let text = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.events.warning(&**pod, "NotDeleted", text);
        }
        if budget.status.as_ref() != Some(&plan.status) {
            // At the version observed: an eviction meanwhile means that it is counted anew.
            let written = PodDisruptionBudget {
                status: Some(plan.status),
                ..budget.clone()
            };
            ownership::gone_is_fine(self.budgets.replace_status(&written).await.map(drop))?;
        }
        Ok(Action::at(plan.look_again, now))
    }
}

#[cfg(test)]
mod tests;
