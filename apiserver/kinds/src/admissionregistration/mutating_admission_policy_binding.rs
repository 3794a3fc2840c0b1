//! `MutatingAdmissionPolicyBinding`: puts a policy that changes objects into effect.

use corral_api::field::FieldError;
use corral_api::k8s::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;
use jiff::Timestamp;
use serde_json::Value;

use super::{matching, name_warnings, policy};
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{Errors, at, text};

/// `admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding`.
pub struct MutatingAdmissionPolicyBindingKind;

impl Kind for MutatingAdmissionPolicyBindingKind {
    type Object = MutatingAdmissionPolicyBinding;

    const NAMES: Names<'static> = Names {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        singular: "mutatingadmissionpolicybinding",
        short_names: Words::Of(&[]),
        categories: Words::Of(&["api-extensions"]),
        namespaced: false,
    };
    const GENERATION: bool = true;
    const STORAGE_VERSION: (&'static str, &'static str) =
        ("admissionregistration.k8s.io", "v1beta1");
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(binding: &mut MutatingAdmissionPolicyBinding) {
        let spec = binding.spec.get_or_insert_default();
        if let Some(resources) = &mut spec.match_resources {
            matching::default_resources(resources);
        }
    }

    fn validate(binding: &MutatingAdmissionPolicyBinding) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let path = at("spec");
        let spec = binding.spec.clone().unwrap_or_default();
        let name = text(&spec.policy_name);
        policy::policy_name(&mut errors, &path.child("policyName"), name);
        if let Some(reference) = &spec.param_ref {
            policy::param_ref(&mut errors, &path.child("paramRef"), reference);
        }
        if let Some(resources) = &spec.match_resources {
            let path = path.child("matchResources");
            matching::match_resources(&mut errors, &path, resources);
            matching::mutating_operations(&mut errors, &path, resources);
        }
        errors
    }

    fn warnings(binding: &MutatingAdmissionPolicyBinding) -> Vec<String> {
        name_warnings(binding.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        policy::binding_columns()
    }

    fn cells(binding: &MutatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let spec = binding.spec.clone().unwrap_or_default();
        vec![
            binding.metadata.name.clone().into(),
            text(&spec.policy_name).into(),
            policy::ref_cell(spec.param_ref.as_ref()),
            age(&binding.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn a_binding_names_its_policy() {
        let errors = MutatingAdmissionPolicyBindingKind::validate(&Default::default());
        assert_eq!(texts(&errors), ["spec.policyName: Required value"]);
    }
}
