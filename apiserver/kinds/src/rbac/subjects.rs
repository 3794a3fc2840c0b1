//! What both kinds of bindings have in common: the role they name and the subjects they give it to.

use corral_api::k8s::api::rbac::v1::{RoleRef, Subject};
use corral_api::meta::ObjectMeta;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, age};

/// The API group of RBAC.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Columns of a binding.
pub fn columns() -> Vec<Column> {
    vec![
        Column::NAME,
        Column::text("Role", "The role that is given."),
        Column::AGE,
        Column::text("Users", "Users it is given to.").wide(),
        Column::text("Groups", "Groups it is given to.").wide(),
        Column::text("ServiceAccounts", "Service accounts it is given to.").wide(),
    ]
}

/// Cells of a binding.
pub fn cells(
    meta: &ObjectMeta,
    role: &RoleRef,
    subjects: Option<&[Subject]>,
    now: Timestamp,
) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let subjects = subjects.unwrap_or_default().iter();
        let names: Vec<String> = subjects
            .filter(|s| s.kind == kind)
            .map(|s| match &s.namespace {
                Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{}", s.name),
                _ => s.name.clone(),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        meta.name.clone().into(),
        format!("{}/{}", role.kind, role.name).into(),
        age(meta, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

/// Defaults: the group of the role, and of users and groups.
pub fn default(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    fill::text(&mut role.api_group, GROUP);
    for subject in subjects.into_iter().flatten() {
        if matches!(subject.kind.as_str(), "User" | "Group") {
            fill::text(&mut subject.api_group, GROUP);
        }
    }
}
