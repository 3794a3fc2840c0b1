//! Admission policies in effect: what they refuse, warn of, note and change.

use corral_server::authn::User;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, config_map};
use crate::webhook_server::Webhook;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn constraints(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"operations": ["*"], "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]}]})
}

/// Makes a policy or a binding, and waits until admission has heard of it.
async fn make(fixture: &Fixture, kind: &str, name: &str, spec: Value) {
    let path = format!("{GROUP}/{kind}");
    let made = fixture
        .create(&path, json!({"metadata": {"name": name}, "spec": spec}))
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(warnings(&made), [""; 0]);
    // A list is as new as the store, and comes from where admission looks.
    assert_eq!(fixture.get(&path).await.code, 200);
}

/// A validating policy for ConfigMaps with its binding.
async fn validate(fixture: &Fixture, spec: Value, binding: Value) {
    let mut whole = json!({"matchConstraints": constraints("", "configmaps")});
    merge(&mut whole, &spec);
    make(fixture, "validatingadmissionpolicies", "p", whole).await;
    let mut bound = json!({"policyName": "p", "validationActions": ["Deny"]});
    merge(&mut bound, &binding);
    make(fixture, "validatingadmissionpolicybindings", "b", bound).await;
}

/// A mutating policy with its binding.
async fn change(fixture: &Fixture, name: &str, constraints: Value, spec: Value) {
    let mut whole = json!({"matchConstraints": constraints, "reinvocationPolicy": "Never"});
    merge(&mut whole, &spec);
    make(fixture, "mutatingadmissionpolicies", name, whole).await;
    let bound = json!({"policyName": name});
    make(fixture, "mutatingadmissionpolicybindings", name, bound).await;
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn warnings(answer: &Answer) -> Vec<&str> {
    let headers = answer.headers.get_all("warning").iter();
    headers.filter_map(|value| value.to_str().ok()).collect()
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_policy_refuses_what_breaks_its_rules() {
    let fixture = Fixture::start().await;
    let rules = json!([
        {"expression": "object.data.key != 'bad'", "message": "no bad things"},
        {"expression": "variables.size < 3", "messageExpression": "'too long: ' + string(variables.size)", "reason": "Forbidden"},
        {"expression": "int(object.data.key) >= 0"},
    ]);
    let variables = json!([{"name": "size", "expression": "object.data.key.size()"}]);
    validate(
        &fixture,
        json!({"variables": variables, "validations": rules}),
        json!({}),
    )
    .await;
    let refused = fixture.config_map("m", "bad").await;
    let told = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no bad things";
    assert_eq!(
        (refused.code, refused.body["reason"].as_str()),
        (422, Some("Invalid"))
    );
    assert_eq!(
        message(&refused),
        format!("configmaps \"m\" is forbidden: {told}")
    );
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{"message": told}])
    );
    let refused = fixture.config_map("m", "1234").await;
    assert_eq!(refused.code, 403);
    assert!(message(&refused).ends_with("denied request: too long: 4"));
    let refused = fixture.config_map("m", "-1").await;
    assert!(
        message(&refused).ends_with("denied request: failed expression: int(object.data.key) >= 0")
    );
    // What cannot be evaluated refuses as well, as the failure policy says.
    let refused = fixture.config_map("m", "x").await;
    assert_eq!(refused.code, 422);
    assert!(
        message(&refused).contains("resulted in error"),
        "{}",
        message(&refused)
    );
    assert_eq!(fixture.config_map("m", "12").await.code, 201);
    let changed = fixture
        .patch(
            &format!("{MAPS}/m"),
            "merge-patch+json",
            json!({"data": {"key": "bad"}}),
        )
        .await;
    assert_eq!(changed.code, 422);
    // Deletions have no object.
    let gone = fixture
        .ask("DELETE", &format!("{MAPS}/m"), Value::Null)
        .await;
    assert_eq!(gone.code, 422);
    let path = format!("{GROUP}/validatingadmissionpolicybindings/b");
    assert_eq!(fixture.ask("DELETE", &path, Value::Null).await.code, 200);
    fixture
        .get(&format!("{GROUP}/validatingadmissionpolicybindings"))
        .await;
    let gone = fixture
        .ask("DELETE", &format!("{MAPS}/m"), Value::Null)
        .await;
    assert_eq!(gone.code, 200, "{}", gone.body);
}

#[tokio::test]
async fn a_binding_may_only_warn_and_a_policy_may_let_failures_pass() {
    let fixture = Fixture::start().await;
    let rules = json!([{"expression": "int(object.data.key) > 1", "message": "small"}]);
    validate(
        &fixture,
        json!({"failurePolicy": "Ignore", "validations": rules}),
        json!({"validationActions": ["Warn"]}),
    )
    .await;
    let warned = fixture.config_map("a", "0").await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warnings(&warned),
        ["299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': small\""]
    );
    let passed = fixture.config_map("b", "x").await;
    assert_eq!((passed.code, warnings(&passed).len()), (201, 0));
    let text = fixture
        .text(
            User::new("admin", &[corral_server::authn::MASTERS]),
            "/metrics",
        )
        .await;
    let total = "apiserver_validating_admission_policy_check_total";
    for line in [
        "{enforcement_action=\"warn\",error_type=\"no_error\",policy=\"p\",policy_binding=\"b\"} 1",
        "{enforcement_action=\"allow\",error_type=\"invalid_error\",policy=\"p\",policy_binding=\"b\"} 1",
    ] {
        assert!(text.contains(&format!("{total}{line}")), "{text}");
    }
}

#[tokio::test]
async fn a_policy_is_evaluated_with_each_of_its_parameters() {
    let fixture = Fixture::start().await;
    for (name, max) in [("one", "3"), ("two", "5")] {
        let labelled = json!({"metadata": {"name": name, "labels": {"limits": "yes"}}, "data": {"max": max, "key": "0"}});
        assert_eq!(fixture.create(MAPS, labelled).await.code, 201);
    }
    let conditions = json!([{"name": "not-a-parameter", "expression": "object != null && !has(object.metadata.labels)"}]);
    let rules = json!([{
        "expression": "int(object.data.key) <= int(params.data.max)",
        "messageExpression": "'above ' + params.metadata.name",
    }]);
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConditions": conditions, "validations": rules,
    });
    let selected =
        json!({"selector": {"matchLabels": {"limits": "yes"}}, "parameterNotFoundAction": "Deny"});
    validate(&fixture, spec, json!({"paramRef": selected})).await;
    let refused = fixture.config_map("m", "4").await;
    assert!(
        message(&refused).ends_with("above one"),
        "{}",
        message(&refused)
    );
    assert_eq!(fixture.config_map("m", "2").await.code, 201);
    for name in ["one", "two"] {
        let path = format!("{MAPS}/{name}");
        let gone = fixture.ask("DELETE", &path, Value::Null).await;
        assert_eq!(gone.code, 200);
    }
    fixture.get(MAPS).await;
    let refused = fixture.config_map("n", "2").await;
    assert!(
        message(&refused).ends_with(
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        ),
        "{}",
        message(&refused)
    );
}

#[tokio::test]
async fn expressions_ask_what_the_user_may() {
    let fixture = Fixture::start().await;
    let rule =
        "authorizer.group('').resource('secrets').namespace('default').check('delete').allowed()";
    validate(
        &fixture,
        json!({"validations": [{"expression": rule, "message": "may not"}]}),
        json!({}),
    )
    .await;
    let role = json!({
        "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    assert_eq!(
        fixture.create(&format!("{rbac}/roles"), role).await.code,
        201
    );
    let binding = json!({
        "metadata": {"name": "r"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "eve"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
    });
    let made = fixture
        .create(&format!("{rbac}/rolebindings"), binding)
        .await;
    assert_eq!(made.code, 201);
    for path in ["roles", "rolebindings"] {
        fixture.get(&format!("{rbac}/{path}")).await;
    }
    let by_eve = fixture
        .ask_as(
            User::new("eve", &["system:authenticated"]),
            "POST",
            MAPS,
            "application/json",
            config_map("m", "1"),
        )
        .await;
    assert!(message(&by_eve).ends_with("may not"), "{}", by_eve.body);
    assert_eq!(fixture.config_map("m", "1").await.code, 201);
}

#[tokio::test]
async fn a_policy_changes_objects() {
    let fixture = Fixture::start().await;
    let applied = apply(
        "Object{spec: Object.spec{replicas: object.spec.replicas + 2, template: Object.spec.template{spec: \
         Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'side', image: 's'}]}}}}",
    );
    let patched = patch(
        "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'replicas': string(object.spec.replicas)}}]",
    );
    let mutations = json!([applied, patched]);
    let of = constraints("apps", "deployments");
    change(&fixture, "m", of, json!({"mutations": mutations})).await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let made = fixture.create(path, deployment).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let spec = &made.body["spec"];
    assert_eq!(spec["replicas"], 3);
    let containers = spec["template"]["spec"]["containers"].as_array();
    let names: Vec<&str> = containers
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(names, ["c", "side"]);
    assert_eq!(made.body["metadata"]["labels"], json!({"replicas": "3"}));
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_unless_failures_pass() {
    let fixture = Fixture::start().await;
    let of = || constraints("", "configmaps");
    let atomic = apply("Object{immutable: 'x'}");
    change(&fixture, "a", of(), json!({"mutations": [atomic]})).await;
    let refused = fixture.config_map("m", "1").await;
    assert_eq!(
        (refused.code, refused.body["reason"].as_str()),
        (403, Some("Invalid"))
    );
    assert!(
        message(&refused)
            .starts_with("policy 'a' with binding 'a' denied request: error applying patch: "),
        "{}",
        message(&refused)
    );
    let path = format!("{GROUP}/mutatingadmissionpolicies/a");
    let ignore = json!({"spec": {"failurePolicy": "Ignore"}});
    let changed = fixture.patch(&path, "merge-patch+json", ignore).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    fixture
        .get(&format!("{GROUP}/mutatingadmissionpolicies"))
        .await;
    assert_eq!(fixture.config_map("m", "1").await.code, 201);
}

/// A value so many levels deep.
fn nested(levels: usize) -> String {
    format!("{}1{}", "{'a': ".repeat(levels), "}".repeat(levels))
}

/// What a change of ConfigMaps that puts a value into them is answered.
async fn put_into_map(fixture: &Fixture, variables: Value, value: &str) -> String {
    let put = format!("[JSONPatch{{op: 'add', path: '/metadata/x', value: {value}}}]");
    let spec = json!({"variables": variables, "mutations": [patch(&put)]});
    change(fixture, "deep", constraints("", "configmaps"), spec).await;
    let refused = fixture.config_map("m", "1").await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    for kind in [
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    ] {
        let path = format!("{GROUP}/{kind}/deep");
        assert_eq!(fixture.ask("DELETE", &path, Value::Null).await.code, 200);
    }
    message(&refused).to_owned()
}

#[tokio::test]
async fn what_a_policy_makes_is_held_to_the_bounds_of_a_body() {
    let fixture = Fixture::start().await;
    let deep = "policy 'deep' with binding 'deep' denied request: error applying patch: nested deeper than 10";
    let told = put_into_map(&fixture, json!([]), &nested(120)).await;
    assert!(told.starts_with(deep), "{told}");
    // Where it is put counts as well.
    let told = put_into_map(&fixture, json!([]), &nested(99)).await;
    assert!(
        told.contains("makes an object nested deeper than 100 levels"),
        "{told}"
    );
    // What a body may hold is looked at as what it is: a field that there is not.
    let applied = apply(&format!("Object{{data: {{'a': {}}}}}", nested(120)));
    let spec = json!({"mutations": [applied]});
    change(&fixture, "applied", constraints("", "configmaps"), spec).await;
    let refused = fixture.config_map("m", "1").await;
    let told = message(&refused);
    assert!(
        told.contains("error applying patch: nested deeper than 100 levels"),
        "{told}"
    );
    let path = format!("{GROUP}/mutatingadmissionpolicies/applied");
    assert_eq!(fixture.ask("DELETE", &path, Value::Null).await.code, 200);
    // Each is twice the last: a few lines stand for a billion values.
    let mut twice = vec![json!({"name": "v0", "expression": "dyn([1])"})];
    for index in 1..30 {
        let last = format!("variables.v{}", index - 1);
        twice.push(
            json!({"name": format!("v{index}"), "expression": format!("dyn([{last}, {last}])")}),
        );
    }
    let told = put_into_map(&fixture, json!(twice), "variables.v29").await;
    assert!(
        told.contains("error applying patch: more than 1572864 values"),
        "{told}"
    );
}

#[tokio::test]
async fn a_policy_that_wants_to_sees_what_later_ones_have_done() {
    let fixture = Fixture::start().await;
    let of = || constraints("", "configmaps");
    let seen = patch(
        "[JSONPatch{op: 'add', path: '/data/first', value: string(has(object.data.second))}]",
    );
    let again = json!({"mutations": [seen], "reinvocationPolicy": "IfNeeded"});
    change(&fixture, "a", of(), again).await;
    let second = patch("[JSONPatch{op: 'add', path: '/data/second', value: 'x'}]");
    change(&fixture, "b", of(), json!({"mutations": [second]})).await;
    let made = fixture.config_map("m", "1").await;
    assert_eq!(
        made.body["data"],
        json!({"key": "1", "first": "true", "second": "x"})
    );
}

#[tokio::test]
async fn a_webhook_is_asked_only_when_its_conditions_hold() {
    let fixture = Fixture::start().await;
    let webhook =
        Webhook::reviewing(|_| json!({"allowed": false, "status": {"message": "never"}})).await;
    let conditions = json!([
        {"name": "named", "expression": "object.metadata.name.startsWith('asked')"},
        {"name": "counted", "expression": "int(object.data.key) > 0"},
    ]);
    let hook = json!({
        "name": "w.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": webhook.client_config(), "matchConditions": conditions,
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let configuration = json!({"metadata": {"name": "w"}, "webhooks": [hook]});
    assert_eq!(fixture.create(&path, configuration).await.code, 201);
    fixture.get(&path).await;
    assert_eq!(fixture.config_map("other", "x").await.code, 201);
    assert_eq!(fixture.config_map("asked", "0").await.code, 201);
    assert!(webhook.asked().is_empty());
    assert!(message(&fixture.config_map("asked-1", "1").await).ends_with("never"));
    assert_eq!(webhook.asked().len(), 1);
    // What cannot be evaluated counts as the failure policy says.
    let refused = fixture.config_map("asked-2", "x").await;
    assert_eq!(refused.code, 403);
    assert!(
        message(&refused).starts_with("configmaps \"asked-2\" is forbidden: expression"),
        "{}",
        message(&refused)
    );
    let ignore = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    let changed = fixture
        .patch(&format!("{path}/w"), "json-patch+json", ignore)
        .await;
    assert_eq!(changed.code, 200);
    fixture.get(&path).await;
    assert_eq!(fixture.config_map("asked-2", "x").await.code, 201);
}

#[tokio::test]
async fn what_a_policy_makes_is_an_object_of_its_kind_and_namespace() {
    let fixture = Fixture::start().await;
    let maps = || constraints("", "configmaps");
    let moved =
        patch("[JSONPatch{op: 'replace', path: '/metadata/namespace', value: 'kube-system'}]");
    let unknown = patch("[JSONPatch{op: 'add', path: '/spec', value: {'a': 1}}]");
    for (name, mutation, code, told) in [
        (
            "unknown",
            unknown,
            500,
            "strict decoding error: unknown field \"spec\"",
        ),
        (
            "moved",
            moved,
            400,
            "does not match the namespace sent on the request",
        ),
    ] {
        change(&fixture, name, maps(), json!({"mutations": [mutation]})).await;
        let refused = fixture.config_map("x", "1").await;
        assert_eq!(refused.code, code, "{}", refused.body);
        assert!(message(&refused).contains(told), "{}", message(&refused));
        for kind in [
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicies",
        ] {
            let path = format!("{GROUP}/{kind}/{name}");
            let gone = fixture.ask("DELETE", &path, Value::Null).await;
            assert_eq!(gone.code, 200);
            assert_eq!(fixture.get(&format!("{GROUP}/{kind}")).await.code, 200);
        }
    }
}
