//! What the server of a version tells of itself: its resources for discovery, and its OpenAPI. Kept as it was told last, so
//! that telling clients of it waits for nobody.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Aggregation, Remote};
use crate::api::Api;

/// Bytes of a discovery document that are taken.
const DISCOVERY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of an OpenAPI document that are taken: Kubernetes' own has four million.
const OPENAPI_BYTES_MAX: usize = 16 * 1024 * 1024;
const ACCEPT_AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// What is known of a version that others serve.
#[derive(Clone, Default)]
pub struct Facts {
    /// Its resources, in the form of aggregated discovery.
    pub resources: Vec<Value>,
    /// Whether they were told when the server was last asked.
    pub current: bool,
    /// Where its OpenAPI v3 is, with its hash.
    pub openapi_v3: Option<String>,
    /// Its OpenAPI v2, and what tells it from others.
    pub openapi_v2: Option<(String, Arc<Value>)>,
}

/// Asks a server about a version; what it does not tell now stays as it was told before.
pub(super) async fn ask(
    aggregation: &Aggregation,
    api: &Api,
    remote: &Remote,
    before: &Facts,
) -> Facts {
    let mut facts = before.clone();
    match discovery(aggregation, api, remote).await {
        Ok(resources) => {
            facts.resources = resources;
            facts.current = true;
        }
        Err(why) => {
            tracing::debug!(name = remote.name, why, "its discovery is not told");
            facts.current = false;
        }
    }
    let path = remote.path();
    if let Ok(index) = json_at(aggregation, api, remote, "/openapi/v3", "application/json").await {
        let place = path.trim_start_matches('/');
        let url = index["paths"][place]["serverRelativeURL"].as_str();
        facts.openapi_v3 = url.map(str::to_owned);
    }
    let v2 = json_at(aggregation, api, remote, "/openapi/v2", "application/json").await;
    if let Ok(mut document) = v2 {
        keep_own(&mut document, &path);
        let hash = Sha256::digest(document.to_string());
        let tag = hash.iter().take(16).map(|b| format!("{b:02X}")).collect();
        facts.openapi_v2 = Some((tag, Arc::new(document)));
    }
    facts
}

async fn json_at(
    aggregation: &Aggregation,
    api: &Api,
    remote: &Remote,
    path: &str,
    accept: &str,
) -> Result<Value, String> {
    let asked = aggregation.ask(api, remote, path, accept, OPENAPI_BYTES_MAX);
    let (status, _, body) = asked.await?;
    if status != StatusCode::OK {
        return Err(format!("bad status from {path}: {}", status.as_u16()));
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

/// The resources of a version: from aggregated discovery, or from the plain list where a server has no other.
async fn discovery(
    aggregation: &Aggregation,
    api: &Api,
    remote: &Remote,
) -> Result<Vec<Value>, String> {
    if !remote.group.is_empty() {
        let asked = aggregation.ask(api, remote, "/apis", ACCEPT_AGGREGATED, DISCOVERY_BYTES_MAX);
        let (status, _, body) = asked.await?;
        let document: Value = match status {
            StatusCode::OK => serde_json::from_slice(&body).unwrap_or_default(),
            _ => Value::Null,
        };
        if let Some(found) = aggregated(&document, &remote.group, &remote.version) {
            return Ok(found);
        }
    }
    let list = json_at(aggregation, api, remote, &remote.path(), "application/json").await?;
    Ok(of_plain(&list, &remote.group, &remote.version))
}

/// The resources of a version in a document of aggregated discovery.
fn aggregated(document: &Value, group: &str, version: &str) -> Option<Vec<Value>> {
    if document["kind"] != "APIGroupDiscoveryList" {
        return None;
    }
    let mut groups = document["items"].as_array()?.iter();
    let found = groups.find(|item| item["metadata"]["name"] == group)?;
    let mut versions = found["versions"].as_array()?.iter();
    let found = versions.find(|item| item["version"] == version)?;
    found["resources"].as_array().cloned()
}

/// The same of a plain list of resources.
fn of_plain(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let resources = list["resources"].as_array();
    let kind_of = |resource: &Value| {
        let text = |key: &str, default: &str| match resource[key].as_str() {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => default.to_owned(),
        };
        json!({"group": text("group", group), "version": text("version", version), "kind": resource["kind"]})
    };
    let mut out: Vec<Value> = Vec::new();
    for resource in resources.into_iter().flatten() {
        let name = resource["name"].as_str().unwrap_or_default();
        let verbs = resource["verbs"].clone();
        let Some((parent, subresource)) = name.split_once('/') else {
            let scope = if resource["namespaced"] == true {
                "Namespaced"
            } else {
                "Cluster"
            };
            let mut told = json!({
                "resource": name, "responseKind": kind_of(resource), "scope": scope,
                "singularResource": resource["singularName"], "verbs": verbs,
            });
            for key in ["shortNames", "categories"] {
                if resource[key].is_array() {
                    told[key] = resource[key].clone();
                }
            }
            out.push(told);
            continue;
        };
        let told =
            json!({"subresource": subresource, "responseKind": kind_of(resource), "verbs": verbs});
        if let Some(owner) = out.iter_mut().find(|owner| owner["resource"] == parent) {
            match owner["subresources"].as_array_mut() {
                Some(all) => all.push(told),
                None => owner["subresources"] = json!([told]),
            }
        }
    }
    out
}

/// Leaves of a document only the paths below one, and what these need.
fn keep_own(document: &mut Value, path: &str) {
    let is_own = |own: &String| own == path || own.starts_with(&format!("{path}/"));
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.retain(|own, _| is_own(own));
    }
    let mut needed = Vec::new();
    references(&document["paths"], &mut needed);
    let mut kept = Map::new();
    while let Some(name) = needed.pop() {
        let definition = &document["definitions"][name.as_str()];
        if kept.contains_key(&name) || definition.is_null() {
            continue;
        }
        references(definition, &mut needed);
        kept.insert(name, definition.clone());
    }
    *document = json!({"paths": document["paths"], "definitions": kept});
}

/// The names that a value refers to.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                out.extend(reference.strip_prefix("#/definitions/").map(str::to_owned));
            }
            map.values().for_each(|inner| references(inner, out));
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, out)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_list_tells_what_an_aggregated_one_does() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"],
                "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
        ]});
        let kind = json!({"group": "a.b", "version": "v1", "kind": "Flunder"});
        let wanted = json!([{
            "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced", "responseKind": kind,
            "verbs": ["get"], "shortNames": ["fl"],
            "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}],
        }]);
        assert_eq!(Value::Array(of_plain(&list, "a.b", "v1")), wanted);
    }

    #[test]
    fn of_a_document_only_the_own_paths_and_what_they_need_stay() {
        let mut document = json!({
            "paths": {"/apis/a/v1/x": {"get": {"schema": {"$ref": "#/definitions/X"}}}, "/apis/a/v10": {"get": {}},
                "/version": {"get": {"schema": {"$ref": "#/definitions/Info"}}}},
            "definitions": {"X": {"properties": {"y": {"$ref": "#/definitions/Y"}}}, "Y": {"type": "object"}, "Info": {}},
        });
        keep_own(&mut document, "/apis/a/v1");
        let keys = |part: &str| -> Vec<String> {
            let part = document[part].as_object().into_iter().flatten();
            part.map(|(key, _)| key.clone()).collect()
        };
        assert_eq!(keys("paths"), ["/apis/a/v1/x"]);
        assert_eq!(keys("definitions"), ["X", "Y"]);
    }
}
