//! What both kinds of bindings have in common: the role they name and the subjects they give it to.

use corral_api::field::FieldError;
use corral_api::k8s::api::rbac::v1::{RoleRef, Subject};
use corral_api::meta::ObjectMeta;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, age};
use crate::rules::{self, Errors, at, text};

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

/// Rules of the role that is given.
pub(crate) fn validate_role(errors: &mut Errors, role: &RoleRef, kinds: &[&str]) {
    let path = at("roleRef");
    rules::supported(
        errors,
        &path.child("apiGroup"),
        text(&role.api_group),
        &[GROUP],
    );
    rules::supported_of(errors, &path.child("kind"), &role.kind, kinds);
    if role.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        let complaints = names::path_segment(&role.name);
        rules::complain(errors, &path.child("name"), &role.name, complaints);
    }
}

/// Rules of the subjects. In a namespace, service accounts may leave theirs out.
pub(crate) fn validate(errors: &mut Errors, subjects: &[Subject], namespaced: bool) {
    for (index, subject) in subjects.iter().enumerate() {
        let path = at("subjects").index(index);
        if subject.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        let group = text(&subject.api_group);
        match subject.kind.as_str() {
            "ServiceAccount" => {
                let name = &subject.name;
                if !name.is_empty() {
                    let complaints = names::dns1123_subdomain(name);
                    rules::complain(errors, &path.child("name"), name, complaints);
                }
                rules::supported(errors, &path.child("apiGroup"), group, &[""]);
                if !namespaced && text(&subject.namespace).is_empty() {
                    errors.push(FieldError::required(&path.child("namespace"), ""));
                }
            }
            "User" | "Group" => {
                rules::supported(errors, &path.child("apiGroup"), group, &[GROUP]);
            }
            other => {
                let allowed = ["ServiceAccount", "User", "Group"];
                errors.push(FieldError::not_supported_of(
                    &path.child("kind"),
                    other,
                    &allowed,
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn subjects_have_the_group_of_their_kind() {
        let mut errors = Errors::new();
        let given: Vec<Subject> = serde_json::from_value(serde_json::json!([
            {"kind": "User", "name": "a", "apiGroup": "x"}, {"kind": "ServiceAccount", "name": "s"},
            {"kind": "Robot", "name": "r"},
        ]))
        .expect("subjects");
        validate(&mut errors, &given, false);
        assert_eq!(
            texts(&errors),
            [
                "subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                "subjects[1].namespace: Required value",
                "subjects[2].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ]
        );
    }
}
