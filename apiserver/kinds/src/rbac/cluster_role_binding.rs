//! `ClusterRoleBinding`.

use corral_api::field::FieldError;
use corral_api::k8s::api::rbac::v1::ClusterRoleBinding;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::subjects;
use crate::kind::{Column, Kind, Names, Words};
use crate::rules::{Errors, at, json};

/// `rbac.authorization.k8s.io/v1 ClusterRoleBinding`.
pub struct ClusterRoleBindingKind;

impl Kind for ClusterRoleBindingKind {
    type Object = ClusterRoleBinding;

    const NAMES: Names<'static> = Names {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;

    fn columns() -> Vec<Column> {
        subjects::columns()
    }

    fn cells(binding: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        subjects::cells(
            &binding.metadata,
            &binding.role_ref,
            binding.subjects.as_deref(),
            now,
        )
    }

    fn default(binding: &mut ClusterRoleBinding) {
        subjects::default(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate(binding: &ClusterRoleBinding) -> Vec<FieldError> {
        let mut errors = Errors::new();
        subjects::validate_role(&mut errors, &binding.role_ref, &["ClusterRole"]);
        let given = binding.subjects.as_deref().unwrap_or_default();
        subjects::validate(&mut errors, given, false);
        errors
    }

    fn validate_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        if new.role_ref != old.role_ref {
            let value = json(&new.role_ref);
            errors.push(FieldError::invalid(
                &at("roleRef"),
                value,
                "cannot change roleRef",
            ));
        }
        errors
    }
}
