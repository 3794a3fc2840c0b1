//! Several servers keep one etcd's history short, and kube-apiserver may be one of them: each interval one of them does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corral_storage::conformance::{commit, create, update};
use corral_storage::etcd::{COMPACT_KEY, EtcdConfig, EtcdStore};
use corral_storage::{Error, Key, ListOptions, Revision, Storage};
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};

use crate::etcd_server::EtcdServer;

/// How long anything is waited for.
const WAIT_MAX: Duration = Duration::from_secs(30);
const LOOK_PERIOD: Duration = Duration::from_millis(20);

async fn connect(server: &EtcdServer, window: Duration) -> Arc<EtcdStore> {
    let mut config = EtcdConfig::new(vec![server.endpoint()]);
    config.history_window = window;
    config.history_revisions_min = 3;
    EtcdStore::connect(config).await.expect("connect")
}

/// How often the key was written, and what it says.
async fn clock(client: &mut Client) -> (i64, u64) {
    let answer = client.get(COMPACT_KEY, None).await.expect("read");
    let Some(kv) = answer.kvs().first() else {
        return (0, 0);
    };
    let text = kv.value_str().expect("text");
    (kv.version(), text.parse().expect("a revision"))
}

async fn readable(store: &dyn Storage, revision: u64) -> bool {
    let options = ListOptions {
        revision: Some(Revision(revision)),
        ..Default::default()
    };
    match store.list("/", options).await {
        Ok(_) => true,
        Err(Error::Compacted { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_servers_compacts_in_an_interval() {
    const WINDOW: Duration = Duration::from_millis(600);
    const INTERVAL: Duration = Duration::from_millis(300);
    let server = EtcdServer::start().await;
    let started = Instant::now();
    let stores = [
        connect(&server, WINDOW).await,
        connect(&server, WINDOW).await,
        connect(&server, WINDOW).await,
    ];
    let mut client = Client::connect([server.endpoint()], None)
        .await
        .expect("connect");
    let store = &*stores[0];
    let mut at = commit(store, vec![create("/a", "0")]).await;
    let mut seen = vec![(0, 0)];
    while seen.len() < 5 {
        assert!(started.elapsed() < WAIT_MAX, "{seen:?}");
        at = commit(store, vec![update("/a", "1", at)]).await;
        let now = clock(&mut client).await;
        if seen.last() != Some(&now) {
            let (before, now_at) = (seen[seen.len() - 1], started.elapsed());
            assert!(now.1 > before.1, "{seen:?}, then {now:?}");
            // It moves by one, and not before an interval has passed.
            let most = now_at.as_millis() / INTERVAL.as_millis();
            assert!(now.0 as u128 <= most, "{now:?} after {now_at:?}");
            seen.push(now);
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    let (_, compacted) = seen[seen.len() - 1];
    while readable(store, compacted - 1).await {
        assert!(started.elapsed() < WAIT_MAX, "{compacted} is not compacted");
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    assert!(readable(store, at.0 - 1).await, "the last revisions stay");
}

/// What kube-apiserver does at the end of each of its intervals, but for the compaction itself.
async fn tick_as_kubernetes_does(client: &mut Client, time: &mut i64, revision: u64) {
    let unmoved = Compare::version(COMPACT_KEY, CompareOp::Equal, *time);
    let txn =
        Txn::new()
            .when([unmoved])
            .and_then([TxnOp::put(COMPACT_KEY, revision.to_string(), None)]);
    let answer = client.txn(txn).await.expect("written");
    assert!(answer.succeeded(), "another server's clock ran");
    *time += 1;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_waits_while_another_one_compacts_and_goes_on_when_it_is_gone() {
    const WINDOW: Duration = Duration::from_secs(6);
    const OTHERS: Duration = Duration::from_millis(100);
    let server = EtcdServer::start().await;
    let store = connect(&server, WINDOW).await;
    let mut client = Client::connect([server.endpoint()], None)
        .await
        .expect("connect");
    let mut at = commit(&*store, vec![create("/a", "0")]).await;
    let (first, started) = (at, Instant::now());
    for _ in 0..10 {
        at = commit(&*store, vec![update("/a", "1", at)]).await;
    }
    let (mut time, mut last) = (0, started);
    while started.elapsed() < WINDOW + WINDOW / 3 {
        last = Instant::now();
        tick_as_kubernetes_does(&mut client, &mut time, 0).await;
        tokio::time::sleep(OTHERS).await;
    }
    assert!(readable(&*store, first.0).await);
    let ended = Instant::now();
    while clock(&mut client).await.0 == time {
        assert!(ended.elapsed() < WAIT_MAX, "nobody goes on");
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    // An interval, which is half of the window, has passed since the other one's last sign of life.
    assert!(last.elapsed() >= WINDOW / 2);
    while readable(&*store, first.0).await {
        assert!(ended.elapsed() < WAIT_MAX, "it is not compacted");
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    let there = store.get(&Key::from("/a")).await.expect("read");
    assert_eq!(there.expect("there").revision, at);
}
