//! Deployments and ReplicaSets together.

use corral_controllers::Name;
use serde_json::json;

use crate::cluster::{Cluster, PODS, deployment};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/ns/deployments/web";

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_from_one_image_to_the_next() {
    let cluster = Cluster::start(&[Name::Deployment, Name::ReplicaSet]);
    cluster.run_pods();
    cluster.world.api.add(deployment(3, "v1"));
    let complete = |image: &'static str| {
        move |api: &corral_runtime::testing::FakeApi| {
            let status = &api.objects("/apis/apps/v1/deployments")[0]["status"];
            let pods = api.objects(PODS);
            status["availableReplicas"] == 3
                && status["updatedReplicas"] == 3
                && status["replicas"] == 3
                && pods.len() == 3
                && pods
                    .iter()
                    .all(|pod| pod["spec"]["containers"][0]["image"] == image)
        }
    };
    cluster.wait_until(complete("v1")).await;
    let template = json!({"spec": {"containers": [{"name": "c", "image": "v2"}]}});
    let patch = json!({"metadata": {"generation": 2}, "spec": {"template": template}});
    cluster.world.api.merge(DEPLOYMENT, patch);
    cluster.wait_until(complete("v2")).await;
    let sets = cluster.world.api.objects("/apis/apps/v1/replicasets");
    assert_eq!(sets.len(), 2);
    let creates = cluster.world.api.recorded();
    let creates = creates
        .iter()
        .filter(|r| r.method == "POST" && r.path.ends_with("/pods"))
        .count();
    assert_eq!(creates, 6, "no pod is made twice");
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_is_reported_and_tried_again() {
    let cluster = Cluster::start(&[Name::Deployment, Name::ReplicaSet]);
    cluster.run_pods();
    cluster.world.api.refuse(|method, path, _| {
        (method == "POST" && path.ends_with("/pods")).then_some((403, "Forbidden"))
    });
    cluster.world.api.add(deployment(4, "v1"));
    cluster
        .wait_until(|api| {
            let sets = api.objects("/apis/apps/v1/replicasets");
            sets.iter()
                .any(|set| set["status"]["conditions"][0]["reason"] == "FailedCreate")
        })
        .await;
    cluster.world.api.accept_all();
    cluster.wait_until(|api| api.objects(PODS).len() == 4).await;
    cluster
        .wait_until(|api| {
            let sets = api.objects("/apis/apps/v1/replicasets");
            sets[0]["status"]["conditions"].is_null()
        })
        .await;
}

fn job(image: &str, spec: serde_json::Value) -> serde_json::Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work", "namespace": "ns"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}}},
    });
    for (key, value) in spec.as_object().expect("an object") {
        job["spec"][key] = value.clone();
    }
    job
}

fn condition(object: &serde_json::Value, name: &str) -> bool {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition["type"] == name && condition["status"] == "True")
}

#[tokio::test(start_paused = true)]
async fn a_job_completes_and_lets_its_pods_go() {
    let cluster = Cluster::start(&[Name::Job]);
    cluster.run_pods();
    cluster
        .world
        .api
        .add(job("finishes", json!({"completions": 5, "parallelism": 2})));
    cluster
        .wait_until(|api| condition(&api.objects("/apis/batch/v1/jobs")[0], "Complete"))
        .await;
    let job = &cluster.world.api.objects("/apis/batch/v1/jobs")[0];
    assert_eq!(job["status"]["succeeded"], 5);
    let held = |pod: &serde_json::Value| {
        pod["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty())
    };
    assert!(!cluster.world.api.objects(PODS).iter().any(held));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_always_fails_gives_up() {
    let cluster = Cluster::start(&[Name::Job]);
    cluster.run_pods();
    cluster
        .world
        .api
        .add(job("fails", json!({"backoffLimit": 2})));
    cluster
        .wait_until(|api| condition(&api.objects("/apis/batch/v1/jobs")[0], "Failed"))
        .await;
    assert_eq!(
        cluster.world.api.objects("/apis/batch/v1/jobs")[0]["status"]["failed"],
        3
    );
}

#[tokio::test(start_paused = true)]
async fn each_index_of_a_job_has_a_limit_of_its_own() {
    let cluster = Cluster::start(&[Name::Job]);
    cluster.run_pods();
    let limits = json!({
        "completions": 2, "parallelism": 1, "completionMode": "Indexed",
        "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1,
    });
    cluster.world.api.add(job("fails", limits));
    cluster
        .wait_until(|api| condition(&api.objects("/apis/batch/v1/jobs")[0], "Failed"))
        .await;
    let job = &cluster.world.api.objects("/apis/batch/v1/jobs")[0];
    assert_eq!(job["status"]["failedIndexes"], "0,1");
    assert_eq!(job["status"]["failed"], 4);
    let counts = |pod: &serde_json::Value| {
        let annotations = &pod["metadata"]["annotations"];
        annotations["batch.kubernetes.io/job-index-failure-count"].clone()
    };
    let mut counts: Vec<_> = cluster.world.api.objects(PODS).iter().map(counts).collect();
    counts.sort_by_key(ToString::to_string);
    assert_eq!(counts, ["0", "0", "1", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_runs_every_minute_and_keeps_a_short_history() {
    let cluster = Cluster::start(&[Name::Job, Name::CronJob, Name::GarbageCollector]);
    cluster.run_pods();
    let template = job("finishes", json!({}))["spec"].clone();
    cluster.world.api.add(json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "report", "namespace": "ns"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": template}},
    }));
    let mut made = std::collections::BTreeSet::new();
    cluster
        .wait_until(|api| {
            let jobs = api.objects("/apis/batch/v1/jobs");
            made.extend(jobs.iter().map(|job| job["metadata"]["name"].to_string()));
            made.len() >= 6 && jobs.len() <= 3 && api.objects(PODS).len() <= 3
        })
        .await;
    let cron = &cluster.world.api.objects("/apis/batch/v1/cronjobs")[0];
    assert!(!cron["status"]["lastSuccessfulTime"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_set_has_one_pod_per_node() {
    let cluster = Cluster::start(&[Name::DaemonSet]);
    for n in 0..3 {
        let name = format!("n{n}");
        cluster.world.api.add(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}}),
        );
    }
    let mut set = deployment(1, "v1");
    set["kind"] = json!("DaemonSet");
    set["spec"]
        .as_object_mut()
        .expect("an object")
        .remove("replicas");
    cluster.world.api.add(set);
    cluster.wait_until(|api| api.objects(PODS).len() == 3).await;
    cluster.world.api.remove("/api/v1/nodes/n0");
    cluster
        .wait_until(|api| {
            api.objects("/apis/apps/v1/daemonsets")[0]["status"]["desiredNumberScheduled"] == 2
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_job_takes_in_orphans_and_lets_go_of_what_it_does_not_select() {
    let cluster = Cluster::start(&[Name::Job]);
    cluster.run_pods();
    let labels = json!({"job": "work"});
    cluster.world.api.add(job(
        "runs",
        json!({"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "runs"}]}}}),
    ));
    let api = &cluster.world.api;
    cluster.wait_until(|api| api.objects(PODS).len() == 1).await;
    let name = api.objects(PODS)[0]["metadata"]["name"].clone();
    let path = format!("{PODS}/{}", name.as_str().expect("a name"))
        .replace("/v1/pods", "/v1/namespaces/ns/pods");

    let orphan = json!({"metadata": {"ownerReferences": null, "finalizers": null}});
    api.merge(&path, orphan);
    let is_held = |pod: &serde_json::Value| {
        let owner = &pod["metadata"]["ownerReferences"][0];
        owner["controller"] == true && pod["metadata"]["finalizers"][0].is_string()
    };
    cluster
        .wait_until(|api| api.objects(PODS).iter().all(is_held))
        .await;
    assert_eq!(api.objects(PODS).len(), 1, "nothing was made beside it");

    api.merge(&path, json!({"metadata": {"labels": {"job": "other"}}}));
    cluster
        .wait_until(|api| {
            let pods = api.objects(PODS);
            let (held, free): (Vec<_>, Vec<_>) = pods.into_iter().partition(&is_held);
            let gone = |pod: &serde_json::Value| {
                let list = |key: &str| pod["metadata"][key].as_array().map_or(0, Vec::len);
                list("ownerReferences") + list("finalizers") == 0 && pod["metadata"]["name"] == name
            };
            held.len() == 1 && free.len() == 1 && gone(&free[0])
        })
        .await;
}
