//! What holds for the questions whether somebody may do something.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::authorization::v1::{
    FieldSelectorAttributes, LabelSelectorAttributes, NonResourceAttributes, ResourceAttributes,
    SubjectAccessReviewSpec,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_api::names;
use serde_json::Value;

use crate::rules::{Errors, at, json, text};

/// A question about anybody.
pub(super) fn subject(errors: &mut Errors, spec: &SubjectAccessReviewSpec) {
    let (resource, path) = (&spec.resource_attributes, &spec.non_resource_attributes);
    one_of(errors, resource.as_ref(), path.as_ref());
    let user = text(&spec.user);
    if user.is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid(&at("spec.user"), user, detail));
    }
    selectors(errors, resource.as_ref());
}

/// Exactly one of the two things that one can ask about.
pub(super) fn one_of(
    errors: &mut Errors,
    resource: Option<&ResourceAttributes>,
    path: Option<&NonResourceAttributes>,
) {
    match (resource, path) {
        (Some(_), Some(path)) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            let place = at("spec.nonResourceAttributes");
            errors.push(FieldError::invalid(&place, json(path), detail));
        }
        (None, None) => {
            let detail =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let place = at("spec.resourceAttributes");
            errors.push(FieldError::invalid(&place, Value::Null, detail));
        }
        _ => {}
    }
}

/// The selectors of what is asked about.
pub(super) fn selectors(errors: &mut Errors, resource: Option<&ResourceAttributes>) {
    let path = at("spec.resourceAttributes");
    let Some(resource) = resource else { return };
    if let Some(selector) = &resource.field_selector {
        fields(errors, &path.child("fieldSelector"), selector);
    }
    if let Some(selector) = &resource.label_selector {
        labels(errors, &path.child("labelSelector"), selector);
    }
}

fn fields(errors: &mut Errors, path: &FieldPath, selector: &FieldSelectorAttributes) {
    let requirements = selector.requirements.as_deref().unwrap_or_default();
    raw_or_not(
        errors,
        path,
        text(&selector.raw_selector),
        requirements.len(),
    );
    for (index, one) in requirements.iter().enumerate() {
        let path = path.child("requirements").index(index);
        if one.key.is_empty() {
            errors.push(FieldError::required(
                &path.child("key"),
                "must be specified",
            ));
        }
        values(errors, &path, &one.operator, one.values.as_deref());
    }
}

fn labels(errors: &mut Errors, path: &FieldPath, selector: &LabelSelectorAttributes) {
    let requirements = selector.requirements.as_deref().unwrap_or_default();
    raw_or_not(
        errors,
        path,
        text(&selector.raw_selector),
        requirements.len(),
    );
    for (index, one) in requirements.iter().enumerate() {
        let path = path.child("requirements").index(index);
        values(errors, &path, &one.operator, one.values.as_deref());
        for why in names::qualified_name(&one.key) {
            errors.push(FieldError::invalid(&path.child("key"), &one.key, why));
        }
        for (index, value) in one.values.iter().flatten().enumerate() {
            for why in names::label_value(value) {
                errors.push(FieldError::invalid(
                    &path.child("values").index(index),
                    value,
                    why,
                ));
            }
        }
    }
}

fn raw_or_not(errors: &mut Errors, path: &FieldPath, raw: &str, requirements: usize) {
    if !raw.is_empty() && requirements > 0 {
        let detail = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(&path.child("rawSelector"), raw, detail));
    }
    if raw.is_empty() && requirements == 0 {
        let detail = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(&path.child("requirements"), detail));
    }
}

/// Operators that nobody knows may be those of a newer client.
fn values(errors: &mut Errors, path: &FieldPath, operator: &str, values: Option<&[String]>) {
    let some = values.is_some_and(|values| !values.is_empty());
    match operator {
        "In" | "NotIn" if !some => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if some => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path.child("values"), detail));
        }
        _ => {}
    }
}

/// A question has no metadata; whose fields it has does not count.
pub(super) fn no_metadata(errors: &mut Errors, metadata: &ObjectMeta, detail: &str) {
    let mut rest = metadata.clone();
    rest.managed_fields = None;
    if rest != ObjectMeta::default() {
        errors.push(FieldError::invalid(&at("metadata"), json(&rest), detail));
    }
}
