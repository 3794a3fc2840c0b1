//! Storage that is in use stays.

use corral_controllers::Name;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PODS};

const CLAIMS: &str = "/api/v1/persistentvolumeclaims";
const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/data";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const VOLUME: &str = "/api/v1/persistentvolumes/v";

fn going() -> Value {
    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
}

fn held(objects: &[Value]) -> bool {
    let finalizers = objects
        .first()
        .map(|object| &object["metadata"]["finalizers"]);
    let finalizers = finalizers.and_then(Value::as_array);
    finalizers.is_some_and(|f| !f.is_empty())
}

#[tokio::test(start_paused = true)]
async fn a_claim_goes_when_the_last_pod_that_uses_it_is_gone() {
    let cluster = Cluster::start(&[Name::PvcProtection]);
    let api = &cluster.world.api;
    api.add(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"},
        "spec": {
            "nodeName": "n", "containers": [],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }));
    let meta = json!({"name": "data", "namespace": "ns"});
    api.add(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta}));
    cluster.wait_until(|api| held(&api.objects(CLAIMS))).await;
    api.merge(CLAIM, going());
    // Another claim, which nobody uses, is let go after this one was looked at.
    let meta = json!({
        "name": "other", "namespace": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["kubernetes.io/pvc-protection"],
    });
    api.add(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta}));
    let find = |api: &corral_runtime::testing::FakeApi, name: &str| {
        let claims = api.objects(CLAIMS);
        claims
            .into_iter()
            .find(|claim| claim["metadata"]["name"] == name)
    };
    cluster
        .wait_until(|api| !find(api, "other").is_some_and(|claim| held(&[claim])))
        .await;
    assert!(find(api, "data").is_some_and(|claim| held(&[claim])));
    assert_eq!(api.objects(PODS).len(), 1);
    api.remove("/api/v1/namespaces/ns/pods/p");
    cluster
        .wait_until(|api| !find(api, "data").is_some_and(|claim| held(&[claim])))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_goes_when_it_is_no_longer_bound() {
    let cluster = Cluster::start(&[Name::PvProtection]);
    let api = &cluster.world.api;
    api.add(json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "status": {"phase": "Bound"},
    }));
    cluster.wait_until(|api| held(&api.objects(VOLUMES))).await;
    api.merge(VOLUME, going());
    api.merge(VOLUME, json!({"status": {"phase": "Released"}}));
    cluster.wait_until(|api| !held(&api.objects(VOLUMES))).await;
}

#[tokio::test(start_paused = true)]
async fn a_class_goes_when_no_claim_has_it() {
    const CLASSES: &str = "/apis/storage.k8s.io/v1/volumeattributesclasses";
    let cluster = Cluster::start(&[Name::VolumeAttributesClassProtection]);
    let api = &cluster.world.api;
    api.add(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "ns"},
        "status": {"currentVolumeAttributesClassName": "fast"},
    }));
    api.add(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "fast"},
        "driverName": "d",
    }));
    cluster.wait_until(|api| held(&api.objects(CLASSES))).await;
    api.merge(&format!("{CLASSES}/fast"), going());
    api.remove(CLAIM);
    cluster.wait_until(|api| !held(&api.objects(CLASSES))).await;
}
