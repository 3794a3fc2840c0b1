//! Questions about who one is, and what one may.

use corral_server::authn::User;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture};

const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";

async fn ask(fixture: &Fixture, user: User, path: &str, body: Value) -> Answer {
    fixture
        .ask_as(user, "POST", path, "application/json", body)
        .await
}

fn sorted(rules: &Value) -> Vec<String> {
    let rules = rules.as_array().expect("rules").iter();
    let mut rules: Vec<String> = rules.map(Value::to_string).collect();
    rules.sort();
    rules
}

/// What everybody may who proved who they are.
fn reviews_of_oneself() -> Vec<Value> {
    vec![
        json!({"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]}),
        json!({"apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]}),
    ]
}

fn discovery() -> Vec<Value> {
    let all = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    vec![
        json!({"nonResourceURLs": all, "verbs": ["get"]}),
        json!({"nonResourceURLs": health, "verbs": ["get"]}),
    ]
}

async fn rules_of(fixture: &Fixture, user: User, body: Value) -> Value {
    let path = format!("{AUTHORIZATION}/selfsubjectrulesreviews");
    let answer = ask(fixture, user, &path, body).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    // What was asked is not told again.
    assert_eq!(
        (&answer.body["metadata"], &answer.body["spec"]),
        (&json!({}), &json!({}))
    );
    answer.body["status"].clone()
}

#[tokio::test]
async fn rules_are_told_to_those_who_have_them() {
    let fixture = Fixture::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let read = json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get"]});
    let role = json!({"metadata": {"name": "reader"}, "rules": [read]});
    fixture.create(&format!("{rbac}/roles"), role).await;
    let binding = json!({"metadata": {"name": "joe"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "joe"}]});
    fixture
        .create(&format!("{rbac}/rolebindings"), binding)
        .await;
    for kind in ["roles", "rolebindings"] {
        fixture.get(&format!("{rbac}/{kind}")).await;
    }
    let body =
        json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"namespace": "default"}});
    let joe = || User::new("joe", &[]);
    let status = rules_of(&fixture, joe(), body.clone()).await;
    let mut expected = reviews_of_oneself();
    expected.push(read);
    assert_eq!(sorted(&status["resourceRules"]), sorted(&json!(expected)));
    assert_eq!(
        sorted(&status["nonResourceRules"]),
        sorted(&json!(discovery()))
    );
    assert_eq!(status["incomplete"], false);
    assert_eq!(status.get("evaluationError"), None);

    // They hold in that namespace only.
    let elsewhere = json!({"spec": {"namespace": "kube-system"}});
    let status = rules_of(&fixture, joe(), elsewhere).await;
    assert_eq!(
        sorted(&status["resourceRules"]),
        sorted(&json!(reviews_of_oneself()))
    );

    // Whoever may everything has it by a role as others have theirs.
    let admin = User::new("admin", &[corral_server::authn::MASTERS]);
    let status = rules_of(&fixture, admin, body.clone()).await;
    let mut expected = reviews_of_oneself();
    expected.push(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
    assert_eq!(sorted(&status["resourceRules"]), sorted(&json!(expected)));
    let mut expected = discovery();
    expected.push(json!({"nonResourceURLs": ["*"], "verbs": ["*"]}));
    assert_eq!(
        sorted(&status["nonResourceRules"]),
        sorted(&json!(expected))
    );

    // What a node may depends on its pods, and is not all told.
    let node = User::new("system:node:a", &["system:nodes"]);
    let status = rules_of(&fixture, node, body).await;
    assert_eq!(
        (&status["incomplete"], &status["evaluationError"]),
        (
            &json!(true),
            &json!("node authorizer does not support user rule resolution")
        )
    );
    let path = format!("{AUTHORIZATION}/selfsubjectrulesreviews");
    let nowhere = ask(&fixture, joe(), &path, json!({"spec": {}})).await;
    assert_eq!(
        (nowhere.code, &nowhere.body["message"]),
        (400, &json!("no namespace on request"))
    );
}

#[tokio::test]
async fn who_one_is_says_the_server_and_nothing_that_was_sent() {
    let fixture = Fixture::start().await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let sent = json!({"metadata": {"name": "x", "labels": {"a": "b"}, "creationTimestamp": "2020-01-01T00:00:00Z"}});
    for body in [sent, json!({})] {
        let answer = ask(&fixture, User::new("joe", &["devs"]), path, body).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        let metadata = answer.body["metadata"].as_object().expect("metadata");
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["creationTimestamp"]);
        let time = metadata["creationTimestamp"].as_str().expect("a time");
        assert!(
            time > "2026" && time.len() == "2026-01-01T00:00:00Z".len(),
            "{time}"
        );
        assert_eq!(
            answer.body["status"]["userInfo"],
            json!({"username": "joe", "groups": ["devs", "system:authenticated"]})
        );
    }
}

#[tokio::test]
async fn selectors_of_a_question_count_as_far_as_they_can_be_read() {
    let fixture = Fixture::start().await;
    let path = format!("{AUTHORIZATION}/subjectaccessreviews");
    let review = async |selectors: Value| {
        let mut attributes = json!({"verb": "list", "resource": "pods"});
        for (name, selector) in selectors.as_object().expect("selectors") {
            attributes[name] = selector.clone();
        }
        let spec = json!({"user": "system:node:a", "groups": ["system:nodes"], "resourceAttributes": attributes});
        let answer = fixture.create(&path, json!({"spec": spec})).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        let status = answer.body["status"].clone();
        let error = status["evaluationError"].as_str().map(str::to_owned);
        (status["allowed"] == true, error.unwrap_or_default())
    };
    let unread = |parts: &[(&str, &str)]| {
        let parts = parts.iter().map(|(selector, how)| {
            format!("spec.resourceAttributes.{selector} {how} due to parse error")
        });
        parts.collect::<Vec<_>>().join("; ")
    };
    let mine = json!({"key": "spec.nodeName", "operator": "In", "values": ["a"]});
    let exists = json!({"key": "x", "operator": "Exists"});
    let odd = json!({"key": "x", "operator": "Like", "values": ["y"]});
    let two = json!({"key": "spec.nodeName", "operator": "In", "values": ["a", "b"]});
    for (selectors, allowed, parts) in [
        (
            json!({"fieldSelector": {"requirements": [mine]}}),
            true,
            &[][..],
        ),
        (
            json!({"fieldSelector": {"rawSelector": "spec.nodeName=a"}}),
            true,
            &[],
        ),
        (
            json!({"fieldSelector": {"rawSelector": "spec.nodeName!=a"}}),
            false,
            &[],
        ),
        (
            json!({"fieldSelector": {"requirements": [two]}}),
            false,
            &[("fieldSelector", "ignored")],
        ),
        (
            json!({"fieldSelector": {"requirements": [mine, exists]}}),
            true,
            &[("fieldSelector", "partially ignored")],
        ),
        (
            json!({"fieldSelector": {"rawSelector": "a=b,c"}, "labelSelector": {"rawSelector": "a in (b"}}),
            false,
            &[("fieldSelector", "ignored"), ("labelSelector", "ignored")],
        ),
        (
            json!({"fieldSelector": {"requirements": [mine]}, "labelSelector": {"requirements": [exists, odd]}}),
            true,
            &[("labelSelector", "partially ignored")],
        ),
        (
            json!({"labelSelector": {"requirements": [odd]}}),
            false,
            &[("labelSelector", "ignored")],
        ),
    ] {
        let asked = selectors.to_string();
        assert_eq!(review(selectors).await, (allowed, unread(parts)), "{asked}");
    }
}
