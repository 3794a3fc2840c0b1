//! `Role`.

use corral_api::field::FieldError;
use corral_api::k8s::api::rbac::v1::Role;
use corral_api::names;

use super::policy_rule;
use crate::fill;
use crate::kind::{Kind, Names, Words};
use crate::rules::{Errors, at};

/// `rbac.authorization.k8s.io/v1 Role`.
pub struct RoleKind;

impl Kind for RoleKind {
    type Object = Role;

    const NAMES: Names<'static> = Names {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        kind: "Role",
        plural: "roles",
        singular: "role",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;

    fn prepare_create(role: &mut Role) {
        fill::none_if_empty(&mut role.rules);
    }

    fn prepare_update(new: &mut Role, _old: &Role) {
        fill::none_if_empty(&mut new.rules);
    }

    fn validate(role: &Role) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for (index, rule) in role.rules.iter().flatten().enumerate() {
            policy_rule::validate(&mut errors, &at("rules").index(index), rule, true);
        }
        errors
    }
}
