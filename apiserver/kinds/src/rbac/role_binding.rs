//! `RoleBinding`.
use jiff::Timestamp;
use serde_json::Value;

use super::subjects;
use crate::kind::{Column, Kind, Names};
use corral_api::k8s::api::rbac::v1::RoleBinding;
use corral_api::names;

/// `rbac.authorization.k8s.io/v1 RoleBinding`.
pub struct RoleBindingKind;

impl Kind for RoleBindingKind {
    type Object = RoleBinding;

    const NAMES: Names = Names {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;

    fn columns() -> Vec<Column> {
        subjects::columns()
    }

    fn cells(binding: &RoleBinding, now: Timestamp) -> Vec<Value> {
        subjects::cells(
            &binding.metadata,
            &binding.role_ref,
            binding.subjects.as_deref(),
            now,
        )
    }
}
