//! Kinds that clients describe: how they come, what holds of their objects, and how they go.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::fixture::{Fixture, send};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GADGETS: &str = "/apis/tests.example/v1/namespaces/default/gadgets";

fn definition(plural: &str, kind: &str, schema: Value) -> Value {
    json!({
        "metadata": {"name": format!("{plural}.tests.example")},
        "spec": {"group": "tests.example", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}]},
    })
}

fn gadgets() -> Value {
    definition(
        "gadgets",
        "Gadget",
        json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "default": 1, "maximum": 9},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            }},
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        }}),
    )
}

/// Waits until a kind is served, or is so no longer.
pub(crate) async fn until(fixture: &Fixture, path: &str, code: u16) {
    const PATIENCE: Duration = Duration::from_secs(20);
    let begun = Instant::now();
    while fixture.get(path).await.code != code {
        assert!(begun.elapsed() < PATIENCE, "{path} never answers {code}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn start() -> Fixture {
    let fixture = Fixture::start().await;
    let made = fixture.create(DEFINITIONS, gadgets()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    until(&fixture, GADGETS, 200).await;
    fixture
}

fn gadget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "tests.example/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_pruned_defaulted_and_checked() {
    let fixture = start().await;
    let made = fixture
        .create(GADGETS, gadget("a", json!({"other": 1})))
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["spec"], json!({"size": 1}));
    assert_eq!(made.body["metadata"]["generation"], 1);
    let bad = fixture
        .create(GADGETS, gadget("b", json!({"size": 10})))
        .await;
    assert_eq!(bad.code, 422);
    let why = "Gadget.tests.example \"b\" is invalid: spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9";
    assert_eq!(bad.body["message"], why);
    let twice = json!({"tags": ["x", "x"]});
    let bad = fixture.create(GADGETS, gadget("b", twice)).await;
    assert_eq!(
        bad.body["details"]["causes"][0]["message"],
        "Duplicate value: \"x\""
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_definition_reaches_stored_objects_and_ends_watches() {
    let fixture = start().await;
    fixture
        .create(GADGETS, gadget("a", json!({"size": 3})))
        .await;
    let mut changed = gadgets();
    let live = fixture
        .get(&format!("{DEFINITIONS}/gadgets.tests.example"))
        .await
        .body;
    changed["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    let spec =
        &mut changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["color"] = json!({"type": "string", "default": "red"});
    let put = fixture
        .ask(
            "PUT",
            &format!("{DEFINITIONS}/gadgets.tests.example"),
            changed,
        )
        .await;
    assert_eq!(put.code, 200, "{}", put.body);
    let begun = Instant::now();
    loop {
        let got = fixture.get(&format!("{GADGETS}/a")).await.body;
        if got["spec"] == json!({"size": 3, "color": "red"}) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{got}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_served_once_it_is_free() {
    let fixture = start().await;
    let second = definition("gizmos", "Gadget", json!({"type": "object"}));
    assert_eq!(fixture.create(DEFINITIONS, second).await.code, 201);
    let second = format!("{DEFINITIONS}/gizmos.tests.example");
    let begun = Instant::now();
    loop {
        let conditions = fixture.get(&second).await.body["status"]["conditions"].clone();
        if conditions[0]["reason"] == "ListKindConflict" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{conditions}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gizmos = "/apis/tests.example/v1/namespaces/default/gizmos";
    assert_eq!(fixture.get(gizmos).await.code, 404);
    fixture
        .ask(
            "DELETE",
            &format!("{DEFINITIONS}/gadgets.tests.example"),
            Value::Null,
        )
        .await;
    until(&fixture, gizmos, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_definitions_that_come_at_once_one_gets_the_name() {
    const N: usize = 8;
    let fixture = Fixture::start().await;
    let plural = |i: usize| format!("things{i}");
    let created = futures::future::join_all((0..N).map(|i| {
        let thing = definition(&plural(i), "Thing", json!({"type": "object"}));
        fixture.create(DEFINITIONS, thing)
    }));
    assert!(created.await.iter().all(|answer| answer.code == 201));
    let mut accepted = Vec::new();
    for i in 0..N {
        let path = format!("{DEFINITIONS}/{}.tests.example", plural(i));
        let begun = Instant::now();
        accepted.push(loop {
            let status = fixture.get(&path).await.body["status"].clone();
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let mut names = conditions.filter(|condition| condition["type"] == "NamesAccepted");
            if let Some(names) = names.next() {
                break names["status"] == "True";
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        });
    }
    let n_accepted = accepted.iter().filter(|accepted| **accepted).count();
    assert_eq!(n_accepted, 1, "{accepted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_goes_after_its_objects_and_takes_no_new_ones() {
    let fixture = start().await;
    let mut held = gadget("a", json!({}));
    held["metadata"]["finalizers"] = json!(["tests.example/hold"]);
    assert_eq!(fixture.create(GADGETS, held).await.code, 201);
    assert_eq!(
        fixture.create(GADGETS, gadget("b", json!({}))).await.code,
        201
    );
    let path = format!("{DEFINITIONS}/gadgets.tests.example");
    let deleted = fixture.ask("DELETE", &path, Value::Null).await;
    assert_eq!(deleted.code, 200);
    until(&fixture, &format!("{GADGETS}/b"), 404).await;
    assert_eq!(
        fixture.create(GADGETS, gadget("c", json!({}))).await.code,
        405
    );
    assert_eq!(fixture.get(&path).await.code, 200);
    let release = json!({"metadata": {"finalizers": null}});
    fixture
        .patch(&format!("{GADGETS}/a"), "merge-patch+json", release)
        .await;
    until(&fixture, &path, 404).await;
    until(&fixture, GADGETS, 404).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_described_is_served_again_after_a_restart() {
    let mut fixture = start().await;
    fixture
        .create(GADGETS, gadget("a", json!({"size": 2})))
        .await;
    fixture.restart().await;
    let got = fixture.get(&format!("{GADGETS}/a")).await;
    assert_eq!((got.code, &got.body["spec"]), (200, &json!({"size": 2})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_fetch_openapi_again_only_when_it_has_changed() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let mut asked = async |path: &str, tag: Option<String>| {
        let tag = tag.map(|tag| ("if-none-match", tag));
        let headers: Vec<_> = tag.into_iter().collect();
        connection.ready().await.expect("a connection");
        let answer = send(&mut connection, "GET", path, &headers, "").await;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let tag = parts.headers["etag"].to_str().expect("a text").to_owned();
        (parts.status.as_u16(), tag, body.len())
    };
    let (code, tag, size) = asked("/openapi/v2", None).await;
    assert!(code == 200 && size > 100_000, "{code}, {size} bytes");
    let again = asked("/openapi/v2", Some(tag.clone())).await;
    assert_eq!(again, (304, tag.clone(), 0));
    assert_eq!(fixture.create(DEFINITIONS, gadgets()).await.code, 201);
    until(&fixture, GADGETS, 200).await;
    let (code, other, _) = asked("/openapi/v2", Some(tag.clone())).await;
    assert_eq!(code, 200);
    assert_ne!(other, tag);
    let (_, tag, _) = asked("/openapi/v3/apis/tests.example/v1", None).await;
    let again = asked(
        "/openapi/v3/apis/tests.example/v1",
        Some(format!("\"x\", {tag}")),
    )
    .await;
    assert_eq!(again, (304, tag, 0));
}
