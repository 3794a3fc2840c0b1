//! Rules about transactions.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{check, commit, create, delete, entry, update};
use crate::{
    Error, KEY_BYTES_MAX, Key, ListOptions, Operation, Revision, Storage,
    TRANSACTION_OPERATIONS_MAX, VALUE_BYTES_MAX,
};

type Store = Arc<dyn Storage>;

/// A key that was created can be read.
pub async fn a_created_key_is_there(store: Store) {
    assert_eq!(store.get(&Key::from("/w/a")).await.expect("get"), None);
    let revision = commit(&*store, vec![create("/w/a", "1")]).await;
    assert!(revision > Revision(0));
    let found = store.get(&Key::from("/w/a")).await.expect("get");
    assert_eq!(found, Some(entry("/w/a", "1", revision)));
    assert_eq!(store.current_revision().await.expect("revision"), revision);
}

/// A second `Create` finds the key there.
pub async fn a_key_is_created_once(store: Store) {
    let first = commit(&*store, vec![create("/w/a", "1")]).await;
    let error = store.commit(vec![create("/w/a", "2")]).await;
    assert!(
        matches!(&error, Err(Error::Exists { key, current }) if key.as_str() == "/w/a" && *current == first),
        "{error:?}"
    );
}

/// An `Update` with another revision, or of nothing, fails.
pub async fn an_update_needs_the_current_revision(store: Store) {
    let error = store.commit(vec![update("/w/a", "1", Revision(1))]).await;
    assert!(matches!(error, Err(Error::NotFound { .. })), "{error:?}");
    let first = commit(&*store, vec![create("/w/a", "1")]).await;
    let second = commit(&*store, vec![update("/w/a", "2", first)]).await;
    assert!(second > first);
    for stale in [first, Revision(0), Revision(u64::MAX)] {
        let error = store.commit(vec![update("/w/a", "3", stale)]).await;
        assert!(
            matches!(error, Err(Error::Conflict { expected, current, .. }) if expected == stale && current == second),
            "{error:?}"
        );
    }
    let found = store.get(&Key::from("/w/a")).await.expect("get");
    assert_eq!(found, Some(entry("/w/a", "2", second)));
}

/// A `Delete` with another revision, or of nothing, fails.
pub async fn a_delete_needs_the_current_revision(store: Store) {
    let error = store.commit(vec![delete("/w/a", Revision(1))]).await;
    assert!(matches!(error, Err(Error::NotFound { .. })), "{error:?}");
    let first = commit(&*store, vec![create("/w/a", "1")]).await;
    let second = commit(&*store, vec![update("/w/a", "2", first)]).await;
    let error = store.commit(vec![delete("/w/a", first)]).await;
    assert!(
        matches!(error, Err(Error::Conflict { current, .. }) if current == second),
        "{error:?}"
    );
    let third = commit(&*store, vec![delete("/w/a", second)]).await;
    assert!(third > second);
    assert_eq!(store.get(&Key::from("/w/a")).await.expect("get"), None);
    let error = store.commit(vec![delete("/w/a", second)]).await;
    assert!(matches!(error, Err(Error::NotFound { .. })), "{error:?}");
}

/// Deletion leaves nothing that stands in the way.
pub async fn a_deleted_key_can_be_created_again(store: Store) {
    let first = commit(&*store, vec![create("/w/a", "1")]).await;
    commit(&*store, vec![delete("/w/a", first)]).await;
    let third = commit(&*store, vec![create("/w/a", "3")]).await;
    let found = store.get(&Key::from("/w/a")).await.expect("get");
    assert_eq!(found, Some(entry("/w/a", "3", third)));
}

/// All writes of a transaction carry its revision.
pub async fn a_transaction_has_one_revision(store: Store) {
    let first = commit(&*store, vec![create("/w/b", "1"), create("/w/c", "1")]).await;
    let operations = vec![
        create("/w/a", "2"),
        update("/w/b", "2", first),
        delete("/w/c", first),
    ];
    let second = commit(&*store, operations).await;
    let page = store
        .list("/w/", ListOptions::default())
        .await
        .expect("list");
    let expected = [entry("/w/a", "2", second), entry("/w/b", "2", second)];
    assert_eq!(page.entries, expected);
    assert_eq!(page.revision, second);
}

/// When one operation fails, none happens and no revision is spent visibly.
pub async fn a_transaction_that_fails_leaves_nothing(store: Store) {
    let first = commit(&*store, vec![create("/w/a", "1")]).await;
    let operations = vec![create("/w/b", "1"), create("/w/a", "2")];
    let error = store.commit(operations).await;
    assert!(matches!(error, Err(Error::Exists { .. })), "{error:?}");
    assert_eq!(store.get(&Key::from("/w/b")).await.expect("get"), None);
    assert_eq!(store.current_revision().await.expect("revision"), first);
}

/// Of several failing operations the first in the transaction is reported.
pub async fn the_first_failing_operation_is_named(store: Store) {
    let first = commit(&*store, vec![create("/w/z", "1")]).await;
    let second = commit(&*store, vec![update("/w/z", "2", first)]).await;
    let operations = vec![
        create("/w/fine", "1"),
        update("/w/z", "3", first),
        delete("/w/a", first),
    ];
    let error = store.commit(operations).await;
    assert!(
        matches!(&error, Err(Error::Conflict { key, current, .. }) if key.as_str() == "/w/z" && *current == second),
        "{error:?}"
    );
    let operations = vec![delete("/w/a", first), update("/w/z", "3", first)];
    let error = store.commit(operations).await;
    assert!(
        matches!(&error, Err(Error::NotFound { key }) if key.as_str() == "/w/a"),
        "{error:?}"
    );
}

/// `Check`s answer the current revision.
pub async fn checks_alone_write_nothing(store: Store) {
    let first = commit(&*store, vec![create("/w/a", "1")]).await;
    let operations = vec![check("/w/a", first), check("/w/none", Revision(0))];
    assert_eq!(commit(&*store, operations).await, first);
    let error = store.commit(vec![check("/w/a", Revision(0))]).await;
    assert!(matches!(error, Err(Error::Exists { .. })), "{error:?}");
    let error = store.commit(vec![check("/w/none", first)]).await;
    assert!(matches!(error, Err(Error::NotFound { .. })), "{error:?}");
    assert_eq!(store.current_revision().await.expect("revision"), first);
}

/// A write holds only while what it was computed from is as it was.
pub async fn a_check_guards_a_write(store: Store) {
    let node = commit(&*store, vec![create("/w/node", "free")]).await;
    let operations = vec![check("/w/node", node), create("/w/pod-1", "bound")];
    let bound = commit(&*store, operations).await;
    assert!(bound > node);
    commit(&*store, vec![update("/w/node", "full", node)]).await;
    let operations = vec![check("/w/node", node), create("/w/pod-2", "bound")];
    let error = store.commit(operations).await;
    assert!(matches!(error, Err(Error::Conflict { .. })), "{error:?}");
    assert_eq!(store.get(&Key::from("/w/pod-2")).await.expect("get"), None);
}

/// Bounds are the same everywhere.
pub async fn what_is_too_large_or_senseless_is_refused(store: Store) {
    let value = |n: usize| Bytes::from(vec![b'x'; n]);
    let put = |key: &str, n| Operation::Create {
        key: Key::from(key),
        value: value(n),
    };
    commit(&*store, vec![put("/w/largest", VALUE_BYTES_MAX)]).await;
    let many = |n: usize| {
        (0..n)
            .map(|i| put(&format!("/w/n{i}"), 1))
            .collect::<Vec<_>>()
    };
    commit(&*store, many(TRANSACTION_OPERATIONS_MAX)).await;
    for operations in [
        vec![put("/w/a", VALUE_BYTES_MAX + 1)],
        vec![put("/w/a", VALUE_BYTES_MAX), put("/w/b", VALUE_BYTES_MAX)],
        many(TRANSACTION_OPERATIONS_MAX + 1),
        vec![put(&"k".repeat(KEY_BYTES_MAX + 1), 1)],
    ] {
        let error = store.commit(operations).await;
        assert!(matches!(error, Err(Error::TooLarge { .. })), "{error:?}");
    }
    for operations in [
        vec![put("/w/a", 1), check("/w/a", Revision(0))],
        vec![put("", 1)],
        vec![put("/w/\0", 1)],
    ] {
        let error = store.commit(operations).await;
        assert!(matches!(error, Err(Error::Invalid(_))), "{error:?}");
    }
}

/// No two transactions share a revision, and a writer's own only increase.
pub async fn revisions_increase_under_concurrent_writers(store: Store) {
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut last = Revision(0);
            let mut all = Vec::new();
            for n in 0..20 {
                let now = commit(&*store, vec![create(&format!("/w/{writer}/{n}"), "v")]).await;
                assert!(now > last);
                last = now;
                all.push(now);
            }
            all
        })
    });
    let mut seen = BTreeSet::new();
    for writer in writers.collect::<Vec<_>>() {
        for revision in writer.await.expect("writer") {
            assert!(seen.insert(revision), "{revision} twice");
        }
    }
    assert_eq!(seen.len(), 160);
    let newest = seen.last().copied().expect("160 of them");
    assert_eq!(store.current_revision().await.expect("revision"), newest);
}

/// Exactly one of several that create the same key succeeds.
pub async fn one_of_many_creators_wins(store: Store) {
    let creators = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(vec![create("/w/one", "v")]).await })
    });
    let mut won = 0;
    for creator in creators.collect::<Vec<_>>() {
        match creator.await.expect("creator") {
            Ok(_) => won += 1,
            Err(Error::Exists { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(won, 1);
}
