//! Quotas are counted as they come, as they change, and anew now and then.

use corral_controllers::Name;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const QUOTAS: &str = "/api/v1/resourcequotas";
const QUOTA: &str = "/api/v1/namespaces/ns/resourcequotas/q";

fn pod(name: &str, phase: &str) -> Value {
    let resources = json!({"requests": {"cpu": "100m"}});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"},
        "spec": {"containers": [{"name": "c", "resources": resources}]}, "status": {"phase": phase},
    })
}

async fn counted(cluster: &Cluster, used: Value) {
    cluster
        .wait_until(|api| {
            let quota = &api.objects(QUOTAS)[0];
            quota["status"]["used"] == used && quota["status"]["hard"] == quota["spec"]["hard"]
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_counted_and_counted_again() {
    let cluster = Cluster::start(&[Name::ResourceQuota]);
    let api = &cluster.world.api;
    api.add(pod("a", "Running"));
    api.add(pod("b", "Succeeded"));
    api.add(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "ns"}}));
    api.add(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "other"}}));
    api.add(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "ns"},
        "spec": {"hard": {"pods": "5", "count/jobs.batch": "3", "services": "2"}},
    }));
    counted(
        &cluster,
        json!({"pods": "1", "count/jobs.batch": "1", "services": "0"}),
    )
    .await;

    let hard = json!({"services": null, "requests.cpu": "1"});
    api.merge(QUOTA, json!({"spec": {"hard": hard}}));
    let used = json!({"pods": "1", "count/jobs.batch": "1", "requests.cpu": "100m"});
    counted(&cluster, used).await;

    // Nothing tells of this one: no charge was given back.
    api.remove("/api/v1/namespaces/ns/pods/a");
    let used = json!({"pods": "0", "count/jobs.batch": "1", "requests.cpu": "0"});
    counted(&cluster, used).await;
}
