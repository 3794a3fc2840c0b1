//! Four thousand questions about two nodes, beside the answers of kube-apiserver v1.36.3: which of the objects around their
//! pods they may touch, and the reasons that are given where they may not.

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

#[tokio::test]
async fn nodes_may_what_they_may_in_kubernetes_and_hear_the_same_reasons() {
    let fixture = Fixture::start().await;
    let kept = answers("nodes.json.gz");
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
    // Rights follow from caches; a consistent list waits until a cache has seen what was written.
    for kind in ["pods", "persistentvolumes", "persistentvolumeclaims"] {
        fixture.get(&format!("/api/v1/{kind}")).await;
    }
    fixture
        .get("/apis/storage.k8s.io/v1/volumeattachments")
        .await;
    fixture.get("/apis/resource.k8s.io/v1/resourceslices").await;
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
