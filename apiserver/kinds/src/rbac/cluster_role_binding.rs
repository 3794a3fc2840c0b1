//! `ClusterRoleBinding`.
use jiff::Timestamp;
use serde_json::Value;

use super::subjects;
use crate::kind::{Column, Kind, Names};
use corral_api::k8s::api::rbac::v1::ClusterRoleBinding;
use corral_api::names;

/// `rbac.authorization.k8s.io/v1 ClusterRoleBinding`.
pub struct ClusterRoleBindingKind;

impl Kind for ClusterRoleBindingKind {
    type Object = ClusterRoleBinding;

    const NAMES: Names = Names {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        short_names: &[],
        categories: &[],
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
}
