//! Moving a store: from embedded to etcd and back, with every revision.

use std::sync::Arc;

use corral_storage::conformance::{commit, create, delete, next_event, revision_of, update};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore, Import};
use corral_storage::etcd::import::TAKEN_REVISIONS;
use corral_storage::etcd::{EtcdConfig, EtcdStore};
use corral_storage::migrate::{KEYS, Stage, to_embedded, to_etcd, verify};
use corral_storage::prefixed::PrefixedStore;
use corral_storage::{
    Entry, Error, Key, ListOptions, Revision, Storage, TRANSACTION_OPERATIONS_MAX, WatchEvent,
};
use tempfile::TempDir;

use crate::contract::make_embedded;
use crate::etcd_server::EtcdServer;

const PREFIX: &str = "/registry/";

async fn etcd() -> (Arc<EtcdStore>, EtcdServer) {
    let server = EtcdServer::start().await;
    let config = EtcdConfig::new(vec![server.endpoint()]);
    let store = EtcdStore::connect(config).await.expect("connect");
    (store, server)
}

fn embedded(directory: &TempDir) -> Arc<dyn Storage> {
    let config = EmbeddedConfig::new(directory.path());
    EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open")
}

/// A past with transactions, replaced values, removals, and gaps between what is left.
async fn fill(store: &dyn Storage) -> Revision {
    for n in 0..40 {
        let at = commit(store, vec![create(&format!("/registry/a/{n}"), "1")]).await;
        if n % 3 == 0 {
            commit(store, vec![update(&format!("/registry/a/{n}"), "2", at)]).await;
        }
        if n % 5 == 0 {
            let together = vec![
                create(&format!("/registry/b/{n}/one"), "1"),
                create(&format!("/registry/b/{n}/two"), "2"),
            ];
            commit(store, together).await;
        }
    }
    let last = commit(store, vec![create("/registry/z", "last")]).await;
    commit(store, vec![delete("/registry/z", last)]).await
}

async fn everything(store: &dyn Storage) -> Vec<(String, Vec<u8>, u64)> {
    let page = store.list(PREFIX, ListOptions::default()).await;
    let entries = page.expect("listed").entries.into_iter();
    entries
        .map(|entry| {
            (
                entry.key.to_string(),
                entry.value.to_vec(),
                entry.revision.0,
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_goes_to_etcd_and_back_with_every_revision() {
    let (source, _guard) = make_embedded().await;
    let current = fill(&*source).await;
    let before = everything(&*source).await;
    let (target, _server) = etcd().await;
    let mut stages = Vec::new();
    let mut progress = |stage, _, _| stages.push(stage);
    let reached = to_etcd(&*source, &target, KEYS, &mut progress).await;
    assert_eq!(reached.expect("moved"), current);
    let in_etcd: Arc<dyn Storage> = target.clone();
    let moved = verify(&*source, &*in_etcd, current, &mut progress)
        .await
        .expect("same");
    assert_eq!(moved.revision, current);
    assert_eq!(moved.entries, before.len() as u64);
    assert_eq!(everything(&*in_etcd).await, before);
    let all = in_etcd.list("", ListOptions::default()).await;
    assert_eq!(all.expect("listed").entries.len(), before.len());
    assert!(stages.contains(&Stage::Reading) && stages.contains(&Stage::Verifying));
    // A watch goes on where the old store was, and not before.
    let early = in_etcd.watch(PREFIX, Revision(current.0 - 1)).await;
    assert!(matches!(early, Err(Error::Compacted { .. })));
    let mut watch = in_etcd.watch(PREFIX, current).await.expect("watch");
    let next = commit(&*in_etcd, vec![create("/registry/new", "1")]).await;
    assert_eq!(next, Revision(current.0 + 1));
    assert_eq!(revision_of(&next_event(&mut watch).await), next);

    let directory = TempDir::new().expect("temporary directory");
    let back = to_embedded(&target, KEYS, directory.path(), &mut |_, _, _| {}).await;
    assert_eq!(back.expect("moved"), next);
    let store = embedded(&directory);
    verify(&*in_etcd, &*store, next, &mut |_, _, _| {})
        .await
        .expect("same");
    let early = store.watch(PREFIX, Revision(next.0 - 1)).await;
    assert!(matches!(early, Err(Error::Compacted { .. })));
    let mut watch = store.watch(PREFIX, next).await.expect("watch");
    let (key, _, at) = before[0].clone();
    let later = commit(&*store, vec![update(&key, "3", Revision(at))]).await;
    assert_eq!(later, Revision(next.0 + 1));
    assert_eq!(revision_of(&next_event(&mut watch).await), later);
    drop((watch, store));
    let again = embedded(&directory);
    assert_eq!(again.current_revision().await.expect("revision"), later);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_empty_is_refused_and_left_alone() {
    let (source, _guard) = make_embedded().await;
    fill(&*source).await;
    let (target, _server) = etcd().await;
    commit(&*target, vec![create("/somebody/elses", "1")]).await;
    let refused = to_etcd(&*source, &target, KEYS, &mut |_, _, _| {}).await;
    let error = refused.expect_err("refused").to_string();
    assert!(
        error.contains("etcd is not empty: it holds 1 keys"),
        "{error}"
    );
    let at = target.get(&Key::from("/somebody/elses")).await;
    let at = at.expect("read").expect("there").revision;
    commit(&*target, vec![delete("/somebody/elses", at)]).await;
    let refused = to_etcd(&*source, &target, KEYS, &mut |_, _, _| {}).await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("etcd is at revision 3 already"), "{error}");

    let directory = TempDir::new().expect("temporary directory");
    let (source, _server) = etcd().await;
    fill(&*source).await;
    let there = embedded(&directory);
    commit(&*there, vec![create("/registry/mine", "1")]).await;
    let refused = to_embedded(&source, KEYS, directory.path(), &mut |_, _, _| {}).await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("is in use by process"), "{error}");
    drop(there);
    let refused = to_embedded(&source, KEYS, directory.path(), &mut |_, _, _| {}).await;
    let error = refused.expect_err("refused").to_string();
    assert!(
        error.contains("is not empty: it is at revision 3"),
        "{error}"
    );
    let mine = embedded(&directory).get(&Key::from("/registry/mine")).await;
    assert!(mine.expect("read").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_store_is_never_opened() {
    let (source, _guard) = make_embedded().await;
    fill(&*source).await;
    let page = source
        .list(PREFIX, ListOptions::default())
        .await
        .expect("listed");
    let directory = TempDir::new().expect("temporary directory");
    let mut import = Import::begin(directory.path()).expect("begun");
    import.add(&page.entries[..10]).expect("added");
    // It ends here, as a crash would end it.
    drop(import);
    let store = embedded(&directory);
    assert_eq!(
        store.current_revision().await.expect("revision"),
        TAKEN_REVISIONS
    );
    assert!(everything(&*store).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_is_found() {
    let (source, _guard) = make_embedded().await;
    let (other, _other) = make_embedded().await;
    let current = fill(&*source).await;
    fill(&*other).await;
    let nothing = &mut |_: Stage, _: u64, _: u64| {};
    verify(&*source, &*other, current, nothing)
        .await
        .expect("the same");
    let page = other.list("/registry/a/7", ListOptions::default()).await;
    let entry = page.expect("listed").entries.remove(0);
    commit(
        &*other,
        vec![update("/registry/a/7", "other", entry.revision)],
    )
    .await;
    let error = verify(&*source, &*other, current, nothing)
        .await
        .expect_err("differs");
    assert!(
        error.to_string().contains("/registry/a/7 is at revision"),
        "{error}"
    );
    let (third, _third) = make_embedded().await;
    fill(&*third).await;
    commit(&*third, vec![create("/registry/zz", "1")]).await;
    let error = verify(&*source, &*third, current, nothing)
        .await
        .expect_err("differs");
    assert!(
        error
            .to_string()
            .contains("/registry/zz is only in the new store"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_etcd_can_have_is_written_once_more() {
    // As stores of earlier versions begin.
    let directory = TempDir::new().expect("temporary directory");
    let mut import = Import::begin(directory.path()).expect("begun");
    let entry = |key: &str, at: u64| Entry {
        key: Key::from(key),
        value: at.to_string().into(),
        revision: Revision(at),
    };
    let entries = [("one", 1), ("two", 2), ("three", 3)];
    let entries = entries.map(|(key, at)| entry(&format!("/registry/{key}"), at));
    import.add(&entries).expect("added");
    import.finish(Revision(3)).expect("made");
    let source = embedded(&directory);
    let (target, _server) = etcd().await;
    let reached = to_etcd(&*source, &target, KEYS, &mut |_, _, _| {}).await;
    assert_eq!(reached.expect("moved"), Revision(5));
    let expected = [("one", "1", 4), ("three", "3", 3), ("two", "2", 5)];
    let expected = expected.map(|(key, value, at)| (format!("/registry/{key}"), value.into(), at));
    assert_eq!(everything(&*target).await, expected);
    assert_eq!(everything(&*source).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_much_as_a_transaction_may_have_is_the_newest() {
    let (source, _guard) = make_embedded().await;
    fill(&*source).await;
    let keys = (0..TRANSACTION_OPERATIONS_MAX).map(|n| format!("/registry/m/{n:03}"));
    let all = keys.map(|key| create(&key, "1")).collect();
    let current = commit(&*source, all).await;
    let (target, _server) = etcd().await;
    let reached = to_etcd(&*source, &target, KEYS, &mut |_, _, _| {}).await;
    assert_eq!(reached.expect("moved"), current);
    assert_eq!(everything(&*target).await, everything(&*source).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_begin_otherwise_in_the_other_store_unless_they_are_sealed() {
    let (source, _guard) = make_embedded().await;
    let current = fill(&*source).await;
    let (target, _server) = etcd().await;
    let reached = to_etcd(&*source, &target, "/other/place", &mut |_, _, _| {}).await;
    assert_eq!(reached.expect("moved"), current);
    let store = PrefixedStore::new(target.clone(), KEYS, "/other/place");
    assert_eq!(everything(&*store).await, everything(&*source).await);
    let directory = TempDir::new().expect("temporary directory");
    let nothing = &mut |_: Stage, _: u64, _: u64| {};
    let back = to_embedded(&target, "/other/place", directory.path(), nothing).await;
    assert_eq!(back.expect("moved"), current);
    let again = embedded(&directory);
    assert_eq!(everything(&*again).await, everything(&*source).await);

    let sealed = create("/registry/s", "k8s:enc:aesgcm:v1:key1:bytes");
    commit(&*source, vec![sealed]).await;
    let (target, _server) = etcd().await;
    let refused = to_etcd(&*source, &target, "/other/place", nothing).await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("/registry/s is encrypted"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_migration_leaves_an_etcd_that_nobody_serves() {
    let (source, _guard) = make_embedded().await;
    fill(&*source).await;
    let (target, server) = etcd().await;
    let mut import = target.begin_import(KEYS).await.expect("begun");
    import.advance(Revision(40), |_| {}).await.expect("written");
    // It ends here, as a crash would end it.
    drop(import);
    drop(target);
    let config = EtcdConfig::new(vec![server.endpoint()]);
    let again = EtcdStore::connect(config).await.expect("connect");
    let refused = again.announce(KEYS, "a server").await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("was interrupted"), "{error}");
    let refused = to_etcd(&*source, &again, KEYS, &mut |_, _, _| {}).await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("was interrupted"), "{error}");
    let directory = TempDir::new().expect("temporary directory");
    let refused = to_embedded(&again, KEYS, directory.path(), &mut |_, _, _| {}).await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("was interrupted"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_an_etcd_are_known_to_it() {
    let (store, server) = etcd().await;
    assert!(store.present(KEYS).await.expect("read").is_empty());
    store.announce(KEYS, "one").await.expect("told");
    let config = EtcdConfig::new(vec![server.endpoint()]);
    let other = EtcdStore::connect(config).await.expect("connect");
    other.announce(KEYS, "two").await.expect("told");
    let present = store.present(KEYS).await.expect("read");
    assert_eq!(present, other.present(KEYS).await.expect("read"));
    let [one, two] = &present[..] else {
        panic!("{present:?}");
    };
    let mut names = Vec::new();
    for key in [one, two] {
        let told = store.get(key).await.expect("read").expect("there");
        names.push(told.value);
    }
    names.sort();
    assert_eq!(names, ["one", "two"]);
    // It goes by itself with the server.
    let at = store.current_revision().await.expect("revision");
    let mut watch = store.watch(KEYS, at).await.expect("watch");
    drop(other);
    let gone = next_event(&mut watch).await;
    assert!(
        matches!(&gone, WatchEvent::Delete { previous, .. } if previous.value == "two"),
        "{gone:?}"
    );
    assert_eq!(store.present(KEYS).await.expect("read").len(), 1);
}
