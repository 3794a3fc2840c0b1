//! Requests and limits.

mod pod_level;

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{PodSpec, ResourceRequirements};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::names;
use corral_api::quantity::Quantity;

use super::resource_claims;
use crate::rules::Errors;

/// Resources without a prefix that a quota may limit: what there is, but for `storage`.
pub(crate) fn is_quota_resource(name: &str) -> bool {
    is_huge(name) || (name != "storage" && STANDARD.contains(&name))
}

fn is_huge(name: &str) -> bool {
    name.starts_with(HUGE_PAGES) || name.starts_with("requests.hugepages-")
}

const OF_CONTAINERS: &[&str] = &["cpu", "ephemeral-storage", "memory"];
/// Resources without a prefix that Kubernetes knows, of containers or not.
const STANDARD: &[&str] = &[
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
];
/// Numbers of objects, which have no parts.
const COUNTS: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const OF_PODS: &[&str] = &["cpu", "hugepages-", "memory"];
const HUGE_PAGES: &str = "hugepages-";

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a name is that of a resource that somebody else defines.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

pub(crate) fn can_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

type NameRule = fn(&mut Errors, &FieldPath, &str);

/// A container's requests and limits.
pub(crate) fn container(
    errors: &mut Errors,
    path: &FieldPath,
    requirements: &ResourceRequirements,
    spec: &PodSpec,
) {
    all(errors, path, requirements, container_name);
    let claims = requirements.claims.as_deref().unwrap_or_default();
    resource_claims::of_container(errors, &path.child("claims"), claims, spec);
}

/// Requests and limits of a pod as a whole.
pub(super) fn pod_level(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let Some(requirements) = &spec.resources else {
        return;
    };
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        let detail = "may not be set for a windows pod";
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    if requirements.claims.is_some() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), detail));
    }
    all(errors, path, requirements, pod_name);
    let claims = requirements.claims.as_deref().unwrap_or_default();
    resource_claims::of_container(errors, &path.child("claims"), claims, spec);
    pod_level::consistent(errors, path, spec, requirements);
}

/// What a runtime costs beside the containers.
pub(crate) fn overhead(errors: &mut Errors, path: &FieldPath, overhead: &BTreeMap<String, Wire>) {
    let requirements = ResourceRequirements {
        limits: Some(overhead.clone()),
        ..ResourceRequirements::default()
    };
    all(errors, path, &requirements, container_name);
}

/// An amount of a resource: not negative, and whole where there are no parts of one.
pub(crate) fn amount(errors: &mut Errors, path: &FieldPath, name: &str, wire: &Wire) {
    let Ok(quantity) = Quantity::from_wire(wire) else {
        return;
    };
    if quantity.is_negative() {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path, quantity.to_string(), detail));
    }
    let whole = COUNTS.contains(&name) || is_extended(name);
    if whole && quantity.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(
            path,
            quantity.to_string(),
            "must be an integer",
        ));
    }
}

fn all(errors: &mut Errors, path: &FieldPath, given: &ResourceRequirements, name_rule: NameRule) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    for (name, wire) in given.limits.iter().flatten() {
        let path = limits_path.key(name);
        name_rule(errors, &path, name);
        amount(errors, &path, name, wire);
        whole_pages(errors, &path, name, wire);
    }
    for (name, wire) in given.requests.iter().flatten() {
        let path = requests_path.key(name);
        name_rule(errors, &path, name);
        amount(errors, &path, name, wire);
        let limit = given.limits.as_ref().and_then(|l| l.get(name));
        match limit {
            Some(limit) => within(errors, &requests_path, name, wire, limit),
            None if !can_overcommit(name) => errors.push(FieldError::required(
                &limits_path,
                "Limit must be set for non overcommitable resources",
            )),
            None => {}
        }
        whole_pages(errors, &path, name, wire);
    }
    let lists = [&given.limits, &given.requests];
    let has = |test: fn(&str) -> bool| {
        lists
            .iter()
            .any(|l| l.iter().flatten().any(|(name, _)| test(name)))
    };
    if has(|n| n.starts_with(HUGE_PAGES)) && !has(|n| matches!(n, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(
            path,
            "HugePages require cpu or memory",
        ));
    }
}

/// Huge pages are given whole.
fn whole_pages(errors: &mut Errors, path: &FieldPath, name: &str, wire: &Wire) {
    let Some(size) = name.strip_prefix(HUGE_PAGES) else {
        return;
    };
    let (Ok(quantity), Ok(page)) = (
        Quantity::from_wire(wire),
        Quantity::from_wire(&Wire(size.to_owned())),
    ) else {
        return;
    };
    let page = page.milli_value();
    if page <= 0 || quantity.milli_value() % page != 0 {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid(path, quantity.to_string(), detail));
    }
}

fn within(errors: &mut Errors, path: &FieldPath, name: &str, request: &Wire, limit: &Wire) {
    let (Ok(request), Ok(limit)) = (Quantity::from_wire(request), Quantity::from_wire(limit))
    else {
        return;
    };
    let relation = if request != limit && !can_overcommit(name) {
        "must be equal to"
    } else if request > limit {
        "must be less than or equal to"
    } else {
        return;
    };
    let detail = format!("{relation} {name} limit of {limit}");
    errors.push(FieldError::invalid(path, request.to_string(), detail));
}

/// The name is one that any resource may have.
pub(crate) fn resource_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    let complaints = names::qualified_name(name);
    if !complaints.is_empty() {
        crate::rules::complain(errors, path, name, complaints);
        return;
    }
    if !name.contains('/') && !STANDARD.contains(&name) && !is_huge(name) {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

pub(crate) fn container_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    resource_name(errors, path, name);
    let detail = if !name.contains('/') {
        if OF_CONTAINERS.contains(&name) || name.starts_with(HUGE_PAGES) {
            return;
        }
        "must be a standard resource for containers"
    } else if !is_native(name) && !is_extended(name) {
        "doesn't follow extended resource name standard"
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, name, detail));
}

fn pod_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    let n_errors = errors.len();
    resource_name(errors, path, name);
    if errors.len() == n_errors
        && !matches!(name, "cpu" | "memory")
        && !name.starts_with(HUGE_PAGES)
    {
        errors.push(FieldError::not_supported(path, name, OF_PODS));
    }
}
