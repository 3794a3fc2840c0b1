//! Rules about lists, the past and compaction.

use std::sync::Arc;

use bytes::Bytes;

use super::{commit, create, delete, entry, update};
use crate::{Entry, Error, Key, ListOptions, Revision, Storage, Version};

type Store = Arc<dyn Storage>;

async fn list(store: &Store, prefix: &str, options: ListOptions) -> Vec<Entry> {
    let page = store.list(prefix, options).await.expect("list");
    assert!(!page.more);
    page.entries
}

fn at(revision: Revision) -> ListOptions {
    ListOptions {
        revision: Some(revision),
        ..ListOptions::default()
    }
}

/// Keys come bytewise, and only those that start with the prefix.
pub async fn a_list_is_ordered_and_keeps_to_its_prefix(store: Store) {
    for key in [
        "/r/b/2", "/r/a/1", "/r/b/1", "/r/ba", "/r/b", "/r/b/é", "/s", "/r/c",
    ] {
        commit(&*store, vec![create(key, "v")]).await;
    }
    let keys = |entries: Vec<Entry>| -> Vec<String> {
        entries.iter().map(|entry| entry.key.to_string()).collect()
    };
    let found = keys(list(&store, "/r/b/", ListOptions::default()).await);
    assert_eq!(found, ["/r/b/1", "/r/b/2", "/r/b/é"]);
    let found = keys(list(&store, "/r/b", ListOptions::default()).await);
    assert_eq!(found, ["/r/b", "/r/b/1", "/r/b/2", "/r/b/é", "/r/ba"]);
    let all = keys(list(&store, "", ListOptions::default()).await);
    assert_eq!(all.len(), 8);
}

/// Pages at the first page's revision show what one list would have shown, whatever is written between them.
pub async fn pages_of_one_revision_are_one_list(store: Store) {
    let mut newest = Revision(0);
    for n in 0..25 {
        newest = commit(&*store, vec![create(&format!("/r/{n:02}"), "v")]).await;
    }
    let whole = list(&store, "/r/", ListOptions::default()).await;
    let mut paged = Vec::new();
    let mut options = ListOptions {
        limit: 7,
        ..ListOptions::default()
    };
    loop {
        let page = store.list("/r/", options.clone()).await.expect("page");
        assert!(page.entries.len() <= 7);
        assert_eq!(page.revision, newest);
        paged.extend(page.entries);
        if !page.more {
            break;
        }
        options.revision = Some(page.revision);
        options.after = paged.last().map(|entry| entry.key.clone());
        let n = paged.len();
        commit(&*store, vec![create(&format!("/r/{n:02}-new"), "v")]).await;
        let gone = &whole[n];
        commit(&*store, vec![delete(gone.key.as_str(), gone.revision)]).await;
    }
    assert_eq!(paged, whole);
    let exact = ListOptions {
        limit: 25,
        revision: Some(newest),
        after: None,
    };
    let page = store.list("/r/", exact).await.expect("page");
    assert_eq!((page.entries.len(), page.more), (25, false));
}

/// A list shows what was there at its revision.
pub async fn a_list_at_an_old_revision_is_the_past(store: Store) {
    let first = commit(&*store, vec![create("/r/a", "1")]).await;
    let second = commit(&*store, vec![create("/r/b", "2")]).await;
    let third = commit(&*store, vec![update("/r/a", "3", first)]).await;
    let fourth = commit(&*store, vec![delete("/r/b", second)]).await;
    let fifth = commit(&*store, vec![create("/r/b", "5")]).await;
    let a1 = entry("/r/a", "1", first);
    let a3 = entry("/r/a", "3", third);
    let b2 = entry("/r/b", "2", second);
    let b5 = entry("/r/b", "5", fifth);
    assert_eq!(
        list(&store, "/r/", at(first)).await,
        std::slice::from_ref(&a1)
    );
    assert_eq!(list(&store, "/r/", at(second)).await, [a1, b2.clone()]);
    assert_eq!(list(&store, "/r/", at(third)).await, [a3.clone(), b2]);
    assert_eq!(
        list(&store, "/r/", at(fourth)).await,
        std::slice::from_ref(&a3)
    );
    assert_eq!(list(&store, "/r/", at(fifth)).await, [a3, b5]);
    let page = store.list("/r/", at(second)).await.expect("list");
    assert_eq!(page.revision, second);
}

/// Also an empty answer says as of when.
pub async fn a_list_of_nothing_has_a_revision(store: Store) {
    let first = commit(&*store, vec![create("/r/a", "1")]).await;
    let page = store
        .list("/none/", ListOptions::default())
        .await
        .expect("list");
    assert_eq!(
        (page.entries.len(), page.revision, page.more),
        (0, first, false)
    );
    let behind = ListOptions {
        after: Some(Key::from("/x")),
        ..ListOptions::default()
    };
    let page = store.list("/r/", behind).await.expect("list");
    assert_eq!(
        (page.entries.len(), page.revision, page.more),
        (0, first, false)
    );
}

/// A revision that has not happened is an error that says which is the newest.
pub async fn the_future_cannot_be_read(store: Store) {
    let now = commit(&*store, vec![create("/r/a", "1")]).await;
    let then = Revision(now.0 + 10);
    let error = store.list("/r/", at(then)).await;
    assert!(
        matches!(error, Err(Error::Future { asked, current }) if asked == then && current == now),
        "{error:?}"
    );
    let error = store.compact(then).await;
    assert!(matches!(error, Err(Error::Future { .. })), "{error:?}");
}

/// After compaction the compacted revision can be read and older ones cannot.
pub async fn compacted_history_cannot_be_read(store: Store) {
    let first = commit(&*store, vec![create("/r/a", "1")]).await;
    let second = commit(&*store, vec![update("/r/a", "2", first)]).await;
    let third = commit(&*store, vec![update("/r/a", "3", second)]).await;
    store.compact(second).await.expect("compact");
    store.compact(second).await.expect("compact again");
    store
        .compact(first)
        .await
        .expect("compact what is compacted");
    let error = store.list("/r/", at(first)).await;
    assert!(
        matches!(error, Err(Error::Compacted { asked, oldest }) if asked == first && oldest == second),
        "{error:?}"
    );
    assert_eq!(
        list(&store, "/r/", at(second)).await,
        [entry("/r/a", "2", second)]
    );
    assert_eq!(
        list(&store, "/r/", at(third)).await,
        [entry("/r/a", "3", third)]
    );
}

/// Compaction loses no value that is current, however old.
pub async fn current_values_survive_compaction(store: Store) {
    let first = commit(&*store, vec![create("/r/old", "1")]).await;
    let gone = commit(&*store, vec![create("/r/gone", "1")]).await;
    let mut at = commit(&*store, vec![create("/r/busy", "0")]).await;
    for n in 0..600 {
        at = commit(&*store, vec![update("/r/busy", &n.to_string(), at)]).await;
    }
    let last = commit(&*store, vec![delete("/r/gone", gone)]).await;
    store.compact(last).await.expect("compact");
    // The next commits give a store that trims in slices occasion to do so.
    for n in 0..5 {
        commit(&*store, vec![create(&format!("/t/{n}"), "v")]).await;
    }
    let found = list(&store, "/r/", ListOptions::default()).await;
    assert_eq!(
        found,
        [entry("/r/busy", "599", at), entry("/r/old", "1", first)]
    );
    let found = list(&store, "/r/", super::reads::at(last)).await;
    assert_eq!(found.len(), 2);
    commit(
        &*store,
        vec![create("/r/gone", "2"), update("/r/old", "2", first)],
    )
    .await;
}

/// Every version of a key, removals included.
pub async fn history_tells_versions_oldest_first(store: Store) {
    let version = |revision, value: Option<&str>| Version {
        revision,
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    };
    let first = commit(&*store, vec![create("/r/a", "1")]).await;
    commit(&*store, vec![create("/r/ab", "other")]).await;
    let second = commit(&*store, vec![update("/r/a", "2", first)]).await;
    let third = commit(&*store, vec![delete("/r/a", second)]).await;
    let all = [
        version(first, Some("1")),
        version(second, Some("2")),
        version(third, None),
    ];
    assert_eq!(
        store.history(&Key::from("/r/a")).await.expect("history"),
        all
    );
    let fourth = commit(&*store, vec![create("/r/a", "4")]).await;
    let found = store.history(&Key::from("/r/a")).await.expect("history");
    assert_eq!(found[..3], all);
    assert_eq!(found[3..], [version(fourth, Some("4"))]);
}

/// The oldest version is the one that was live at the compacted revision.
pub async fn history_begins_where_compaction_left(store: Store) {
    let first = commit(&*store, vec![create("/r/a", "1"), create("/r/b", "1")]).await;
    let second = commit(&*store, vec![update("/r/a", "2", first)]).await;
    let gone = commit(&*store, vec![delete("/r/b", first)]).await;
    let third = commit(&*store, vec![update("/r/a", "3", second)]).await;
    store.compact(gone).await.expect("compact");
    let revisions = |versions: Vec<Version>| -> Vec<Revision> {
        versions.iter().map(|version| version.revision).collect()
    };
    let found = store.history(&Key::from("/r/a")).await.expect("history");
    assert_eq!(revisions(found), [second, third]);
    let found = store.history(&Key::from("/r/b")).await.expect("history");
    assert_eq!(revisions(found), []);
}

/// `health` of a store that works.
pub async fn a_healthy_store_says_so(store: Store) {
    store.health().await.expect("healthy");
}
