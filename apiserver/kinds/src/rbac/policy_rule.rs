//! One rule of a role.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::rbac::v1::PolicyRule;

use crate::rules::{Errors, json};

/// A rule is about resources, or about URLs that are no resources, and says what may be done.
pub(crate) fn validate(errors: &mut Errors, path: &FieldPath, rule: &PolicyRule, namespaced: bool) {
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if rule.verbs.is_empty() {
        let detail = "verbs must contain at least one value";
        errors.push(FieldError::required(&path.child("verbs"), detail));
    }
    if given(&rule.non_resource_urls) {
        let path = path.child("nonResourceURLs");
        let urls = || json(&rule.non_resource_urls);
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(FieldError::invalid(&path, urls(), detail));
        }
        if given(&rule.api_groups) || given(&rule.resources) || given(&rule.resource_names) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&path, urls(), detail));
        }
        return;
    }
    if !given(&rule.api_groups) {
        let detail = "resource rules must supply at least one api group";
        errors.push(FieldError::required(&path.child("apiGroups"), detail));
    }
    if !given(&rule.resources) {
        let detail = "resource rules must supply at least one resource";
        errors.push(FieldError::required(&path.child("resources"), detail));
    }
}
