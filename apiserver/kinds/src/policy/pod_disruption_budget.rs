//! `PodDisruptionBudget`: how many pods of a selection may be missing at a time because somebody moves load away.

use corral_api::field::FieldError;
use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::conditions;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json};

/// `policy/v1 PodDisruptionBudget`.
pub struct PodDisruptionBudgetKind;

impl Kind for PodDisruptionBudgetKind {
    type Object = PodDisruptionBudget;

    const NAMES: Names<'static> = Names {
        group: "policy",
        version: "v1",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short_names: Words::Of(&["pdb"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    // Kubernetes has no rule for it beyond those of a URL.
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn prepare_create(budget: &mut PodDisruptionBudget) {
        budget.status = Some(PodDisruptionBudgetStatus::default());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Min Available", "Pods that must be there."),
            Column::text("Max Unavailable", "Pods that may be missing."),
            Column::integer(
                "Allowed Disruptions",
                "Pods that may be evicted at this time.",
            ),
            Column::AGE,
        ]
    }

    fn cells(budget: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let spec = budget.spec.as_ref();
        let status = budget.status.as_ref();
        let text = |value: Option<&IntOrString>| match value {
            Some(IntOrString::Int(n)) => n.to_string(),
            Some(IntOrString::String(text)) => text.clone(),
            None => "N/A".to_owned(),
        };
        vec![
            budget.metadata.name.clone().into(),
            text(spec.and_then(|s| s.min_available.as_ref())).into(),
            text(spec.and_then(|s| s.max_unavailable.as_ref())).into(),
            status
                .and_then(|s| s.disruptions_allowed)
                .unwrap_or(0)
                .into(),
            age(&budget.metadata, now),
        ]
    }

    fn validate(budget: &PodDisruptionBudget) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(spec) = &budget.spec else {
            return errors;
        };
        let path = at("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid(&path, json(spec), detail));
        }
        for (field, value) in [
            ("minAvailable", &spec.min_available),
            ("maxUnavailable", &spec.max_unavailable),
        ] {
            if let Some(value) = value {
                let path = path.child(field);
                rules::int_or_percent(&mut errors, &path, value);
                rules::at_most_100_percent(&mut errors, &path, value);
            }
        }
        if let Some(selector) = &spec.selector {
            rules::label_selector(&mut errors, &path.child("selector"), selector);
        }
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            let path = path.child("unhealthyPodEvictionPolicy");
            let allowed = ["AlwaysAllow", "IfHealthyBudget"];
            rules::supported(&mut errors, &path, policy, &allowed);
        }
        errors
    }

    fn validate_status_update(
        new: &PodDisruptionBudget,
        _old: &PodDisruptionBudget,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(status) = &new.status else {
            return errors;
        };
        let path = at("status");
        let conditions = status.conditions.as_deref().unwrap_or_default();
        conditions::validate(&mut errors, &path.child("conditions"), conditions);
        for (field, n) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            rules::nonnegative_opt(&mut errors, &path.child(field), n);
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn budget(spec: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"spec": spec})).expect("a budget")
    }

    #[test]
    fn limits_are_numbers_or_percentages_up_to_100_and_not_both() {
        let complaints = |spec| texts(&PodDisruptionBudgetKind::validate(&budget(spec)));
        assert!(complaints(json!({"minAvailable": "100%"})).is_empty());
        assert_eq!(
            complaints(json!({"maxUnavailable": "101%"})),
            ["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"]
        );
        let both = complaints(json!({"minAvailable": 1, "maxUnavailable": 1}));
        assert_eq!(both.len(), 1);
        assert!(both[0].ends_with("minAvailable and maxUnavailable cannot be both set"));
    }

    #[test]
    fn the_row_tells_what_is_not_set() {
        let budget = budget(json!({"minAvailable": "50%"}));
        let cells = PodDisruptionBudgetKind::cells(&budget, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..4], [json!("50%"), json!("N/A"), json!(0)]);
    }
}
