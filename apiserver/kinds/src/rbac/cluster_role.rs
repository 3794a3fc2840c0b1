//! `ClusterRole`.

use corral_api::field::FieldError;
use corral_api::k8s::api::rbac::v1::ClusterRole;
use corral_api::names;
use serde_json::Value;

use super::policy_rule;
use crate::fill;
use crate::kind::{Kind, Names, Words};
use crate::rules::{self, Errors, at};

/// `rbac.authorization.k8s.io/v1 ClusterRole`.
pub struct ClusterRoleKind;

impl Kind for ClusterRoleKind {
    type Object = ClusterRole;

    const NAMES: Names<'static> = Names {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;

    fn prepare_create(role: &mut ClusterRole) {
        fill::none_if_empty(&mut role.rules);
    }

    fn prepare_update(new: &mut ClusterRole, _old: &ClusterRole) {
        fill::none_if_empty(&mut new.rules);
    }

    fn validate(role: &ClusterRole) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for (index, rule) in role.rules.iter().flatten().enumerate() {
            policy_rule::validate(&mut errors, &at("rules").index(index), rule, false);
        }
        if let Some(aggregation) = &role.aggregation_rule {
            let path = at("aggregationRule.clusterRoleSelectors");
            let selectors = aggregation
                .cluster_role_selectors
                .as_deref()
                .unwrap_or_default();
            if selectors.is_empty() {
                let detail =
                    "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.push(FieldError::required(&path, detail));
            }
            for (index, selector) in selectors.iter().enumerate() {
                let (path, known) = (path.index(index), errors.len());
                rules::label_selector(&mut errors, &path, selector);
                if errors.len() > known {
                    let detail = "invalid label selector.";
                    errors.push(FieldError::invalid(&path, Value::Null, detail));
                }
            }
        }
        errors
    }
}
