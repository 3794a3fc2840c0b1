//! CustomResourceDefinitions as kube-apiserver stores them to this day: in `apiextensions.k8s.io/v1beta1`, where what all
//! versions share stands once, beside them.

use serde_json::{Map, Value, json};

/// The version that is stored, and the one that is served.
pub(super) const STORED: &str = "apiextensions.k8s.io/v1beta1";
const SERVED: &str = "apiextensions.k8s.io/v1";

/// The form that is served.
pub(super) fn served(mut definition: Value) -> Value {
    definition["apiVersion"] = SERVED.into();
    if let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) {
        versions(spec);
        conversion(spec);
        if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
            spec.remove("preserveUnknownFields");
        }
    }
    definition
}

/// Gives each version what stood beside them.
fn versions(spec: &mut Map<String, Value>) {
    let only = spec.remove("version");
    let shared = [
        ("schema", spec.remove("validation")),
        ("subresources", spec.remove("subresources")),
        (
            "additionalPrinterColumns",
            spec.remove("additionalPrinterColumns"),
        ),
        ("selectableFields", spec.remove("selectableFields")),
    ];
    let versions = spec.entry("versions").or_insert_with(|| json!([]));
    let Some(versions) = versions.as_array_mut() else {
        return;
    };
    if let Some(name) = only.filter(|_| versions.is_empty()) {
        versions.push(json!({"name": name, "served": true, "storage": true}));
    }
    for version in versions.iter_mut().filter_map(Value::as_object_mut) {
        for (name, value) in &shared {
            if let Some(value) = value.clone().filter(|value| !value.is_null()) {
                version.insert((*name).to_owned(), value);
            }
        }
        let columns = version.get_mut("additionalPrinterColumns");
        let columns = columns.and_then(Value::as_array_mut).into_iter().flatten();
        for column in columns.filter_map(Value::as_object_mut) {
            if let Some(path) = column.remove("JSONPath") {
                column.insert("jsonPath".to_owned(), path);
            }
        }
    }
}

fn conversion(spec: &mut Map<String, Value>) {
    let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) else {
        return;
    };
    let client = conversion.remove("webhookClientConfig");
    let reviews = conversion.remove("conversionReviewVersions");
    if client.is_none() && reviews.is_none() {
        return;
    }
    let mut webhook = Map::new();
    if let Some(client) = client {
        webhook.insert("clientConfig".to_owned(), client);
    }
    webhook.insert(
        "conversionReviewVersions".to_owned(),
        reviews.unwrap_or(Value::Null),
    );
    conversion.insert("webhook".to_owned(), webhook.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_versions_share_is_given_to_each() {
        let stored = json!({
            "apiVersion": STORED, "kind": "CustomResourceDefinition",
            "spec": {
                "group": "a.example", "version": "v1", "preserveUnknownFields": false,
                "validation": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "A", "JSONPath": ".a"}],
                "versions": [{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": true, "storage": false,
                    "schema": {"openAPIV3Schema": {"type": "string"}}}],
                "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]},
            },
        });
        let shared = json!({
            "schema": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "A", "jsonPath": ".a"}],
        });
        let version = |name: &str, storage: bool| {
            let mut version = shared.clone();
            version["name"] = name.into();
            version["served"] = true.into();
            version["storage"] = storage.into();
            version
        };
        let served = served(stored);
        assert_eq!(served["apiVersion"], SERVED);
        assert_eq!(
            served["spec"],
            json!({
                "group": "a.example", "versions": [version("v1", true), version("v2", false)],
                "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]}},
            })
        );
        let only = super::served(json!({"spec": {"version": "v1"}}));
        assert_eq!(
            only["spec"]["versions"],
            json!([{"name": "v1", "served": true, "storage": true}])
        );
    }
}
