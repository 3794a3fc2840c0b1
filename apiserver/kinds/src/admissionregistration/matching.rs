//! Which requests a webhook or a policy is about: rules, selectors, conditions.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, RuleWithOperations,
};
use corral_api::names;

use super::expressions::Expressions;
use crate::fill;
use crate::rules::{self, Errors, Seen, complain, json, label_selector, supported, text};

pub(super) const POLICIES: &[&str] = &["Equivalent", "Exact"];
pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// Operations that change an object, or could.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const ALL: &str = "*";
const CONDITIONS_MAX: usize = 64;

/// Defaults of a rule.
pub(super) fn default_rule(scope: &mut Option<String>) {
    fill::absent(scope, ALL.to_owned());
}

/// Defaults of what a policy or its binding matches.
pub(super) fn default_resources(resources: &mut MatchResources) {
    fill::absent(&mut resources.match_policy, "Equivalent".to_owned());
    resources.namespace_selector.get_or_insert_default();
    resources.object_selector.get_or_insert_default();
    let rules = [
        &mut resources.resource_rules,
        &mut resources.exclude_resource_rules,
    ];
    for rule in rules.into_iter().flatten().flatten() {
        default_rule(&mut rule.scope);
    }
}

/// A rule as both forms of it have it.
struct Rule<'a> {
    operations: &'a [String],
    groups: &'a [String],
    versions: &'a [String],
    resources: &'a [String],
    scope: Option<&'a String>,
}

fn items(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

/// A rule of a webhook.
pub(super) fn rule(errors: &mut Errors, path: &FieldPath, rule: &RuleWithOperations) {
    let rule = Rule {
        operations: items(&rule.operations),
        groups: items(&rule.api_groups),
        versions: items(&rule.api_versions),
        resources: items(&rule.resources),
        scope: rule.scope.as_ref(),
    };
    either_rule(errors, path, &rule);
}

fn named_rule(errors: &mut Errors, path: &FieldPath, named: &NamedRuleWithOperations) {
    let mut seen = Seen::default();
    let names_path = path.child("resourceNames");
    for (index, name) in items(&named.resource_names).iter().enumerate() {
        let path = names_path.index(index);
        complain(errors, &path, name, names::path_segment(name));
        seen.check(errors, &path, name);
    }
    let rule = Rule {
        operations: items(&named.operations),
        groups: items(&named.api_groups),
        versions: items(&named.api_versions),
        resources: items(&named.resources),
        scope: named.scope.as_ref(),
    };
    either_rule(errors, path, &rule);
}

fn either_rule(errors: &mut Errors, path: &FieldPath, rule: &Rule<'_>) {
    let operations_path = path.child("operations");
    some_or_all(errors, &operations_path, rule.operations, "operations");
    for (index, operation) in rule.operations.iter().enumerate() {
        supported(errors, &operations_path.index(index), operation, OPERATIONS);
    }
    some_or_all(errors, &path.child("apiGroups"), rule.groups, "API groups");
    let versions_path = path.child("apiVersions");
    some_or_all(errors, &versions_path, rule.versions, "API versions");
    for (index, version) in rule.versions.iter().enumerate() {
        if version.is_empty() {
            errors.push(FieldError::required(&versions_path.index(index), ""));
        }
    }
    resources(errors, &path.child("resources"), rule.resources);
    if let Some(scope) = rule.scope {
        supported(errors, &path.child("scope"), scope, SCOPES);
    }
}

/// A list that names something, or only everything.
fn some_or_all(errors: &mut Errors, path: &FieldPath, list: &[String], what: &str) {
    if list.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if list.len() > 1 && list.iter().any(|item| item == ALL) {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(path, json(list), detail));
    }
}

fn resources(errors: &mut Errors, path: &FieldPath, list: &[String]) {
    if list.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let mut whole = BTreeSet::new();
    let mut of_all = BTreeSet::new();
    let mut last_is_plain = false;
    for (index, given) in list.iter().enumerate() {
        let path = path.index(index);
        if given.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let Some((resource, subresource)) = given.split_once('/') else {
            last_is_plain = given != ALL;
            continue;
        };
        let mut covered = |by: String| {
            let detail = format!("if '{by}' is present, must not specify {given}");
            errors.push(FieldError::invalid(&path, given.as_str(), detail));
        };
        if whole.contains(resource) {
            covered(format!("{resource}/*"));
        }
        if of_all.contains(subresource) {
            covered(format!("*/{subresource}"));
        }
        if subresource == ALL {
            whole.insert(resource);
        }
        if resource == ALL {
            of_all.insert(subresource);
        }
    }
    let has = |wanted: &str| list.iter().any(|given| given == wanted);
    if list.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, json(list), detail));
    }
    if has(ALL) && last_is_plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, json(list), detail));
    }
}

/// What a policy or its binding matches.
pub(super) fn match_resources(errors: &mut Errors, path: &FieldPath, given: &MatchResources) {
    let policy_path = path.child("matchPolicy");
    match &given.match_policy {
        None => errors.push(FieldError::required(&policy_path, "")),
        Some(policy) => supported(errors, &policy_path, policy, POLICIES),
    }
    let selectors = [
        ("namespaceSelector", &given.namespace_selector),
        ("objectSelector", &given.object_selector),
    ];
    for (field, selector) in selectors {
        let path = path.child(field);
        match selector {
            None => errors.push(FieldError::required(&path, "")),
            Some(selector) => label_selector(errors, &path, selector),
        }
    }
    let lists = [
        ("resourceRules", &given.resource_rules),
        ("excludeResourceRules", &given.exclude_resource_rules),
    ];
    for (field, rules) in lists {
        for (index, rule) in rules.iter().flatten().enumerate() {
            named_rule(errors, &path.child(field).index(index), rule);
        }
    }
}

/// What changes objects is not asked about their deletion.
pub(super) fn mutating_operations(errors: &mut Errors, path: &FieldPath, given: &MatchResources) {
    let rules = given.resource_rules.iter().flatten();
    let path = path.child("resourceRules.operations");
    for operation in rules.flat_map(|rule| items(&rule.operations)) {
        supported(errors, &path, operation, MUTATING_OPERATIONS);
    }
}

/// Conditions in CEL.
pub(super) fn conditions(
    errors: &mut Errors,
    path: &FieldPath,
    list: &[MatchCondition],
    expressions: &Expressions,
) {
    if list.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, list.len(), CONDITIONS_MAX));
    }
    let mut seen = Seen::default();
    for (index, condition) in list.iter().enumerate() {
        let path = path.index(index);
        let (text, text_path) = (&condition.expression, path.child("expression"));
        if given(errors, &text_path, text, "") {
            expressions.condition(errors, &text_path, text);
        }
        let (name, name_path) = (condition.name.as_str(), path.child("name"));
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else {
            complain(errors, &name_path, name, names::qualified_name(name));
            seen.check(errors, &name_path, name);
        }
    }
}

/// Whether there is an expression.
pub(super) fn given(errors: &mut Errors, path: &FieldPath, text: &str, detail: &str) -> bool {
    let blank = text.trim().is_empty();
    if blank {
        errors.push(FieldError::required(path, detail));
    }
    !blank
}

/// Whether two lists of conditions are the same; unchanged ones are not checked again.
pub(super) fn same_conditions(
    new: &Option<Vec<MatchCondition>>,
    old: &Option<Vec<MatchCondition>>,
) -> bool {
    rules::same(new, old)
}

/// A policy of failure that may be absent.
pub(super) fn failure_policy(errors: &mut Errors, path: &FieldPath, given: &Option<String>) {
    match given {
        None => errors.push(FieldError::required(path, "")),
        Some(_) => supported(errors, path, text(given), FAILURE_POLICIES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{at, texts};

    #[test]
    fn resources_of_a_rule_do_not_cover_each_other() {
        let check = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            let mut errors = Errors::new();
            resources(&mut errors, &at("resources"), &list);
            texts(&errors)
        };
        assert!(check(&["pods", "pods/*", "*/scale"]).is_empty());
        assert_eq!(
            check(&["pods/*", "pods/status"]),
            [
                "resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status"
            ]
        );
        assert_eq!(check(&["*/*", "pods"]).len(), 1);
        assert_eq!(check(&["*", "pods"]).len(), 1);
    }
}
