//! What an autoscaler may say.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::autoscaling::v2::{
    ContainerResourceMetricSource, CrossVersionObjectReference, ExternalMetricSource,
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, MetricIdentifier, MetricSpec,
    MetricTarget, ObjectMetricSource, PodsMetricSource, ResourceMetricSource,
};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::names;
use corral_api::quantity::Quantity;

use crate::core::pod_spec::validation::resources::container_name;
use crate::rules::{self, Errors, at, complain, supported, text};

const PERIOD_SECONDS_MAX: i32 = 1800;
const WINDOW_SECONDS_MAX: i32 = 3600;
const SOURCES: &[&str] = &[
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];
const RAW_OR_SHARE: &str = "must set either a target raw value or a target utilization";
const NOT_RAW_AND_SHARE: &str = "may not set both a target raw value and a target utilization";

/// Which versions a reference may name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Versions {
    /// With a group.
    OfGroups,
    /// Of the core group, too.
    All,
    /// It is not looked at.
    Unchecked,
}

/// Everything wrong with the spec, and with its change.
pub(super) fn spec(
    scaler: &HorizontalPodAutoscaler,
    old: Option<&HorizontalPodAutoscaler>,
) -> Errors {
    let mut errors = Errors::new();
    let (spec, path) = (&scaler.spec, at("spec"));
    let was_zero = old.is_some_and(|old| old.spec.min_replicas == Some(0));
    let least = if was_zero { 0 } else { 1 };
    if let Some(min) = spec.min_replicas.filter(|min| *min < least) {
        let detail = format!("must be greater than or equal to {least}");
        errors.push(FieldError::invalid(&path.child("minReplicas"), min, detail));
    }
    let (max, max_path) = (spec.max_replicas, path.child("maxReplicas"));
    if max == 0 {
        let detail = "must be set and greater than 0";
        errors.push(FieldError::required(&max_path, detail));
    } else if max < 0 {
        let detail = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(&max_path, max, detail));
    }
    if spec.min_replicas.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(&max_path, max, detail));
    }
    let target = &spec.scale_target_ref;
    let target_path = path.child("scaleTargetRef");
    reference(
        &mut errors,
        &target_path,
        target,
        target_versions(target, old),
    );
    metrics(&mut errors, &path.child("metrics"), scaler, old);
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        scaling(
            &mut errors,
            &path.child("scaleUp"),
            behavior.scale_up.as_ref(),
        );
        scaling(
            &mut errors,
            &path.child("scaleDown"),
            behavior.scale_down.as_ref(),
        );
    }
    errors
}

/// Everything wrong with the status.
pub(super) fn status(scaler: &HorizontalPodAutoscaler) -> Errors {
    let mut errors = Errors::new();
    let status = scaler.status.clone().unwrap_or_default();
    let path = at("status");
    let current = status.current_replicas.unwrap_or(0);
    rules::nonnegative(&mut errors, &path.child("currentReplicas"), current);
    let desired = status.desired_replicas;
    rules::nonnegative(&mut errors, &path.child("desiredReplicas"), desired);
    errors
}

fn target_versions(
    target: &CrossVersionObjectReference,
    old: Option<&HorizontalPodAutoscaler>,
) -> Versions {
    let unchanged = old.is_some_and(|old| {
        let was = &old.spec.scale_target_ref;
        text(&was.api_version) == text(&target.api_version) && was.kind == target.kind
    });
    if unchanged {
        Versions::Unchecked
    } else if target.kind == "ReplicationController" {
        Versions::All
    } else {
        Versions::OfGroups
    }
}

/// What is wrong with the version of a reference.
fn version_error(version: &str, versions: Versions) -> Option<String> {
    if versions == Versions::Unchecked {
        return None;
    }
    match version.matches('/').count() {
        _ if version == "/" => (versions == Versions::OfGroups).then(no_group),
        0 => (versions == Versions::OfGroups).then(no_group),
        1 if version.starts_with('/') && versions == Versions::OfGroups => Some(no_group()),
        1 => None,
        _ => Some(format!("unexpected GroupVersion string: {version}")),
    }
}

fn no_group() -> String {
    "apiVersion must specify API group".to_owned()
}

fn reference(
    errors: &mut Errors,
    path: &FieldPath,
    reference: &CrossVersionObjectReference,
    versions: Versions,
) {
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        let path = path.child(field);
        if value.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            complain(errors, &path, value, names::path_segment(value));
        }
    }
    let version = text(&reference.api_version);
    if let Some(why) = version_error(version, versions) {
        errors.push(FieldError::invalid(&path.child("apiVersion"), version, why));
    }
}

fn metrics(
    errors: &mut Errors,
    path: &FieldPath,
    scaler: &HorizontalPodAutoscaler,
    old: Option<&HorizontalPodAutoscaler>,
) {
    let was_wrong = |metric: &MetricSpec| {
        let object = metric.object.as_ref().filter(|_| metric.type_ == "Object");
        object.is_some_and(|object| {
            let version = text(&object.described_object.api_version);
            version_error(version, Versions::All).is_some()
        })
    };
    let mut before = old.iter().flat_map(|old| old.spec.metrics.iter().flatten());
    let versions = if before.any(was_wrong) {
        Versions::Unchecked
    } else {
        Versions::All
    };
    let list = scaler.spec.metrics.as_deref().unwrap_or_default();
    for (index, metric) in list.iter().enumerate() {
        source(errors, &path.index(index), metric, versions);
    }
    let wakes = |metric: &MetricSpec| matches!(metric.type_.as_str(), "Object" | "External");
    if scaler.spec.min_replicas == Some(0) && !list.iter().any(wakes) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// One metric: of the sources that are given, only the first is looked into, and only the one of its type may be there.
fn source(errors: &mut Errors, path: &FieldPath, metric: &MetricSpec, versions: Versions) {
    let (type_, type_path) = (metric.type_.as_str(), path.child("type"));
    if type_.is_empty() {
        let detail = "must specify a metric source type";
        errors.push(FieldError::required(&type_path, detail));
    }
    supported(errors, &type_path, type_, SOURCES);
    if let Some(source) = &metric.object {
        object(errors, &path.child("object"), source, versions);
    } else if let Some(source) = &metric.external {
        external(errors, &path.child("external"), source);
    } else if let Some(source) = &metric.pods {
        pods(errors, &path.child("pods"), source);
    } else if let Some(source) = &metric.resource {
        resource(errors, &path.child("resource"), source);
    } else if let Some(source) = &metric.container_resource {
        container_resource(errors, &path.child("containerResource"), source);
    }
    let given = [
        ("Object", "object", metric.object.is_some()),
        ("External", "external", metric.external.is_some()),
        ("Pods", "pods", metric.pods.is_some()),
        ("Resource", "resource", metric.resource.is_some()),
        (
            "ContainerResource",
            "containerResource",
            metric.container_resource.is_some(),
        ),
    ];
    match given.iter().find(|(name, ..)| *name == type_) {
        Some((_, field, false)) => {
            let detail = "must populate information for the given metric source";
            errors.push(FieldError::required(&path.child(field), detail));
        }
        Some(_) => {}
        // Kubernetes says it twice.
        None => supported(errors, &type_path, type_, SOURCES),
    }
    if given.iter().filter(|(.., there)| *there).count() != 1 {
        for (_, field, _) in given
            .iter()
            .filter(|(name, _, there)| *there && *name != type_)
        {
            let detail = "must populate the given metric source only";
            errors.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
}

fn object(errors: &mut Errors, path: &FieldPath, source: &ObjectMetricSource, versions: Versions) {
    let described = path.child("describedObject");
    reference(errors, &described, &source.described_object, versions);
    identifier(errors, &path.child("metric"), &source.metric);
    let path = path.child("target");
    target(errors, &path, &source.target);
    if source.target.value.is_none() && source.target.average_value.is_none() {
        let detail = "must set either a target value or averageValue";
        errors.push(FieldError::required(&path.child("averageValue"), detail));
    }
}

fn external(errors: &mut Errors, path: &FieldPath, source: &ExternalMetricSource) {
    identifier(errors, &path.child("metric"), &source.metric);
    let path = path.child("target");
    target(errors, &path, &source.target);
    match (&source.target.value, &source.target.average_value) {
        (None, None) => {
            let detail = "must set either a target value for metric or a per-pod target";
            errors.push(FieldError::required(&path.child("averageValue"), detail));
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(FieldError::forbidden(&path.child("value"), detail));
        }
        _ => {}
    }
}

fn pods(errors: &mut Errors, path: &FieldPath, source: &PodsMetricSource) {
    identifier(errors, &path.child("metric"), &source.metric);
    let path = path.child("target");
    target(errors, &path, &source.target);
    if source.target.average_value.is_none() {
        let detail = "must specify a positive target averageValue";
        errors.push(FieldError::required(&path.child("averageValue"), detail));
    }
}

fn resource(errors: &mut Errors, path: &FieldPath, source: &ResourceMetricSource) {
    if source.name.is_empty() {
        let detail = "must specify a resource name";
        errors.push(FieldError::required(&path.child("name"), detail));
    }
    share_or_amount(errors, &path.child("target"), &source.target);
}

fn container_resource(
    errors: &mut Errors,
    path: &FieldPath,
    source: &ContainerResourceMetricSource,
) {
    let name_path = path.child("name");
    if source.name.is_empty() {
        errors.push(FieldError::required(
            &name_path,
            "must specify a resource name",
        ));
    } else {
        container_name(errors, &name_path, &source.name);
    }
    let (container, container_path) = (&source.container, path.child("container"));
    if container.is_empty() {
        errors.push(FieldError::required(
            &container_path,
            "must specify a container",
        ));
    } else {
        complain(
            errors,
            &container_path,
            container,
            names::dns1123_label(container),
        );
    }
    share_or_amount(errors, &path.child("target"), &source.target);
}

fn share_or_amount(errors: &mut Errors, path: &FieldPath, given: &MetricTarget) {
    target(errors, path, given);
    match (given.average_utilization, &given.average_value) {
        (None, None) => {
            let path = path.child("averageUtilization");
            errors.push(FieldError::required(&path, RAW_OR_SHARE));
        }
        (Some(_), Some(_)) => {
            let path = path.child("averageValue");
            errors.push(FieldError::forbidden(&path, NOT_RAW_AND_SHARE));
        }
        _ => {}
    }
}

fn target(errors: &mut Errors, path: &FieldPath, target: &MetricTarget) {
    let (type_, type_path) = (target.type_.as_str(), path.child("type"));
    if type_.is_empty() {
        let detail = "must specify a metric target type";
        errors.push(FieldError::required(&type_path, detail));
    }
    if !matches!(type_, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&type_path, type_, detail));
    }
    positive(errors, &path.child("value"), target.value.as_ref());
    positive(
        errors,
        &path.child("averageValue"),
        target.average_value.as_ref(),
    );
    if let Some(share) = target.average_utilization.filter(|share| *share < 1) {
        let path = path.child("averageUtilization");
        errors.push(FieldError::invalid(&path, share, "must be greater than 0"));
    }
}

fn positive(errors: &mut Errors, path: &FieldPath, wire: Option<&Wire>) {
    let Some(wire) = wire else { return };
    let amount = Quantity::from_wire(wire).unwrap_or_default();
    if amount.is_negative() || amount.is_zero() {
        errors.push(FieldError::invalid(
            path,
            wire.0.as_str(),
            "must be positive",
        ));
    }
}

fn identifier(errors: &mut Errors, path: &FieldPath, metric: &MetricIdentifier) {
    let path = path.child("name");
    if metric.name.is_empty() {
        errors.push(FieldError::required(&path, "must specify a metric name"));
    } else {
        complain(
            errors,
            &path,
            &metric.name,
            names::path_segment(&metric.name),
        );
    }
}

fn scaling(errors: &mut Errors, path: &FieldPath, given: Option<&HPAScalingRules>) {
    let Some(given) = given else { return };
    let window_path = path.child("stabilizationWindowSeconds");
    if let Some(window) = given.stabilization_window_seconds {
        if window < 0 {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(&window_path, window, detail));
        }
        if window > WINDOW_SECONDS_MAX {
            let detail = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
            errors.push(FieldError::invalid(&window_path, window, detail));
        }
    }
    if let Some(select) = &given.select_policy {
        let allowed = ["Disabled", "Max", "Min"];
        supported(errors, &path.child("selectPolicy"), select, &allowed);
    }
    let policies = given.policies.as_deref().unwrap_or_default();
    let policies_path = path.child("policies");
    if policies.is_empty() {
        let detail = "must specify at least one Policy";
        errors.push(FieldError::required(&policies_path, detail));
    }
    for (index, one) in policies.iter().enumerate() {
        policy(errors, &policies_path.index(index), one);
    }
    let tolerance = given.tolerance.as_ref();
    let negative = |wire: &&Wire| Quantity::from_wire(wire).is_ok_and(Quantity::is_negative);
    if let Some(wire) = tolerance.filter(negative) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(
            &path.child("tolerance"),
            wire.0.as_str(),
            detail,
        ));
    }
}

fn policy(errors: &mut Errors, path: &FieldPath, policy: &HPAScalingPolicy) {
    supported(
        errors,
        &path.child("type"),
        &policy.type_,
        &["Percent", "Pods"],
    );
    let numbers = [
        ("value", policy.value),
        ("periodSeconds", policy.period_seconds),
    ];
    for (field, number) in numbers {
        if number <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(&path.child(field), number, detail));
        }
    }
    if policy.period_seconds > PERIOD_SECONDS_MAX {
        let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
        let path = path.child("periodSeconds");
        errors.push(FieldError::invalid(&path, policy.period_seconds, detail));
    }
}
