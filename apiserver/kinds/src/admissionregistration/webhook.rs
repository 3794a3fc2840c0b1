//! Webhooks, mutating or validating: their defaults and rules. One that validates is one that changes nothing, so that
//! both are looked at in the form of the former, which has a field more.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::admissionregistration::v1::{MutatingWebhook, ValidatingWebhook};
use corral_api::names;

use super::client;
use super::expressions::Expressions;
use super::matching::{self, FAILURE_POLICIES, POLICIES, REINVOCATION_POLICIES};
use crate::fill;
use crate::rules::{Errors, Seen, at, complain, json, label_selector, supported};

/// Versions of AdmissionReview that the server speaks.
pub const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const TIMEOUT_SECONDS_DEFAULT: i32 = 10;
const TIMEOUT_SECONDS_MAX: i32 = 30;

/// A validating webhook in the form of a mutating one.
pub fn from_validating(webhook: ValidatingWebhook) -> MutatingWebhook {
    MutatingWebhook {
        admission_review_versions: webhook.admission_review_versions,
        client_config: webhook.client_config,
        failure_policy: webhook.failure_policy,
        match_conditions: webhook.match_conditions,
        match_policy: webhook.match_policy,
        name: webhook.name,
        namespace_selector: webhook.namespace_selector,
        object_selector: webhook.object_selector,
        reinvocation_policy: None,
        rules: webhook.rules,
        side_effects: webhook.side_effects,
        timeout_seconds: webhook.timeout_seconds,
    }
}

fn into_validating(webhook: MutatingWebhook) -> ValidatingWebhook {
    ValidatingWebhook {
        admission_review_versions: webhook.admission_review_versions,
        client_config: webhook.client_config,
        failure_policy: webhook.failure_policy,
        match_conditions: webhook.match_conditions,
        match_policy: webhook.match_policy,
        name: webhook.name,
        namespace_selector: webhook.namespace_selector,
        object_selector: webhook.object_selector,
        rules: webhook.rules,
        side_effects: webhook.side_effects,
        timeout_seconds: webhook.timeout_seconds,
    }
}

/// The webhooks of a validating configuration in the common form.
pub(super) fn common(webhooks: &Option<Vec<ValidatingWebhook>>) -> Vec<MutatingWebhook> {
    let webhooks = webhooks.iter().flatten().cloned();
    webhooks.map(from_validating).collect()
}

pub(super) fn default_validating(webhook: &mut ValidatingWebhook) {
    let mut common = from_validating(std::mem::take(webhook));
    default_common(&mut common);
    *webhook = into_validating(common);
}

pub(super) fn default_mutating(webhook: &mut MutatingWebhook) {
    default_common(webhook);
    fill::absent(&mut webhook.reinvocation_policy, "Never".to_owned());
}

fn default_common(webhook: &mut MutatingWebhook) {
    fill::absent(&mut webhook.failure_policy, "Fail".to_owned());
    fill::absent(&mut webhook.match_policy, "Equivalent".to_owned());
    webhook.namespace_selector.get_or_insert_default();
    webhook.object_selector.get_or_insert_default();
    fill::absent(&mut webhook.timeout_seconds, TIMEOUT_SECONDS_DEFAULT);
    for rule in webhook.rules.iter_mut().flatten() {
        matching::default_rule(&mut rule.scope);
    }
    if let Some(service) = &mut webhook.client_config.service {
        fill::absent(&mut service.port, client::PORT_DEFAULT);
    }
}

/// What an update may keep of a configuration that is older than today's rules.
#[derive(Default)]
struct Kept {
    side_effects: bool,
    versions: bool,
    names: bool,
    conditions: bool,
}

impl Kept {
    fn of(new: &[MutatingWebhook], old: &[MutatingWebhook]) -> Self {
        let free =
            |webhook: &MutatingWebhook| NO_SIDE_EFFECTS.contains(&webhook.side_effects.as_str());
        let spoken = |webhook: &MutatingWebhook| {
            let versions = &webhook.admission_review_versions;
            versions.is_empty()
                || versions
                    .iter()
                    .any(|v| REVIEW_VERSIONS.contains(&v.as_str()))
        };
        let mut names: Vec<&str> = old.iter().map(|webhook| webhook.name.as_str()).collect();
        names.sort_unstable();
        let n_names = names.len();
        names.dedup();
        let pairs = || new.iter().zip(old);
        Self {
            side_effects: !old.iter().all(free),
            versions: !old.iter().all(spoken),
            names: names.len() != n_names,
            conditions: new.len() == old.len()
                && pairs().all(|(new, old)| {
                    matching::same_conditions(&new.match_conditions, &old.match_conditions)
                }),
        }
    }
}

/// Everything wrong with the webhooks of a configuration.
pub(super) fn validate(webhooks: &[MutatingWebhook], old: Option<&[MutatingWebhook]>) -> Errors {
    let mut errors = Errors::new();
    let kept = old.map_or_else(Kept::default, |old| Kept::of(webhooks, old));
    let before = old.into_iter().flatten();
    let before = before.flat_map(|webhook| webhook.match_conditions.iter().flatten());
    let expressions = Expressions::of_webhooks(before);
    let mut seen = Seen::default();
    for (index, webhook) in webhooks.iter().enumerate() {
        let path = at("webhooks").index(index);
        validate_one(&mut errors, &path, webhook, &kept, &expressions);
        let versions = &webhook.admission_review_versions;
        let versions_path = path.child("admissionReviewVersions");
        review_versions(&mut errors, &versions_path, versions, kept.versions);
        if !kept.names && !webhook.name.is_empty() {
            seen.check(&mut errors, &path.child("name"), &webhook.name);
        }
    }
    errors
}

fn validate_one(
    errors: &mut Errors,
    path: &FieldPath,
    webhook: &MutatingWebhook,
    kept: &Kept,
    expressions: &Expressions,
) {
    full_name(errors, &path.child("name"), &webhook.name);
    for (index, rule) in webhook.rules.iter().flatten().enumerate() {
        matching::rule(errors, &path.child("rules").index(index), rule);
    }
    let choices = [
        ("failurePolicy", &webhook.failure_policy, FAILURE_POLICIES),
        ("matchPolicy", &webhook.match_policy, POLICIES),
    ];
    for (field, given, allowed) in choices {
        if let Some(given) = given {
            supported(errors, &path.child(field), given, allowed);
        }
    }
    let allowed = if kept.side_effects {
        SIDE_EFFECTS
    } else {
        NO_SIDE_EFFECTS
    };
    let (given, effects_path) = (webhook.side_effects.as_str(), path.child("sideEffects"));
    if given.is_empty() {
        let detail = format!("must specify one of {}", allowed.join(", "));
        errors.push(FieldError::required(&effects_path, detail));
    } else {
        supported(errors, &effects_path, given, allowed);
    }
    if let Some(seconds) = webhook.timeout_seconds
        && !(1..=TIMEOUT_SECONDS_MAX).contains(&seconds)
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(
            &path.child("timeoutSeconds"),
            seconds,
            detail,
        ));
    }
    let selectors = [
        ("namespaceSelector", &webhook.namespace_selector),
        ("objectSelector", &webhook.object_selector),
    ];
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            label_selector(errors, &path.child(field), selector);
        }
    }
    if let Some(given) = &webhook.reinvocation_policy {
        let path = path.child("reinvocationPolicy");
        supported(errors, &path, given, REINVOCATION_POLICIES);
    }
    client::config(errors, &path.child("clientConfig"), &webhook.client_config);
    if !kept.conditions {
        let conditions = webhook.match_conditions.as_deref().unwrap_or_default();
        let path = path.child("matchConditions");
        matching::conditions(errors, &path, conditions, expressions);
    }
}

fn full_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    let complaints = names::dns1123_subdomain(name);
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !complaints.is_empty() {
        errors.push(FieldError::invalid(path, name, complaints.join(",")));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn review_versions(errors: &mut Errors, path: &FieldPath, versions: &[String], unspoken: bool) {
    if versions.is_empty() {
        let detail = format!("must specify one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(FieldError::required(path, detail));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        if versions[..index].contains(version) {
            errors.push(FieldError::invalid(
                &path,
                version.as_str(),
                "duplicate version",
            ));
        } else {
            complain(errors, &path, version, names::dns1035_label(version));
        }
    }
    let spoken = |version: &String| REVIEW_VERSIONS.contains(&version.as_str());
    if !unspoken && !versions.iter().any(spoken) {
        let detail = format!(
            "must include at least one of {}",
            REVIEW_VERSIONS.join(", ")
        );
        errors.push(FieldError::invalid(path, json(versions), detail));
    }
}
