//! What is wrong with the expressions of a ValidatingAdmissionPolicy, as far as the types of what it matches tell: the
//! warnings in its status.
//!
//! A policy is looked at once per generation, by discovery and the OpenAPI documents of whatever server there is, so that
//! kinds of CustomResourceDefinitions count as others do. Rules and messages are checked, as in Kubernetes; conditions
//! and audit annotations aren't. The status is applied as the stock controller manager applies it: either of the two
//! leaves alone what the other has observed.

mod schemas;
mod warnings;

use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::admissionregistration::v1::{
    ExpressionWarning, ValidatingAdmissionPolicy,
};
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::Context;
use schemas::Schemas;
use warnings::{Kind, Resource};

const NAME: &str = "validatingadmissionpolicy-status-controller";
/// The owner of the fields, by which the stock controller knows its own.
const MANAGER: &str = "validatingadmissionpolicy-status";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub policy: Arc<ValidatingAdmissionPolicy>,
}

/// What has to be looked up to check the policy; nothing when this generation was.
#[derive(Debug, PartialEq)]
pub struct Plan {
    pub lookup: Option<Lookup>,
}

/// The types that matter to a policy.
#[derive(Debug, PartialEq)]
pub struct Lookup {
    /// What each rule matches.
    pub rules: Vec<Vec<Resource>>,
    pub params: Option<Kind>,
}

/// Which types the expressions of the policy are checked against.
pub fn plan(world: &World) -> Plan {
    let policy = &world.policy;
    let observed = policy.status.as_ref().and_then(|s| s.observed_generation);
    let is_new = policy.metadata.generation > Some(observed.unwrap_or(0));
    Plan {
        lookup: is_new.then(|| {
            let spec = policy.spec.clone().unwrap_or_default();
            Lookup {
                rules: warnings::resources(&spec),
                params: spec.param_kind.as_ref().and_then(warnings::params),
            }
        }),
    }
}

fn applied(policy: &ValidatingAdmissionPolicy, warnings: &[ExpressionWarning]) -> Value {
    let mut checking = json!({});
    if !warnings.is_empty() {
        checking["expressionWarnings"] = json!(warnings);
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": policy.metadata.name},
        "status": {"observedGeneration": policy.metadata.generation, "typeChecking": checking},
    })
}

struct PolicyStatus {
    policies: Objects<ValidatingAdmissionPolicy>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let policies = context.objects::<ValidatingAdmissionPolicy>(NAME);
    let controller = Controller::new("validatingadmissionpolicystatus").watch(policies.cache());
    controller.run_planned(
        PolicyStatus { policies },
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for PolicyStatus {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        Some(World {
            policy: self.policies.get(key)?,
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        let Some(lookup) = plan.lookup else {
            return Ok(Action::Done);
        };
        let mut schemas = Schemas::of_server(self.policies.client()).await?;
        let types = schemas.types(&lookup).await?;
        let spec = world.policy.spec.clone().unwrap_or_default();
        // Long expressions and large types take their time, which others on this thread would wait for.
        let checked = tokio::task::spawn_blocking(move || warnings::check(&spec, &types)).await;
        let warnings = match checked {
            Ok(warnings) => warnings,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // The process ends.
            Err(_) => return Ok(Action::Done),
        };
        let fields = applied(&world.policy, &warnings);
        let outcome = self
            .policies
            .apply_status(MANAGER, &*world.policy, &fields)
            .await;
        crate::ownership::gone_is_fine(outcome.map(drop))?;
        Ok(Action::Done)
    }
}
