//! `ResourceQuota`.

use std::collections::{BTreeMap, BTreeSet};

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ScopeSelector};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use jiff::Timestamp;
use serde_json::Value;

use crate::core::pod_spec::validation::resources;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{Errors, at, json};

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
/// Scopes that an object is in or not, whatever the values.
const WITHOUT_VALUES: [&str; 5] = [
    "BestEffort",
    "NotBestEffort",
    "Terminating",
    "NotTerminating",
    "CrossNamespacePodAffinity",
];
const CONFLICTS: [[&str; 2]; 2] = [
    ["BestEffort", "NotBestEffort"],
    ["Terminating", "NotTerminating"],
];
const OF_PODS: [&str; 7] = [
    "pods",
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];

/// `v1 ResourceQuota`.
pub struct ResourceQuotaKind;

impl Kind for ResourceQuotaKind {
    type Object = ResourceQuota;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: Words::Of(&["quota"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const STATUS: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Request", "What is used and limited, but for limits."),
            Column::text("Limit", "What is used and limited of limits."),
            Column::AGE,
        ]
    }

    fn cells(quota: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        let status = quota.status.as_ref();
        let used = status.and_then(|status| status.used.as_ref());
        let zero = Wire("0".to_owned());
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in status.iter().flat_map(|s| s.hard.iter().flatten()) {
            let used = used.and_then(|used| used.get(name)).unwrap_or(&zero);
            let text = format!("{name}: {}/{}", used.0, hard.0);
            let is_limit = name.starts_with("limits.");
            if is_limit { &mut limits } else { &mut requests }.push(text);
        }
        vec![
            quota.metadata.name.clone().into(),
            requests.join(", ").into(),
            limits.join(", ").into(),
            age(&quota.metadata, now),
        ]
    }

    fn default(quota: &mut ResourceQuota) {
        if let Some(spec) = &mut quota.spec {
            fill::round_up(&mut spec.hard);
        }
        if let Some(status) = &mut quota.status {
            fill::round_up(&mut status.hard);
            fill::round_up(&mut status.used);
        }
    }

    fn validate(quota: &ResourceQuota) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let nothing = ResourceQuotaSpec::default();
        let spec = quota.spec.as_ref().unwrap_or(&nothing);
        let path = at("spec");
        amounts(&mut errors, &path.child("hard"), &spec.hard);
        scopes(&mut errors, &path.child("scopes"), spec);
        if let Some(selector) = &spec.scope_selector {
            scope_selector(&mut errors, &path, spec, selector);
        }
        errors
    }

    fn validate_update(new: &ResourceQuota, old: &ResourceQuota) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        let scopes = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|s| s.scopes.clone());
        let set = |quota| {
            scopes(quota)
                .into_iter()
                .flatten()
                .collect::<BTreeSet<String>>()
        };
        if set(new) != set(old) {
            let path = at("spec.scopes");
            errors.push(FieldError::invalid(
                &path,
                json(&scopes(new)),
                "field is immutable",
            ));
        }
        errors
    }

    fn validate_status_update(new: &ResourceQuota, _old: &ResourceQuota) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if let Some(status) = &new.status {
            let path = at("status");
            amounts(&mut errors, &path.child("hard"), &status.hard);
            amounts(&mut errors, &path.child("used"), &status.used);
        }
        errors
    }
}

fn amounts(errors: &mut Errors, path: &FieldPath, given: &Option<BTreeMap<String, Wire>>) {
    for (name, wire) in given.iter().flatten() {
        let path = path.key(name);
        resources::resource_name(errors, &path, name);
        if !name.contains('/') && !resources::is_quota_resource(name) {
            let detail = "must be a standard resource for quota";
            errors.push(FieldError::invalid(&path, name.as_str(), detail));
        }
        resources::amount(errors, &path, name, wire);
    }
}

/// Whether a scope says anything about a resource.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        scope if SCOPES.contains(&scope) => OF_PODS.contains(&resource),
        _ => true,
    }
}

/// How many of the limits a scope says nothing about.
fn n_unfit(spec: &ResourceQuotaSpec, scope: &str) -> usize {
    let names = spec.hard.iter().flat_map(BTreeMap::keys);
    let unfit = |name: &&String| resources::is_quota_resource(name) && !fits(scope, name);
    names.filter(unfit).count()
}

fn conflict(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &ResourceQuotaSpec,
    given: &BTreeSet<&str>,
) {
    for pair in CONFLICTS {
        if pair.iter().all(|scope| given.contains(scope)) {
            errors.push(FieldError::invalid(
                path,
                json(&spec.scopes),
                "conflicting scopes",
            ));
        }
    }
}

fn scopes(errors: &mut Errors, path: &FieldPath, spec: &ResourceQuotaSpec) {
    let given = spec.scopes.as_deref().unwrap_or_default();
    for scope in given {
        let mut wrong = |detail| errors.push(FieldError::invalid(path, json(&spec.scopes), detail));
        if !SCOPES.contains(&scope.as_str()) {
            wrong("unsupported scope");
        }
        for _ in 0..n_unfit(spec, scope) {
            wrong("unsupported scope applied to resource");
        }
    }
    let given = given.iter().map(String::as_str).collect();
    conflict(errors, path, spec, &given);
}

fn scope_selector(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &ResourceQuotaSpec,
    selector: &ScopeSelector,
) {
    let path = path.child("scopeSelector").child("matchExpressions");
    let mut given = BTreeSet::new();
    for one in selector.match_expressions.iter().flatten() {
        let scope = one.scope_name.as_str();
        let (operator, values) = (&one.operator, one.values.as_deref().unwrap_or_default());
        let (operator_path, values_path) = (path.child("operator"), path.child("values"));
        if !SCOPES.contains(&scope) {
            let path = path.child("scopeName");
            errors.push(FieldError::invalid(&path, scope, "unsupported scope"));
        }
        for _ in 0..n_unfit(spec, scope) {
            let detail = "unsupported scope applied to resource";
            errors.push(FieldError::invalid(&path, json(selector), detail));
        }
        if WITHOUT_VALUES.contains(&scope) && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                          ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort \
                          or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(FieldError::invalid(
                &operator_path,
                operator.as_str(),
                detail,
            ));
        }
        match operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &values_path,
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::invalid(
                &values_path,
                json(values),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                &operator_path,
                other,
                "not a valid selector operator",
            )),
        }
        given.insert(scope);
    }
    // What is shown are the plain scopes, as in Kubernetes.
    conflict(errors, &path, spec, &given);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn quota(value: serde_json::Value) -> ResourceQuota {
        serde_json::from_value(value).expect("a quota")
    }

    #[test]
    fn scopes_fit_what_they_limit_and_each_other() {
        let wrong = quota(
            json!({"spec": {"hard": {"pods": "1", "cpu": "1", "other": "1", "example.com/a": "1.5"},
            "scopes": ["BestEffort", "NotBestEffort"]}}),
        );
        let scopes = "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]";
        assert_eq!(
            texts(&ResourceQuotaKind::validate(&wrong)),
            [
                "spec.hard[example.com/a]: Invalid value: \"1500m\": must be an integer".to_owned(),
                "spec.hard[other]: Invalid value: \"other\": must be a standard resource type or fully qualified".to_owned(),
                "spec.hard[other]: Invalid value: \"other\": must be a standard resource for quota".to_owned(),
                format!("{scopes}: unsupported scope applied to resource"),
                format!("{scopes}: conflicting scopes"),
            ]
        );
    }

    #[test]
    fn scopes_stay() {
        let of = |scope: &str| quota(json!({"spec": {"scopes": [scope]}}));
        assert_eq!(
            texts(&ResourceQuotaKind::validate_update(
                &of("Terminating"),
                &of("BestEffort")
            )),
            ["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"]
        );
    }

    #[test]
    fn a_row_shows_what_is_used_of_what() {
        let quota = quota(json!({"metadata": {"name": "q"}, "status": {
            "hard": {"cpu": "2", "limits.cpu": "4", "pods": "3"}, "used": {"cpu": "1", "limits.cpu": "2"}}}));
        let row = ResourceQuotaKind::cells(&quota, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[..3],
            ["q", "cpu: 1/2, pods: 0/3", "limits.cpu: 2/4"].map(Value::from)
        );
    }
}
