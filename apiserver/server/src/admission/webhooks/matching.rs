//! Which webhooks are asked about a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use corral_api::k8s::api::admissionregistration::v1::RuleWithOperations;
use corral_api::k8s::api::core::v1::Namespace;
use corral_api::status::Status;
use serde_json::Value;

use super::hooks::Hook;
use super::request::{Operation, Request};
use super::{Refusal, labels};
use crate::api::Api;
use crate::registry::Resource;

const ALL: &str = "*";

/// Whether a rule means the request; and if it means it in another version, the resource of that.
pub fn by_rules(api: &Api, hook: &Hook, request: &Request<'_>) -> Option<Option<Arc<Resource>>> {
    let rules = hook.webhook.rules.as_deref().unwrap_or_default();
    let (group, version, plural) = &request.resource;
    let own = (group.as_str(), version.as_str(), plural.as_str());
    if rules.iter().any(|rule| matches(rule, request, own)) {
        return Some(None);
    }
    let equivalent = hook.webhook.match_policy.as_deref() == Some("Equivalent");
    let owner = request.owner.filter(|_| equivalent && !rules.is_empty())?;
    let others = equivalents(api, owner);
    rules.iter().find_map(|rule| {
        let other = others.iter().find(|other| {
            let names = other.kind.names();
            matches(rule, request, (names.group, names.version, names.plural))
        });
        other.cloned().map(Some)
    })
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

fn has(list: &Option<Vec<String>>, wanted: &str) -> bool {
    let mut items = list.iter().flatten();
    items.any(|item| item == ALL || item == wanted)
}

fn matches(rule: &RuleWithOperations, request: &Request<'_>, resource: (&str, &str, &str)) -> bool {
    let (group, version, plural) = resource;
    // A Namespace is not in a namespace, although its requests name one.
    let in_namespace = !request.namespace.is_empty() && (group, plural) != ("", "namespaces");
    let in_scope = match rule.scope.as_deref() {
        None | Some(ALL) => true,
        Some("Namespaced") => in_namespace,
        Some(_) => !in_namespace,
    };
    let mut resources = rule.resources.iter().flatten();
    in_scope
        && has(&rule.operations, request.operation.as_str())
        && has(&rule.api_groups, group)
        && has(&rule.api_versions, version)
        && resources.any(|named| {
            let (resource, subresource) = named.split_once('/').unwrap_or((named, ""));
            (resource == ALL || resource == plural)
                && (subresource == ALL || subresource == request.subresource)
        })
}

/// Whether the namespace of a request is selected. What is in no namespace is.
///
/// # Errors
/// 404 when the namespace is not there.
pub async fn by_namespace(api: &Api, hook: &Hook, request: &Request<'_>) -> Result<bool, Status> {
    let is_namespace = request.resource.2 == "namespaces";
    if (request.namespace.is_empty() && !is_namespace) || hook.namespaces.is_everything() {
        return Ok(true);
    }
    if is_namespace
        && request.subresource.is_empty()
        && matches!(request.operation, Operation::Create | Operation::Update)
    {
        return Ok(hook
            .namespaces
            .matches_opt(request.namespace_labels.as_ref()));
    }
    let labels = namespace_labels(api, &request.namespace).await?;
    Ok(hook.namespaces.matches(&labels))
}

async fn namespace_labels(api: &Api, name: &str) -> Result<BTreeMap<String, String>, Status> {
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
    let namespace: Namespace = serde_json::from_slice(&json).map_err(Status::internal)?;
    Ok(namespace.metadata.labels.unwrap_or_default())
}

/// Whether the object is selected, as it is or as it was.
pub fn by_object(hook: &Hook, object: &Value, old: &Value) -> bool {
    let selected = |value: &Value| !value.is_null() && hook.objects.matches(&labels(value));
    hook.objects.is_everything() || selected(object) || selected(old)
}

/// Whether the conditions of a webhook hold. They are CEL, which is evaluated here once the server can; until then a
/// webhook with conditions is one that cannot be asked.
pub(super) fn conditions(hook: &Hook) -> Result<(), Refusal> {
    let given = hook.webhook.match_conditions.as_ref();
    if given.is_none_or(Vec::is_empty) {
        return Ok(());
    }
    Err(Refusal::Failed {
        why: "its match conditions cannot be evaluated by this server yet".to_owned(),
        code: 500,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bootstrap;

    fn rule(value: Value) -> RuleWithOperations {
        let mut rule = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]});
        for (key, value) in value.as_object().into_iter().flatten() {
            rule[key] = value.clone();
        }
        serde_json::from_value(rule).expect("a rule")
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
            matches(&rule(rule_), request, (group, version, plural))
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
