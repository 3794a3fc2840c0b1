//! What PodDisruptionBudgets say to an eviction.

use std::sync::Arc;

use corral_api::disruption;
use corral_api::k8s::api::core::v1::Pod;
use corral_api::k8s::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use corral_api::selector::LabelSelector;
use corral_api::status::{Status, StatusCause, StatusReason};
use corral_api::time::{Time, truncate_to_seconds};
use corral_storage::Key;
use serde_json::Value;

use crate::handlers::Call;
use crate::registry::{Ownership, Part, Resource, WriteContext, metadata};

/// Evictions that the controller has not confirmed, as in Kubernetes.
const DISRUPTED_PODS_MAX: usize = 2000;
/// Seconds after which an eviction may be tried again whose budget has not been looked at yet.
const RETRY_SECONDS: u32 = 10;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// The server writes the status itself, under the name that tools know it by.
const MANAGER: &str = "kube-apiserver";

/// Whether the pod may go.
pub(super) enum Verdict {
    /// No budget is about it, or it has been taken from the budget.
    Go,
    /// It does not count as long as it is as it was seen: unready.
    GoAsSeen { budget: String },
}

/// Looks for the budget of a pod and takes the pod from it.
pub(super) async fn take(call: &Call, cx: &WriteContext, pod: &Pod) -> Result<Verdict, Status> {
    let budgets = call
        .shared
        .api
        .resource("policy", "poddisruptionbudgets")
        .ok_or_else(Status::no_such_path)?;
    let mut matching = matching(budgets, &cx.namespace, pod).await?;
    let Some(budget) = matching.pop() else {
        return Ok(Verdict::Go);
    };
    if !matching.is_empty() {
        return Err(Status::failure(
            500,
            StatusReason::Unknown,
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    let name = budget.metadata.name.clone().unwrap_or_default();
    if !is_ready(pod) && spares_unready(&budget) {
        return Ok(Verdict::GoAsSeen { budget: name });
    }
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let own = WriteContext {
        user: cx.user.clone(),
        namespace: cx.namespace.clone(),
        manager: MANAGER.to_owned(),
        dry_run: cx.dry_run,
        validation: cx.validation,
        now: cx.now,
        warnings: Default::default(),
        asked: cx.asked.clone(),
        audit: Default::default(),
    };
    let change = |live: &Value| {
        let mut budget: PodDisruptionBudget =
            serde_json::from_value(live.clone()).map_err(Status::internal)?;
        claim(&mut budget, &pod_name, cx.now)?;
        let mut changed = live.clone();
        changed["status"] = serde_json::to_value(&budget.status).map_err(Status::internal)?;
        metadata::drop_live_version(&mut changed, live);
        Ok((changed, Ownership::Update))
    };
    // Whoever comes first gets it: the change is computed anew from whatever is there after a conflict.
    budgets
        .update(&own, &name, Part::Status, "status", &change)
        .await?;
    Ok(Verdict::Go)
}

/// The budgets that are about a pod.
async fn matching(
    budgets: &Arc<Resource>,
    namespace: &str,
    pod: &Pod,
) -> Result<Vec<PodDisruptionBudget>, Status> {
    let snapshot = budgets.cacher.fresh().await?;
    let prefix = format!("{}{namespace}/", budgets.cacher.prefix());
    let in_namespace = snapshot
        .objects
        .range(Key::new(prefix.clone())..)
        .take_while(|(key, _)| key.as_str().starts_with(&prefix));
    let mut found = Vec::new();
    for (_, stored) in in_namespace {
        let value = stored.value().map_err(Status::internal)?;
        let budget: PodDisruptionBudget =
            serde_json::from_value(value).map_err(Status::internal)?;
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = LabelSelector::from_object(selector);
        if selector.is_ok_and(|selector| selector.matches_opt(pod.metadata.labels.as_ref())) {
            found.push(budget);
        }
    }
    Ok(found)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a pod that is not ready may go without being taken from the budget.
fn spares_unready(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    let policy = spec.and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let desired = status.desired_healthy.unwrap_or(0);
    policy == Some("AlwaysAllow") || (desired > 0 && status.current_healthy.unwrap_or(0) >= desired)
}

/// Takes one pod from what the budget allows.
fn claim(budget: &mut PodDisruptionBudget, pod: &str, now: jiff::Timestamp) -> Result<(), Status> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    if status.observed_generation.unwrap_or(0) < generation {
        return Err(still_processing(&name));
    }
    let forbidden = |why| Status::forbidden("policy", "poddisruptionbudget", &name, why);
    let allowed = status.disruptions_allowed.unwrap_or(0);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let disrupted = status.disrupted_pods.get_or_insert_default();
    if disrupted.len() > DISRUPTED_PODS_MAX {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(refused(0, why_not(&name, status)));
    }
    disrupted.insert(pod.to_owned(), Time(truncate_to_seconds(now)));
    status.disruptions_allowed = Some(allowed - 1);
    if allowed == 1 {
        disruption::set_allowed(status, now);
    }
    Ok(())
}

fn why_not(name: &str, status: &PodDisruptionBudgetStatus) -> String {
    let conditions = status.conditions.iter().flatten();
    let mut told = conditions.filter(|condition| {
        condition.type_ == disruption::ALLOWED
            && condition.status == "False"
            && !condition.message.is_empty()
    });
    let told = told.next();
    let (current, desired) = (
        status.current_healthy.unwrap_or(0),
        status.desired_healthy.unwrap_or(0),
    );
    match told {
        Some(condition) if condition.reason == disruption::SYNC_FAILED => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            condition.message
        ),
        _ if current <= desired => format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        ),
        Some(condition) => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {}",
            condition.reason, condition.message
        ),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// 429: the controller has not looked at the budget yet, or the pod changed meanwhile.
pub(super) fn still_processing(name: &str) -> Status {
    let why = format!("The disruption budget {name} is still being processed by the server.");
    refused(RETRY_SECONDS, why)
}

fn refused(retry_after_seconds: u32, why: String) -> Status {
    let mut status = Status::too_many_requests(REFUSED, retry_after_seconds);
    let details = status.details.get_or_insert_default();
    details.causes.push(StatusCause {
        reason: "DisruptionBudget".to_owned(),
        message: why,
        field: String::new(),
    });
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget(status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({
            "metadata": {"name": "b", "generation": 1}, "spec": {}, "status": status,
        }))
        .expect("a budget")
    }

    fn cause(status: &Status) -> &str {
        &status.details.as_ref().expect("has some").causes[0].message
    }

    #[test]
    fn a_claim_counts_down_and_is_noted() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut budget = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 1}));
        assert!(claim(&mut budget, "p", now).is_ok());
        let status = budget.status.clone().expect("has one");
        assert_eq!(status.disruptions_allowed, Some(0));
        assert!(
            status
                .disrupted_pods
                .is_some_and(|pods| pods.contains_key("p"))
        );
        let refused = claim(&mut budget, "q", now).expect_err("nothing is left");
        assert_eq!(refused.code, 429);
        assert_eq!(
            cause(&refused),
            "The disruption budget b needs 0 healthy pods and has 0 currently"
        );
    }

    #[test]
    fn a_budget_that_nobody_has_looked_at_allows_nothing_yet() {
        let mut budget = budget(json!({"disruptionsAllowed": 5}));
        let refused = claim(&mut budget, "p", jiff::Timestamp::UNIX_EPOCH).expect_err("too early");
        let details = refused.details.as_ref().expect("has some");
        assert_eq!(details.retry_after_seconds, RETRY_SECONDS);
        assert!(cause(&refused).ends_with("is still being processed by the server."));
    }

    #[test]
    fn an_unready_pod_goes_when_enough_others_are_healthy_or_the_policy_says_so() {
        let healthy = budget(json!({"desiredHealthy": 2, "currentHealthy": 2}));
        assert!(spares_unready(&healthy));
        let mut short = budget(json!({"desiredHealthy": 2, "currentHealthy": 1}));
        assert!(!spares_unready(&short));
        let spec = short.spec.get_or_insert_default();
        spec.unhealthy_pod_eviction_policy = Some("AlwaysAllow".into());
        assert!(spares_unready(&short));
        assert!(!spares_unready(&budget(json!({}))));
    }
}
