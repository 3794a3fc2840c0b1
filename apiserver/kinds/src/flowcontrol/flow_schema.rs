//! `FlowSchema`: which requests go through which priority level.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule,
    ServiceAccountSubject, Subject,
};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::mandatory;
use super::rules::condition_types;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age, keep_metadata};
use crate::rules::{self, Errors, at, json, text};

const PRECEDENCE_DEFAULT: i32 = 1000;
const PRECEDENCE_MAX: i32 = 10_000;
const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const ALL: &str = "*";

/// `flowcontrol.apiserver.k8s.io/v1 FlowSchema`.
pub struct FlowSchemaKind;

impl Kind for FlowSchemaKind {
    type Object = FlowSchema;

    const NAMES: Names<'static> = Names {
        group: "flowcontrol.apiserver.k8s.io",
        version: "v1",
        kind: "FlowSchema",
        plural: "flowschemas",
        singular: "flowschema",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("PriorityLevel", "The level of the requests."),
            Column::text("MatchingPrecedence", "Which schema is asked first."),
            Column::text("DistinguisherMethod", "What makes a flow."),
            Column::AGE,
            Column::text("MissingPL", "Whether the level is missing."),
        ]
    }

    fn cells(schema: &FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = schema.spec.clone().unwrap_or_default();
        let conditions = schema
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        let mut dangling = conditions.filter(|c| text(&c.type_) == "Dangling");
        let dangling = dangling.next().map_or("?", |c| text(&c.status));
        let method = spec.distinguisher_method.as_ref();
        vec![
            schema.metadata.name.clone().into(),
            spec.priority_level_configuration.name.clone().into(),
            spec.matching_precedence.unwrap_or(0).into(),
            method.map_or("<none>", |m| m.type_.as_str()).into(),
            age(&schema.metadata, now),
            dangling.into(),
        ]
    }

    fn default(schema: &mut FlowSchema) {
        let spec = schema.spec.get_or_insert_default();
        fill::zero(&mut spec.matching_precedence, PRECEDENCE_DEFAULT);
    }

    fn keep_for_status(new: &mut FlowSchema, old: &FlowSchema) {
        keep_metadata(&mut new.metadata, &old.metadata);
    }

    fn validate(schema: &FlowSchema) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let nothing = FlowSchemaSpec::default();
        let spec = schema.spec.as_ref().unwrap_or(&nothing);
        let (name, path) = (text(&schema.metadata.name), at("spec"));
        precedence(&mut errors, &path.child("matchingPrecedence"), spec, name);
        if let Some(method) = &spec.distinguisher_method {
            let path = path.child("distinguisherMethod.type");
            let allowed = ["ByNamespace", "ByUser"];
            if !allowed.contains(&method.type_.as_str()) {
                // Errors show the method under the name of Kubernetes' own field.
                let shown = json(&serde_json::json!({"Type": method.type_}));
                errors.push(FieldError::not_supported(&path, shown, &allowed));
            }
        }
        let level = spec.priority_level_configuration.name.as_str();
        let level_path = path.child("priorityLevelConfiguration.name");
        if level.is_empty() {
            let detail = "must reference a priority level";
            errors.push(FieldError::required(&level_path, detail));
        } else {
            let complaints = names::dns1123_subdomain(level);
            rules::complain(&mut errors, &level_path, level, complaints);
        }
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            policy(&mut errors, &path.child("rules").index(index), rule);
        }
        let fixed = mandatory::fixed(mandatory::schemas(), name);
        if fixed.is_some_and(|fixed| !rules::same(&fixed, &json(spec))) {
            let detail = format!("spec of '{name}' must equal the fixed value");
            errors.push(FieldError::invalid(&path, json(spec), detail));
        }
        status(&mut errors, schema);
        errors
    }

    fn validate_status_update(new: &FlowSchema, _old: &FlowSchema) -> Vec<FieldError> {
        let mut errors = Errors::new();
        status(&mut errors, new);
        errors
    }
}

fn status(errors: &mut Errors, schema: &FlowSchema) {
    let conditions = schema
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let types = conditions.map(|c| c.type_.as_deref());
    condition_types(errors, &at("status.conditions"), types);
}

fn precedence(errors: &mut Errors, path: &FieldPath, spec: &FlowSchemaSpec, name: &str) {
    let given = spec.matching_precedence.unwrap_or(0);
    if given <= 0 {
        errors.push(FieldError::invalid(path, given, "must be a positive value"));
    }
    if given > PRECEDENCE_MAX {
        let detail = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.push(FieldError::invalid(path, given, detail));
    }
    if given == 1 && name != mandatory::EXEMPT {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(FieldError::invalid(path, given, detail));
    }
}

fn policy(errors: &mut Errors, path: &FieldPath, rule: &PolicyRulesWithSubjects) {
    if rule.subjects.is_empty() {
        let detail = "subjects must contain at least one value";
        errors.push(FieldError::required(&path.child("subjects"), detail));
    }
    for (index, one) in rule.subjects.iter().enumerate() {
        subject(errors, &path.child("subjects").index(index), one);
    }
    let resource = rule.resource_rules.as_deref().unwrap_or_default();
    let other = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resource.is_empty() && other.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, detail));
    }
    for (index, rule) in resource.iter().enumerate() {
        resource_rule(errors, &path.child("resourceRules").index(index), rule);
    }
    for (index, rule) in other.iter().enumerate() {
        other_rule(errors, &path.child("nonResourceRules").index(index), rule);
    }
}

fn subject(errors: &mut Errors, path: &FieldPath, subject: &Subject) {
    let given = [
        (
            "ServiceAccount",
            "serviceAccount",
            subject.service_account.is_some(),
        ),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    let kind = subject.kind.as_str();
    let Some((_, field, is_given)) = given.iter().find(|(k, ..)| *k == kind) else {
        let allowed = ["Group", "ServiceAccount", "User"];
        rules::supported(errors, &path.child("kind"), kind, &allowed);
        return;
    };
    let own = path.child(field);
    if !is_given {
        let detail = format!("{field} is required when subject kind is '{kind}'");
        errors.push(FieldError::required(&own, detail));
    }
    let named = [
        ("User", subject.user.as_ref().map(|s| s.name.as_str())),
        ("Group", subject.group.as_ref().map(|s| s.name.as_str())),
    ];
    if named.contains(&(kind, Some(""))) {
        errors.push(FieldError::required(&own.child("name"), ""));
    }
    if let Some(account) = subject
        .service_account
        .as_ref()
        .filter(|_| kind == "ServiceAccount")
    {
        service_account(errors, &own, account);
    }
    for (other, field, _) in given
        .iter()
        .filter(|(k, _, is_given)| *k != kind && *is_given)
    {
        let detail = format!("{field} is forbidden when subject kind is not '{other}'");
        errors.push(FieldError::forbidden(&path.child(field), detail));
    }
}

fn service_account(errors: &mut Errors, path: &FieldPath, account: &ServiceAccountSubject) {
    let (name, namespace) = (account.name.as_str(), account.namespace.as_str());
    let name_path = path.child("name");
    match name {
        "" => errors.push(FieldError::required(&name_path, "")),
        ALL => {}
        name => rules::complain(errors, &name_path, name, names::dns1123_subdomain(name)),
    }
    let namespace_path = path.child("namespace");
    if namespace.is_empty() {
        let detail = "must specify namespace for service account";
        errors.push(FieldError::required(&namespace_path, detail));
    } else {
        let complaints = names::dns1123_label(namespace);
        rules::complain(errors, &namespace_path, namespace, complaints);
    }
}

/// Whether a list is the one word for all, alone; with others that is an error.
fn is_all(errors: &mut Errors, path: &FieldPath, list: &[String], others: &str) -> bool {
    let all = list.iter().any(|item| item == ALL);
    if all && list.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(path, json(list), detail));
    }
    all
}

fn verbs(errors: &mut Errors, path: &FieldPath, verbs: &[String]) {
    if verbs.is_empty() {
        let detail = "verbs must contain at least one value";
        errors.push(FieldError::required(path, detail));
    } else if !is_all(errors, path, verbs, "verbs")
        && verbs.iter().any(|verb| !VERBS.contains(&verb.as_str()))
    {
        errors.push(FieldError::not_supported(path, json(verbs), VERBS));
    }
}

fn resource_rule(errors: &mut Errors, path: &FieldPath, rule: &ResourcePolicyRule) {
    verbs(errors, &path.child("verbs"), &rule.verbs);
    for (field, list, what, others) in [
        ("apiGroups", &rule.api_groups, "api group", "api groups"),
        ("resources", &rule.resources, "resource", "resources"),
    ] {
        let path = path.child(field);
        if list.is_empty() {
            let detail = format!("resource rules must supply at least one {what}");
            errors.push(FieldError::required(&path, detail));
        } else {
            is_all(errors, &path, list, others);
        }
    }
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    let path = path.child("namespaces");
    if namespaces.is_empty() && rule.cluster_scope != Some(true) {
        let detail =
            "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(FieldError::required(&path, detail));
    } else if !is_all(errors, &path, namespaces, "namespaces") {
        for (index, namespace) in namespaces.iter().enumerate() {
            for complaint in names::dns1123_label(namespace) {
                let detail = format!(
                    "each member of this list must be '*' or a DNS-1123 label; {complaint}"
                );
                let path = path.index(index);
                errors.push(FieldError::invalid(&path, namespace, detail));
            }
        }
    }
}

fn other_rule(errors: &mut Errors, path: &FieldPath, rule: &NonResourcePolicyRule) {
    verbs(errors, &path.child("verbs"), &rule.verbs);
    let (urls, path) = (&rule.non_resource_urls, path.child("nonResourceURLs"));
    if urls.is_empty() {
        let detail = "nonResourceURLs must contain at least one value";
        errors.push(FieldError::required(&path, detail));
    } else if !is_all(errors, &path, urls, "non-resource URLs") {
        for (index, url) in urls.iter().enumerate() {
            if let Some(why) = wrong_url(url) {
                errors.push(FieldError::invalid(&path.index(index), url, why));
            }
        }
    }
}

fn wrong_url(url: &str) -> Option<&'static str> {
    let n_stars = url.matches(ALL).count();
    if url.is_empty() {
        Some("must not be empty")
    } else if url == "/" {
        None
    } else if !url.starts_with('/') {
        Some("must start with slash")
    } else if url.contains(' ') {
        Some("must not contain white-space")
    } else if url.contains("//") {
        Some("must not contain double slash")
    } else if n_stars > 1 || (n_stars == 1 && !url.ends_with("/*")) {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_of_every_cluster_are_right_and_the_mandatory_ones_fixed() {
        for (name, spec) in mandatory::schemas() {
            let json = serde_json::json!({"metadata": {"name": name}, "spec": spec});
            let mut schema: FlowSchema = serde_json::from_value(json).expect(name);
            let given = schema.clone();
            FlowSchemaKind::default(&mut schema);
            assert_eq!(schema, given, "{name} needs no defaults");
            assert!(FlowSchemaKind::validate(&schema).is_empty(), "{name}");
            let spec = schema.spec.get_or_insert_default();
            spec.matching_precedence = Some(77);
            let n_errors = FlowSchemaKind::validate(&schema).len();
            let is_fixed = matches!(name, mandatory::EXEMPT | mandatory::CATCH_ALL);
            assert_eq!(n_errors == 1, is_fixed, "{name}");
        }
    }

    #[test]
    fn paths_begin_with_a_slash_and_end_with_the_star() {
        assert_eq!(wrong_url("/healthz/*"), None);
        assert_eq!(wrong_url("healthz"), Some("must start with slash"));
        assert_eq!(
            wrong_url("/a*"),
            Some("wildcard can only do suffix matching")
        );
    }
}
