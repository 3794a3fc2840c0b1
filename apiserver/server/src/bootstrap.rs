//! What every cluster has from the beginning: namespaces, roles, priority classes, and the `kubernetes` Service.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::net::IpAddr;

use corral_api::k8s::api::rbac::v1::PolicyRule;
use corral_api::status::{Status, StatusReason};
use futures::stream::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Api;
use crate::authn::{MASTERS, User};
use crate::authz::{coverage, roles};
use crate::decode::Decoded;
use crate::registry::{
    DeleteOptions, FieldValidation, Ownership, Part, Warnings, WriteContext, metadata,
};

/// Namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// How the names of slices of the `kubernetes` Service begin when its servers have several ports.
const FURTHER_SLICES: &str = "kubernetes-";
/// Tells to which Service a slice belongs.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

const RBAC: &str = "rbac.authorization.k8s.io";

/// The name that the server itself writes by.
pub(crate) const SERVER: &str = "system:apiserver";

/// How many objects are made at once. The store writes together what comes together, so that a new cluster is there after a
/// few writes of its disk instead of two hundred.
const WRITES_AT_ONCE: usize = 64;

/// Does all of this, in the order in which it comes but without waiting for one before the next.
///
/// # Errors
/// The first that fails; the others may have been done or not.
pub(crate) async fn at_once<F>(writes: impl IntoIterator<Item = F>) -> Result<(), Status>
where
    F: Future<Output = Result<(), Status>>,
{
    let writes = futures::stream::iter(writes).map(Ok);
    let each = writes.try_for_each_concurrent(WRITES_AT_ONCE, |write| write);
    each.await
}

/// What the server itself writes with.
pub(crate) fn context(namespace: &str) -> WriteContext {
    WriteContext {
        user: User::new(SERVER, &[MASTERS]),
        namespace: namespace.to_owned(),
        manager: "corral".to_owned(),
        dry_run: false,
        validation: FieldValidation::Strict,
        now: Timestamp::now(),
        warnings: Warnings::default(),
        asked: Default::default(),
        audit: Default::default(),
    }
}

fn values<T: serde::Serialize>(objects: Vec<T>) -> Result<impl Iterator<Item = Value>, Status> {
    let values = objects.into_iter().map(serde_json::to_value);
    let values: Result<Vec<_>, _> = values.collect();
    Ok(values.map_err(Status::internal)?.into_iter())
}

fn namespace_of(value: &Value) -> String {
    let namespace = value["metadata"]["namespace"].as_str();
    namespace.unwrap_or_default().to_owned()
}

/// Makes what is missing.
///
/// # Errors
/// When the store does not take it.
pub async fn run(api: &Api, service_address: IpAddr, port: u16) -> Result<(), Status> {
    at_once(NAMESPACES.map(|name| {
        let namespace = json!({"metadata": {"name": name}});
        create(api, "", "namespaces", "", namespace)
    }))
    .await?;
    keep_additions(api).await?;
    let roles = values(roles::cluster_roles())?.map(|role| ensure_rules(api, "clusterroles", role));
    at_once(roles).await?;
    let roles = values(roles::roles())?.map(|role| ensure_rules(api, "roles", role));
    at_once(roles).await?;
    let bindings = values(roles::cluster_role_bindings())?;
    let bindings = bindings.map(|binding| create(api, RBAC, "clusterrolebindings", "", binding));
    at_once(bindings).await?;
    let bindings = values(roles::role_bindings())?.map(async |binding| {
        let namespace = namespace_of(&binding);
        create(api, RBAC, "rolebindings", &namespace, binding).await
    });
    at_once(bindings).await?;
    let classes = [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ];
    at_once(classes.map(|(name, priority, description)| {
        let class =
            json!({"metadata": {"name": name}, "value": priority, "description": description});
        create(api, "scheduling.k8s.io", "priorityclasses", "", class)
    }))
    .await?;
    api_service(api, service_address, port).await
}

/// Makes an object that is missing.
///
/// # Errors
/// When the store does not take it.
pub(crate) async fn create(
    api: &Api,
    group: &str,
    plural: &str,
    namespace: &str,
    value: Value,
) -> Result<(), Status> {
    let resource = api
        .resource(group, plural)
        .ok_or_else(|| Status::internal("a built-in resource is missing"))?;
    let name = value["metadata"]["name"].as_str().unwrap_or("").to_owned();
    if resource
        .cacher
        .peek(&resource.key(namespace, &name))
        .is_some()
    {
        return Ok(());
    }
    let body = Decoded::of(value);
    // Boxed: many are made at once.
    match Box::pin(resource.create(&context(namespace), body)).await {
        Err(status) if !status.is(StatusReason::AlreadyExists) => Err(status),
        _ => Ok(()),
    }
}

/// The roles for people once held their rules themselves. What an administrator added to one then must not get lost now
/// that its rules are gathered from others.
async fn keep_additions(api: &Api) -> Result<(), Status> {
    let resource = api
        .resource(RBAC, "clusterroles")
        .ok_or_else(|| Status::internal("a built-in resource is missing"))?;
    for part in roles::cluster_roles() {
        let Some(name) = part
            .metadata
            .name
            .as_deref()
            .unwrap_or("")
            .strip_prefix(roles::AGGREGATED)
        else {
            continue;
        };
        let Some(stored) = resource.cacher.peek(&resource.key("", name)) else {
            continue;
        };
        let live = stored.value().map_err(Status::internal)?;
        if live["aggregationRule"].is_object() {
            continue;
        }
        let mut part = serde_json::to_value(&part).map_err(Status::internal)?;
        part["rules"] = live["rules"].clone();
        create(api, RBAC, "clusterroles", "", part).await?;
    }
    Ok(())
}

/// Makes a role, or adds the rules and labels that it lacks. The rules of one that aggregates are not ours.
async fn ensure_rules(api: &Api, plural: &str, role: Value) -> Result<(), Status> {
    let resource = api
        .resource(RBAC, plural)
        .ok_or_else(|| Status::internal("a built-in resource is missing"))?;
    let name = role["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let namespace = namespace_of(&role);
    let Some(stored) = resource.cacher.peek(&resource.key(&namespace, &name)) else {
        return create(api, RBAC, plural, &namespace, role).await;
    };
    let live = stored.value().map_err(Status::internal)?;
    let updates =
        live["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] == "true";
    let change = |live: &Value| {
        let mut next = completed(live, &role);
        metadata::drop_live_version(&mut next, live);
        Ok((next, Ownership::Update))
    };
    if !updates || completed(&live, &role) == live {
        return Ok(());
    }
    resource
        .update(&context(&namespace), &name, Part::Main, "", &change)
        .await
        .map(|_| ())
}

/// A stored role with everything that it lacks of what it shall have.
fn completed(live: &Value, wanted: &Value) -> Value {
    let mut next = live.clone();
    let labels = wanted["metadata"]["labels"].as_object();
    for (label, value) in labels.into_iter().flatten() {
        next["metadata"]["labels"][label] = value.clone();
    }
    if wanted["aggregationRule"].is_object() {
        if !live["aggregationRule"].is_object() {
            next["aggregationRule"] = wanted["aggregationRule"].clone();
        }
        return next;
    }
    let mut rules = live["rules"].as_array().cloned().unwrap_or_default();
    let held = rules.iter().filter_map(read_rule).collect::<Vec<_>>();
    for rule in wanted["rules"].as_array().into_iter().flatten() {
        let gives = read_rule(rule).into_iter().collect::<Vec<_>>();
        if !coverage::uncovered(&held, &gives).is_empty() {
            rules.push(rule.clone());
        }
    }
    next["rules"] = rules.into();
    next
}

fn read_rule(rule: &Value) -> Option<PolicyRule> {
    serde::Deserialize::deserialize(rule).ok()
}

/// The Service by which pods reach the API.
async fn api_service(api: &Api, service_address: IpAddr, port: u16) -> Result<(), Status> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {"clusterIP": service_address.to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]},
    });
    create(api, "", "services", "default", service).await
}

/// Tells pods where the API is: the addresses of its servers by their ports.
///
/// # Errors
/// When the store does not take it.
pub async fn publish(api: &Api, servers: &BTreeMap<u16, Vec<String>>) -> Result<(), Status> {
    let mut slices = HashSet::new();
    let mut subsets = Vec::new();
    for (port, ips) in servers {
        let name = match slices.is_empty() {
            true => "kubernetes".to_owned(),
            false => format!("{FURTHER_SLICES}{port}"),
        };
        let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let endpoint = |ip| json!({"addresses": [ip], "conditions": {"ready": true}});
        let endpoints: Vec<Value> = ips.iter().map(endpoint).collect();
        let slice = json!({
            "metadata": {"name": name, "labels": {SERVICE_NAME: "kubernetes"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        });
        replace(api, "discovery.k8s.io", "endpointslices", slice).await?;
        slices.insert(name);
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        subsets.push(json!({"addresses": addresses, "ports": ports}));
    }
    remove_slices_but(api, &slices).await?;
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    replace(api, "", "endpoints", endpoints).await
}

/// Removes slices of ports that no server has any more.
async fn remove_slices_but(api: &Api, wanted: &HashSet<String>) -> Result<(), Status> {
    let resource = api
        .resource("discovery.k8s.io", "endpointslices")
        .ok_or_else(|| Status::internal("a built-in resource is missing"))?;
    let below = resource.key("default", FURTHER_SLICES);
    let snapshot = resource.cacher.snapshot();
    for stored in snapshot.objects.values() {
        let ours = stored.key.as_str().strip_prefix(below.as_str());
        let Some(port) = ours.filter(|_| stored.label(SERVICE_NAME) == Some("kubernetes")) else {
            continue;
        };
        let name = format!("{FURTHER_SLICES}{port}");
        if wanted.contains(&name) {
            continue;
        }
        let options = DeleteOptions::default();
        match resource.delete(&context("default"), &name, &options).await {
            Err(status) if !status.is(StatusReason::NotFound) => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

async fn replace(api: &Api, group: &str, plural: &str, value: Value) -> Result<(), Status> {
    let resource = api
        .resource(group, plural)
        .ok_or_else(|| Status::internal("a built-in resource is missing"))?;
    let name = value["metadata"]["name"].as_str().unwrap_or("").to_owned();
    if resource
        .cacher
        .peek(&resource.key("default", &name))
        .is_none()
    {
        return create(api, group, plural, "default", value).await;
    }
    let change = |live: &Value| {
        let mut next = live.clone();
        for (key, part) in value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != "metadata")
        {
            next[key] = part.clone();
        }
        metadata::drop_live_version(&mut next, live);
        Ok((next, Ownership::Update))
    };
    resource
        .update(&context("default"), &name, Part::Main, "", &change)
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_role_gets_what_it_lacks_and_keeps_what_was_added() {
        let rule =
            |verbs: &[&str]| json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs});
        let (own, held) = (rule(&["delete"]), rule(&["get", "list"]));
        let live = json!({"metadata": {"labels": {"own": "1"}}, "rules": [own, held]});
        let (less, more) = (rule(&["list"]), rule(&["get", "watch"]));
        let wanted = json!({"metadata": {"labels": {"ours": "1"}}, "rules": [less, more]});
        let next = completed(&live, &wanted);
        assert_eq!(next["rules"], json!([own, held, more]));
        assert_eq!(next["metadata"]["labels"], json!({"own": "1", "ours": "1"}));
        assert_eq!(completed(&next, &wanted), next);
    }

    #[test]
    fn the_rules_of_a_role_that_aggregates_are_left_to_the_controller() {
        let wanted = json!({"metadata": {}, "rules": [1], "aggregationRule": {"ours": 1}});
        let next = completed(&json!({"metadata": {}, "rules": [2]}), &wanted);
        assert_eq!(
            (&next["rules"], &next["aggregationRule"]),
            (&json!([2]), &json!({"ours": 1}))
        );
        let own = json!({"metadata": {}, "rules": [2], "aggregationRule": {"theirs": 1}});
        assert_eq!(completed(&own, &wanted), own);
    }
}
