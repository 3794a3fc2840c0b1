//! What two nodes may do with the objects around their pods, beside the answers of kube-apiserver v1.36.3: four thousand
//! questions with the reasons that are given, and a hundred requests of theirs.

use corral_server::authn::User;
use serde_json::{Value, json};

use crate::fixture::{Fixture, answers};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// What nodes may besides, by roles of our own that are bound to them.
const BY_OWN_BINDINGS: [(&str, &[&str]); 4] = [
    // All nodes, Services and slices: they make each other's routes, balance load and answer for names.
    ("nodes", &["get", "list", "watch"]),
    ("endpointslices", &["list", "watch"]),
    ("endpoints", &["list", "watch"]),
    // Their certificates are renewed without anybody's approval.
    ("certificatesigningrequests", &["create"]),
];

fn is_by_own_binding(access: &Value, status: &Value) -> bool {
    let reason = status["reason"].as_str().unwrap_or("");
    let text = |field: &str| access[field].as_str().unwrap_or("");
    let known = BY_OWN_BINDINGS
        .iter()
        .any(|(resource, verbs)| *resource == text("resource") && verbs.contains(&text("verb")));
    known && reason.starts_with("RBAC: allowed by ClusterRoleBinding \"corral:node")
}

/// Rights follow from caches; a consistent list waits until a cache has seen what was written.
async fn settle(fixture: &Fixture) {
    for kind in [
        "api/v1/nodes",
        "api/v1/pods",
        "api/v1/persistentvolumes",
        "api/v1/persistentvolumeclaims",
        "apis/storage.k8s.io/v1/csidrivers",
        "apis/storage.k8s.io/v1/volumeattachments",
        "apis/resource.k8s.io/v1/resourceslices",
    ] {
        fixture.get(&format!("/{kind}")).await;
    }
}

/// Two nodes with what is around their pods.
async fn cluster(kept: &Value) -> Fixture {
    let fixture = Fixture::start().await;
    for entry in kept["objects"].as_array().expect("objects") {
        let path = entry[0].as_str().expect("a path");
        let answer = fixture.create(path, entry[1].clone()).await;
        assert_eq!(answer.code, 201, "{path}: {}", answer.body);
    }
    for entry in kept["patches"].as_array().expect("patches") {
        let path = entry[0].as_str().expect("a path");
        let kind = "merge-patch+json";
        let answer = fixture.patch(path, kind, entry[1].clone()).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
    }
    settle(&fixture).await;
    fixture
}

#[tokio::test]
async fn nodes_may_what_they_may_in_kubernetes_and_hear_the_same_reasons() {
    let kept = answers("nodes.json.gz");
    let fixture = cluster(&kept).await;
    let questions = kept["questions"].as_array().expect("questions");
    let mut differences = Vec::new();
    let mut n_own = 0;
    for question in questions {
        let user = format!("system:node:{}", question["node"].as_str().expect("a node"));
        let access = &question["access"];
        let spec = json!({
            "user": user, "groups": ["system:nodes", "system:authenticated"], "resourceAttributes": access,
        });
        let status = fixture.create(REVIEWS, json!({"spec": spec})).await.body["status"].clone();
        if is_by_own_binding(access, &status) {
            n_own += 1;
        } else if status != question["status"] {
            differences.push(format!(
                "{user} {access}\n  theirs {}\n  ours   {status}",
                question["status"]
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} differ\n{}",
        differences.len(),
        questions.len(),
        differences.join("\n")
    );
    assert!(questions.len() > 4000 && n_own > 0);
}

/// Requests that are answered otherwise on purpose.
fn is_ours(request: &Value) -> bool {
    let is = |method: &str, path: &str| request["method"] == method && request["path"] == path;
    // Nodes read each other.
    is("GET", "/api/v1/nodes/n2")
        // A write of a status passes over everything else. Kubernetes looks at what is sent before it does that.
        || is("PATCH", "/api/v1/nodes/n1/status") && request["body"]["spec"].is_object()
        || is("PATCH", "/api/v1/namespaces/shop/persistentvolumeclaims/claim/status")
            && request["body"]["spec"].is_object()
}

/// A message without the difference in Go's words that stands at its end.
fn told(message: &str) -> &str {
    message
        .split_once("status.quantity and status.conditions: ")
        .map_or(message, |(told, _)| told)
}

/// A text with names in place of UIDs, or the other way round.
fn exchanged(text: &str, ids: &[(&str, String)], to_names: bool) -> String {
    ids.iter().fold(text.to_owned(), |text, (name, uid)| {
        match (uid.is_empty(), to_names) {
            (true, _) => text,
            (false, true) => text.replace(uid.as_str(), name),
            (false, false) => text.replace(&format!("\"{name}\""), &format!("\"{uid}\"")),
        }
    })
}

#[tokio::test]
async fn nodes_write_what_they_write_in_kubernetes() {
    let kept = answers("nodes.json.gz");
    let fixture = cluster(&kept).await;
    let mut differences = Vec::new();
    let writes = kept["writes"].as_array().expect("writes");
    for request in writes {
        let text = |field: &str| request[field].as_str().expect("a text");
        let mut ids = Vec::new();
        for (id, path) in [
            ("UID1", "/api/v1/nodes/n1"),
            ("UIDWEB", "/api/v1/namespaces/shop/pods/web"),
            ("UIDTOK1", "/api/v1/namespaces/shop/pods/tok1"),
            ("UIDTOK2", "/api/v1/namespaces/shop/pods/tok2"),
            ("UIDTOK3", "/api/v1/namespaces/shop/pods/tok3"),
        ] {
            let uid = fixture.get(path).await.body["metadata"]["uid"].clone();
            ids.push((id, uid.as_str().unwrap_or_default().to_owned()));
        }
        let body = exchanged(&request["body"].to_string(), &ids, false);
        let body = serde_json::from_str(&body).expect("JSON");
        let (method, path) = (text("method"), text("path"));
        let answer = match text("node") {
            "" => fixture.ask(method, path, body).await,
            node => {
                let user = User::new(&format!("system:node:{node}"), &["system:nodes"]);
                let content = match method {
                    "PATCH" => "application/merge-patch+json",
                    _ => "application/json",
                };
                fixture.ask_as(user, method, path, content, body).await
            }
        };
        if method != "GET" {
            settle(&fixture).await;
        }
        let message = match answer.code {
            400.. => answer.body["message"].as_str().unwrap_or_default(),
            _ => "",
        };
        let message = exchanged(message, &ids, true);
        let same = request["code"] == answer.code && told(text("message")) == told(&message);
        if !same && !is_ours(request) {
            differences.push(format!(
                "{} {method} {path} {}\n  theirs {} {}\n  ours   {} {message}",
                text("node"),
                request["body"],
                request["code"],
                text("message"),
                answer.code
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} differ\n{}",
        differences.len(),
        writes.len(),
        differences.join("\n")
    );
    assert!(writes.len() > 100);
}
