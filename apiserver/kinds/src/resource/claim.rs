//! What a claim asks for: the spec of claims and of their templates.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::resource::v1::{
    DeviceConstraint, DeviceRequest, DeviceToleration, ResourceClaimSpec,
};
use corral_api::names;

use super::rules::{self as own, Expressions, ITEMS_MAX, at_most};
use crate::fill;
use crate::rules::{self, Errors, Seen, text};

const ALTERNATIVES_MAX: usize = 8;
const EXACT_COUNT: &str = "ExactCount";
const ONE_OF: &str = "exactly one of `exactly` or `firstAvailable` is required";
const REFERENCE: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Fills in how many devices are asked for.
pub(super) fn default(spec: &mut ResourceClaimSpec) {
    let requests = spec.devices.iter_mut().flat_map(|d| &mut d.requests);
    for request in requests.flatten() {
        if let Some(exactly) = &mut request.exactly {
            count(&mut exactly.allocation_mode, &mut exactly.count);
            exactly.tolerations.iter_mut().flatten().for_each(operator);
        }
        for alternative in request.first_available.iter_mut().flatten() {
            count(&mut alternative.allocation_mode, &mut alternative.count);
            alternative
                .tolerations
                .iter_mut()
                .flatten()
                .for_each(operator);
        }
    }
}

/// Takes out an empty list of requests, once somebody owns it: to the store it is none.
pub(super) fn prepare(spec: &mut ResourceClaimSpec) {
    if let Some(devices) = &mut spec.devices {
        fill::none_if_empty(&mut devices.requests);
    }
}

fn count(mode: &mut Option<String>, count: &mut Option<i64>) {
    fill::text(mode, EXACT_COUNT);
    if text(mode) == EXACT_COUNT && count.unwrap_or(0) == 0 {
        *count = Some(1);
    }
}

fn operator(toleration: &mut DeviceToleration) {
    fill::text(&mut toleration.operator, "Equal");
}

/// Rules of the spec.
pub(super) fn validate(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &ResourceClaimSpec,
    kept: &Expressions<'_>,
) {
    let nothing = Default::default();
    let claim = spec.devices.as_ref().unwrap_or(&nothing);
    let path = path.child("devices");
    let requests = claim.requests.as_deref().unwrap_or_default();
    let requests_path = path.child("requests");
    at_most(errors, &requests_path, requests, ITEMS_MAX);
    let mut seen = Seen::default();
    for (index, one) in requests.iter().enumerate() {
        let path = requests_path.index(index);
        request(errors, &path, one, kept);
        seen.check(errors, &path, &one.name);
    }
    let asked = names_of(requests);
    let constraints = claim.constraints.as_deref().unwrap_or_default();
    let constraints_path = path.child("constraints");
    at_most(errors, &constraints_path, constraints, ITEMS_MAX);
    for (index, one) in constraints.iter().enumerate() {
        constraint(errors, &constraints_path.index(index), one, &asked);
    }
    let config = claim.config.as_deref().unwrap_or_default();
    let config_path = path.child("config");
    at_most(errors, &config_path, config, ITEMS_MAX);
    for (index, one) in config.iter().enumerate() {
        let path = config_path.index(index);
        let names = one.requests.as_deref().unwrap_or_default();
        references(errors, &path.child("requests"), names, &asked);
        own::opaque(errors, &path, one.opaque.as_ref());
    }
}

/// The expressions of a spec.
pub(super) fn expressions(spec: &ResourceClaimSpec) -> Expressions<'_> {
    let requests = spec.devices.iter().flat_map(|d| &d.requests).flatten();
    own::expressions(requests.flat_map(|request| {
        let exactly = request.exactly.iter().map(|exactly| &exactly.selectors);
        let alternatives = request.first_available.iter().flatten();
        exactly.chain(alternatives.map(|sub| &sub.selectors))
    }))
}

/// Requests with the alternatives of each.
pub(super) type Asked<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// What there is to refer to.
pub(super) fn names_of(requests: &[DeviceRequest]) -> Asked<'_> {
    let mut asked = Asked::new();
    for request in requests {
        let alternatives = request.first_available.iter().flatten();
        let names = alternatives.map(|sub| sub.name.as_str()).collect();
        asked.insert(&request.name, names);
    }
    asked
}

fn request(errors: &mut Errors, path: &FieldPath, request: &DeviceRequest, kept: &Expressions<'_>) {
    own::label(errors, &path.child("name"), &request.name);
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    match (&request.exactly, alternatives) {
        (None, []) => errors.push(FieldError::required(path, ONE_OF)),
        (Some(exactly), []) => {
            let path = path.child("exactly");
            own::class(
                errors,
                &path.child("deviceClassName"),
                &exactly.device_class_name,
            );
            let selectors = exactly.selectors.as_deref();
            own::selectors(errors, &path.child("selectors"), selectors, kept);
            mode(errors, &path, &exactly.allocation_mode, exactly.count);
            tolerations(errors, &path, exactly.tolerations.as_deref());
        }
        (Some(_), _) => {
            let detail = format!("{ONE_OF}, but multiple fields are set");
            errors.push(FieldError {
                value: Some("null".to_owned()),
                ..rules::invalid_unshown(path, &detail)
            });
        }
        (None, alternatives) => {
            let path = path.child("firstAvailable");
            at_most(errors, &path, alternatives, ALTERNATIVES_MAX);
            let mut seen = Seen::default();
            for (index, sub) in alternatives.iter().enumerate() {
                let path = path.index(index);
                own::label(errors, &path.child("name"), &sub.name);
                own::class(
                    errors,
                    &path.child("deviceClassName"),
                    &sub.device_class_name,
                );
                let selectors = sub.selectors.as_deref();
                own::selectors(errors, &path.child("selectors"), selectors, kept);
                mode(errors, &path, &sub.allocation_mode, sub.count);
                tolerations(errors, &path, sub.tolerations.as_deref());
                seen.check(errors, &path, &sub.name);
            }
        }
    }
}

fn mode(errors: &mut Errors, path: &FieldPath, mode: &Option<String>, count: Option<i64>) {
    let count = count.unwrap_or(0);
    let count_path = path.child("count");
    match text(mode) {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(&count_path, count, detail));
        }
        EXACT_COUNT if count <= 0 => {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(&count_path, count, detail));
        }
        mode => {
            let allowed = ["All", EXACT_COUNT];
            rules::supported(errors, &path.child("allocationMode"), mode, &allowed);
        }
    }
}

pub(super) fn tolerations(
    errors: &mut Errors,
    path: &FieldPath,
    list: Option<&[DeviceToleration]>,
) {
    for (index, toleration) in list.unwrap_or_default().iter().enumerate() {
        let path = path.child("tolerations").index(index);
        let (key, value) = (text(&toleration.key), text(&toleration.value));
        if !key.is_empty() {
            rules::complain(errors, &path.child("key"), key, names::qualified_name(key));
        }
        let value_path = path.child("value");
        match text(&toleration.operator) {
            "Exists" if !value.is_empty() => {
                let detail = "must be empty for operator `Exists`";
                errors.push(FieldError::invalid(&value_path, value, detail));
            }
            "Exists" => {}
            "Equal" => rules::complain(errors, &value_path, value, names::label_value(value)),
            other => {
                let allowed = ["Equal", "Exists"];
                rules::required_of(errors, &path.child("operator"), other, &allowed);
            }
        }
        let effect = text(&toleration.effect);
        if !effect.is_empty() {
            let allowed = ["NoExecute", "NoSchedule", "None"];
            rules::supported(errors, &path.child("effect"), effect, &allowed);
        }
    }
}

fn constraint(
    errors: &mut Errors,
    path: &FieldPath,
    constraint: &DeviceConstraint,
    asked: &Asked<'_>,
) {
    let names = constraint.requests.as_deref().unwrap_or_default();
    references(errors, &path.child("requests"), names, asked);
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => own::fully_qualified(errors, &path.child("matchAttribute"), name),
        (None, Some(name)) => own::fully_qualified(errors, &path.child("distinctAttribute"), name),
        (None, None) => {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(FieldError::required(path, detail));
        }
    }
}

/// Names of requests of the same claim, or of their alternatives.
pub(super) fn references(
    errors: &mut Errors,
    path: &FieldPath,
    list: &[String],
    asked: &Asked<'_>,
) {
    at_most(errors, path, list, ITEMS_MAX);
    let mut seen = Seen::default();
    for (index, name) in list.iter().enumerate() {
        let path = path.index(index);
        reference(errors, &path, name, asked);
        seen.check(errors, &path, name);
    }
}

/// One such name.
pub(super) fn reference(errors: &mut Errors, path: &FieldPath, name: &str, asked: &Asked<'_>) {
    let parts: Vec<&str> = name.split('/').collect();
    let is_there = match parts[..] {
        [request] => asked.contains_key(request),
        [request, sub] => asked.get(request).is_some_and(|subs| subs.contains(&sub)),
        _ => false,
    };
    if parts.len() <= 2 {
        parts.iter().for_each(|part| own::label(errors, path, part));
    }
    if !is_there {
        errors.push(FieldError::invalid(path, name, REFERENCE));
    }
}
