//! What a node may do, and how it joins.

use corral_server::authn::User;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn node(name: &str) -> User {
    User::new(&format!("system:node:{name}"), &["system:nodes"])
}

async fn ask(fixture: &Fixture, user: User, method: &str, path: &str, body: Value) -> Answer {
    let content = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    fixture.ask_as(user, method, path, content, body).await
}

async fn code(fixture: &Fixture, name: &str, method: &str, path: &str, body: Value) -> u16 {
    ask(fixture, node(name), method, path, body).await.code
}

fn pod(name: &str, on: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": on, "serviceAccountName": "worker", "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"name": "c", "image": "corral.dev/host",
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}],
            "envFrom": [{"configMapRef": {"name": "settings"}}]}],
        "volumes": [{"name": "v", "secret": {"secretName": "mounted"}},
            {"name": "p", "projected": {"sources": [{"configMap": {"name": "projected"}}]}}]}})
}

/// Nodes `a` and `b`, and a pod `web` on `a`.
async fn fixture() -> Fixture {
    let fixture = Fixture::start().await;
    for name in ["a", "b"] {
        let body = json!({"metadata": {"name": name}});
        assert_eq!(fixture.create("/api/v1/nodes", body).await.code, 201);
    }
    let account = json!({"metadata": {"name": "worker"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(fixture.create(accounts, account).await.code, 201);
    let answer = fixture.create(PODS, pod("web", "a")).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    for name in ["pull", "key", "mounted", "other"] {
        let body = json!({"metadata": {"name": name}});
        fixture
            .create("/api/v1/namespaces/default/secrets", body)
            .await;
    }
    for name in ["settings", "projected", "other"] {
        fixture.config_map(name, "1").await;
    }
    // Rights follow from the cache of pods.
    fixture.get(PODS).await;
    fixture
}

#[tokio::test]
async fn a_node_reads_what_its_pods_name_and_no_more() {
    let fixture = fixture().await;
    let read = |name: &'static str, path: String| {
        let fixture = &fixture;
        async move { code(fixture, name, "GET", &path, Value::Null).await }
    };
    let object = |kind: &str, name: &str| format!("/api/v1/namespaces/default/{kind}/{name}");
    for (kind, name, expected) in [
        ("secrets", "pull", 200),
        ("secrets", "key", 200),
        ("secrets", "mounted", 200),
        ("secrets", "other", 403),
        ("secrets", "worker", 403),
        ("configmaps", "settings", 200),
        ("configmaps", "projected", 200),
        ("configmaps", "other", 403),
        ("configmaps", "key", 403),
        ("serviceaccounts", "worker", 200),
        ("serviceaccounts", "default", 403),
        ("pods", "web", 200),
    ] {
        let path = object(kind, name);
        assert_eq!(read("a", path.clone()).await, expected, "{path}");
        assert_eq!(read("b", path.clone()).await, 403, "{path} by another node");
    }
    for (path, expected) in [
        ("/api/v1/secrets", 403),
        ("/api/v1/namespaces/default/secrets", 403),
        (
            "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dkey",
            200,
        ),
        ("/api/v1/pods", 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Da", 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Db", 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName!%3Da", 403),
        ("/api/v1/services", 200),
        ("/api/v1/nodes", 200),
        ("/apis/coordination.k8s.io/v1/leases", 403),
    ] {
        assert_eq!(read("a", path.to_owned()).await, expected, "{path}");
    }
}

#[tokio::test]
async fn a_node_writes_only_what_is_its_own() {
    let fixture = fixture().await;
    let status = json!({"status": {"phase": "Running"}});
    let labels = |key: &str| json!({"metadata": {"labels": {key: "1"}}});
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    for (name, method, path, body, expected) in [
        (
            "b",
            "PATCH",
            format!("{PODS}/web/status"),
            status.clone(),
            403,
        ),
        ("a", "PATCH", format!("{PODS}/web/status"), status, 200),
        ("a", "PATCH", format!("{PODS}/web"), labels("x"), 403),
        ("a", "POST", PODS.to_owned(), pod("mine", "a"), 403),
        ("a", "PATCH", "/api/v1/nodes/b".to_owned(), labels("x"), 403),
        ("a", "PATCH", "/api/v1/nodes/a".to_owned(), labels("x"), 200),
        (
            "a",
            "PATCH",
            "/api/v1/nodes/a".to_owned(),
            labels("node-restriction.kubernetes.io/x"),
            403,
        ),
        (
            "a",
            "PATCH",
            "/api/v1/nodes/a".to_owned(),
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
            403,
        ),
        ("a", "DELETE", "/api/v1/nodes/a".to_owned(), json!({}), 403),
        ("a", "POST", leases.to_owned(), lease("b"), 403),
        ("a", "POST", leases.to_owned(), lease("a"), 201),
        (
            "b",
            "PATCH",
            format!("{leases}/a"),
            json!({"spec": {"holderIdentity": "b"}}),
            403,
        ),
        (
            "a",
            "POST",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases".to_owned(),
            lease("a"),
            403,
        ),
        ("b", "DELETE", format!("{PODS}/web"), json!({}), 403),
        (
            "a",
            "DELETE",
            format!("{PODS}/web"),
            json!({"gracePeriodSeconds": 0}),
            200,
        ),
    ] {
        let answer = ask(&fixture, node(name), method, &path, body).await;
        assert_eq!(
            answer.code, expected,
            "{method} {path} by {name}: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn a_node_gets_tokens_only_for_pods_that_it_runs() {
    let fixture = fixture().await;
    let uid = fixture.get(&format!("{PODS}/web")).await.body["metadata"]["uid"].clone();
    let path = "/api/v1/namespaces/default/serviceaccounts/worker/token";
    let bound = |uid: &Value| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid}}});
    assert_eq!(code(&fixture, "a", "POST", path, bound(&uid)).await, 201);
    assert_eq!(code(&fixture, "b", "POST", path, bound(&uid)).await, 403);
    let unbound = json!({"spec": {}});
    assert_eq!(code(&fixture, "a", "POST", path, unbound).await, 403);
    let no_uid =
        json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web"}}});
    assert_eq!(code(&fixture, "a", "POST", path, no_uid).await, 403);
}

fn certificate_request(node: &str) -> Value {
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .expect("a request");
    json!({"nodeName": node, "certificateRequest": request, "addresses": ["127.0.0.1", "10.96.0.1"]})
}

#[tokio::test]
async fn a_token_adds_nodes_and_takes_no_place() {
    let fixture = fixture().await;
    let path = "/corral/v1/node-certificates";
    let token = || User::new("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let fresh = ask(
        &fixture,
        token(),
        "POST",
        path,
        certificate_request("kubernetes.default.svc"),
    )
    .await;
    assert_eq!(fresh.code, 201, "{}", fresh.body);
    let pem = fresh.body["certificate"].as_str().expect("a certificate");
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
    let certificate = pem.parse_x509().expect("a certificate");
    let names = certificate
        .subject_alternative_name()
        .expect("readable")
        .expect("names");
    let names: Vec<String> = names
        .value
        .general_names
        .iter()
        .map(|n| n.to_string())
        .collect();
    // Neither a name nor an address of anything but the node.
    assert_eq!(
        names,
        ["DNSName(kubernetes.default.svc.nodes.corral.internal)"]
    );
    let taken = ask(&fixture, token(), "POST", path, certificate_request("a")).await;
    assert_eq!(
        (taken.code, taken.body["reason"].as_str()),
        (409, Some("Conflict"))
    );
    assert_eq!(
        code(&fixture, "a", "POST", path, certificate_request("a")).await,
        201
    );
    assert_eq!(
        code(&fixture, "a", "POST", path, certificate_request("b")).await,
        403
    );
}
