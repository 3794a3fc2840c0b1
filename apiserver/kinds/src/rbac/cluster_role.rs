//! `ClusterRole`.

use crate::kind::{Kind, Names};
use corral_api::k8s::api::rbac::v1::ClusterRole;
use corral_api::names;

/// `rbac.authorization.k8s.io/v1 ClusterRole`.
pub struct ClusterRoleKind;

impl Kind for ClusterRoleKind {
    type Object = ClusterRole;

    const NAMES: Names = Names {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        short_names: &[],
        categories: &[],
        namespaced: false,
    };
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;
}
