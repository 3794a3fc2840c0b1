//! Paths and methods as kube-apiserver has them.

use bytes::Bytes;
use corral_server::authn::{MASTERS, User};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::fixture::{Fixture, config_map, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn methods_are_answered_where_they_are_served() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.config_map("a", "1").await.code, 201);
    let one = format!("{CMS}/a");
    for (path, expected) in [
        // GET, HEAD, POST, OPTIONS
        ("/", [200, 200, 200, 200]),
        ("/apis", [200, 200, 200, 200]),
        ("/apis/apps/", [200, 200, 200, 200]),
        ("/healthz", [200, 200, 200, 200]),
        ("/metrics", [200, 200, 200, 200]),
        ("/metrics/slis", [200, 200, 200, 200]),
        ("/openapi/v2", [200, 200, 200, 200]),
        ("/api", [200, 405, 405, 405]),
        ("/api/v1/", [200, 405, 405, 405]),
        ("/apis/apps/v1", [200, 405, 405, 405]),
        ("/version/", [200, 405, 405, 405]),
        ("/openid/v1/jwks", [200, 405, 405, 405]),
        ("/foo", [404, 404, 404, 404]),
        ("/healthz/", [404, 404, 404, 404]),
        ("/metrics/", [404, 404, 404, 404]),
        ("/apis/apps/v9", [404, 404, 404, 404]),
        ("//api/v1/pods", [404, 404, 404, 404]),
        ("/api//v1/pods", [404, 404, 404, 404]),
        ("/api/v1//pods", [404, 404, 404, 404]),
        ("/api/v1/namespaces/default//pods", [404, 404, 404, 404]),
        ("/api/v1/namespaces/default/pods//a", [404, 404, 404, 404]),
        (
            "/api/v1/namespaces/default/pods/a/log/x",
            [404, 404, 404, 404],
        ),
        ("/api/v1/namespaces//pods", [200, 405, 405, 405]),
        ("/api/v1/pods//", [200, 405, 405, 405]),
        (one.as_str(), [200, 405, 405, 405]),
    ] {
        for (method, expected) in ["GET", "HEAD", "POST", "OPTIONS"].into_iter().zip(expected) {
            // Creating somewhere without a body is refused in other ways.
            let code = fixture.ask(method, path, Value::Null).await.code;
            assert_eq!(code, expected, "{method} {path}");
        }
    }
    // Of a group that there is, versions that there are not are told as Statuses.
    let none = fixture.get("/apis/apps/v9").await;
    assert_eq!(none.body["reason"], "NotFound");
    assert_eq!(
        fixture.get("/apis/none.example.com/v9").await.body,
        Value::Null
    );
}

#[tokio::test]
async fn a_namespaced_kind_is_emptied_one_namespace_at_a_time() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.config_map("a", "1").await.code, 201);
    for path in [
        "/api/v1/configmaps",
        "/api/v1/namespaces//configmaps",
        "/api/v1/watch/configmaps",
    ] {
        assert_eq!(
            fixture.ask("DELETE", path, Value::Null).await.code,
            405,
            "{path}"
        );
    }
    assert_eq!(fixture.get(&format!("{CMS}/a")).await.code, 200);
}

#[tokio::test]
async fn a_page_of_a_collection_is_deleted() {
    let fixture = Fixture::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(fixture.config_map(name, "1").await.code, 201);
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().into_iter().flatten();
        let names = items.map(|item| {
            item["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        });
        // The certificate authorities are in every namespace.
        names.filter(|name| name.len() == 1).collect()
    };
    let page = fixture
        .ask("DELETE", &format!("{CMS}?limit=2"), Value::Null)
        .await;
    assert_eq!(
        (page.code, names(&page.body)),
        (200, vec!["a".to_owned(), "b".to_owned()])
    );
    let token = page.body["metadata"]["continue"]
        .as_str()
        .expect("more")
        .to_owned();
    let bad = fixture
        .ask("DELETE", &format!("{CMS}?continue=zz"), Value::Null)
        .await;
    assert_eq!(bad.code, 400);
    let elsewhere = json!({"preconditions": {"uid": "x"}});
    assert_eq!(fixture.ask("DELETE", CMS, elsewhere).await.code, 409);
    assert_eq!(names(&fixture.get(CMS).await.body), ["c", "d", "e"]);
    let next = format!("{CMS}?limit=1&continue={token}");
    let page = fixture.ask("DELETE", &next, Value::Null).await;
    assert_eq!((page.code, names(&page.body)), (200, vec!["c".to_owned()]));
    assert_eq!(names(&fixture.get(CMS).await.body), ["d", "e"]);
}

#[tokio::test]
async fn options_of_a_deletion_are_checked_before_anything_goes() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.config_map("a", "1").await.code, 201);
    let one = format!("{CMS}/a");
    for (path, body, code) in [
        (one.clone(), json!({"dryRun": ["No"]}), 422),
        (format!("{one}?dryRun=No"), Value::Null, 422),
        (format!("{one}?gracePeriodSeconds="), Value::Null, 400),
        (format!("{one}?propagationPolicy=Zed"), Value::Null, 422),
        (
            format!("{CMS}?labelSelector=none"),
            json!({"dryRun": ["No"]}),
            422,
        ),
        (
            format!("{CMS}?labelSelector=none"),
            json!({"propagationPolicy": "Zed"}),
            422,
        ),
        (format!("{one}?dryRun=All"), Value::Null, 200),
    ] {
        assert_eq!(
            fixture.ask("DELETE", &path, body).await.code,
            code,
            "{path}"
        );
    }
    let told = format!("{one}?dryRun=All&propagationPolicy=Foreground");
    let told = fixture.ask("DELETE", &told, Value::Null).await;
    assert_eq!(
        told.body["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    assert!(told.body["metadata"]["deletionTimestamp"].is_string());
    let still = fixture.get(&one).await;
    assert!(still.body["metadata"].get("deletionTimestamp").is_none());
    // Whoever sends options says nothing by the URL.
    let gone = format!("{one}?dryRun=All");
    let gone = fixture.ask("DELETE", &gone, json!({"gracePeriodSeconds": 5}));
    assert_eq!(gone.await.code, 200);
    assert_eq!(fixture.get(&one).await.code, 404);
}

#[tokio::test]
async fn one_object_is_read_and_not_watched_by_its_name() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.config_map("a", "1").await.code, 201);
    let mut connection = fixture.connect().await;
    let path = format!("{CMS}/a?watch=1");
    let answer = send(&mut connection, "GET", &path, &[], Bytes::new()).await;
    let body = answer
        .into_body()
        .collect()
        .await
        .expect("an end")
        .to_bytes();
    let object: Value = serde_json::from_slice(&body).expect("an object");
    assert_eq!(object["kind"], "ConfigMap");
}

#[tokio::test]
async fn times_in_a_request_must_be_times() {
    let fixture = Fixture::start().await;
    for (query, code) in [
        ("timeout=5s", 200),
        ("timeout=0", 200),
        ("timeout=", 200),
        ("timeout=5", 400),
        ("timeout=x", 400),
        ("timeoutSeconds=5", 200),
        ("timeoutSeconds=x", 400),
        ("limit=", 400),
    ] {
        assert_eq!(
            fixture.get(&format!("{CMS}?{query}")).await.code,
            code,
            "{query}"
        );
    }
    let told = fixture.get(&format!("{CMS}?timeout=5")).await;
    let message = told.body["message"].as_str().unwrap_or_default();
    assert!(
        message.ends_with("time: missing unit in duration \"5\""),
        "{message}"
    );
}

#[tokio::test]
async fn openapi_by_its_hash_is_kept_and_by_another_is_elsewhere() {
    let fixture = Fixture::start().await;
    let index = fixture.get("/openapi/v3").await.body;
    let path = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .expect("a path")
        .to_owned();
    let header = |answer: &crate::fixture::Answer, name: &str| {
        let value = answer
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let kept = fixture.get(&path).await;
    assert_eq!(
        (kept.code, header(&kept, "cache-control")),
        (200, "public, immutable".to_owned())
    );
    assert!(header(&kept, "expires").ends_with(" UTC"));
    let moved = fixture.get("/openapi/v3/apis/apps/v1?hash=x").await;
    assert_eq!((moved.code, header(&moved, "location")), (301, path));
    let now = fixture.get("/openapi/v3/apis/apps/v1").await;
    assert_eq!(
        (now.code, header(&now, "cache-control")),
        (200, "no-cache, private".to_owned())
    );
}

#[tokio::test]
async fn what_is_no_number_scales_nothing() {
    let fixture = Fixture::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"a": "b"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(fixture.create(deployments, deployment).await.code, 201);
    let scale = format!("{deployments}/d/scale");
    let merge = "merge-patch+json";
    let head = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"}});
    let with = |spec: Value| {
        let mut scale = head.clone();
        scale["spec"] = spec;
        scale
    };
    for (kind, body, code) in [
        (merge, json!({"spec": {"replicas": "5"}}), 422),
        (merge, json!({"spec": {"replicas": 2.5}}), 422),
        (merge, json!({"spec": []}), 422),
        (merge, json!({"kind": "Foo"}), 422),
        (
            merge,
            json!({"metadata": {"uid": "x"}, "spec": {"replicas": 9}}),
            409,
        ),
        (merge, json!({"spec": {"replicas": -1}}), 422),
        (
            "json-patch+json",
            json!([{"op": "replace", "path": "/spec/replicas", "value": "9"}]),
            422,
        ),
        (
            "strategic-merge-patch+json",
            json!({"spec": {"replicas": "7"}}),
            422,
        ),
    ] {
        let told = fixture.patch(&scale, kind, body.clone()).await;
        assert_eq!(told.code, code, "{kind} {body}: {}", told.body);
    }
    for (body, code) in [
        (with(json!({"replicas": "5"})), 500),
        (with(json!({"foo": 1})), 500),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}),
            400,
        ),
        (with(json!({})), 200),
    ] {
        let path = format!("{scale}?fieldManager=x");
        let told = fixture.patch(&path, "apply-patch+yaml", body.clone()).await;
        assert_eq!(told.code, code, "{body}: {}", told.body);
    }
    let mut of_apps = with(json!({"replicas": 7}));
    of_apps["apiVersion"] = "apps/v1".into();
    let unknown = with(json!({"replicas": 2, "x": 1}));
    for (path, body, code) in [
        (scale.clone(), of_apps, 400),
        (scale.clone(), with(json!({"replicas": "7"})), 400),
        (format!("{scale}?fieldValidation=Strict"), unknown, 400),
    ] {
        let told = fixture.ask("PUT", &path, body).await;
        assert_eq!(told.code, code, "{path}: {}", told.body);
    }
    let now = fixture.get(&scale).await.body;
    assert_eq!(now["spec"]["replicas"], 2, "nothing of this has scaled it");
    assert_eq!(
        fixture
            .ask("PUT", &scale, with(json!({"replicas": 7})))
            .await
            .code,
        200
    );
    assert_eq!(fixture.get(&scale).await.body["spec"]["replicas"], 7);
}

#[tokio::test]
async fn checks_of_health_are_counted() {
    let fixture = Fixture::start().await;
    let admin = || User::new("admin", &[MASTERS]);
    assert!(
        !fixture
            .text(admin(), "/metrics/slis")
            .await
            .contains("ping")
    );
    for _ in 0..2 {
        assert_eq!(fixture.text(admin(), "/readyz").await, "ok");
    }
    let page = fixture.text(admin(), "/metrics/slis").await;
    for line in [
        "kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 2",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
    assert_eq!(fixture.create(CMS, config_map("a", "1")).await.code, 201);
    let _ = fixture.get("/api/v1/endpoints").await;
    let page = fixture.text(admin(), "/metrics").await;
    for begins in [
        "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1",
        "apiserver_request_body_size_bytes_count{group=\"\",resource=\"configmaps\",verb=\"create\"} ",
        "kubernetes_build_info{build_date=",
        "aggregator_unavailable_apiservice{name=\"v1.apps\"} 0",
    ] {
        assert!(
            page.lines().any(|found| found.starts_with(begins)),
            "{begins}"
        );
    }
}

#[tokio::test]
async fn a_write_of_the_status_changes_no_metadata_that_belong_to_the_rest() {
    let fixture = Fixture::start().await;
    let level = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/exempt";
    let before = fixture.get(level).await.body;
    let metadata = json!({"labels": {"x": "y"}, "annotations": {"x": "y"}});
    let patch = json!({"metadata": metadata, "status": {}});
    let status = format!("{level}/status");
    let patched = fixture.patch(&status, "merge-patch+json", patch).await;
    assert_eq!(patched.code, 200);
    let after = fixture.get(level).await.body;
    for field in ["labels", "annotations", "managedFields"] {
        assert_eq!(
            after["metadata"][field], before["metadata"][field],
            "{field}"
        );
    }
}

#[tokio::test]
async fn openapi_tells_what_is_one_value_what_must_be_there_and_which_values_there_are() {
    let fixture = Fixture::start().await;
    let two = fixture.get("/openapi/v2").await.body;
    let three = fixture.get("/openapi/v3/apis/apps/v1").await.body;
    let core = "io.k8s.api.core.v1";
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1";
    for (schemas, prefix) in [
        (&two["definitions"], "#/definitions/"),
        (&three["components"]["schemas"], "#/components/schemas/"),
    ] {
        let of = |name: &str| &schemas[name];
        assert_eq!(
            of(&format!("{meta}.LabelSelector"))["x-kubernetes-map-type"],
            "atomic"
        );
        assert_eq!(of("io.k8s.api.apps.v1.Deployment")["required"], Value::Null);
        let spec = of("io.k8s.api.apps.v1.DeploymentSpec");
        assert_eq!(spec["required"], json!(["selector", "template"]));
        let strategy = &of("io.k8s.api.apps.v1.DeploymentStrategy")["properties"]["type"];
        assert_eq!(strategy["enum"], json!(["Recreate", "RollingUpdate"]));
        let modes = &of(&format!("{core}.PersistentVolumeClaimSpec"))["properties"]["accessModes"];
        assert_eq!(modes["items"]["enum"].as_array().map(Vec::len), Some(4));
        assert!(modes.get("enum").is_none());
        let list = &of("io.k8s.api.apps.v1.DeploymentList")["properties"]["metadata"];
        let reference = list.get("$ref").or_else(|| list["allOf"][0].get("$ref"));
        assert_eq!(reference, Some(&json!(format!("{prefix}{meta}.ListMeta"))));
        for name in ["ListMeta", "DeleteOptions", "Status"] {
            assert!(of(&format!("{meta}.{name}")).is_object(), "{name}");
        }
        assert!(of("io.k8s.api.autoscaling.v1.Scale").is_object());
    }
    let port = |schemas: &Value| schemas[format!("{core}.ContainerPort")]["properties"].clone();
    let (two, three) = (
        port(&two["definitions"]),
        port(&three["components"]["schemas"]),
    );
    assert_eq!(two["protocol"].get("default"), None);
    assert_eq!(three["protocol"]["default"], "TCP");
    assert_eq!(three["containerPort"]["default"], 0);
    assert_eq!(three["name"].get("default"), None);
    // A schema of schemas has fields that are called as what describes them.
    let schemas = fixture
        .get("/openapi/v3/apis/apiextensions.k8s.io/v1")
        .await
        .body;
    let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let fields = &schemas["components"]["schemas"][name]["properties"];
    assert_eq!(fields["$ref"]["type"], "string");
    assert_eq!(fields["allOf"]["type"], "array");
}

#[tokio::test]
async fn discovery_is_kept_by_its_tag() {
    let fixture = Fixture::start().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let mut connection = fixture.connect().await;
    for path in ["/api", "/apis"] {
        let headers = [("accept", accept.to_owned())];
        let first = send(&mut connection, "GET", path, &headers, Bytes::new()).await;
        assert_eq!(first.headers()["cache-control"], "public");
        let tag = first.headers()["etag"].to_str().expect("text").to_owned();
        let body = first
            .into_body()
            .collect()
            .await
            .expect("an end")
            .to_bytes();
        let list: Value = serde_json::from_slice(&body).expect("a list");
        let resource = &list["items"][0]["versions"][0]["resources"][0];
        assert_eq!(resource["responseKind"]["version"], "", "{path}");
        let headers = [("accept", accept.to_owned()), ("if-none-match", tag)];
        let again = send(&mut connection, "GET", path, &headers, Bytes::new()).await;
        assert_eq!(again.status(), 304, "{path}");
        assert!(
            !again.headers().contains_key("content-type"),
            "caches would take it over"
        );
        let _ = again.into_body().collect().await;
    }
}

#[tokio::test]
async fn metadata_of_any_kind_come_in_protobuf() {
    let fixture = Fixture::start().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]},
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(fixture.create(definitions, definition).await.code, 201);
    let things = "/apis/example.com/v1/namespaces/default/things";
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}});
    while fixture.get(things).await.code != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.create(things, thing).await.code, 201);
    let one = format!("{things}/a");
    let watch = format!("{things}?watch=1&resourceVersion=0");
    let message = "application/vnd.kubernetes.protobuf";
    let mut connection = fixture.connect().await;
    for (method, path, kind, code) in [
        ("GET", &one, "PartialObjectMetadata", 200),
        ("GET", &things.to_owned(), "PartialObjectMetadataList", 200),
        ("GET", &one, "", 406),
        ("DELETE", &one, "", 406),
    ] {
        let accept = match kind {
            "" => message.to_owned(),
            kind => format!("{message};as={kind};g=meta.k8s.io;v=v1"),
        };
        let headers = [("accept", accept)];
        let answer = send(&mut connection, method, path, &headers, Bytes::new()).await;
        assert_eq!(answer.status(), code, "{method} {path} {kind}");
        let body = answer
            .into_body()
            .collect()
            .await
            .expect("an end")
            .to_bytes();
        if code == 200 {
            assert!(body.starts_with(b"k8s\0"), "{method} {path} {kind}");
        }
    }
    assert_eq!(fixture.get(&one).await.code, 200, "it is still there");
    let accept = format!("{message};as=PartialObjectMetadata;g=meta.k8s.io;v=v1;stream=watch");
    let mut watching = fixture.connect().await;
    let answer = send(
        &mut watching,
        "GET",
        &watch,
        &[("accept", accept)],
        Bytes::new(),
    )
    .await;
    assert_eq!(answer.status(), 200);
    let frame = answer
        .into_body()
        .frame()
        .await
        .expect("an event")
        .expect("a frame");
    let frame = frame.into_data().expect("data");
    assert!(
        frame.windows(4).any(|part| part == b"k8s\0"),
        "an object in a message"
    );
}
