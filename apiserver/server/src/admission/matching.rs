//! Which requests a webhook, a policy or a binding of one is about: by rules, and by labels of namespace and object.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use corral_api::gvk::GroupVersionKind;
use corral_api::k8s::api::admissionregistration::v1::{
    MatchResources, NamedRuleWithOperations, RuleWithOperations,
};
use corral_api::selector::LabelSelector;
use corral_api::status::Status;
use serde_json::Value;

use super::request::{Operation, Request};
use crate::api::Api;
use crate::registry::Resource;

const ALL: &str = "*";

/// A rule; policies have names in theirs.
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: Option<String>,
    /// The names of objects; none for all.
    names: Vec<String>,
}

impl From<&RuleWithOperations> for Rule {
    fn from(rule: &RuleWithOperations) -> Self {
        Self {
            operations: rule.operations.clone().unwrap_or_default(),
            groups: rule.api_groups.clone().unwrap_or_default(),
            versions: rule.api_versions.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            scope: rule.scope.clone(),
            names: Vec::new(),
        }
    }
}

impl From<&NamedRuleWithOperations> for Rule {
    fn from(rule: &NamedRuleWithOperations) -> Self {
        Self {
            operations: rule.operations.clone().unwrap_or_default(),
            groups: rule.api_groups.clone().unwrap_or_default(),
            versions: rule.api_versions.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            scope: rule.scope.clone(),
            names: rule.resource_names.clone().unwrap_or_default(),
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

impl Rule {
    fn matches(&self, request: &Request<'_>, resource: (&str, &str, &str)) -> bool {
        let (group, version, plural) = resource;
        // A Namespace is not in a namespace, although its requests name one.
        let in_namespace = !request.namespace.is_empty() && (group, plural) != ("", "namespaces");
        let in_scope = match self.scope.as_deref() {
            None | Some(ALL) => true,
            Some("Namespaced") => in_namespace,
            Some(_) => !in_namespace,
        };
        let named = |named: &String| {
            let (resource, subresource) = named.split_once('/').unwrap_or((named, ""));
            (resource == ALL || resource == plural)
                && (subresource == ALL || subresource == request.subresource)
        };
        in_scope
            && has(&self.operations, request.operation.as_str())
            && has(&self.groups, group)
            && has(&self.versions, version)
            && self.resources.iter().any(named)
            && (self.names.is_empty() || self.names.contains(&request.name))
    }
}

/// In which version a request is seen: its own, or another in which the same objects are served.
#[derive(Clone, Default)]
pub struct Seen(Option<Arc<Resource>>);

impl Seen {
    /// The kind of the object.
    pub fn kind(&self, request: &Request<'_>) -> GroupVersionKind {
        match &self.0 {
            None => request.kind.clone(),
            Some(other) => {
                let names = other.kind.names();
                GroupVersionKind {
                    group: names.group.to_owned(),
                    version: names.version.to_owned(),
                    kind: names.kind.to_owned(),
                }
            }
        }
    }

    /// Group, version and plural of the resource.
    pub fn resource(&self, request: &Request<'_>) -> (String, String, String) {
        match &self.0 {
            None => request.resource.clone(),
            Some(other) => {
                let names = other.kind.names();
                let texts = [names.group, names.version, names.plural];
                let [group, version, plural] = texts.map(str::to_owned);
                (group, version, plural)
            }
        }
    }

    /// The resource whose own kind the object is.
    pub fn owner<'a>(&'a self, request: &Request<'a>) -> Option<&'a Resource> {
        self.0.as_deref().or(request.owner)
    }

    /// An object of the request in this version.
    ///
    /// # Errors
    /// 500 when it is not converted.
    pub async fn view<'a>(
        &self,
        request: &Request<'_>,
        value: &'a Value,
    ) -> Result<Cow<'a, Value>, Status> {
        match (&self.0, request.owner, value) {
            (Some(to), Some(from), Value::Object(_)) => {
                let converted = Box::pin(from.converted_to(to, value.clone())).await;
                converted.map(Cow::Owned).map_err(unconverted)
            }
            _ => Ok(Cow::Borrowed(value)),
        }
    }

    /// An object of this version in the request's own.
    ///
    /// # Errors
    /// 500 when it is not converted.
    pub async fn back(&self, request: &Request<'_>, value: Value) -> Result<Value, Status> {
        match (&self.0, request.owner) {
            (Some(from), Some(to)) => {
                let converted = Box::pin(from.converted_to(to, value)).await;
                converted.map_err(unconverted)
            }
            _ => Ok(value),
        }
    }
}

fn unconverted(status: Status) -> Status {
    Status::internal(status.message)
}

/// What somebody wants to see.
pub struct Criteria {
    /// Empty for everything where that is how it is meant, as with bindings.
    rules: Vec<Rule>,
    everything: bool,
    excluded: Vec<Rule>,
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

type ApiSelector = corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// What cannot be read selects nothing; such a selector does not pass validation.
fn selector(given: Option<&ApiSelector>) -> LabelSelector {
    given.map_or_else(LabelSelector::everything, |given| {
        LabelSelector::from_object(Some(given)).unwrap_or_else(|_| LabelSelector::nothing())
    })
}

impl Criteria {
    /// Those of a webhook: without rules it sees nothing.
    pub fn of_webhook(
        rules: &[RuleWithOperations],
        match_policy: Option<&str>,
        namespaces: Option<&ApiSelector>,
        objects: Option<&ApiSelector>,
    ) -> Self {
        Self {
            rules: rules.iter().map(Rule::from).collect(),
            everything: false,
            excluded: Vec::new(),
            equivalent: match_policy == Some("Equivalent"),
            namespaces: selector(namespaces),
            objects: selector(objects),
        }
    }

    /// Those of a policy or binding: without rules it sees everything.
    pub fn of_policy(given: &MatchResources) -> Self {
        let rules = |rules: &Option<Vec<NamedRuleWithOperations>>| -> Vec<Rule> {
            rules.iter().flatten().map(Rule::from).collect()
        };
        let own = rules(&given.resource_rules);
        Self {
            everything: own.is_empty(),
            rules: own,
            excluded: rules(&given.exclude_resource_rules),
            equivalent: given.match_policy.as_deref() == Some("Equivalent"),
            namespaces: selector(given.namespace_selector.as_ref()),
            objects: selector(given.object_selector.as_ref()),
        }
    }

    /// Whether a request is selected, and in which version it is seen then.
    ///
    /// # Errors
    /// 404 when its namespace is not there.
    pub async fn selects(
        &self,
        api: &Api,
        request: &Request<'_>,
        object: &Value,
        old: &Value,
    ) -> Result<Option<Seen>, Status> {
        if !self.by_object(object, old) {
            return Ok(None);
        }
        let Some(seen) = self.by_rules(api, request) else {
            return Ok(None);
        };
        let selected = self.by_namespace(api, request).await?;
        Ok(selected.then_some(seen))
    }

    /// Whether the rules mean a request, and in which version it is seen then.
    pub fn by_rules(&self, api: &Api, request: &Request<'_>) -> Option<Seen> {
        if self.find(api, &self.excluded, request).is_some() {
            return None;
        }
        if self.everything {
            return Some(Seen::default());
        }
        self.find(api, &self.rules, request)
    }

    fn find(&self, api: &Api, rules: &[Rule], request: &Request<'_>) -> Option<Seen> {
        let (group, version, plural) = &request.resource;
        let own = (group.as_str(), version.as_str(), plural.as_str());
        if rules.iter().any(|rule| rule.matches(request, own)) {
            return Some(Seen::default());
        }
        let owner = request
            .owner
            .filter(|_| self.equivalent && !rules.is_empty())?;
        let others = equivalents(api, owner);
        rules.iter().find_map(|rule| {
            let other = others.iter().find(|other| {
                let names = other.kind.names();
                rule.matches(request, (names.group, names.version, names.plural))
            });
            other.map(|other| Seen(Some(other.clone())))
        })
    }

    /// Whether the namespace of a request is selected. What is in no namespace is.
    ///
    /// # Errors
    /// 404 when the namespace is not there.
    pub async fn by_namespace(&self, api: &Api, request: &Request<'_>) -> Result<bool, Status> {
        let is_namespace = request.resource.2 == "namespaces";
        if (request.namespace.is_empty() && !is_namespace) || self.namespaces.is_everything() {
            return Ok(true);
        }
        if is_namespace
            && request.subresource.is_empty()
            && matches!(request.operation, Operation::Create | Operation::Update)
        {
            return Ok(self
                .namespaces
                .matches_opt(request.namespace_labels.as_ref()));
        }
        let namespace = namespace(api, &request.namespace).await?;
        Ok(self.namespaces.matches(&labels(&namespace)))
    }

    /// Whether the object is selected, as it is or as it was.
    pub fn by_object(&self, object: &Value, old: &Value) -> bool {
        let selected = |value: &Value| !value.is_null() && self.objects.matches(&labels(value));
        self.objects.is_everything() || selected(object) || selected(old)
    }
}

/// The resources that serve the same stored objects under other names.
fn equivalents(api: &Api, owner: &Resource) -> Vec<Arc<Resource>> {
    let prefix = owner.cacher.prefix();
    let own = owner.kind.names();
    let built_in = api.resources().cloned();
    let all = built_in.chain(api.custom_resources());
    all.filter(|other| {
        let names = other.kind.names();
        let is_own = (names.group, names.version) == (own.group, own.version);
        other.cacher.prefix() == prefix && !is_own
    })
    .collect()
}

/// A Namespace, as it is known or stored.
///
/// # Errors
/// 404 when it is not there.
pub async fn namespace(api: &Api, name: &str) -> Result<Value, Status> {
    let namespaces = api.core("namespaces");
    let key = namespaces.key("", name);
    let json = match namespaces.cacher.peek(&key) {
        Some(stored) => stored.json.clone(),
        // The cache may be late.
        None => {
            let entry = namespaces.fetch(&key).await?;
            entry.ok_or_else(|| namespaces.not_found(name))?.value
        }
    };
    serde_json::from_slice(&json).map_err(Status::internal)
}

/// The labels of an object's JSON.
pub fn labels(object: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bootstrap;

    fn rule(value: Value) -> Rule {
        let mut rule = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]});
        for (key, value) in value.as_object().into_iter().flatten() {
            rule[key] = value.clone();
        }
        let rule: NamedRuleWithOperations = serde_json::from_value(rule).expect("a rule");
        Rule::from(&rule)
    }

    #[test]
    fn a_rule_names_groups_versions_resources_scope_and_operations() {
        let cx = bootstrap::context("default");
        let mut request = Request {
            kind: corral_api::GroupVersionKind {
                group: String::new(),
                version: String::new(),
                kind: String::new(),
            },
            resource: ("apps".into(), "v1".into(), "deployments".into()),
            subresource: "",
            namespace: "default".into(),
            name: "d".into(),
            operation: Operation::Update,
            options: Value::Null,
            cx: &cx,
            owner: None,
            namespace_labels: None,
        };
        let of = |request: &Request<'_>, rule_: Value| {
            let (group, version, plural) = &request.resource;
            rule(rule_).matches(request, (group, version, plural))
        };
        assert!(of(&request, json!({})));
        assert!(of(
            &request,
            json!({"apiGroups": ["", "apps"], "resources": ["deployments"]})
        ));
        assert!(!of(&request, json!({"operations": ["CREATE", "DELETE"]})));
        assert!(!of(&request, json!({"apiVersions": ["v1beta1"]})));
        assert!(!of(
            &request,
            json!({"resources": ["deployments/status", "pods"]})
        ));
        assert!(of(&request, json!({"scope": "Namespaced"})));
        assert!(!of(&request, json!({"scope": "Cluster"})));
        assert!(of(&request, json!({"resourceNames": ["c", "d"]})));
        assert!(!of(&request, json!({"resourceNames": ["e"]})));
        request.subresource = "scale";
        assert!(!of(&request, json!({"resources": ["*"]})));
        assert!(of(&request, json!({"resources": ["*/scale"]})));
        assert!(of(&request, json!({"resources": ["deployments/*"]})));
        assert!(of(&request, json!({"resources": ["*/*"]})));
        request.resource = ("".into(), "v1".into(), "namespaces".into());
        request.subresource = "";
        assert!(of(&request, json!({"scope": "Cluster"})));
        assert!(!of(&request, json!({"scope": "Namespaced"})));
    }
}
