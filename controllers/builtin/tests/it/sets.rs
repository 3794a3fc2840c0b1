//! ReplicationControllers, StatefulSets, histories and budgets, against the API in memory.

use corral_controllers::Name;
use corral_runtime::Clock;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PODS, deployment};

const REVISIONS: &str = "/apis/apps/v1/controllerrevisions";
const BUDGETS: &str = "/apis/policy/v1/poddisruptionbudgets";

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

#[tokio::test(start_paused = true)]
async fn a_replication_controller_runs_pods_and_tells_why_it_cannot() {
    let cluster = Cluster::start(&[Name::ReplicationController]);
    cluster.run_pods();
    let api = &cluster.world.api;
    api.refuse(|method, path, _| {
        (method == "POST" && path.ends_with("/pods")).then_some((403, "Forbidden"))
    });
    api.add(json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"replicas": 2, "selector": {"app": "web"}, "template": template("v1")},
    }));
    let status = |api: &corral_runtime::testing::FakeApi| {
        api.objects("/api/v1/replicationcontrollers")[0]["status"].clone()
    };
    cluster
        .wait_until(|api| status(api)["conditions"][0]["type"] == "ReplicaFailure")
        .await;
    api.accept_all();
    cluster
        .wait_until(|api| {
            let status = status(api);
            status["readyReplicas"] == 2 && status["conditions"].is_null()
        })
        .await;
    let owner = &api.objects(PODS)[0]["metadata"]["ownerReferences"][0];
    assert_eq!(owner["kind"], "ReplicationController");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_set_keeps_its_last_revisions() {
    let cluster = Cluster::start(&[Name::DaemonSet]);
    cluster.run_pods();
    let api = &cluster.world.api;
    api.add(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}, "spec": {}}));
    let mut set = deployment(1, "v1");
    set["kind"] = json!("DaemonSet");
    set["spec"]["revisionHistoryLimit"] = json!(1);
    api.add(set);
    let numbers = |api: &corral_runtime::testing::FakeApi| {
        let mut numbers: Vec<_> = api
            .objects(REVISIONS)
            .iter()
            .map(|revision| revision["revision"].as_i64())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    for (generation, image) in (1..).zip(["v1", "v2", "v3"]) {
        let change =
            json!({"metadata": {"generation": generation}, "spec": {"template": template(image)}});
        api.merge("/apis/apps/v1/namespaces/ns/daemonsets/web", change);
        cluster
            .wait_until(|api| {
                let pods = api.objects(PODS);
                pods.len() == 1 && pods[0]["spec"]["containers"][0]["image"] == image
            })
            .await;
    }
    cluster
        .wait_until(|api| numbers(api) == [Some(2), Some(3)])
        .await;
    let revisions = api.objects(REVISIONS);
    let newest = revisions.iter().find(|revision| revision["revision"] == 3);
    let newest = newest.expect("is there");
    assert_eq!(newest["data"]["spec"]["template"]["$patch"], "replace");
    let hash = |object: &Value| object["metadata"]["labels"]["controller-revision-hash"].clone();
    assert_eq!(hash(newest), hash(&api.objects(PODS)[0]));
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_rolls_in_order() {
    let cluster = Cluster::start(&[Name::StatefulSet]);
    cluster.run_pods();
    let api = &cluster.world.api;
    api.add(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "ns"},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "web"}},
            "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": template("v1")},
    }));
    let complete = |image: &'static str| {
        move |api: &corral_runtime::testing::FakeApi| {
            let status = &api.objects("/apis/apps/v1/statefulsets")[0]["status"];
            let pods = api.objects(PODS);
            let new = |pod: &Value| pod["spec"]["containers"][0]["image"] == image;
            status["readyReplicas"] == 3
                && status["updatedReplicas"] == 3
                && status["currentRevision"] == status["updateRevision"]
                && pods.iter().all(new)
        }
    };
    cluster.wait_until(complete("v1")).await;
    let change = json!({"metadata": {"generation": 2}, "spec": {"template": template("v2")}});
    api.merge("/apis/apps/v1/namespaces/ns/statefulsets/db", change);
    cluster.wait_until(complete("v2")).await;
    let of = |method: &str| -> Vec<String> {
        let all = api.recorded();
        let about_pods = all
            .iter()
            .filter(|r| r.method == method && r.path.contains("/pods/db-"));
        about_pods.map(|r| r.path.clone()).collect()
    };
    let path = |n: i32| format!("/api/v1/namespaces/ns/pods/db-{n}");
    assert_eq!(of("DELETE"), [path(2), path(1), path(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_budget_counts_the_pods_of_its_controllers() {
    let cluster = Cluster::start(&[Name::Deployment, Name::ReplicaSet, Name::Disruption]);
    cluster.run_pods();
    let api = &cluster.world.api;
    api.add(deployment(4, "v1"));
    api.add(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "ns", "generation": 1},
        "spec": {"maxUnavailable": "25%", "selector": {"matchLabels": {"app": "web"}}},
    }));
    let status = |api: &corral_runtime::testing::FakeApi| api.objects(BUDGETS)[0]["status"].clone();
    cluster
        .wait_until(|api| {
            let status = status(api);
            status["disruptionsAllowed"] == 1 && status["expectedPods"] == 4
        })
        .await;
    assert_eq!(status(api)["conditions"][0]["reason"], "SufficientPods");

    // One that was evicted and stays counts again when its time is over, and no longer says that it is going.
    let pod = api.objects(PODS)[0]["metadata"]["name"].clone();
    let name = pod.as_str().expect("has one").to_owned();
    let now = cluster.world.clock.now().to_string();
    let noted = json!({"status": {"disruptedPods": {&name: now}}});
    api.merge(
        "/apis/policy/v1/namespaces/ns/poddisruptionbudgets/web",
        noted,
    );
    let mark = json!({"type": "DisruptionTarget", "status": "True", "lastTransitionTime": now,
        "reason": "EvictionByEvictionAPI"});
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
    let marked = json!({"status": {"conditions": [ready, mark]}});
    api.merge(&format!("/api/v1/namespaces/ns/pods/{name}"), marked);
    cluster
        .wait_until(|api| status(api)["disruptionsAllowed"] == 0)
        .await;
    cluster
        .wait_until(|api| {
            let pods = api.objects(PODS);
            let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name);
            let mark = &pod.expect("stays")["status"]["conditions"][1]["status"];
            status(api)["disruptionsAllowed"] == 1 && mark == "False"
        })
        .await;
    assert!(status(api)["disruptedPods"].is_null());
}
