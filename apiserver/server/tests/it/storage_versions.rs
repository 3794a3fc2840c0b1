//! The version in which custom resources are stored, and how they come from one to another; the hashes that tell of it.

use std::collections::BTreeMap;

use corral_storage::Key;
use serde_json::{Value, json};

use crate::fixture::Fixture;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.example.com";

fn definition(storage: &str, versions: &[&str]) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let versions: Vec<Value> = versions
        .iter()
        .map(|name| {
            json!({"name": name, "served": true, "storage": *name == storage,
                "schema": {"openAPIV3Schema": schema}})
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"}},
    })
}

fn path(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/gadgets")
}

/// The version in which the store has the object, and its revision.
async fn stored(fixture: &Fixture) -> (String, String) {
    let key = Key::from("/registry/example.com/gadgets/default/g");
    let entry = fixture.storage().get(&key).await.expect("read");
    let entry = entry.expect("there");
    let object: Value = serde_json::from_slice(&entry.value).expect("JSON");
    let version = object["apiVersion"].as_str().expect("a version");
    (version.to_owned(), entry.revision.to_string())
}

/// Hashes by resource, as a group's version tells them.
async fn hashes(fixture: &Fixture, path: &str) -> BTreeMap<String, Value> {
    let answer = fixture.get(path).await;
    let resources = answer.body["resources"].as_array().expect("resources");
    let hash = |resource: &Value| {
        let name = resource["name"].as_str().expect("a name").to_owned();
        (name, resource["storageVersionHash"].clone())
    };
    resources.iter().map(hash).collect()
}

/// Makes another version the storage version, and waits until objects are stored in it.
async fn switch(fixture: &Fixture, storage: &str, versions: &[&str]) -> u16 {
    let old = hashes(fixture, "/apis/example.com/v1").await;
    let spec = json!({"spec": definition(storage, versions)["spec"]});
    let answer = fixture.patch(DEFINITION, "merge-patch+json", spec).await;
    if answer.code == 200 {
        while hashes(fixture, "/apis/example.com/v1").await == old {
            tokio::task::yield_now().await;
        }
    }
    answer.code
}

async fn stored_versions(fixture: &Fixture, versions: &[&str]) -> u16 {
    let status = json!({"status": {"storedVersions": versions}});
    let path = format!("{DEFINITION}/status");
    let answer = fixture.patch(&path, "merge-patch+json", status).await;
    answer.code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_come_to_another_storage_version_when_they_are_written() {
    let fixture = Fixture::start().await;
    let both = ["v1", "v2"];
    fixture.create(DEFINITIONS, definition("v1", &both)).await;
    while fixture.get(&path("v1")).await.code != 200 {
        tokio::task::yield_now().await;
    }
    let gadget = json!({"apiVersion": "example.com/v2", "kind": "Gadget", "metadata": {"name": "g"},
        "spec": {"size": 1}});
    let made = fixture.create(&path("v2"), gadget).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let (version, first) = stored(&fixture).await;
    assert_eq!(version, "example.com/v1");
    // kube-apiserver v1.36.3 tells these hashes.
    let told = hashes(&fixture, "/apis/example.com/v2").await;
    assert_eq!(told["gadgets"], "ggWp2HxsL0Q=");

    assert_eq!(switch(&fixture, "v2", &both).await, 200);
    for version in both {
        let told = hashes(&fixture, &format!("/apis/example.com/{version}")).await;
        assert_eq!(told["gadgets"], "Vp4mq10B7nY=");
    }
    let definition = fixture.get(DEFINITION).await.body;
    assert_eq!(definition["status"]["storedVersions"], json!(both));
    assert_eq!(stored(&fixture).await, (version, first.clone()));

    let one = format!("{}/g", path("v1"));
    let read = fixture.get(&one).await.body;
    assert_eq!(read["metadata"]["resourceVersion"], first);
    // A write that changes nothing is what moves it, once.
    let written = fixture.ask("PUT", &one, read).await;
    assert_eq!(written.code, 200, "{}", written.body);
    let (version, second) = stored(&fixture).await;
    assert_eq!(version, "example.com/v2");
    assert_ne!(second, first);
    assert_eq!(written.body["metadata"]["resourceVersion"], second);
    assert_eq!(written.body["apiVersion"], "example.com/v1");
    let again = fixture.ask("PUT", &one, written.body).await;
    assert_eq!(again.body["metadata"]["resourceVersion"], second);

    assert_eq!(switch(&fixture, "v1", &both).await, 200);
    let patched = fixture.patch(&one, "merge-patch+json", json!({})).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let (version, third) = stored(&fixture).await;
    assert_eq!(version, "example.com/v1");
    assert_ne!(third, second);
    let patched = fixture.patch(&one, "merge-patch+json", json!({})).await;
    assert_eq!(patched.body["metadata"]["resourceVersion"], third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_goes_when_nothing_is_stored_in_it() {
    let fixture = Fixture::start().await;
    let both = ["v1", "v2"];
    fixture.create(DEFINITIONS, definition("v1", &both)).await;
    while fixture.get(&path("v1")).await.code != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(switch(&fixture, "v2", &both).await, 200);
    assert_eq!(switch(&fixture, "v2", &["v2"]).await, 422);
    assert_eq!(stored_versions(&fixture, &["v2", "v3"]).await, 200);
    assert_eq!(stored_versions(&fixture, &["v2"]).await, 200);
    let spec = json!({"spec": definition("v2", &["v2"])["spec"]});
    let gone = fixture.patch(DEFINITION, "merge-patch+json", spec).await;
    assert_eq!(gone.code, 200, "{}", gone.body);
    assert_eq!(gone.body["status"]["storedVersions"], json!(["v2"]));
}

#[tokio::test]
async fn hashes_are_those_of_kube_apiserver() {
    let fixture = Fixture::start().await;
    for (path, resource, hash) in [
        ("/api/v1", "pods", json!("xPOwRZ+Yhw8=")),
        ("/api/v1", "componentstatuses", Value::Null),
        ("/apis/events.k8s.io/v1", "events", json!("r2yiGXH7wu8=")),
        (
            "/apis/autoscaling/v1",
            "horizontalpodautoscalers",
            json!("qwQve8ut294="),
        ),
        (
            "/apis/apiextensions.k8s.io/v1",
            "customresourcedefinitions",
            json!("jfWCUB31mvA="),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1",
            "mutatingadmissionpolicies",
            json!("LYmCf+UMVdg="),
        ),
    ] {
        let told = hashes(&fixture, path).await;
        assert_eq!(told[resource], hash, "{path} {resource}");
    }
}
