//! Short-lived keys in etcd: they go by themselves.

use std::sync::Arc;
use std::time::Duration;

use corral_storage::conformance::{commit, create, next_event, update};
use corral_storage::etcd::{EtcdConfig, EtcdStore, ShortLived};
use corral_storage::{Storage, WatchEvent};
use etcd_client::Client;

use crate::etcd_server::EtcdServer;

const EVENT: &str = "/registry/events/default/a";
const OTHER: &str = "/registry/events/default/b";
const PLAIN: &str = "/registry/eventsinks/a";

async fn store(server: &EtcdServer, life: Duration) -> Arc<EtcdStore> {
    let mut config = EtcdConfig::new(vec![server.endpoint()]);
    let prefix = "/registry/events/".to_owned();
    config.short_lived = Some(ShortLived { prefix, life });
    EtcdStore::connect(config).await.expect("connect")
}

async fn lease_of(client: &Client, key: &str) -> i64 {
    let found = client.kv_client().get(key, None).await.expect("an answer");
    found.kvs().first().expect("it is there").lease()
}

#[tokio::test]
async fn keys_of_about_the_same_end_share_a_lease() {
    let server = EtcdServer::start().await;
    let life = Duration::from_secs(1000);
    let store = store(&server, life).await;
    let client = Client::connect([server.endpoint()], None).await;
    let client = client.expect("connect");
    let revision = commit(&*store, vec![create(EVENT, "1"), create(PLAIN, "1")]).await;
    commit(&*store, vec![create(OTHER, "1")]).await;
    let lease = lease_of(&client, EVENT).await;
    assert_ne!(lease, 0);
    assert_eq!(lease_of(&client, OTHER).await, lease);
    assert_eq!(lease_of(&client, PLAIN).await, 0);
    let left = client.lease_client().time_to_live(lease, None).await;
    let granted = left.expect("an answer").granted_ttl();
    assert_eq!(granted, 1050, "a twentieth more, for those that share it");
    // A key that is written again has its life before it.
    commit(&*store, vec![update(EVENT, "2", revision)]).await;
    assert_ne!(lease_of(&client, EVENT).await, 0);
    // One lease has so many keys at most.
    for round in 0..10 {
        let key = |index: usize| format!("/registry/events/more/{round}-{index}");
        let many = (0..100).map(|index| create(&key(index), "1"));
        commit(&*store, many.collect()).await;
    }
    assert_ne!(lease_of(&client, "/registry/events/more/9-0").await, lease);
}

#[tokio::test]
async fn a_key_goes_with_its_lease_and_watches_are_told() {
    let server = EtcdServer::start().await;
    let store = store(&server, Duration::from_secs(1)).await;
    let revision = commit(&*store, vec![create(PLAIN, "1")]).await;
    let mut watch = store
        .watch("/registry/events/", revision)
        .await
        .expect("a watch");
    commit(&*store, vec![create(EVENT, "1")]).await;
    let event = next_event(&mut watch).await;
    assert!(matches!(event, WatchEvent::Put { .. }), "{event:?}");
    let event = next_event(&mut watch).await;
    assert!(matches!(event, WatchEvent::Delete { .. }), "{event:?}");
}
