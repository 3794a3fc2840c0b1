//! Custom resources in several versions, between which a webhook of the test's own converts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use corral_server::authn::{MASTERS, User};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::fixture::{Answer, Fixture, body_of, config_map};
use crate::watches::Lines;
use crate::webhook_server::Webhook;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.tests.example";
const V1: &str = "/apis/tests.example/v1/namespaces/default/widgets";
const V2: &str = "/apis/tests.example/v2/namespaces/default/widgets";
/// How long something that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Widgets have a host and a port in `v1`, and an address in `v2`.
fn convert(object: &Value, to: &str) -> Value {
    let mut out = object.clone();
    out["apiVersion"] = to.into();
    let spec = &object["spec"];
    let mut converted = json!({"label": spec["label"]});
    if spec["label"].is_null() {
        converted = json!({});
    }
    if to.ends_with("v2") {
        let host = spec["host"].as_str().unwrap_or_default();
        converted["address"] = format!("{host}:{}", spec["port"].as_i64().unwrap_or(0)).into();
    } else {
        let address = spec["address"].as_str().unwrap_or_default();
        let (host, port) = address.split_once(':').unwrap_or((address, "0"));
        converted["host"] = host.into();
        converted["port"] = port.parse::<i64>().unwrap_or_default().into();
    }
    out["spec"] = converted;
    out
}

fn answer(review: &Value, change: impl Fn(&mut Value)) -> (u16, String) {
    let request = &review["request"];
    let to = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let objects = request["objects"].as_array().into_iter().flatten();
    let mut converted: Vec<Value> = objects.map(|object| convert(object, to)).collect();
    converted.iter_mut().for_each(change);
    let response = json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": converted});
    let (kind, version) = (&review["kind"], &review["apiVersion"]);
    let answer = json!({"kind": kind, "apiVersion": version, "response": response});
    (200, answer.to_string())
}

async fn converter() -> Webhook {
    Webhook::answering(|review| answer(review, |_| {})).await
}

fn definition(storage: &str, client_config: Value, reviews: &[&str]) -> Value {
    let text = || json!({"type": "string"});
    let version = |name: &str, properties: Value, field: &str| {
        json!({"name": name, "served": true, "storage": name == storage,
        "selectableFields": [{"jsonPath": field}], "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": properties},
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        }}}})
    };
    let first = json!({"host": text(), "port": {"type": "integer"}, "label": text()});
    let second = json!({"address": text(), "label": text()});
    let webhook = json!({"conversionReviewVersions": reviews, "clientConfig": client_config});
    json!({
        "metadata": {"name": "widgets.tests.example"},
        "spec": {"group": "tests.example", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "conversion": {"strategy": "Webhook", "webhook": webhook},
            "versions": [version("v1", first, ".spec.host"), version("v2", second, ".spec.address")]},
    })
}

async fn until(fixture: &Fixture, path: &str, is_there: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = fixture.get(path).await;
        if is_there(&answer) {
            return answer;
        }
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "{path} answers {}: {}", answer.code, answer.body);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn define(fixture: &Fixture, client_config: Value) {
    let made = definition("v1", client_config, &["v1"]);
    let made = fixture.create(DEFINITIONS, made).await;
    assert_eq!(made.code, 201, "{}", made.body);
    until(fixture, V1, |answer| answer.code == 200).await;
}

/// Changes the definition, and waits until what it describes is served.
async fn redefine(fixture: &Fixture, mut definition: Value) {
    // A watch ends as soon as the resource has become another.
    let mut watch = Lines::open(fixture, &format!("{V1}?watch=1&timeoutSeconds=30")).await;
    let live = fixture.get(DEFINITION).await.body;
    definition["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    let written = fixture.ask("PUT", DEFINITION, definition).await;
    assert_eq!(written.code, 200, "{}", written.body);
    while watch.next().await.is_some() {}
}

fn widget(version: &str, name: &str, spec: Value) -> Value {
    let version = format!("tests.example/{version}");
    json!({"apiVersion": version, "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

async fn make(fixture: &Fixture, version: &str, name: &str, spec: Value) -> Answer {
    let path = if version == "v1" { V1 } else { V2 };
    let made = fixture.create(path, widget(version, name, spec)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made
}

async fn apply(fixture: &Fixture, path: &str, manager: &str, force: bool, body: Value) -> Answer {
    let name = body["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let path = format!("{path}/{name}?fieldManager={manager}&force={force}");
    fixture.patch(&path, "apply-patch+yaml", body).await
}

/// The owners of fields: manager, version and fields of the spec.
fn owners(object: &Value) -> Vec<(String, String, Vec<String>)> {
    let entries = object["metadata"]["managedFields"].as_array();
    let entries = entries.into_iter().flatten().map(|entry| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let fields = entry["fieldsV1"]["f:spec"]
            .as_object()
            .into_iter()
            .flatten();
        let fields = fields.map(|(name, _)| name.clone()).collect();
        (text("manager"), text("apiVersion"), fields)
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries
}

#[tokio::test]
async fn objects_are_read_and_written_in_both_versions_and_only_the_other_one_is_asked_for() {
    let fixture = Fixture::start().await;
    let webhook = converter().await;
    define(&fixture, webhook.client_config()).await;
    make(&fixture, "v1", "a", json!({"host": "h", "port": 1})).await;
    assert_eq!(fixture.get(V1).await.body["items"][0]["spec"]["port"], 1);
    assert!(webhook.asked().is_empty(), "nobody wanted another version");

    let made = make(&fixture, "v2", "b", json!({"address": "x:2"})).await;
    assert_eq!(made.body["spec"], json!({"address": "x:2"}));
    let stored = fixture.get(&format!("{V1}/b")).await.body;
    assert_eq!(stored["spec"], json!({"host": "x", "port": 2}));
    assert_eq!(stored["apiVersion"], "tests.example/v1");
    // Into the store, and back to the client.
    let wanted: Vec<Value> = webhook.asked();
    let wanted: Vec<&Value> = wanted
        .iter()
        .map(|asked| &asked["desiredAPIVersion"])
        .collect();
    assert_eq!(wanted, ["tests.example/v1", "tests.example/v2"]);

    for name in ["c", "d", "e"] {
        make(&fixture, "v1", name, json!({"host": name, "port": 3})).await;
    }
    let list = fixture.get(V2).await;
    let items = list.body["items"].as_array().expect("items");
    let addresses: Vec<_> = items.iter().map(|item| &item["spec"]["address"]).collect();
    assert_eq!(addresses, ["h:1", "x:2", "c:3", "d:3", "e:3"]);
    let asked = webhook.asked();
    assert_eq!(asked.len(), 1, "a list is one review");
    assert_eq!(asked[0]["objects"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        (&asked[0]["query"], &asked[0]["review"]),
        (&json!("timeout=30s"), &json!("apiextensions.k8s.io/v1"))
    );
    // Once converted, they are known.
    let by_field = fixture
        .get(&format!("{V2}?fieldSelector=spec.address%3Dd:3"))
        .await;
    assert_eq!(by_field.body["items"][0]["metadata"]["name"], "d");
    assert!(webhook.asked().is_empty());

    let patched = fixture
        .patch(
            &format!("{V2}/a/status"),
            "merge-patch+json",
            json!({"status": {"phase": "Up"}}),
        )
        .await;
    assert_eq!(
        (patched.code, &patched.body["status"]["phase"]),
        (200, &json!("Up"))
    );
    let kept = fixture.get(&format!("{V1}/a")).await.body;
    assert_eq!(
        (&kept["spec"]["host"], &kept["status"]["phase"]),
        (&json!("h"), &json!("Up"))
    );
    let gone = fixture.ask("DELETE", &format!("{V2}/a"), Value::Null).await;
    assert_eq!(gone.code, 200, "{}", gone.body);

    let text = fixture
        .text(User::new("admin", &[MASTERS]), "/metrics")
        .await;
    let counted = "apiserver_crd_conversion_webhook_duration_seconds_count{crd_name=\"widgets.tests.example\",\
                   from_version=\"v1\",succeeded=\"true\",to_version=\"v2\"}";
    assert!(text.contains(counted), "{counted}");
    assert!(text.contains(
        "apiserver_conversion_webhook_request_total{failure_type=\"\",result=\"success\"}"
    ));
}

#[tokio::test]
async fn events_come_in_the_version_of_the_watch() {
    let fixture = Fixture::start().await;
    let webhook = converter().await;
    define(&fixture, webhook.client_config()).await;
    let begin = make(&fixture, "v1", "a", json!({"host": "h", "port": 1})).await;
    let begin = begin.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    let mut watch = Lines::open(&fixture, &format!("{V2}?watch=1")).await;
    let mut past = Lines::open(&fixture, &format!("{V2}?watch=1&resourceVersion={begin}")).await;
    let mut own = Lines::open(&fixture, &format!("{V1}?watch=1&resourceVersion={begin}")).await;
    let address = |event: &Value| {
        (
            event["type"].clone(),
            event["object"]["spec"]["address"].clone(),
        )
    };
    let first = watch.next().await.expect("what is there");
    assert_eq!(address(&first), ("ADDED".into(), "h:1".into()));
    let path = format!("{V1}/a");
    fixture
        .patch(&path, "merge-patch+json", json!({"spec": {"port": 7}}))
        .await;
    fixture.ask("DELETE", &path, Value::Null).await;
    for watch in [&mut watch, &mut past] {
        let changed = watch.next().await.expect("the change");
        assert_eq!(address(&changed), ("MODIFIED".into(), "h:7".into()));
        let gone = watch.next().await.expect("the end");
        assert_eq!(address(&gone), ("DELETED".into(), "h:7".into()));
    }
    let changed = own.next().await.expect("the change");
    assert_eq!(changed["object"]["spec"]["port"], 7);
}

#[tokio::test]
async fn a_converter_that_is_down_harms_only_the_users_of_other_versions() {
    let fixture = Fixture::start().await;
    let works = Arc::new(AtomicBool::new(true));
    let state = works.clone();
    let webhook = Webhook::answering(move |review| match state.load(Ordering::SeqCst) {
        true => answer(review, |_| {}),
        false => {
            let response = json!({"uid": review["request"]["uid"],
                "result": {"status": "Failed", "message": "I do not want to"}});
            let version = &review["apiVersion"];
            let answer =
                json!({"kind": "ConversionReview", "apiVersion": version, "response": response});
            (200, answer.to_string())
        }
    })
    .await;
    define(&fixture, webhook.client_config()).await;
    make(&fixture, "v1", "a", json!({"host": "h", "port": 1})).await;
    works.store(false, Ordering::SeqCst);
    let why = "conversion webhook for tests.example/v1, Kind=Widget failed: I do not want to";
    for path in [
        V2.to_owned(),
        format!("{V2}/a"),
        format!("{V2}?watch=1&resourceVersion=1"),
    ] {
        let answer = fixture.get(&path).await;
        assert_eq!(
            (answer.code, answer.body["message"].as_str()),
            (500, Some(why)),
            "{path}"
        );
    }
    let made = fixture
        .create(V2, widget("v2", "b", json!({"address": "x:2"})))
        .await;
    let why = "conversion webhook for tests.example/v2, Kind=Widget failed: I do not want to";
    assert_eq!((made.code, made.body["message"].as_str()), (500, Some(why)));

    // Everything else goes on: the version of the store, and whoever wants no more than metadata, in any version.
    make(&fixture, "v1", "c", json!({"host": "h", "port": 1})).await;
    assert_eq!(
        fixture.get(V1).await.body["items"].as_array().map(Vec::len),
        Some(2)
    );
    let metadata = metadata_of(&fixture, V2).await;
    let names: Vec<_> = metadata["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(
        metadata_of(&fixture, &format!("{V2}/a")).await["kind"],
        "PartialObjectMetadata"
    );
    assert_eq!(
        fixture
            .create(
                "/api/v1/namespaces/default/configmaps",
                config_map("m", "1")
            )
            .await
            .code,
        201
    );

    works.store(true, Ordering::SeqCst);
    let list = until(&fixture, V2, |answer| answer.code == 200).await;
    assert_eq!(list.body["items"].as_array().map(Vec::len), Some(2));

    let nowhere = json!({"url": "https://127.0.0.1:1/nowhere", "caBundle": webhook.bundle()});
    redefine(&fixture, definition("v1", nowhere, &["v1"])).await;
    let down = "conversion webhook for tests.example/v1, Kind=Widget failed: Post \"https://127.0.0.1:1/nowhere?timeout=30s\": \
                dial tcp 127.0.0.1:1: connect: connection refused";
    let answer = fixture.get(&format!("{V2}/a")).await;
    assert_eq!(
        (answer.code, answer.body["message"].as_str()),
        (500, Some(down))
    );
}

/// The metadata at a path.
async fn metadata_of(fixture: &Fixture, path: &str) -> Value {
    let mut connection = fixture.connect().await;
    let kind = if path.ends_with("widgets") {
        "PartialObjectMetadataList"
    } else {
        "PartialObjectMetadata"
    };
    let accept = format!("application/json;as={kind};v=v1;g=meta.k8s.io");
    let headers = [("accept", accept)];
    let answer =
        crate::fixture::send(&mut connection, "GET", path, &headers, bytes::Bytes::new()).await;
    assert_eq!(answer.status(), 200, "{path}");
    let body = body_of(answer).await;
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test]
async fn a_converter_that_never_answers_takes_no_more_than_its_turns() {
    /// More than may be asked at a time and wait.
    const REQUESTS: usize = 120;
    let fixture = Arc::new(Fixture::start().await);
    let webhook = converter().await;
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let url = format!("https://127.0.0.1:{port}/");
    define(&fixture, json!({"url": url, "caBundle": webhook.bundle()})).await;
    make(&fixture, "v1", "a", json!({"host": "h", "port": 1})).await;
    let (told, mut answers) = tokio::sync::mpsc::channel(REQUESTS);
    let asking: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let (fixture, told) = (fixture.clone(), told.clone());
            tokio::spawn(async move {
                let answer = fixture.get(&format!("{V2}/a")).await;
                let _ = told.send(answer).await;
            })
        })
        .collect();
    // Those that find no place are told at once.
    let first = tokio::time::timeout(PATIENCE, answers.recv()).await;
    let first = first.expect("in time").expect("an answer");
    let busy = "conversion webhook for tests.example/v1, Kind=Widget failed: too many conversions wait for it";
    assert_eq!(
        (first.code, first.body["message"].as_str()),
        (500, Some(busy))
    );
    // Others do not notice.
    let others = async {
        assert_eq!(fixture.config_map("m", "1").await.code, 201);
        assert_eq!(fixture.get(V1).await.code, 200);
    };
    tokio::time::timeout(PATIENCE, others)
        .await
        .expect("in time");
    asking.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn what_a_converter_may_not_change_is_refused_or_kept() {
    let fixture = Fixture::start().await;
    let webhook = Webhook::answering(|review| {
        answer(review, |object| {
            let metadata = &mut object["metadata"];
            match metadata["name"].as_str() {
                Some("uid") => metadata["uid"] = "x".into(),
                Some("renamed") => metadata["name"] = "other".into(),
                Some("labelled") => metadata["labels"] = json!({"converted": "yes"}),
                Some("badly-labelled") => metadata["labels"] = json!({"converted": "not ok!"}),
                Some("finalized") => metadata["finalizers"] = json!(["a.b/c"]),
                Some("other-version") => object["apiVersion"] = "tests.example/v9".into(),
                Some("unknown") => object["spec"]["unknown"] = 1.into(),
                _ => {}
            }
        })
    })
    .await;
    define(&fixture, webhook.client_config()).await;
    let names = [
        "uid",
        "renamed",
        "labelled",
        "badly-labelled",
        "finalized",
        "other-version",
        "unknown",
    ];
    for name in names {
        make(&fixture, "v1", name, json!({"host": "h", "port": 1})).await;
    }
    let get = async |name: &str| fixture.get(&format!("{V2}/{name}")).await;
    let uid = fixture.get(&format!("{V1}/uid")).await.body["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let refused = [
        ("uid", format!("returned invalid object: must have the same UID: {uid} != x")),
        ("renamed", "returned invalid object: must have the same name: renamed != other".to_owned()),
        ("other-version", "returned invalid object at index 0: invalid groupVersion (expected tests.example/v2, received \
          tests.example/v9)".to_owned()),
        ("badly-labelled", "returned invalid metadata: metadata.labels: Invalid value: \"not ok!\": ".to_owned()),
    ];
    for (name, why) in refused {
        let answer = get(name).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        let why = format!("conversion webhook for tests.example/v1, Kind=Widget {why}");
        assert!(answer.code == 500 && message.starts_with(&why), "{message}");
    }
    assert_eq!(
        get("labelled").await.body["metadata"]["labels"]["converted"],
        "yes"
    );
    assert_eq!(
        get("finalized").await.body["metadata"].get("finalizers"),
        None
    );
    assert_eq!(get("unknown").await.body["spec"], json!({"address": "h:1"}));
}

#[tokio::test]
async fn objects_stored_in_an_older_version_are_read_and_rewritten() {
    let fixture = Fixture::start().await;
    let webhook = converter().await;
    define(&fixture, webhook.client_config()).await;
    make(&fixture, "v1", "a", json!({"host": "h", "port": 1})).await;
    make(&fixture, "v1", "b", json!({"host": "h", "port": 2})).await;
    redefine(
        &fixture,
        definition("v2", webhook.client_config(), &["v7", "v1beta1", "v1"]),
    )
    .await;
    let stored = fixture.get(DEFINITION).await.body["status"]["storedVersions"].clone();
    assert_eq!(stored, json!(["v1", "v2"]));
    webhook.asked();
    let list = fixture.get(V2).await.body;
    assert_eq!(list["items"][1]["spec"]["address"], "h:2");
    let asked = webhook.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["review"], "apiextensions.k8s.io/v1beta1");

    // A write that changes nothing brings an object into the version of the store, and only that.
    let path = format!("{V2}/a");
    let live = fixture.get(&path).await.body;
    let written = fixture.ask("PUT", &path, live.clone()).await.body;
    assert_ne!(
        written["metadata"]["resourceVersion"],
        live["metadata"]["resourceVersion"]
    );
    assert_eq!(
        written["metadata"]["generation"],
        live["metadata"]["generation"]
    );
    let again = fixture.ask("PUT", &path, written.clone()).await.body;
    assert_eq!(
        written["metadata"]["resourceVersion"],
        again["metadata"]["resourceVersion"]
    );
    webhook.asked();
    fixture.get(&path).await;
    assert!(
        webhook.asked().is_empty(),
        "it is stored in this version now"
    );
    fixture.get(&format!("{V2}/b")).await;
    assert_eq!(webhook.asked().len(), 1, "the other one is not");

    let mut live = fixture.get(DEFINITION).await.body;
    let versions = live["spec"]["versions"]
        .as_array()
        .expect("versions")
        .clone();
    live["spec"]["versions"] = json!([versions[1]]);
    assert_eq!(fixture.ask("PUT", DEFINITION, live.clone()).await.code, 422);
    live["status"]["storedVersions"] = json!(["v2"]);
    let path = format!("{DEFINITION}/status");
    assert_eq!(fixture.ask("PUT", &path, live).await.code, 200);
}

#[tokio::test]
async fn owners_of_fields_keep_their_versions() {
    let fixture = Fixture::start().await;
    let webhook = converter().await;
    define(&fixture, webhook.client_config()).await;
    let one = widget("v1", "a", json!({"host": "h", "port": 7}));
    assert_eq!(apply(&fixture, V1, "one", false, one).await.code, 201);
    let two = |address: &str| widget("v2", "a", json!({"address": address, "label": "x"}));
    let both = apply(&fixture, V2, "two", false, two("h:7")).await;
    let entry = |manager: &str, version: &str, fields: &[&str]| {
        let fields = fields.iter().map(|field| format!("f:{field}")).collect();
        (
            manager.to_owned(),
            format!("tests.example/{version}"),
            fields,
        )
    };
    let shared = [
        entry("one", "v1", &["host", "port"]),
        entry("two", "v2", &["address", "label"]),
    ];
    assert_eq!(owners(&both.body), shared, "{}", both.body);

    let refused = apply(&fixture, V2, "two", false, two("h:8")).await;
    let why = "Apply failed with 1 conflict: conflict with \"one\": .spec.port";
    assert_eq!(
        (refused.code, refused.body["message"].as_str()),
        (409, Some(why))
    );
    let forced = apply(&fixture, V2, "two", true, two("h:8")).await;
    let left = [
        entry("one", "v1", &["host"]),
        entry("two", "v2", &["address", "label"]),
    ];
    assert_eq!(
        (forced.code, owners(&forced.body)),
        (200, left.to_vec()),
        "{}",
        forced.body
    );

    // An update in one version takes what it changes from owners in the other.
    let path = format!("{V1}/a");
    let patched = fixture
        .patch(&path, "merge-patch+json", json!({"spec": {"port": 9}}))
        .await;
    let left = [
        entry("one", "v1", &["host"]),
        entry("test", "v1", &["port"]),
        entry("two", "v2", &["label"]),
    ];
    assert_eq!(owners(&patched.body), left, "{}", patched.body);

    // Who applies in another version than before gives up what it named there, and nobody else's.
    let moved = apply(
        &fixture,
        V1,
        "two",
        false,
        widget("v1", "a", json!({"host": "h"})),
    )
    .await;
    let left = [
        entry("one", "v1", &["host"]),
        entry("test", "v1", &["port"]),
        entry("two", "v1", &["host"]),
    ];
    assert_eq!(
        (moved.code, owners(&moved.body)),
        (200, left.to_vec()),
        "{}",
        moved.body
    );
    assert_eq!(moved.body["spec"], json!({"host": "h", "port": 9}));
}

#[tokio::test]
async fn admission_is_asked_in_its_version() {
    let fixture = Fixture::start().await;
    let webhook = converter().await;
    define(&fixture, webhook.client_config()).await;
    let admission = Webhook::reviewing(|_| json!({"allowed": true})).await;
    let hooks = json!([{
        "name": "hook.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": admission.client_config(),
        "rules": [{"operations": ["*"], "apiGroups": ["tests.example"], "apiVersions": ["v2"], "resources": ["widgets"]}],
    }]);
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let body = json!({"metadata": {"name": "a"}, "webhooks": hooks});
    assert_eq!(fixture.create(path, body).await.code, 201);
    assert_eq!(fixture.get(path).await.code, 200);
    make(&fixture, "v1", "a", json!({"host": "h", "port": 1})).await;
    fixture
        .patch(
            &format!("{V1}/a"),
            "merge-patch+json",
            json!({"spec": {"port": 2}}),
        )
        .await;
    let asked = admission.asked();
    let addresses: Vec<_> = asked
        .iter()
        .map(|asked| {
            (
                &asked["object"]["spec"]["address"],
                &asked["oldObject"]["spec"]["address"],
            )
        })
        .collect();
    assert_eq!(
        addresses,
        [
            (&json!("h:1"), &Value::Null),
            (&json!("h:2"), &json!("h:1"))
        ]
    );
    assert_eq!(asked[1]["requestKind"]["version"], "v1");
}
