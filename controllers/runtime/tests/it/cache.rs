//! A cache follows the API through lists, watches and writes.

use corral_api::k8s::api::core::v1::{ConfigMap, Pod};
use corral_runtime::objects::Deletion;
use corral_runtime::testing::{World, object};
use corral_runtime::{Error, ObjectKey};
use serde_json::json;

fn config_map(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": name}})
}

#[tokio::test]
async fn own_writes_are_in_the_cache_before_the_watch_delivers_them() {
    let world = World::new();
    let objects = world.factory.objects::<ConfigMap>(&world.client);
    objects.cache().wait_for_sync().await;
    let created = objects
        .create(&object(config_map("a")))
        .await
        .expect("created");
    let key = ObjectKey::new("ns", "a");
    assert_eq!(
        objects.get(&key).map(|c| c.metadata.uid.clone()),
        Some(created.metadata.uid.clone())
    );
    let patched = objects
        .patch(&created, json!({"data": {"k": "v"}}))
        .await
        .expect("patched");
    assert_eq!(objects.get(&key), Some(patched.clone()));
    objects
        .delete(&patched, Deletion::default())
        .await
        .expect("deleted");
    assert_eq!(objects.get(&key), None);
}

#[tokio::test]
async fn a_write_computed_from_an_old_state_conflicts() {
    let world = World::new();
    let objects = world.factory.objects::<ConfigMap>(&world.client);
    objects.cache().wait_for_sync().await;
    let old = objects
        .create(&object(config_map("a")))
        .await
        .expect("created");
    objects
        .patch(&old, json!({"data": {"k": "1"}}))
        .await
        .expect("patched");
    let refused = objects.patch(&old, json!({"data": {"k": "2"}})).await;
    assert!(refused.is_err_and(|error| Error::is_conflict(&error)));
}

#[tokio::test]
async fn a_kind_is_watched_once_however_many_ask() {
    let world = World::new();
    world.api.add(config_map("a"));
    let first = world.factory.cache::<ConfigMap>();
    let second = world.factory.cache::<ConfigMap>();
    first.wait_for_sync().await;
    assert_eq!(second.len(), 1);
    let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
    second.listen(move |change| {
        sender
            .try_send(change.latest().metadata.name.clone().expect("named"))
            .expect("room");
    });
    assert_eq!(receiver.recv().await.as_deref(), Some("a"));
    world.api.add(config_map("b"));
    assert_eq!(receiver.recv().await.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn what_is_trimmed_is_kept_neither_from_lists_nor_from_events_nor_from_answers() {
    let world = World::new();
    let pod = |name: &str| {
        let container = json!({"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}]});
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"},
            "spec": {"containers": [container]},
        })
    };
    world.api.add(pod("listed"));
    let pods = world.factory.objects::<Pod>(&world.client);
    pods.cache().wait_for_sync().await;
    let (sender, mut seen) = tokio::sync::mpsc::channel(8);
    pods.cache().listen(move |change| {
        let pod = change.latest();
        let name = pod.metadata.name.clone().expect("named");
        let spec = pod.spec.clone().expect("has one");
        sender.try_send((name, spec)).expect("room");
    });
    world.api.add(pod("watched"));
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 2 {
        let (name, spec) = seen.recv().await.expect("more come");
        assert!(
            spec.containers[0].env.is_none() && spec.containers[0].image.is_some(),
            "{name}"
        );
        names.insert(name);
    }
    let answer = pods
        .create(&object(pod("written")))
        .await
        .expect("accepted");
    assert!(
        answer.spec.as_ref().expect("has one").containers[0]
            .env
            .is_none()
    );
    let stored = world.api.objects("/api/v1/pods");
    assert!(
        stored
            .iter()
            .all(|pod| !pod["spec"]["containers"][0]["env"].is_null())
    );
}
