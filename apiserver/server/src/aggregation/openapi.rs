//! OpenAPI of what others serve, among this server's own.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Aggregation, Facts, Known};

/// Adds the places of the documents of others to the index of version 3.
pub fn index(aggregation: &Aggregation, known: &Known, paths: &mut Map<String, Value>) {
    for remote in known.remotes() {
        let facts = aggregation.facts(&remote.group, &remote.version);
        let path = remote.path();
        let place = path.trim_start_matches('/').to_owned();
        match &facts.openapi_v3 {
            Some(url) => paths.insert(place, json!({"serverRelativeURL": url})),
            None => paths.remove(&place),
        };
    }
}

/// Those who tell something for the document of version 2, in the order in which it is added.
fn told(aggregation: &Aggregation, known: &Known) -> Vec<Arc<Facts>> {
    let mut remotes: Vec<_> = known.remotes().collect();
    remotes.sort_by(|a, b| a.name.cmp(&b.name));
    let facts = remotes
        .into_iter()
        .map(|remote| aggregation.facts(&remote.group, &remote.version));
    facts.filter(|facts| facts.openapi_v2.is_some()).collect()
}

/// Tells what others serve from what they served before.
pub fn tag(aggregation: &Aggregation, known: &Known) -> String {
    let told = told(aggregation, known);
    let tags = told.iter().filter_map(|facts| facts.openapi_v2.as_ref());
    tags.map(|(tag, _)| tag.as_str()).collect()
}

/// Adds what others serve to the document of version 2.
pub fn merge(aggregation: &Aggregation, known: &Known, document: &mut Value) {
    for facts in told(aggregation, known) {
        if let Some((_, theirs)) = &facts.openapi_v2 {
            add(document, (**theirs).clone());
        }
    }
}

/// A definition that is there under the same name and means something else gets another name. Those of Kubernetes' own types
/// mean the same everywhere, however they are written.
fn add(document: &mut Value, mut theirs: Value) {
    let definitions = theirs["definitions"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let is_shared =
        |name: &str| name.starts_with("io.k8s.apimachinery.") || name.starts_with("io.k8s.api.");
    let mut renamed = Map::new();
    for (name, definition) in &definitions {
        let there = &document["definitions"][name.as_str()];
        if there.is_null() || there == definition || is_shared(name) {
            continue;
        }
        let free = (2..).map(|n| format!("{name}_v{n}"));
        let mut free = free.filter(|other| document["definitions"].get(other).is_none());
        renamed.extend(free.next().map(|other| (name.clone(), other.into())));
    }
    rename(&mut theirs, &renamed);
    let Value::Object(mut theirs) = theirs else {
        return;
    };
    if let Some(Value::Object(definitions)) = theirs.remove("definitions") {
        for (name, definition) in definitions {
            let new = renamed.get(&name).and_then(Value::as_str).unwrap_or(&name);
            if document["definitions"].get(new).is_none() {
                document["definitions"][new] = definition;
            }
        }
    }
    if let Some(Value::Object(paths)) = theirs.remove("paths") {
        for (path, item) in paths {
            document["paths"][path] = item;
        }
    }
}

fn rename(value: &mut Value, names: &Map<String, Value>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                let name = reference.strip_prefix("#/definitions/").unwrap_or_default();
                if let Some(new) = names.get(name).and_then(Value::as_str) {
                    *reference = format!("#/definitions/{new}");
                }
            }
            map.values_mut().for_each(|inner| rename(inner, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| rename(inner, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_means_something_else_becomes_another() {
        let mut document = json!({"paths": {}, "definitions": {"A": {"type": "string"}, "Same": {"type": "object"}}});
        let theirs = json!({
            "paths": {"/apis/g/v1": {"$ref": "#/definitions/A"}},
            "definitions": {"A": {"properties": {"s": {"$ref": "#/definitions/Same"}}}, "Same": {"type": "object"}},
        });
        add(&mut document, theirs);
        assert_eq!(document["definitions"]["A"], json!({"type": "string"}));
        assert_eq!(
            document["definitions"]["A_v2"]["properties"]["s"]["$ref"],
            "#/definitions/Same"
        );
        assert_eq!(
            document["paths"]["/apis/g/v1"]["$ref"],
            "#/definitions/A_v2"
        );
        assert_eq!(document["definitions"].as_object().map(Map::len), Some(3));
    }
}
