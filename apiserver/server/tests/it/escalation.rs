//! Nobody gives rights that they do not have.

use corral_server::authn::User;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const MINE: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
}

fn role(name: &str, rules: &[Value]) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]})
}

/// A cluster in which `lead` may write roles and bindings of one namespace, and read ConfigMaps.
async fn fixture() -> Fixture {
    let fixture = Fixture::start().await;
    let rules = [
        rule("rbac.authorization.k8s.io", "*", &["*"]),
        rule("", "configmaps", &["get", "list"]),
    ];
    let mut rules = rules.to_vec();
    // All verbs would be `escalate` and `bind` too.
    rules[0]["verbs"] = json!(["create", "update", "patch", "get"]);
    admin(&fixture, &format!("{MINE}/roles"), role("lead", &rules)).await;
    let bound = binding("lead", "Role", "lead", "lead");
    admin(&fixture, &format!("{MINE}/rolebindings"), bound).await;
    fixture
}

/// Writes as an administrator, and waits until the authorizer has seen it.
async fn admin(fixture: &Fixture, path: &str, body: Value) {
    let answer = fixture.create(path, body).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    fixture.get(path).await;
}

async fn lead(fixture: &Fixture, method: &str, path: &str, body: Value) -> Answer {
    let user = User::new("lead", &["devs"]);
    fixture
        .ask_as(user, method, path, "application/json", body)
        .await
}

#[tokio::test]
async fn a_role_gives_no_more_than_its_writer_has() {
    let fixture = fixture().await;
    let path = format!("{MINE}/roles");
    let held = role("readers", &[rule("", "configmaps", &["get"])]);
    assert_eq!(lead(&fixture, "POST", &path, held).await.code, 201);
    let more = role(
        "thieves",
        &[
            rule("", "configmaps", &["get"]),
            rule("", "secrets", &["list", "get"]),
        ],
    );
    let answer = lead(&fixture, "POST", &path, more.clone()).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.body["message"],
        "roles.rbac.authorization.k8s.io \"thieves\" is forbidden: user \"lead\" (groups=[\"devs\" \
         \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"list\" \"get\"]}"
    );
    // Nor by changing a role that is there.
    let path = format!("{path}/readers");
    let wider = role("readers", &[rule("", "secrets", &["get"])]);
    assert_eq!(lead(&fixture, "PUT", &path, wider).await.code, 403);
    let patch = json!({"rules": [rule("", "*", &["get"])]});
    let user = User::new("lead", &["devs"]);
    let patched = fixture
        .ask_as(user, "PATCH", &path, "application/merge-patch+json", patch)
        .await;
    assert_eq!(patched.code, 403);
    // Whoever may escalate may.
    let escalate = [rule("rbac.authorization.k8s.io", "roles", &["escalate"])];
    admin(&fixture, &format!("{MINE}/roles"), role("up", &escalate)).await;
    let bound = binding("up", "Role", "up", "lead");
    admin(&fixture, &format!("{MINE}/rolebindings"), bound).await;
    let path = format!("{MINE}/roles");
    assert_eq!(lead(&fixture, "POST", &path, more).await.code, 201);
}

#[tokio::test]
async fn a_binding_gives_no_more_than_its_writer_has() {
    let fixture = fixture().await;
    let path = format!("{MINE}/rolebindings");
    let read = role("readers", &[rule("", "configmaps", &["get"])]);
    admin(&fixture, &format!("{RBAC}/clusterroles"), read).await;
    let good = binding("readers", "ClusterRole", "readers", "bob");
    assert_eq!(lead(&fixture, "POST", &path, good).await.code, 201);
    let bad = binding("admins", "ClusterRole", "cluster-admin", "bob");
    let answer = lead(&fixture, "POST", &path, bad.clone()).await;
    assert_eq!(answer.code, 403);
    let message = answer.body["message"].as_str().expect("a message");
    assert!(
        message.contains("{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"),
        "{message}"
    );
    for kind in ["Role", "ClusterRole"] {
        let missing = binding("none", kind, "nothing", "lead");
        let answer = lead(&fixture, "POST", &path, missing).await;
        assert_eq!(answer.code, 404);
        assert_eq!(
            answer.body["message"],
            "rolebindings.rbac.authorization.k8s.io \"nothing\" not found"
        );
    }
    // Who may bind a role may, and only that role.
    let mut bind = rule("rbac.authorization.k8s.io", "clusterroles", &["bind"]);
    bind["resourceNames"] = json!(["cluster-admin"]);
    admin(&fixture, &format!("{MINE}/roles"), role("binder", &[bind])).await;
    let bound = binding("binder", "Role", "binder", "lead");
    admin(&fixture, &path, bound).await;
    assert_eq!(lead(&fixture, "POST", &path, bad).await.code, 201);
    let other = binding("edits", "ClusterRole", "system:kube-scheduler", "lead");
    assert_eq!(lead(&fixture, "POST", &path, other).await.code, 403);
}

#[tokio::test]
async fn an_aggregated_role_takes_an_administrator() {
    let fixture = Fixture::start().await;
    let rules = [
        json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create"]}),
    ];
    let roles = format!("{RBAC}/clusterroles");
    admin(&fixture, &roles, role("lead", &rules)).await;
    let bound = binding("lead", "ClusterRole", "lead", "lead");
    admin(&fixture, &format!("{RBAC}/clusterrolebindings"), bound).await;
    let gathering = json!({"metadata": {"name": "all"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"gather": "true"}}]}});
    let answer = lead(&fixture, "POST", &roles, gathering).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.body["message"],
        "clusterroles.rbac.authorization.k8s.io \"all\" is forbidden: must have cluster-admin privileges to use the aggregationRule"
    );
}

#[tokio::test]
async fn a_role_that_was_not_read_before_it_is_put_is_checked_though_its_rules_are_the_same() {
    let fixture = fixture().await;
    let path = format!("{MINE}/roles");
    let big = role("big", &[rule("", "secrets", &["get"])]);
    admin(&fixture, &path, big.clone()).await;
    let path = format!("{path}/big");
    let read = fixture.get(&path).await.body;
    assert_eq!(lead(&fixture, "PUT", &path, read.clone()).await.code, 200);
    assert_eq!(lead(&fixture, "PUT", &path, big).await.code, 403);
    for field in ["uid", "creationTimestamp"] {
        let mut without = read.clone();
        without["metadata"]
            .as_object_mut()
            .expect("metadata")
            .remove(field);
        let answer = lead(&fixture, "PUT", &path, without).await;
        assert_eq!(answer.code, 403, "without {field}: {}", answer.body);
    }
    // A patch is of the object as it is.
    let user = || User::new("lead", &["devs"]);
    let same = json!({"rules": [rule("", "secrets", &["get"])]});
    let patched = fixture
        .ask_as(user(), "PATCH", &path, "application/merge-patch+json", same)
        .await;
    assert_eq!(patched.code, 200, "{}", patched.body);
}

#[tokio::test]
async fn bindings_of_roles_that_are_not_there_are_told_to_those_who_are_refused() {
    let fixture = fixture().await;
    let path = format!("{MINE}/rolebindings");
    for (name, kind) in [("a", "Role"), ("b", "ClusterRole"), ("c", "Role")] {
        let gone = if kind == "Role" { "gone" } else { "gone-too" };
        admin(&fixture, &path, binding(name, kind, gone, "lead")).await;
    }
    let secrets = "/api/v1/namespaces/default/secrets";
    let refused = lead(&fixture, "GET", secrets, Value::Null).await;
    let why = "RBAC: [role.rbac.authorization.k8s.io \"gone\" not found, \
               clusterrole.rbac.authorization.k8s.io \"gone-too\" not found]";
    assert_eq!(
        refused.body["message"],
        format!(
            "secrets is forbidden: User \"lead\" cannot list resource \"secrets\" in API group \"\" in the namespace \
             \"default\": {why}"
        )
    );
    // They are of that namespace.
    let elsewhere = lead(&fixture, "GET", "/api/v1/secrets", Value::Null).await;
    let message = elsewhere.body["message"].as_str().expect("a message");
    assert!(message.ends_with("at the cluster scope"), "{message}");
    let review = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let body = json!({"spec": {"namespace": "default"}});
    let rules = lead(&fixture, "POST", review, body).await.body;
    assert_eq!(
        rules["status"]["evaluationError"]
            .as_str()
            .map(|error| format!("RBAC: {error}")),
        Some(why.to_owned())
    );
    let more = role("more", &[rule("", "secrets", &["get"])]);
    let answer = lead(&fixture, "POST", &format!("{MINE}/roles"), more).await;
    let message = answer.body["message"].as_str().expect("a message");
    assert!(
        message.ends_with(
            "; resolution errors: [[roles.rbac.authorization.k8s.io \"gone\" not found, \
             roles.rbac.authorization.k8s.io \"gone-too\" not found]]"
        ),
        "{message}"
    );
}
