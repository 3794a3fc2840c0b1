//! Which resources a policy is checked against, and the warnings that come of it.

use std::fmt;
use std::sync::Arc;

use corral_api::k8s::api::admissionregistration::v1::{
    ExpressionWarning, NamedRuleWithOperations, ParamKind, ValidatingAdmissionPolicySpec,
};
use corral_cel::admission::TypeChecker;
use corral_cel::{DeclType, Version};

/// The version of Kubernetes whose functions expressions may use.
const VERSION: Version = Version::new(1, 36);

/// A resource that a rule names; the group `""` stands for any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub name: String,
}

/// A kind, shown as Kubernetes does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub name: String,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.name)
    }
}

/// What is known of the kinds that matter to a policy.
#[derive(Debug, Default)]
pub struct Types {
    /// The kinds with a schema in their order; of some it says nothing.
    pub objects: Vec<(Kind, Option<Arc<DeclType>>)>,
    /// `None` for a policy without parameters; their type if it is known.
    pub params: Option<Option<Arc<DeclType>>>,
}

/// The resources that the rules name one by one, in the order in which they are looked for.
pub fn resources(spec: &ValidatingAdmissionPolicySpec) -> Vec<Vec<Resource>> {
    let constraints = spec.match_constraints.as_ref();
    let rules = constraints.and_then(|c| c.resource_rules.as_ref());
    rules.into_iter().flatten().map(of_rule).collect()
}

fn of_rule(rule: &NamedRuleWithOperations) -> Vec<Resource> {
    let (groups, versions) = (sorted(&rule.api_groups), sorted(&rule.api_versions));
    let is_wild = |names: &[String]| names.iter().any(|name| name.contains('*'));
    if is_wild(&groups) || is_wild(&versions) {
        return Vec::new();
    }
    let mut names = sorted(&rule.resources);
    names.retain(|name| !name.contains(['*', '/']));
    let mut resources = Vec::new();
    for group in &groups {
        for version in &versions {
            resources.extend(names.iter().map(|name| Resource {
                group: group.clone(),
                version: version.clone(),
                name: name.to_lowercase(),
            }));
        }
    }
    resources
}

fn sorted(names: &Option<Vec<String>>) -> Vec<String> {
    let mut names = names.clone().unwrap_or_default();
    names.sort_unstable();
    names
}

/// The kind of the parameters; none if there is no such version.
pub fn params(kind: &ParamKind) -> Option<Kind> {
    let version = kind.api_version.as_deref().unwrap_or_default();
    let (group, version) = match version.split_once('/') {
        Some((_, rest)) if rest.contains('/') => return None,
        Some(pair) => pair,
        None => ("", version),
    };
    Some(Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        name: kind.kind.clone().unwrap_or_default(),
    })
}

/// Checks rules and their messages against each type.
pub fn check(spec: &ValidatingAdmissionPolicySpec, types: &Types) -> Vec<ExpressionWarning> {
    let checkers: Vec<_> = types
        .objects
        .iter()
        .map(|(kind, object)| (kind, checker(spec, object.as_ref(), types)))
        .collect();
    let mut warnings = Vec::new();
    let mut check = |field_ref: String, text: &str| {
        let said: Vec<String> = checkers
            .iter()
            .filter_map(|(kind, checker)| Some(format!("{kind}: {}\n", checker.check(text)?)))
            .collect();
        if !said.is_empty() {
            warnings.push(ExpressionWarning {
                field_ref,
                warning: said.join("\n"),
            });
        }
    };
    for (n, rule) in spec.validations.iter().flatten().enumerate() {
        check(
            format!("spec.validations[{n}].expression"),
            &rule.expression,
        );
        if let Some(text) = rule.message_expression.as_deref().filter(|t| !t.is_empty()) {
            check(format!("spec.validations[{n}].messageExpression"), text);
        }
    }
    warnings
}

fn checker(
    spec: &ValidatingAdmissionPolicySpec,
    object: Option<&Arc<DeclType>>,
    types: &Types,
) -> TypeChecker {
    let params = types.params.as_ref().map(Option::as_ref);
    let mut checker = TypeChecker::new(VERSION, object, params);
    for variable in spec.variables.iter().flatten() {
        checker.add_variable(&variable.name, &variable.expression);
    }
    checker
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn rule(groups: &[&str], versions: &[&str], resources: &[&str]) -> serde_json::Value {
        json!({"apiGroups": groups, "apiVersions": versions, "resources": resources})
    }

    #[test]
    fn what_a_wildcard_stands_for_is_not_checked() {
        let spec = json!({"matchConstraints": {"resourceRules": [
            rule(&["*"], &["v1"], &["pods"]),
            rule(&["apps"], &["*"], &["deployments"]),
            rule(&["batch", "apps"], &["v1"], &["jobs", "*/scale", "jobs/status", "*", "CronJobs"]),
        ]}});
        let spec: ValidatingAdmissionPolicySpec = from_value(spec).expect("a spec");
        let resource = |group: &str, name: &str| Resource {
            group: group.into(),
            version: "v1".into(),
            name: name.into(),
        };
        let found = vec![
            resource("apps", "cronjobs"),
            resource("apps", "jobs"),
            resource("batch", "cronjobs"),
            resource("batch", "jobs"),
        ];
        assert_eq!(resources(&spec), [vec![], vec![], found]);
    }

    #[test]
    fn parameters_of_no_version_are_of_no_kind() {
        let kind = |version: &str| {
            let kind = ParamKind {
                api_version: Some(version.to_owned()),
                kind: Some("Limit".to_owned()),
            };
            params(&kind).map(|kind| kind.to_string())
        };
        assert_eq!(kind("v1").as_deref(), Some("/v1, Kind=Limit"));
        assert_eq!(kind("a.b/v1").as_deref(), Some("a.b/v1, Kind=Limit"));
        assert_eq!(kind("a/b/v1"), None);
    }
}
