//! Where a pod may run: tolerations, affinity, spread, gates.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec,
    Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use corral_api::names;

use crate::rules::{self, Errors, Seen, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// What a taint can do.
pub(crate) const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `tolerations`.
pub(crate) fn tolerations(errors: &mut Errors, path: &FieldPath, tolerations: &[Toleration]) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (text(&toleration.key), text(&toleration.value));
        let (operator, effect) = (text(&toleration.operator), text(&toleration.effect));
        let operator_path = path.child("operator");
        if !key.is_empty() {
            rules::complain(errors, &path.child("key"), key, names::qualified_name(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&operator_path, operator, detail));
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                let complaints = names::label_value(value);
                if !complaints.is_empty() {
                    let detail = complaints.join(";");
                    errors.push(FieldError::invalid(&operator_path, value, detail));
                }
            }
            "Exists" if !value.is_empty() => errors.push(FieldError::invalid(
                &operator_path,
                value,
                "value must be empty when `operator` is 'Exists'",
            )),
            "Exists" => {}
            other => {
                let allowed: &[&str] = match other {
                    "Lt" | "Gt" => &["Equal", "Exists", "Lt", "Gt"],
                    _ => &["Equal", "Exists"],
                };
                errors.push(FieldError::not_supported_of(&operator_path, other, allowed));
            }
        }
        if !effect.is_empty() {
            let path = path.child("effect");
            rules::required_in_order(errors, &path, effect, TAINT_EFFECTS);
        }
    }
}

/// `affinity`.
pub(super) fn affinity(errors: &mut Errors, path: &FieldPath, affinity: &Affinity) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            node_selector(errors, &path.child(REQUIRED), required);
        }
        let preferred = node
            .preferred_during_scheduling_ignored_during_execution
            .iter();
        for (index, term) in preferred.flatten().enumerate() {
            let path = path.child(PREFERRED).index(index);
            weight(errors, &path, term.weight);
            node_selector_term(errors, &path.child("preference"), &term.preference, false);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        pod_terms(
            errors,
            &path.child("podAffinity"),
            pod.required_during_scheduling_ignored_during_execution
                .as_deref(),
            pod.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
        );
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        pod_terms(
            errors,
            &path.child("podAntiAffinity"),
            pod.required_during_scheduling_ignored_during_execution
                .as_deref(),
            pod.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
        );
    }
}

fn weight(errors: &mut Errors, path: &FieldPath, weight: i32) {
    if !(1..=100).contains(&weight) {
        let path = path.child("weight");
        errors.push(FieldError::invalid(
            &path,
            weight,
            "must be in the range 1-100",
        ));
    }
}

/// A selector of nodes.
pub(crate) fn node_selector(errors: &mut Errors, path: &FieldPath, selector: &NodeSelector) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(&path, detail));
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(errors, &path.index(index), term, true);
    }
}

fn node_selector_term(
    errors: &mut Errors,
    path: &FieldPath,
    term: &NodeSelectorTerm,
    check_values: bool,
) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        label_requirement(errors, &path, requirement, check_values);
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = path.child("matchFields").index(index);
        field_requirement(errors, &path, requirement);
    }
}

fn label_requirement(
    errors: &mut Errors,
    path: &FieldPath,
    requirement: &NodeSelectorRequirement,
    check_values: bool,
) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            &values_path,
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
            &values_path,
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "Gt" | "Lt" if values.len() != 1 => errors.push(FieldError::required(
            &values_path,
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
    let key = &requirement.key;
    rules::complain(errors, &path.child("key"), key, names::qualified_name(key));
    for (index, value) in values.iter().enumerate().filter(|_| check_values) {
        let complaints = names::label_value(value);
        rules::complain(errors, &values_path.index(index), value, complaints);
    }
}

fn field_requirement(errors: &mut Errors, path: &FieldPath, requirement: &NodeSelectorRequirement) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => errors.push(FieldError::required(
            &path.child("values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        )),
        "In" | "NotIn" => {}
        other => errors.push(FieldError::invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
    if requirement.key != "metadata.name" {
        let detail = "not a valid field selector key";
        let path = path.child("key");
        errors.push(FieldError::invalid(&path, requirement.key.as_str(), detail));
        return;
    }
    for (index, value) in values.iter().enumerate() {
        let path = path.child("values").index(index);
        rules::complain(errors, &path, value, names::dns1123_subdomain(value));
    }
}

fn pod_terms(
    errors: &mut Errors,
    path: &FieldPath,
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
) {
    for (index, term) in required.unwrap_or_default().iter().enumerate() {
        pod_term(errors, &path.child(REQUIRED).index(index), term);
    }
    for (index, term) in preferred.unwrap_or_default().iter().enumerate() {
        let path = path.child(PREFERRED).index(index);
        weight(errors, &path, term.weight);
        pod_term(
            errors,
            &path.child("podAffinityTerm"),
            &term.pod_affinity_term,
        );
    }
}

fn pod_term(errors: &mut Errors, path: &FieldPath, term: &PodAffinityTerm) {
    if let Some(selector) = &term.label_selector {
        rules::label_selector(errors, &path.child("labelSelector"), selector);
    }
    if let Some(selector) = &term.namespace_selector {
        rules::label_selector(errors, &path.child("namespaceSelector"), selector);
    }
    for name in term.namespaces.iter().flatten() {
        let complaints = names::dns1123_label(name);
        rules::complain(errors, &path.child("namespace"), name, complaints);
    }
    let selector = term.label_selector.as_ref();
    let keys = term.match_label_keys.as_deref().unwrap_or_default();
    let mismatch = term.mismatch_label_keys.as_deref().unwrap_or_default();
    label_keys(errors, path, keys, mismatch, selector);
    let key = &term.topology_key;
    let path = path.child("topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(&path, "can not be empty"));
    }
    rules::complain(errors, &path, key, names::qualified_name(key));
}

/// `readinessGates` and `schedulingGates`.
pub(super) fn gates(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path
            .child("readinessGates")
            .index(index)
            .child("conditionType");
        let type_ = &gate.condition_type;
        rules::complain(errors, &path, type_, names::qualified_name(type_));
    }
    let mut seen = Seen::default();
    for (index, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.child("schedulingGates").index(index);
        rules::complain(errors, &path, &gate.name, names::qualified_name(&gate.name));
        seen.check(errors, &path, &gate.name);
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let constraints = spec
        .topology_spread_constraints
        .as_deref()
        .unwrap_or_default();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        spread_constraint(errors, &path, constraint);
        let same = |other: &&TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key
                && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[index + 1..].iter().find(same).is_some() {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            let pair = format!(
                "{{{}, {}}}",
                constraint.topology_key, constraint.when_unsatisfiable
            );
            errors.push(FieldError::duplicate(&path, pair));
        }
    }
}

fn spread_constraint(errors: &mut Errors, path: &FieldPath, constraint: &TopologySpreadConstraint) {
    if constraint.max_skew <= 0 {
        let path = path.child("maxSkew");
        let detail = "must be greater than zero";
        errors.push(FieldError::invalid(&path, constraint.max_skew, detail));
    }
    if constraint.topology_key.is_empty() {
        let path = path.child("topologyKey");
        errors.push(FieldError::required(&path, "can not be empty"));
    }
    rules::supported(
        errors,
        &path.child("whenUnsatisfiable"),
        &constraint.when_unsatisfiable,
        &["DoNotSchedule", "ScheduleAnyway"],
    );
    if let Some(domains) = constraint.min_domains {
        let path = path.child("minDomains");
        if domains <= 0 {
            errors.push(FieldError::invalid(
                &path,
                domains,
                "must be greater than zero",
            ));
        }
        if constraint.when_unsatisfiable != "DoNotSchedule" {
            let detail = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ";
            let detail = format!("{detail}{}", constraint.when_unsatisfiable);
            errors.push(FieldError::invalid(&path, domains, detail));
        }
    }
    for (field, policy) in [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ] {
        if let Some(policy) = policy {
            rules::supported(errors, &path.child(field), policy, &["Honor", "Ignore"]);
        }
    }
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    label_keys(errors, path, keys, &[], constraint.label_selector.as_ref());
    if let Some(selector) = &constraint.label_selector {
        rules::label_selector(errors, &path.child("labelSelector"), selector);
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys`, which add to a selector what it does not have.
fn label_keys(
    errors: &mut Errors,
    path: &FieldPath,
    keys: &[String],
    mismatch: &[String],
    selector: Option<&LabelSelector>,
) {
    for (field, keys) in [("matchLabelKeys", keys), ("mismatchLabelKeys", mismatch)] {
        let path = path.child(field);
        if !keys.is_empty() && selector.is_none() {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(&path, detail));
        } else {
            for (index, key) in keys.iter().enumerate() {
                rules::complain(errors, &path.index(index), key, names::qualified_name(key));
            }
        }
    }
    if let Some(selector) = selector {
        selected_twice(errors, path, keys, selector);
    }
    for (index, key) in keys.iter().enumerate() {
        if mismatch.contains(key) {
            let path = path.child("matchLabelKeys").index(index);
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(&path, key.as_str(), detail));
        }
    }
}

/// One expression on each key is the one that was added for it; another is one too many.
fn selected_twice(
    errors: &mut Errors,
    path: &FieldPath,
    keys: &[String],
    selector: &LabelSelector,
) {
    let labels = selector.match_labels.iter().flatten();
    let mut selected: Vec<&str> = labels.map(|(key, _)| key.as_str()).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = expression.key.as_str();
        let at = keys.iter().rposition(|k| k == key);
        if let Some(index) = at.filter(|_| selected.contains(&key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(&path.index(index), key, detail));
        }
        selected.push(key);
    }
}
