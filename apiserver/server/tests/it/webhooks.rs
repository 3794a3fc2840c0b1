//! Admission webhooks, with servers of the test's own.

use corral_server::authn::{MASTERS, User};
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, config_map};
use crate::webhook_server::Webhook;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A webhook of a configuration, asked about ConfigMaps if the test says nothing else.
fn hook(client_config: Value, with: Value) -> Value {
    let mut hook = json!({
        "name": "hook.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": client_config,
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (key, value) in with.as_object().into_iter().flatten() {
        hook[key] = value.clone();
    }
    hook
}

/// Makes a configuration, and waits until admission has heard of it.
async fn configure(fixture: &Fixture, kind: &str, name: &str, hooks: &[Value]) {
    let path = format!("{GROUP}/{kind}webhookconfigurations");
    let made = fixture
        .create(
            &path,
            json!({"metadata": {"name": name}, "webhooks": hooks}),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    // A list is as new as the store, and comes from where admission looks.
    assert_eq!(fixture.get(&path).await.code, 200);
}

fn patch(operations: &Value) -> Value {
    use base64::Engine;
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"})
}

fn warnings(answer: &Answer) -> Vec<&str> {
    let headers = answer.headers.get_all("warning").iter();
    headers.filter_map(|value| value.to_str().ok()).collect()
}

#[tokio::test]
async fn a_mutating_webhook_sees_a_request_and_changes_its_object() {
    let fixture = Fixture::start().await;
    let webhook = Webhook::reviewing(|request| {
        let mut answer =
            patch(&json!([{"op": "add", "path": "/data/added", "value": request["operation"]}]));
        answer["warnings"] = json!(["look"]);
        answer
    })
    .await;
    let hooks = [hook(webhook.client_config(), json!({"timeoutSeconds": 5}))];
    configure(&fixture, "mutating", "a", &hooks).await;

    let made = fixture
        .create(&format!("{MAPS}?fieldManager=me"), config_map("m", "1"))
        .await;
    assert_eq!(
        (made.code, made.body["data"]["added"].as_str()),
        (201, Some("CREATE")),
        "{}",
        made.body
    );
    assert_eq!(warnings(&made), ["299 - \"look\""]);
    let asked = webhook.asked().remove(0);
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    assert_eq!((&asked["kind"], &asked["requestKind"]), (&kind, &kind));
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    assert_eq!(
        (&asked["resource"], &asked["requestResource"]),
        (&resource, &resource)
    );
    assert_eq!(
        (&asked["name"], &asked["namespace"]),
        (&json!("m"), &json!("default"))
    );
    assert_eq!(asked["userInfo"]["username"], "admin");
    assert_eq!(
        asked["userInfo"]["groups"],
        json!([MASTERS, "system:authenticated"])
    );
    assert_eq!(asked["object"]["data"]["key"], "1");
    assert_eq!(asked["object"]["metadata"].get("uid"), None);
    assert_eq!(
        (&asked["oldObject"], &asked["dryRun"]),
        (&Value::Null, &json!(false))
    );
    assert_eq!(
        asked["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"})
    );
    assert_eq!(
        (&asked["review"], &asked["query"]),
        (&json!("admission.k8s.io/v1"), &json!("timeout=5s"))
    );

    // Patches and applies are updates; what the webhook added belongs to nobody.
    let change = json!({"data": {"key": "2"}});
    let changed = fixture
        .patch(&format!("{MAPS}/m"), "merge-patch+json", change)
        .await;
    assert_eq!(changed.body["data"], json!({"key": "2", "added": "UPDATE"}));
    let asked = webhook.asked().remove(0);
    assert_eq!(
        asked["oldObject"]["data"],
        json!({"key": "1", "added": "CREATE"})
    );
    assert_eq!(
        asked["object"]["metadata"]["uid"],
        made.body["metadata"]["uid"]
    );
    assert_eq!(asked["options"]["kind"], "UpdateOptions");
    let path = format!("{MAPS}/applied?fieldManager=me");
    let applied = fixture
        .patch(&path, "apply-patch+yaml", config_map("applied", "1"))
        .await;
    assert_eq!(
        (applied.code, applied.body["data"]["added"].as_str()),
        (201, Some("CREATE"))
    );
    let owned = &applied.body["metadata"]["managedFields"][0]["fieldsV1"]["f:data"];
    assert_eq!(*owned, json!({"f:key": {}}));
    // One connection carried everything.
    assert_eq!(webhook.n_connections(), 1);
}

#[tokio::test]
async fn a_name_that_the_server_chooses_is_not_known_to_mutating_webhooks() {
    let fixture = Fixture::start().await;
    let mutating = Webhook::reviewing(|_| json!({"allowed": true})).await;
    let validating = Webhook::reviewing(|_| json!({"allowed": true})).await;
    configure(
        &fixture,
        "mutating",
        "a",
        &[hook(mutating.client_config(), json!({}))],
    )
    .await;
    configure(
        &fixture,
        "validating",
        "a",
        &[hook(validating.client_config(), json!({}))],
    )
    .await;
    let made = fixture
        .create(MAPS, json!({"metadata": {"generateName": "g-"}}))
        .await;
    let name = made.body["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("g-") && name.len() > 2, "{name}");
    let (first, second) = (mutating.asked().remove(0), validating.asked().remove(0));
    assert_eq!(
        (first.get("name"), first["object"]["metadata"].get("name")),
        (None, None)
    );
    assert_eq!(
        (&second["name"], &second["object"]["metadata"]["name"]),
        (&json!(name), &json!(name))
    );
    assert_eq!(
        second["object"]["metadata"]["uid"],
        made.body["metadata"]["uid"]
    );
}

#[tokio::test]
async fn a_validating_webhook_refuses_in_its_own_words() {
    let fixture = Fixture::start().await;
    let webhook = Webhook::reviewing(|request| match request["object"]["data"]["key"].as_str() {
        Some("good") => {
            json!({"allowed": true, "auditAnnotations": {"k": "v"}, "warnings": ["hm"]})
        }
        Some("silent") => json!({"allowed": false}),
        _ if request["operation"] == "DELETE" => {
            json!({"allowed": false, "status": {"message": "stays"}})
        }
        _ => {
            json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "no",
            "details": {"causes": [{"field": "data", "message": "m"}]}}})
        }
    })
    .await;
    configure(
        &fixture,
        "validating",
        "a",
        &[hook(webhook.client_config(), json!({}))],
    )
    .await;
    let refused = fixture.config_map("m", "bad").await;
    let denied = "admission webhook \"hook.example.com\" denied the request";
    assert_eq!(refused.code, 403);
    assert_eq!(refused.body["message"], format!("{denied}: no"));
    assert_eq!(refused.body["reason"], "Forbidden");
    assert_eq!(refused.body["details"]["causes"][0]["field"], "data");
    let refused = fixture.config_map("m", "silent").await;
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.body["message"],
        format!("{denied} without explanation")
    );
    let made = fixture.config_map("m", "good").await;
    assert_eq!((made.code, warnings(&made)), (201, vec!["299 - \"hm\""]));
    webhook.asked();
    // An update that changes nothing is an update.
    let same = fixture
        .patch(
            &format!("{MAPS}/m"),
            "merge-patch+json",
            json!({"data": {"key": "good"}}),
        )
        .await;
    assert_eq!((same.code, webhook.asked().len()), (200, 1));
    let options = json!({"gracePeriodSeconds": 7, "propagationPolicy": "Background"});
    let kept = fixture.ask("DELETE", &format!("{MAPS}/m"), options).await;
    assert_eq!(
        (kept.code, kept.body["message"].as_str()),
        (400, Some(&*format!("{denied}: stays")))
    );
    let asked = webhook.asked().remove(0);
    assert_eq!(
        (&asked["object"], &asked["oldObject"]["data"]["key"]),
        (&Value::Null, &json!("good"))
    );
    assert_eq!(
        asked["options"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 7,
            "propagationPolicy": "Background"})
    );
    let all = fixture.ask("DELETE", MAPS, Value::Null).await;
    assert_eq!(all.code, 400, "{}", all.body);
}

#[tokio::test]
async fn a_webhook_that_fails_stops_a_write_or_not_as_its_policy_says() {
    let fixture = Fixture::start().await;
    // Nobody listens on a port that was just given back.
    let gone = Webhook::reviewing(|_| json!({})).await.client_config();
    let with = |policy: &str| json!({"failurePolicy": policy});
    configure(
        &fixture,
        "validating",
        "a",
        &[hook(gone.clone(), with("Ignore"))],
    )
    .await;
    assert_eq!(fixture.config_map("m", "1").await.code, 201);
    configure(
        &fixture,
        "mutating",
        "b",
        &[hook(gone.clone(), with("Fail"))],
    )
    .await;
    let failed = fixture.config_map("n", "1").await;
    assert_eq!(failed.code, 500);
    let port = gone["url"]
        .as_str()
        .and_then(|url| url.split('/').nth(2))
        .expect("a port");
    let why = format!(
        "Internal error occurred: failed calling webhook \"hook.example.com\": failed to call webhook: Post \
         \"https://{port}/review?timeout=10s\": dial tcp {port}: connect: connection refused"
    );
    assert_eq!(failed.body["message"], why);
    let user = User::new("admin", &[MASTERS]);
    let metrics = fixture.text(user, "/metrics").await;
    for line in [
        "apiserver_admission_webhook_fail_open_count{name=\"hook.example.com\",type=\"validating\"} 1",
        "apiserver_admission_webhook_rejection_count{error_type=\"calling_webhook_error\",name=\"hook.example.com\",\
         operation=\"CREATE\",rejection_code=\"503\",type=\"admit\"} 1",
        "apiserver_admission_webhook_request_total{code=\"503\",name=\"hook.example.com\",operation=\"CREATE\",\
         rejected=\"true\",type=\"admit\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    // The way back is never closed.
    let path = format!("{GROUP}/mutatingwebhookconfigurations/b");
    assert_eq!(fixture.ask("DELETE", &path, Value::Null).await.code, 200);
}

/// What is answered while a webhook answers so.
async fn answered(code: u16, text: String) -> String {
    let fixture = Fixture::start().await;
    let webhook = Webhook::answering(move |_| (code, text.clone())).await;
    configure(
        &fixture,
        "mutating",
        "a",
        &[hook(webhook.client_config(), json!({}))],
    )
    .await;
    let failed = fixture.config_map("m", "1").await;
    assert_eq!(failed.code, 500, "{}", failed.body);
    let message = failed.body["message"].as_str().unwrap_or_default();
    let frame = "Internal error occurred: failed calling webhook \"hook.example.com\": ";
    message.strip_prefix(frame).unwrap_or(message).to_owned()
}

#[tokio::test]
async fn what_is_no_answer_is_a_failure() {
    assert_eq!(
        answered(500, "oops".into()).await,
        "failed to call webhook: an error on the server (\"oops\") has prevented the request from succeeding"
    );
    assert_eq!(
        answered(404, String::new()).await,
        "failed to call webhook: the server could not find the requested resource"
    );
    let json = answered(200, "what".into()).await;
    assert!(
        json.starts_with("failed to call webhook: couldn't get version/kind; json parse error"),
        "{json}"
    );
    let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "response": {"uid": "other", "allowed": true}});
    let other = answered(200, review.to_string()).await;
    assert!(
        other.contains("received invalid webhook response: expected response.uid="),
        "{other}"
    );
    let large = answered(200, " ".repeat(4 * 1024 * 1024)).await;
    assert!(large.contains("length limit exceeded"), "{large}");
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_has_its_time() {
    let fixture = Fixture::start().await;
    // It accepts connections and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let other = Webhook::reviewing(|_| json!({})).await;
    let config = json!({"url": format!("https://{address}/"), "caBundle": other.bundle()});
    configure(
        &fixture,
        "validating",
        "a",
        &[hook(config, json!({"timeoutSeconds": 1}))],
    )
    .await;
    let failed = fixture.config_map("m", "1").await;
    let message = failed.body["message"].as_str().unwrap_or_default();
    assert!(
        message.ends_with("/?timeout=1s\": context deadline exceeded"),
        "{message}"
    );
}

#[tokio::test]
async fn selectors_choose_namespaces_and_objects() {
    let fixture = Fixture::start().await;
    let webhook = Webhook::reviewing(|_| json!({"allowed": true})).await;
    let with = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        "objectSelector": {"matchLabels": {"app": "x"}},
    });
    configure(
        &fixture,
        "validating",
        "a",
        &[hook(webhook.client_config(), with)],
    )
    .await;
    let map = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    fixture.create(MAPS, map("plain", json!({}))).await;
    let other = "/api/v1/namespaces/kube-public/configmaps";
    fixture
        .create(other, map("labelled", json!({"app": "x"})))
        .await;
    assert_eq!(webhook.asked().len(), 0);
    fixture
        .create(MAPS, map("labelled", json!({"app": "x"})))
        .await;
    assert_eq!(webhook.asked().len(), 1);
    // What loses the label had it.
    let gone = json!({"metadata": {"labels": {"app": null}}});
    fixture
        .patch(&format!("{MAPS}/labelled"), "merge-patch+json", gone)
        .await;
    assert_eq!(webhook.asked().len(), 1);
    fixture
        .ask("DELETE", &format!("{MAPS}/labelled"), Value::Null)
        .await;
    assert_eq!(webhook.asked().len(), 0);
}

#[tokio::test]
async fn a_webhook_is_asked_in_the_version_that_it_knows() {
    let fixture = Fixture::start().await;
    let webhook = Webhook::reviewing(|_| {
        patch(&json!([
        {"op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 33}]))
    })
    .await;
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"]}]);
    let hooks = [hook(
        webhook.client_config(),
        json!({"rules": rules, "admissionReviewVersions": ["v1beta1"]}),
    )];
    configure(&fixture, "mutating", "a", &hooks).await;
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": 2,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    let made = fixture.create(path, scaler("a")).await;
    let target = &made.body["spec"]["metrics"][0]["resource"]["target"];
    assert_eq!(
        (made.code, &target["averageUtilization"]),
        (201, &json!(33)),
        "{}",
        made.body
    );
    let asked = webhook.asked().remove(0);
    assert_eq!(
        (&asked["kind"]["version"], &asked["requestKind"]["version"]),
        (&json!("v1"), &json!("v2"))
    );
    assert_eq!(asked["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(
        asked["object"]["spec"]["targetCPUUtilizationPercentage"],
        80
    );
    assert_eq!(asked["review"], "admission.k8s.io/v1beta1");
    // One that wants exactly its version is not asked.
    let path_of = format!("{GROUP}/mutatingwebhookconfigurations/a");
    let exact = json!([{"op": "replace", "path": "/webhooks/0/matchPolicy", "value": "Exact"}]);
    assert_eq!(
        fixture.patch(&path_of, "json-patch+json", exact).await.code,
        200
    );
    fixture
        .get(&format!("{GROUP}/mutatingwebhookconfigurations"))
        .await;
    let made = fixture.create(path, scaler("b")).await;
    assert_eq!((made.code, webhook.asked().len()), (201, 0));
}

#[tokio::test]
async fn a_webhook_that_wants_to_is_asked_again_after_a_later_change() {
    let fixture = Fixture::start().await;
    let count = |key: &'static str| {
        move |request: &Value| {
            let seen = request["object"]["data"][key].as_str().map_or(0, str::len);
            let value = "x".repeat(seen + 1);
            patch(&json!([{"op": "add", "path": format!("/data/{key}"), "value": value}]))
        }
    };
    let (eager, once, last) = (
        Webhook::reviewing(count("eager")).await,
        Webhook::reviewing(count("once")).await,
        Webhook::reviewing(count("last")).await,
    );
    let named = |name: &str, webhook: &Webhook, policy: &str| {
        let with = json!({"name": format!("{name}.example.com"), "reinvocationPolicy": policy});
        hook(webhook.client_config(), with)
    };
    let hooks = [
        named("eager", &eager, "IfNeeded"),
        named("once", &once, "Never"),
        named("last", &last, "IfNeeded"),
    ];
    configure(&fixture, "mutating", "a", &hooks).await;
    let made = fixture.config_map("m", "1").await;
    // The first is asked again because others changed the object after it, and the last because the first then did.
    let data = json!({"key": "1", "eager": "xx", "once": "x", "last": "xx"});
    assert_eq!(made.body["data"], data);
    assert_eq!(
        (eager.asked().len(), once.asked().len(), last.asked().len()),
        (2, 1, 2)
    );
}

#[tokio::test]
async fn subresources_and_connections_are_asked_about_too() {
    let fixture = Fixture::start().await;
    let webhook = Webhook::reviewing(|request| {
        let refused = request["operation"] == "CONNECT";
        json!({"allowed": !refused, "status": {"message": "not now"}})
    })
    .await;
    let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    configure(
        &fixture,
        "validating",
        "a",
        &[hook(webhook.client_config(), json!({"rules": rules}))],
    )
    .await;
    let account = json!({"metadata": {"name": "default"}});
    fixture
        .create("/api/v1/namespaces/default/serviceaccounts", account)
        .await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(fixture.create(pods, pod).await.code, 201);
    webhook.asked();

    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(
        fixture
            .create(&format!("{pods}/p/binding"), binding)
            .await
            .code,
        201
    );
    let asked = webhook.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        (&asked[0]["kind"]["kind"], &asked[0]["operation"]),
        (&json!("Binding"), &json!("CREATE"))
    );
    assert_eq!(asked[0]["subResource"], "binding");

    let status = json!({"status": {"phase": "Running"}});
    fixture
        .patch(&format!("{pods}/p/status"), "merge-patch+json", status)
        .await;
    let asked = webhook.asked().remove(0);
    assert_eq!(
        (&asked["subResource"], &asked["object"]["status"]["phase"]),
        (&json!("status"), &json!("Running"))
    );

    let exec = fixture
        .create(
            &format!("{pods}/p/exec?command=ls&command=-l&stdout=true"),
            Value::Null,
        )
        .await;
    let denied = "admission webhook \"hook.example.com\" denied the request: not now";
    assert_eq!(
        (exec.code, exec.body["message"].as_str()),
        (400, Some(denied))
    );
    let asked = webhook.asked().remove(0);
    assert_eq!(
        (&asked["operation"], &asked["options"]),
        (&json!("CONNECT"), &Value::Null)
    );
    assert_eq!(
        asked["object"],
        json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["ls", "-l"], "stdout": true})
    );

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": template}});
    assert_eq!(fixture.create(deployments, deployment).await.code, 201);
    webhook.asked();
    let scale = json!({"spec": {"replicas": 3}});
    let scaled = fixture
        .patch(&format!("{deployments}/d/scale"), "merge-patch+json", scale)
        .await;
    assert_eq!(scaled.code, 200, "{}", scaled.body);
    let asked = webhook.asked().remove(0);
    assert_eq!(
        asked["kind"],
        json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
    );
    assert_eq!(
        (
            &asked["object"]["spec"]["replicas"],
            &asked["oldObject"]["spec"]["replicas"]
        ),
        (&json!(3), &json!(1))
    );

    let eviction = json!({"metadata": {"name": "p"}});
    assert_eq!(
        fixture
            .create(&format!("{pods}/p/eviction"), eviction)
            .await
            .code,
        201
    );
    let asked = webhook.asked();
    let about: Vec<_> = asked.iter().map(|asked| &asked["kind"]["kind"]).collect();
    assert_eq!(about, ["Eviction"]);
}

#[tokio::test]
async fn webhooks_with_side_effects_are_not_asked_in_a_dry_run() {
    let fixture = Fixture::start().await;
    let webhook = Webhook::reviewing(|_| json!({"allowed": true})).await;
    configure(
        &fixture,
        "validating",
        "a",
        &[hook(webhook.client_config(), json!({}))],
    )
    .await;
    let dry = format!("{MAPS}?dryRun=All");
    assert_eq!(fixture.create(&dry, config_map("m", "1")).await.code, 201);
    let asked = webhook.asked().remove(0);
    assert_eq!(
        (&asked["dryRun"], &asked["options"]["dryRun"]),
        (&json!(true), &json!(["All"]))
    );
}

#[tokio::test]
async fn a_webhook_that_is_down_stops_neither_nodes_nor_the_server() {
    let fixture = Fixture::start().await;
    let node = || User::new("system:node:n", &["system:nodes"]);
    let gone = Webhook::reviewing(|_| json!({})).await.client_config();
    let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    configure(
        &fixture,
        "mutating",
        "a",
        &[hook(gone, json!({"rules": rules}))],
    )
    .await;
    assert_eq!(fixture.config_map("m", "1").await.code, 500);
    let json = "application/json";
    let made = fixture
        .ask_as(
            node(),
            "POST",
            "/api/v1/nodes",
            json,
            json!({"metadata": {"name": "n"}}),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    let status = json!({"status": {"phase": "Running"}});
    let merge = "application/merge-patch+json";
    let told = fixture
        .ask_as(node(), "PATCH", "/api/v1/nodes/n/status", merge, status)
        .await;
    assert_eq!(told.code, 200, "{}", told.body);
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": "n"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(
        fixture
            .ask_as(node(), "POST", leases, json, lease("n"))
            .await
            .code,
        201
    );
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    assert_eq!(
        fixture.create(leases, lease("kube-scheduler")).await.code,
        201
    );
    let accounts = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    assert_eq!(
        fixture.create(accounts, lease("of-somebody")).await.code,
        500
    );
}

#[tokio::test]
async fn a_webhook_behind_a_service_is_found() {
    let fixture = Fixture::start().await;
    let webhook = Webhook::reviewing(|_| json!({"allowed": true})).await;
    let service =
        json!({"namespace": "default", "name": "hook", "path": "/review", "port": webhook.port});
    let config = json!({"service": service, "caBundle": webhook.bundle()});
    configure(&fixture, "validating", "a", &[hook(config, json!({}))]).await;
    let frame = format!(
        "Internal error occurred: failed calling webhook \"hook.example.com\": failed to call webhook: Post \
         \"https://hook.default.svc:{}/review?timeout=10s\": ",
        webhook.port
    );
    let failed = fixture.config_map("m", "1").await;
    assert_eq!(
        failed.body["message"],
        format!("{frame}service \"hook\" not found")
    );
    let services = "/api/v1/namespaces/default/services";
    let service = |spec: Value| json!({"metadata": {"name": "hook"}, "spec": spec});
    let made = fixture
        .create(
            services,
            service(json!({"ports": [{"port": webhook.port}]})),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    fixture.get(services).await;
    let failed = fixture.config_map("m", "1").await;
    assert_eq!(
        failed.body["message"],
        format!("{frame}no endpoints available for service \"hook\"")
    );
    fixture
        .ask("DELETE", &format!("{services}/hook"), Value::Null)
        .await;
    let spec = json!({"type": "ExternalName", "externalName": "localhost"});
    assert_eq!(fixture.create(services, service(spec)).await.code, 201);
    fixture.get(services).await;
    assert_eq!(fixture.config_map("m", "1").await.code, 201);
    assert_eq!(webhook.asked().len(), 1);
}
