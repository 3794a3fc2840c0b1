//! `ValidatingAdmissionPolicyBinding`: puts a policy into effect, for some objects, with parameters.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use jiff::Timestamp;
use serde_json::Value;

use super::{matching, name_warnings, policy};
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{Errors, Seen, at, json, supported};

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

/// `admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding`.
pub struct ValidatingAdmissionPolicyBindingKind;

impl Kind for ValidatingAdmissionPolicyBindingKind {
    type Object = ValidatingAdmissionPolicyBinding;

    const NAMES: Names<'static> = Names {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        short_names: Words::Of(&[]),
        categories: Words::Of(&["api-extensions"]),
        namespaced: false,
    };
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(binding: &mut ValidatingAdmissionPolicyBinding) {
        if let Some(resources) = &mut binding.spec.match_resources {
            matching::default_resources(resources);
        }
    }

    fn validate(binding: &ValidatingAdmissionPolicyBinding) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (spec, path) = (&binding.spec, at("spec"));
        policy::policy_name(&mut errors, &path.child("policyName"), &spec.policy_name);
        if let Some(reference) = &spec.param_ref {
            policy::param_ref(&mut errors, &path.child("paramRef"), reference);
        }
        if let Some(resources) = &spec.match_resources {
            matching::match_resources(&mut errors, &path.child("matchResources"), resources);
        }
        actions(
            &mut errors,
            &path.child("validationActions"),
            &spec.validation_actions,
        );
        errors
    }

    fn warnings(binding: &ValidatingAdmissionPolicyBinding) -> Vec<String> {
        name_warnings(binding.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        policy::binding_columns()
    }

    fn cells(binding: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        vec![
            binding.metadata.name.clone().into(),
            binding.spec.policy_name.clone().into(),
            policy::ref_cell(binding.spec.param_ref.as_ref()),
            age(&binding.metadata, now),
        ]
    }
}

fn actions(errors: &mut Errors, path: &FieldPath, actions: &[String]) {
    let mut seen = Seen::default();
    for (index, action) in actions.iter().enumerate() {
        supported(errors, &path.index(index), action, ACTIONS);
        seen.check(errors, &path.index(index), action);
    }
    if seen.has("Deny") && seen.has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                      response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, json(actions), detail));
    }
    if actions.is_empty() {
        let detail = "at least one validation action is required";
        errors.push(FieldError::required(path, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn a_binding_names_a_policy_and_what_happens() {
        let mut binding = ValidatingAdmissionPolicyBinding::default();
        let errors = ValidatingAdmissionPolicyBindingKind::validate(&binding);
        assert_eq!(
            texts(&errors),
            [
                "spec.policyName: Required value",
                "spec.validationActions: Required value: at least one validation action is required",
            ]
        );
        binding.spec.policy_name = "p".into();
        binding.spec.validation_actions = vec!["Deny".into(), "Warn".into()];
        assert_eq!(
            ValidatingAdmissionPolicyBindingKind::validate(&binding).len(),
            1
        );
    }
}
