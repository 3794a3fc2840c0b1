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

/// The code and the message of what a dry run answers to a pod of this name.
async fn told(
    fixture: &Fixture,
    annotations: Value,
    spec: Value,
    container: Value,
) -> (u16, String) {
    let mut whole = json!({"containers": [{"name": "c", "image": "i"}]});
    let merge = |into: &mut Value, from: &Value| {
        for (key, value) in from.as_object().into_iter().flatten() {
            into[key] = value.clone();
        }
    };
    merge(&mut whole["containers"][0], &container);
    merge(&mut whole, &spec);
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "annotations": annotations}, "spec": whole});
    let answer = fixture.create(&format!("{PODS}?dryRun=All"), pod).await;
    let message = answer.body["message"].as_str().unwrap_or_default();
    (answer.code, message.to_owned())
}

#[tokio::test]
async fn pods_use_the_secrets_that_their_account_names_where_it_says_so() {
    let fixture = start().await;
    let account = json!({
        "metadata": {"name": "own", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "ok"}], "imagePullSecrets": [{"name": "pull"}],
    });
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(fixture.create(accounts, account).await.code, 201);
    let volume = |name: &str| {
        json!({"serviceAccountName": "own",
        "volumes": [{"name": "v", "secret": {"secretName": name}}]})
    };
    let own = || json!({"serviceAccountName": "own"});
    let variable =
        json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "bad", "key": "k"}}}]});
    let whole = json!({"envFrom": [{"secretRef": {"name": "bad"}}]});
    let pulled =
        |name: &str| json!({"serviceAccountName": "own", "imagePullSecrets": [{"name": name}]});
    let nothing = || json!({});
    for (spec, container, refused) in [
        (volume("ok"), nothing(), None),
        (
            volume("bad"),
            nothing(),
            Some("volume with secret.secretName=\"bad\""),
        ),
        (
            own(),
            variable,
            Some("container c with envVar A referencing secret.secretName=\"bad\""),
        ),
        (
            own(),
            whole,
            Some("container c with envFrom referencing secret.secretName=\"bad\""),
        ),
        (pulled("pull"), nothing(), None),
        (
            pulled("z"),
            nothing(),
            Some("imagePullSecrets[0].name=\"z\""),
        ),
    ] {
        let (code, message) = told(&fixture, nothing(), spec, container).await;
        match refused {
            None => assert_eq!(code, 201, "{message}"),
            Some(what) => {
                assert_eq!(code, 403, "{message}");
                assert!(message.contains(what), "{message}");
            }
        }
    }
    // Other accounts say nothing of the kind.
    let of_default = json!({"volumes": [{"name": "v", "secret": {"secretName": "bad"}}]});
    assert_eq!(
        told(&fixture, nothing(), of_default, nothing()).await.0,
        201
    );
}

#[tokio::test]
async fn a_pod_of_a_nodes_own_needs_nothing_of_the_api() {
    let fixture = start().await;
    let mirror = || json!({"kubernetes.io/config.mirror": "x"});
    let secret =
        json!({"nodeName": "n", "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
    let token = json!({"sources": [{"serviceAccountToken": {"path": "t"}}]});
    let token = json!({"nodeName": "n", "volumes": [{"name": "v", "projected": token}]});
    for (spec, refused) in [
        (
            json!({"nodeName": "n", "serviceAccountName": "default"}),
            "a mirror pod may not reference service accounts",
        ),
        (secret, "a mirror pod may not reference secrets"),
        (
            token,
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ] {
        let (code, message) = told(&fixture, mirror(), spec, json!({})).await;
        assert_eq!(code, 403);
        assert!(message.contains(refused), "{message}");
    }
    let own = json!({"nodeName": "n"});
    assert_eq!(told(&fixture, mirror(), own, json!({})).await.0, 201);
}

#[tokio::test]
async fn overhead_is_that_of_a_class() {
    let fixture = start().await;
    let overhead = json!({"overhead": {"cpu": "1"}});
    let (code, message) = told(&fixture, json!({}), overhead, json!({})).await;
    assert_eq!(code, 403);
    assert!(
        message.ends_with("without corresponding RuntimeClass defined Overhead"),
        "{message}"
    );
}

#[tokio::test]
async fn the_priority_classes_of_the_system_stay() {
    let fixture = start().await;
    let class = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    assert_eq!(fixture.ask("DELETE", class, Value::Null).await.code, 403);
    assert_eq!(fixture.get(class).await.code, 200);
}

#[tokio::test]
async fn warnings_have_room_in_a_response() {
    let fixture = start().await;
    let path = "/api/v1/namespaces/default/configmaps?dryRun=All";
    let warned = async |n: usize, length: usize| {
        let mut map = json!({"metadata": {"name": "x"}});
        for index in 0..n {
            map[format!("f{index}-{}", "x".repeat(length))] = 1.into();
        }
        let answer = fixture.create(path, map).await;
        assert_eq!(answer.code, 201);
        answer.headers.get_all("warning").iter().count()
    };
    assert_eq!(warned(30, 10).await, 30);
    assert_eq!(
        warned(30, 400).await,
        16,
        "each is cut to 256 characters of 4096"
    );
}
