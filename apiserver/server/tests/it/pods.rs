//! What the server does with pods that it does with no other kind.

use serde_json::{Value, json};

use crate::fixture::Fixture;

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn start() -> Fixture {
    let fixture = Fixture::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "default"}});
    assert_eq!(fixture.create(accounts, account).await.code, 201);
    fixture
}

async fn pod(fixture: &Fixture, name: &str) -> Value {
    let answer = fixture
        .create(
            PODS,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    answer.body
}

fn eviction(name: &str, options: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options})
}

#[tokio::test]
async fn an_evicted_pod_is_marked_as_disrupted_before_it_goes() {
    let fixture = start().await;
    let created = pod(&fixture, "web").await;
    let path = format!("{PODS}/web/eviction");

    let dry = fixture
        .create(&path, eviction("web", json!({"dryRun": ["All"]})))
        .await;
    assert_eq!(dry.code, 201, "{}", dry.body);
    let other = eviction("web", json!({"preconditions": {"uid": "another"}}));
    assert_eq!(fixture.create(&path, other).await.code, 409);
    let untouched = fixture.get(&format!("{PODS}/web")).await.body;
    assert_eq!(untouched["metadata"], created["metadata"]);
    assert_eq!(untouched["status"], created["status"]);

    let version = &created["metadata"]["resourceVersion"];
    let meant = eviction(
        "web",
        json!({"preconditions": {"resourceVersion": version}}),
    );
    let evicted = fixture.create(&path, meant).await;
    assert_eq!(evicted.code, 201, "{}", evicted.body);
    let left = fixture.get(&format!("{PODS}/web")).await.body;
    assert!(left["metadata"]["deletionTimestamp"].is_string(), "{left}");
    let conditions = left["status"]["conditions"].as_array();
    let condition = conditions.and_then(|all| all.iter().find(|c| c["type"] == "DisruptionTarget"));
    let condition = condition.expect("the mark");
    assert_eq!(
        (
            &condition["status"],
            &condition["reason"],
            &condition["message"]
        ),
        (
            &json!("True"),
            &json!("EvictionByEvictionAPI"),
            &json!("Eviction API: evicting")
        )
    );
}

#[tokio::test]
async fn tolerations_are_added_and_what_admission_gave_is_not_lost_by_a_patch() {
    let fixture = start().await;
    let path = format!("{PODS}/web");
    let created = pod(&fixture, "web").await;
    let given = created["spec"]["tolerations"].as_array();
    assert_eq!(given.map(Vec::len), Some(2));

    let own = json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"});
    let patch = json!({"spec": {"tolerations": [own]}});
    let patched = fixture.patch(&path, "merge-patch+json", patch).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let now = patched.body["spec"]["tolerations"].as_array();
    assert_eq!(now.map(Vec::len), Some(3), "{}", patched.body);

    let refused = fixture
        .patch(
            &path,
            "merge-patch+json",
            json!({"spec": {"tolerations": []}}),
        )
        .await;
    let message = refused.body["message"].as_str().unwrap_or_default();
    let words = "existing toleration can not be modified except its tolerationSeconds";
    assert!(refused.code == 422 && message.contains(words), "{message}");
}

#[tokio::test]
async fn a_pod_keeps_its_priority_when_an_update_leaves_it_out() {
    let fixture = start().await;
    let mut sent = pod(&fixture, "web").await;
    assert_eq!(sent["spec"]["priority"], 0);
    let spec = sent["spec"].as_object_mut().expect("a spec");
    spec.remove("priority");
    spec.remove("preemptionPolicy");
    let updated = fixture.ask("PUT", &format!("{PODS}/web"), sent).await;
    assert_eq!(updated.code, 200, "{}", updated.body);
    assert_eq!(updated.body["spec"]["priority"], 0);
    assert_eq!(
        updated.body["spec"]["preemptionPolicy"],
        "PreemptLowerPriority"
    );
}
