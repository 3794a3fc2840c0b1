//! Server-side apply: what a configuration says by being empty, what it no longer says, and whose fields are whose.

use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, config_map};

const CMS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/tests.example/v1/namespaces/default/widgets";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

async fn apply(
    fixture: &Fixture,
    collection: &str,
    manager: &str,
    force: bool,
    config: &Value,
) -> Answer {
    let name = config["metadata"]["name"].as_str().expect("a name");
    let path = format!("{collection}/{name}?fieldManager={manager}&force={force}");
    fixture
        .patch(&path, "apply-patch+yaml", config.clone())
        .await
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

/// A deployment whose only container has more to it.
fn containing(pod: Value, container: Value) -> Value {
    let mut made = json!({"name": "c", "image": "i"});
    let fields = made.as_object_mut().expect("an object");
    fields.extend(container.as_object().cloned().unwrap_or_default());
    let mut spec = json!({"containers": [made]});
    let fields = spec.as_object_mut().expect("an object");
    fields.extend(pod.as_object().cloned().unwrap_or_default());
    let labels = json!({"a": "b"});
    deployment(json!({"replicas": 3, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": spec}}))
}

fn pod(spec: Value) -> Value {
    deployment(json!({"template": {"spec": spec}}))
}

fn owners(answer: &Answer) -> Vec<String> {
    let entries = answer.body["metadata"]["managedFields"].as_array();
    let entries = entries.into_iter().flatten();
    entries
        .map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn told(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

async fn with_widgets() -> Fixture {
    let fixture = Fixture::start().await;
    let text = json!({"type": "string"});
    let spec = json!({"type": "object", "properties": {
        "size": {"type": "integer", "default": 1},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": text},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": text, "v": text}}},
        "atomic": {"type": "array", "items": text},
        "labels": {"type": "object", "additionalProperties": text},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "deep": {"type": "object", "properties": {"q": text, "r": {"type": "string", "default": "given"}}},
    }});
    let definition = json!({
        "metadata": {"name": "widgets.tests.example"},
        "spec": {"group": "tests.example", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]},
    });
    let made = fixture.create(DEFINITIONS, definition).await;
    assert_eq!(made.code, 201, "{}", made.body);
    crate::custom::until(&fixture, WIDGETS, 200).await;
    fixture
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "tests.example/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_list_says_nothing_of_what_others_have_in_it() {
    let fixture = with_widgets().await;
    let mut base = map("c", json!({}));
    base["metadata"]["finalizers"] = json!(["a/c"]);
    assert_eq!(apply(&fixture, CMS, "base", false, &base).await.code, 201);
    base["metadata"]["finalizers"] = json!([]);
    base.as_object_mut().expect("an object").remove("data");
    let empty = apply(&fixture, CMS, "two", false, &base).await;
    assert_eq!(empty.body["metadata"]["finalizers"], json!(["a/c"]));
    assert_eq!(owners(&empty), ["base"]);
    base["metadata"]["finalizers"] = Value::Null;
    let null = apply(&fixture, CMS, "two", false, &base).await;
    assert_eq!(null.body["metadata"]["finalizers"], json!(["a/c"]));
    // Who changes nothing is not dated, and stands first.
    assert_eq!(owners(&null), ["two", "base"]);
    let owned = &null.body["metadata"]["managedFields"][0];
    assert_eq!(
        owned["fieldsV1"],
        json!({"f:metadata": {"f:finalizers": {}}})
    );
    assert!(owned.get("time").is_none(), "{owned}");

    let whole = containing(json!({}), json!({}));
    assert_eq!(
        apply(&fixture, DEPLOYMENTS, "base", false, &whole)
            .await
            .code,
        201
    );
    for nothing in [json!([]), Value::Null] {
        let config = pod(json!({"containers": nothing}));
        let left = apply(&fixture, DEPLOYMENTS, "two", false, &config).await;
        assert_eq!(left.code, 200, "{}", left.body);
        let containers = &left.body["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0]["image"], "i");
    }
    let spec = json!({"set": ["a"], "map": [{"k": "x"}]});
    let made = apply(&fixture, WIDGETS, "base", false, &widget("w", spec.clone())).await;
    assert_eq!(made.code, 201, "{}", made.body);
    for nothing in [json!([]), Value::Null] {
        let config = widget("w", json!({"set": nothing, "map": nothing}));
        let left = apply(&fixture, WIDGETS, "two", false, &config).await;
        assert_eq!(left.code, 200, "{}", left.body);
        assert_eq!(left.body["spec"]["set"], spec["set"]);
        assert_eq!(left.body["spec"]["map"], spec["map"]);
        assert_eq!(left.body["metadata"]["generation"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_field_goes_what_the_server_filled_in() {
    let fixture = with_widgets().await;
    let http = json!({"httpGet": {"path": "/", "port": 80}});
    let exec = json!({"exec": {"command": ["x"]}});
    let tcp = json!({"tcpSocket": {"port": 80}});
    let hook = json!({"preStop": {"httpGet": {"path": "/", "port": 80}}});
    for (field, value) in [
        ("livenessProbe", &http),
        ("livenessProbe", &exec),
        ("readinessProbe", &tcp),
        ("startupProbe", &http),
        ("livenessProbe", &exec),
        ("lifecycle", &hook),
    ] {
        let with = containing(json!({}), json!({field: value}));
        let with = apply(&fixture, DEPLOYMENTS, "m", false, &with).await;
        assert!(with.code < 300, "{field}: {}", with.body);
        // What one handler says is no part of another.
        if field == "livenessProbe" {
            let other = if value == &http { &exec } else { &http };
            let swapped = containing(json!({}), json!({field: other}));
            let swapped = apply(&fixture, DEPLOYMENTS, "m", false, &swapped).await;
            assert_eq!(swapped.code, 200, "{field}: {}", swapped.body);
        }
        let without = containing(json!({}), json!({}));
        let without = apply(&fixture, DEPLOYMENTS, "m", false, &without).await;
        assert_eq!(without.code, 200, "{field}: {}", without.body);
        let container = &without.body["spec"]["template"]["spec"]["containers"][0];
        assert!(container.get(field).is_none(), "{container}");
    }
    let deep = widget("w", json!({"deep": {"q": "x"}}));
    let made = apply(&fixture, WIDGETS, "m", false, &deep).await;
    assert_eq!(made.body["spec"]["deep"], json!({"q": "x", "r": "given"}));
    let gone = apply(&fixture, WIDGETS, "m", false, &widget("w", json!({}))).await;
    assert_eq!(gone.body["spec"], json!({"size": 1}));
    // What another keeps stays, with what was filled in around it.
    assert_eq!(apply(&fixture, WIDGETS, "m", false, &deep).await.code, 200);
    let other = widget("w", json!({"deep": {}}));
    assert_eq!(
        apply(&fixture, WIDGETS, "two", false, &other).await.code,
        200
    );
    let kept = apply(&fixture, WIDGETS, "m", false, &widget("w", json!({}))).await;
    assert_eq!(kept.body["spec"]["deep"], json!({"r": "given"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_shared_map_is_null() {
    let fixture = with_widgets().await;
    let labels = widget("w", json!({"labels": {"a": "1"}, "any": {"z": {"y": 1}}}));
    assert_eq!(
        apply(&fixture, WIDGETS, "m", false, &labels).await.code,
        201
    );
    let none = apply(
        &fixture,
        WIDGETS,
        "m",
        false,
        &widget("w", json!({"labels": {}})),
    )
    .await;
    let why = "Widget.tests.example \"w\" is invalid: spec.labels: Invalid value: \"null\": spec.labels in body must be of type \
               object: \"null\"";
    assert_eq!((none.code, told(&none)), (422, why));
    let any = widget("w", json!({"any": {"z": {}}}));
    let any = apply(&fixture, WIDGETS, "m", false, &any).await;
    assert_eq!(any.body["spec"]["any"], json!({"z": null}), "{}", any.body);
    // Who says that there is a map is not asked what comes into it.
    let empty = widget("x", json!({"labels": {}}));
    assert_eq!(apply(&fixture, WIDGETS, "m", false, &empty).await.code, 201);
    let filled = widget("x", json!({"labels": {"a": "1"}}));
    let filled = apply(&fixture, WIDGETS, "two", false, &filled).await;
    assert_eq!(owners(&filled), ["m", "two"], "{}", filled.body);
    // Who names nothing owns nothing, and keeps nothing.
    let set = widget("w", json!({"set": []}));
    let set = apply(&fixture, WIDGETS, "m", false, &set).await;
    assert_eq!(set.body.get("spec"), None, "{}", set.body);
    assert!(owners(&set).is_empty(), "{}", set.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_empty_replaces_what_has_one_owner() {
    let fixture = Fixture::start().await;
    let tolerations = json!([{"operator": "Exists"}]);
    let base = containing(
        json!({"tolerations": tolerations, "nodeSelector": {"a": "b"}}),
        json!({"args": ["x"], "env": [{"name": "A", "value": "1"}]}),
    );
    let made = apply(&fixture, DEPLOYMENTS, "base", false, &base).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let container = |fields: Value| {
        let mut whole = json!({"name": "c"});
        let map = whole.as_object_mut().expect("an object");
        map.extend(fields.as_object().cloned().unwrap_or_default());
        pod(json!({"containers": [whole]}))
    };
    let template = "/spec/template/spec";
    let first = "/spec/template/spec/containers/0";
    for (config, place) in [
        (
            deployment(json!({"replicas": null})),
            "/spec/replicas".to_owned(),
        ),
        (
            pod(json!({"tolerations": []})),
            format!("{template}/tolerations"),
        ),
        (
            pod(json!({"nodeSelector": {}})),
            format!("{template}/nodeSelector"),
        ),
        (container(json!({"args": []})), format!("{first}/args")),
        (
            container(json!({"env": [{"name": "A", "value": null}]})),
            format!("{first}/env/0/value"),
        ),
    ] {
        let refused = apply(&fixture, DEPLOYMENTS, "two", false, &config).await;
        assert_eq!(refused.code, 409, "{place}: {}", refused.body);
        assert!(told(&refused).contains("conflict with \"base\""));
        let forced = apply(&fixture, DEPLOYMENTS, "two", true, &config).await;
        assert_eq!(forced.code, 200, "{place}: {}", forced.body);
        let left = forced.body.pointer(&place);
        match place.ends_with("replicas") {
            true => assert_eq!(left, Some(&json!(1)), "the default"),
            false => assert_eq!(left, None, "{place}"),
        }
    }
    let image = container(json!({"image": ""}));
    assert_eq!(
        apply(&fixture, DEPLOYMENTS, "two", false, &image)
            .await
            .code,
        409
    );
    let forced = apply(&fixture, DEPLOYMENTS, "two", true, &image).await;
    assert!(told(&forced).ends_with("containers[0].image: Required value"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_in_an_object_of_a_described_kind_is_a_value() {
    let fixture = with_widgets().await;
    for (spec, why) in [
        (
            json!({"atomic": null}),
            "spec.atomic in body must be of type array: \"null\"",
        ),
        (
            json!({"labels": {"a": null}}),
            "spec.labels.a in body must be of type string: \"null\"",
        ),
        (
            json!({"deep": null}),
            "spec.deep in body must be of type object: \"null\"",
        ),
    ] {
        let refused = apply(&fixture, WIDGETS, "m", false, &widget("w", spec)).await;
        assert_eq!(refused.code, 422, "{}", refused.body);
        assert!(told(&refused).ends_with(why), "{}", told(&refused));
    }
    let kept = widget("w", json!({"size": null, "any": {"z": null}}));
    let kept = apply(&fixture, WIDGETS, "m", false, &kept).await;
    assert_eq!(kept.code, 201, "{}", kept.body);
    assert_eq!(kept.body["spec"], json!({"size": 1, "any": {"z": null}}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_read_once_it_is_merged() {
    let fixture = Fixture::start().await;
    let mut base = containing(json!({}), json!({}));
    base["spec"]["replicas"] = json!(2.0);
    let made = apply(&fixture, DEPLOYMENTS, "base", false, &base).await;
    assert_eq!(made.body["spec"]["replicas"], 2, "{}", made.body);
    let config = deployment(json!({"replicas": 2.5}));
    let refused = apply(&fixture, DEPLOYMENTS, "two", false, &config).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    let unread = apply(&fixture, DEPLOYMENTS, "two", true, &config).await;
    let why = "failed to convert new object (/d; apps/v1, Kind=Deployment) to proper version: unable to convert unstructured \
               object to apps/v1, Kind=Deployment: cannot convert float64 to int32";
    assert_eq!((unread.code, told(&unread)), (500, why));
    let null = apply(
        &fixture,
        DEPLOYMENTS,
        "two",
        true,
        &pod(json!({"containers": [null]})),
    )
    .await;
    let why = "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: element 0: \
               associative list with keys may not have a null element";
    assert_eq!((null.code, told(&null)), (500, why));
    for (config, why) in [
        (
            json!({"apiVersion": "g/v1", "kind": "Foo", "metadata": {"name": "d"}, "x": 1}),
            "invalid object type: g/v1, Kind=Foo",
        ),
        (
            json!({"apiVersion": "v2", "kind": "Deployment", "metadata": {"name": "d"}}),
            "invalid object type: /v2, Kind=Deployment",
        ),
    ] {
        let refused = apply(&fixture, DEPLOYMENTS, "two", false, &config).await;
        assert_eq!((refused.code, told(&refused)), (400, why));
    }
    let path = format!("{DEPLOYMENTS}/d?fieldManager=two");
    let list = fixture.patch(&path, "apply-patch+yaml", json!([])).await;
    let why = "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of \
               type map[string]interface {}";
    assert_eq!((list.code, told(&list)), (400, why));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_takes_over_what_its_client_side_apply_has_set() {
    let fixture = Fixture::start().await;
    let made_by = async |name: &str, data: Value, last: &str| {
        let mut object = map(name, data);
        object["metadata"]["annotations"] = json!({LAST_APPLIED: last});
        let path = format!("{CMS}?fieldManager=kubectl-client-side-apply");
        assert_eq!(fixture.create(&path, object).await.code, 201);
    };
    let last = map("a", json!({"a": "1", "b": "1"})).to_string();
    made_by("a", json!({"a": "1", "b": "1"}), &last).await;
    let next = map("a", json!({"a": "2", "b": "2"}));
    let other = apply(&fixture, CMS, "other", false, &next).await;
    assert_eq!(other.code, 409, "{}", other.body);
    let moved = apply(&fixture, CMS, "kubectl", false, &next).await;
    assert_eq!(moved.code, 200, "{}", moved.body);
    assert_eq!(moved.body["data"], next["data"]);
    let kept = &moved.body["metadata"]["annotations"][LAST_APPLIED];
    assert_eq!(*kept, format!("{next}\n"));

    // What somebody has changed since is a conflict, and nothing else is told.
    made_by(
        "b",
        json!({"a": "9", "b": "1"}),
        &map("b", json!({"a": "1", "b": "1"})).to_string(),
    )
    .await;
    let refused = apply(
        &fixture,
        CMS,
        "kubectl",
        false,
        &map("b", next["data"].clone()),
    )
    .await;
    let why = "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a";
    assert_eq!((refused.code, told(&refused)), (409, why));
    for last in [
        "garbage",
        "{}",
        "{\"apiVersion\":\"v1\",\"kind\":\"Foo\",\"data\":{\"a\":\"1\"}}",
    ] {
        made_by("c", json!({"a": "1"}), last).await;
        let refused = apply(
            &fixture,
            CMS,
            "kubectl",
            false,
            &map("c", json!({"a": "2"})),
        )
        .await;
        assert_eq!(refused.code, 409, "{last}");
        fixture
            .ask("DELETE", &format!("{CMS}/c"), Value::Null)
            .await;
    }
    // One that is named no more goes, and nothing else of the metadata.
    let mut named = map("e", json!({"a": "1"}));
    named["metadata"]["annotations"] = json!({"x": "y"});
    assert_eq!(apply(&fixture, CMS, "m", false, &named).await.code, 201);
    let left = map("e", json!({"a": "1"}));
    let left = apply(&fixture, CMS, "m", false, &left).await;
    assert_eq!(left.body["metadata"].get("annotations"), None);
    assert_eq!(owners(&left), ["m"], "{}", left.body);
    // An annotation that would be too large goes.
    made_by(
        "d",
        json!({"a": "1"}),
        &map("d", json!({"a": "1"})).to_string(),
    )
    .await;
    let large = map("d", json!({"a": "x".repeat(256 * 1024)}));
    let large = apply(&fixture, CMS, "kubectl", false, &large).await;
    assert_eq!(large.code, 200, "{}", told(&large));
    assert!(large.body["metadata"].get("annotations").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_owned_is_owned_before_the_first_apply() {
    let fixture = Fixture::start().await;
    for reset in [json!([]), json!([{}])] {
        assert_eq!(fixture.create(CMS, config_map("a", "1")).await.code, 201);
        let reset = json!({"metadata": {"managedFields": reset}});
        let reset = fixture
            .patch(&format!("{CMS}/a"), "merge-patch+json", reset)
            .await;
        assert!(owners(&reset).is_empty(), "{}", reset.body);
        let same = apply(&fixture, CMS, "m", false, &map("a", json!({"key": "1"}))).await;
        assert_eq!(owners(&same), ["m", "before-first-apply"]);
        let before = &same.body["metadata"]["managedFields"][1];
        assert_eq!(
            before["fieldsV1"],
            json!({"f:data": {".": {}, "f:key": {}}})
        );
        let refused = apply(&fixture, CMS, "m", false, &map("a", json!({"key": "2"}))).await;
        let why = "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.key";
        assert_eq!((refused.code, told(&refused)), (409, why));
        fixture
            .ask("DELETE", &format!("{CMS}/a"), Value::Null)
            .await;
    }
    // Of an object that is scaled, only the number of replicas.
    let made = containing(json!({}), json!({}));
    assert_eq!(fixture.create(DEPLOYMENTS, made).await.code, 201);
    let reset = json!({"metadata": {"managedFields": []}});
    let reset = fixture
        .patch(&format!("{DEPLOYMENTS}/d"), "merge-patch+json", reset)
        .await;
    assert!(owners(&reset).is_empty(), "{}", reset.body);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"replicas": 3}});
    let path = format!("{DEPLOYMENTS}/d/scale?fieldManager=m");
    assert_eq!(
        fixture.patch(&path, "apply-patch+yaml", scale).await.code,
        200
    );
    let scaled = fixture.get(&format!("{DEPLOYMENTS}/d")).await;
    assert_eq!(
        owners(&scaled)[..2],
        ["m", "before-first-apply"],
        "{}",
        scaled.body
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_means_the_object_that_it_names() {
    let fixture = Fixture::start().await;
    let with = |name: &str, field: &str, value: Value| {
        let mut config = map(name, json!({"a": "1"}));
        config["metadata"][field] = value;
        config
    };
    let uid = "11111111-1111-1111-1111-111111111111";
    let none = apply(&fixture, CMS, "m", false, &with("none", "uid", uid.into())).await;
    let why = format!(
        "Operation cannot be fulfilled on configmaps \"none\": uid mismatch: the provided object specified uid {uid}, and no \
         existing object was found"
    );
    assert_eq!((none.code, told(&none)), (409, why.as_str()));
    fixture.config_map("a", "1").await;
    let other = apply(&fixture, CMS, "m", false, &with("a", "uid", uid.into())).await;
    let why = format!(
        "ConfigMap \"a\" is invalid: metadata.uid: Invalid value: \"{uid}\": field is immutable"
    );
    assert_eq!((other.code, told(&other)), (422, why.as_str()));
    let of_version = with("b", "resourceVersion", "5".into());
    assert_eq!(
        apply(&fixture, CMS, "m", false, &of_version).await.code,
        201
    );
    let of_nobody = with("a", "managedFields", Value::Null);
    let of_nobody = apply(&fixture, CMS, "m", false, &of_nobody).await;
    assert_eq!(of_nobody.code, 200, "{}", of_nobody.body);
    assert_eq!(owners(&of_nobody).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_a_client_writes_are_taken_if_they_are_such() {
    let fixture = Fixture::start().await;
    let good = json!({"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "time": "2020-01-01T00:00:00Z", "fieldsV1": {"f:data": {"f:a": {}}}});
    let with = |field: &str, value: Value| {
        let mut entry = good.clone();
        entry[field] = value;
        entry
    };
    let other = with("fieldsV1", json!({"f:data": {"f:b": {}}}));
    for (entries, whose) in [
        (json!([good]), vec!["x"]),
        (json!([with("operation", "Foo".into())]), vec!["one"]),
        (json!([good, with("fieldsType", "X".into())]), vec!["one"]),
        (json!([with("apiVersion", "".into())]), vec!["one"]),
        (json!([with("fieldsV1", json!({"x": {}}))]), vec!["one"]),
        (json!([{}, {}]), vec!["one"]),
        (json!([good, with("apiVersion", "v2".into())]), vec!["x"]),
        (json!([with("apiVersion", "apps/v1".into())]), vec![]),
        (json!([good, other]), vec!["x"]),
        (json!([with("manager", "".into())]), vec![""]),
    ] {
        let path = format!("{CMS}?fieldManager=one");
        assert_eq!(
            fixture
                .create(&path, map("a", json!({"a": "1"})))
                .await
                .code,
            201
        );
        let change = json!({"metadata": {"managedFields": entries}});
        let changed = fixture
            .patch(&format!("{CMS}/a"), "merge-patch+json", change)
            .await;
        assert_eq!(owners(&changed), whose, "{entries}");
        let first = &changed.body["metadata"]["managedFields"][0];
        if entries[1] == other {
            assert_eq!(first["fieldsV1"], other["fieldsV1"]);
        }
        if entries[0]["manager"] == "" {
            assert!(first.get("manager").is_none(), "{first}");
        }
        fixture
            .ask("DELETE", &format!("{CMS}/a"), Value::Null)
            .await;
    }
}
