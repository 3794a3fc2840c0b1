//! Rules that every kind with a template of pods has.

use corral_api::field::{FieldError, FieldPath};
use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::core::v1::PodTemplateSpec;

use crate::core::pod_spec::validation;
use crate::rules::{self, Errors, json, text};

/// A template of pods that run for ever.
pub(crate) fn lasting(
    errors: &mut Errors,
    path: &FieldPath,
    template: &PodTemplateSpec,
    kind: &str,
) {
    validation::template(errors, path, template);
    runs_for_ever(errors, path, template, kind);
}

/// What of that is not a rule of every template.
pub(crate) fn runs_for_ever(
    errors: &mut Errors,
    path: &FieldPath,
    template: &PodTemplateSpec,
    kind: &str,
) {
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

/// A way to update that there is none of, shown as Kubernetes shows it: under the names of its own code.
pub(crate) fn unknown_strategy(
    path: &FieldPath,
    type_: &str,
    rolling: Option<[&Option<IntOrString>; 2]>,
    allowed: &[&str],
) -> FieldError {
    let number = |n: &Option<IntOrString>| json(n.as_ref().unwrap_or(&IntOrString::Int(0)));
    let rolling = rolling.map_or("null".to_owned(), |[unavailable, surge]| {
        let (unavailable, surge) = (number(unavailable), number(surge));
        format!("{{\"MaxUnavailable\":{unavailable},\"MaxSurge\":{surge}}}")
    });
    let shown = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", json(type_));
    FieldError {
        value: Some(shown),
        ..FieldError::not_supported_of(path, "", allowed)
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

/// Counts of pods, none of which can be more than there are. Among the first, every one must be a number of pods;
/// `within` are those that are compared with it.
pub(crate) fn counts(errors: &mut Errors, path: &FieldPath, all: &[(&str, i64)], within: &[&str]) {
    for (field, n) in all {
        rules::nonnegative(errors, &path.child(field), *n);
    }
    let of = |name: &str| {
        let mut found = all.iter().filter(|(field, _)| *field == name);
        found.next().map_or(0, |(_, n)| *n)
    };
    for field in within {
        if of(field) > of("replicas") {
            let detail = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(&path.child(field), of(field), detail));
        }
    }
    let available = of("availableReplicas");
    if available > of("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        let path = path.child("availableReplicas");
        errors.push(FieldError::invalid(&path, available, detail));
    }
}
