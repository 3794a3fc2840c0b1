//! Rules that every kind with a selector and a template of pods has.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::PodTemplateSpec;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use corral_api::selector;

use crate::core::pod_spec::validation;
use crate::rules::{self, Errors, json, text};

/// Whether a selector has no conditions.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|l| l.is_empty())
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
}

/// A selector that is there.
pub(crate) fn selector(errors: &mut Errors, path: &FieldPath, selector: &LabelSelector) {
    if *selector == LabelSelector::default() {
        errors.push(FieldError::required(path, ""));
    } else if is_empty(selector) {
        let detail = "empty selector is invalid for deployment";
        errors.push(FieldError::invalid(path, json(selector), detail));
    } else {
        rules::label_selector(errors, path, selector);
    }
}

/// The selector must select the pods that are made from the template.
pub(crate) fn selects(
    errors: &mut Errors,
    path: &FieldPath,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
) {
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let selector = Some(selector).filter(|s| **s != LabelSelector::default());
    if let Ok(selector) = selector::LabelSelector::from_object(selector)
        && !selector.matches_opt(labels)
    {
        let detail = "`selector` does not match template `labels`";
        let path = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, json(&labels), detail));
    }
}

/// A template of pods that run for ever.
pub(crate) fn lasting(
    errors: &mut Errors,
    path: &FieldPath,
    template: &PodTemplateSpec,
    kind: &str,
) {
    validation::template(errors, path, template);
    let path = path.child("spec");
    let spec = template.spec.as_ref();
    let policy = spec.map_or("", |s| text(&s.restart_policy));
    rules::supported(errors, &path.child("restartPolicy"), policy, &["Always"]);
    if spec.is_some_and(|s| s.active_deadline_seconds.is_some()) {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        let path = path.child("activeDeadlineSeconds");
        errors.push(FieldError::forbidden(&path, detail));
    }
}

/// A counter that only grows.
pub(crate) fn not_decremented(
    errors: &mut Errors,
    path: &FieldPath,
    new: Option<i32>,
    old: Option<i32>,
) {
    if let Some(old) = old
        && new.unwrap_or(0) < old
    {
        errors.push(FieldError::invalid(
            path,
            new.unwrap_or(0),
            "cannot be decremented",
        ));
    }
}

/// Counts of pods, none of which can be more than there are.
pub(crate) fn counts(errors: &mut Errors, path: &FieldPath, replicas: i32, parts: &[(&str, i32)]) {
    rules::nonnegative(errors, &path.child("replicas"), replicas);
    for (field, n) in parts {
        rules::nonnegative(errors, &path.child(field), *n);
        if *n > replicas && *field != "unavailableReplicas" {
            let detail = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(&path.child(field), *n, detail));
        }
    }
    let of = |name: &str| {
        parts
            .iter()
            .find(|(field, _)| *field == name)
            .map_or(0, |(_, n)| *n)
    };
    let available = of("availableReplicas");
    if available > of("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        let path = path.child("availableReplicas");
        errors.push(FieldError::invalid(&path, available, detail));
    }
}
