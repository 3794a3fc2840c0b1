//! Rules about watches.

use std::sync::Arc;

use super::{
    commit, create, delete, entry, events_until, next_event, next_item, revision_of, update,
};
use crate::{Error, Key, Revision, Storage, WatchEvent};

type Store = Arc<dyn Storage>;

fn put(key: &str, value: &str, revision: Revision) -> WatchEvent {
    WatchEvent::Put {
        entry: entry(key, value, revision),
        previous: None,
    }
}

/// The caller learns where the watch stands.
pub async fn a_watch_begins_with_progress(store: Store) {
    let now = commit(&*store, vec![create("/p/a", "1")]).await;
    let mut watch = store.watch("/p/", now).await.expect("watch");
    let first = next_item(&mut watch).await.expect("an event");
    assert_eq!(first.expect("no error"), WatchEvent::Progress(now));
}

/// Creation, change and removal, each with the value before.
pub async fn a_watch_reports_writes_with_what_they_replaced(store: Store) {
    let now = store.current_revision().await.expect("revision");
    let mut watch = store.watch("/p/", now).await.expect("watch");
    let first = commit(&*store, vec![create("/p/a", "1")]).await;
    let second = commit(&*store, vec![update("/p/a", "2", first)]).await;
    let third = commit(&*store, vec![delete("/p/a", second)]).await;
    let fourth = commit(&*store, vec![create("/p/a", "4")]).await;
    assert_eq!(next_event(&mut watch).await, put("/p/a", "1", first));
    let event = WatchEvent::Put {
        entry: entry("/p/a", "2", second),
        previous: Some(entry("/p/a", "1", first)),
    };
    assert_eq!(next_event(&mut watch).await, event);
    let event = WatchEvent::Delete {
        key: Key::from("/p/a"),
        revision: third,
        previous: entry("/p/a", "2", second),
    };
    assert_eq!(next_event(&mut watch).await, event);
    assert_eq!(next_event(&mut watch).await, put("/p/a", "4", fourth));
    // The same from history.
    let mut again = store.watch("/p/", first).await.expect("watch");
    for _ in 0..3 {
        let event = next_event(&mut again).await;
        assert!(revision_of(&event) > first);
        if let WatchEvent::Delete { previous, .. } = event {
            assert_eq!(previous, entry("/p/a", "2", second));
        }
    }
}

/// Other prefixes are not seen.
pub async fn a_watch_keeps_to_its_prefix(store: Store) {
    let now = store.current_revision().await.expect("revision");
    let mut watch = store.watch("/p/a/", now).await.expect("watch");
    for key in ["/p/a", "/p/b/1", "/p/a0", "/p/"] {
        commit(&*store, vec![create(key, "v")]).await;
    }
    let revision = commit(&*store, vec![create("/p/a/1", "v")]).await;
    assert_eq!(next_event(&mut watch).await, put("/p/a/1", "v", revision));
}

/// The empty prefix is every key.
pub async fn a_watch_of_everything_sees_everything(store: Store) {
    let now = store.current_revision().await.expect("revision");
    let mut watch = store.watch("", now).await.expect("watch");
    let first = commit(&*store, vec![create("/a", "v")]).await;
    let second = commit(&*store, vec![create("zz", "v")]).await;
    assert_eq!(next_event(&mut watch).await, put("/a", "v", first));
    assert_eq!(next_event(&mut watch).await, put("zz", "v", second));
}

/// From any revision there is, the rest follows.
pub async fn a_watch_resumes_from_an_old_revision(store: Store) {
    let start = store.current_revision().await.expect("revision");
    let mut revisions = Vec::new();
    for n in 0..40 {
        revisions.push(commit(&*store, vec![create(&format!("/p/{n:02}"), "v")]).await);
    }
    let mut from_start = store.watch("/p/", start).await.expect("watch");
    for revision in &revisions {
        assert_eq!(revision_of(&next_event(&mut from_start).await), *revision);
    }
    for (n, from) in revisions.iter().enumerate().step_by(13) {
        let mut watch = store.watch("/p/", *from).await.expect("watch");
        for revision in &revisions[n + 1..] {
            assert_eq!(revision_of(&next_event(&mut watch).await), *revision);
        }
    }
}

/// While writers go on, a watch from the past sees each event once and in order.
pub async fn a_watch_joins_the_present_without_gap_or_repetition(store: Store) {
    const WRITES: usize = 400;
    let start = store.current_revision().await.expect("revision");
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..WRITES {
                revisions.push(commit(&*store, vec![create(&format!("/p/{n}"), "v")]).await);
            }
            revisions
        })
    };
    let mut watchers = Vec::new();
    for _ in 0..4 {
        let mut watch = store.watch("/p/", start).await.expect("watch");
        watchers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < WRITES {
                seen.push(revision_of(&next_event(&mut watch).await));
            }
            seen
        }));
        tokio::task::yield_now().await;
    }
    let written = writer.await.expect("writer");
    for watcher in watchers {
        assert_eq!(watcher.await.expect("watcher"), written);
    }
}

/// A transaction's events are together, in the order of its operations.
pub async fn events_of_a_transaction_come_in_its_order(store: Store) {
    let first = commit(&*store, vec![create("/p/m", "1")]).await;
    let mut watch = store.watch("/p/", first).await.expect("watch");
    let operations = vec![
        create("/p/z", "2"),
        update("/p/m", "2", first),
        create("/p/a", "2"),
    ];
    let second = commit(&*store, operations).await;
    for key in ["/p/z", "/p/m", "/p/a"] {
        let event = next_event(&mut watch).await;
        assert!(
            matches!(&event, WatchEvent::Put { entry, .. } if entry.key.as_str() == key && entry.revision == second),
            "{event:?}"
        );
    }
}

/// A watch whose prefix is quiet can be asked how far it is.
pub async fn progress_can_be_asked_for(store: Store) {
    let now = store.current_revision().await.expect("revision");
    let mut watch = store.watch("/quiet/", now).await.expect("watch");
    let elsewhere = commit(&*store, vec![create("/p/a", "1")]).await;
    store.request_progress().await.expect("request");
    assert_eq!(events_until(&mut watch, elsewhere).await, []);
}

/// Before a progress come all events that it covers.
pub async fn progress_comes_after_what_it_covers(store: Store) {
    let start = store.current_revision().await.expect("revision");
    let mut watch = store.watch("/p/", start).await.expect("watch");
    let mut count = 0;
    for round in 0..5 {
        let mut newest = start;
        for n in 0..20 {
            newest = commit(&*store, vec![create(&format!("/p/{round}/{n}"), "v")]).await;
        }
        store.request_progress().await.expect("request");
        count += events_until(&mut watch, newest).await.len();
        assert_eq!(count, (round + 1) * 20);
    }
    let newest = store.current_revision().await.expect("revision");
    let mut late = store.watch("/p/", start).await.expect("watch");
    store.request_progress().await.expect("request");
    assert_eq!(events_until(&mut late, newest).await.len(), 100);
}

/// A watch cannot begin before what is kept, and can begin right there.
pub async fn a_watch_from_before_compaction_is_refused(store: Store) {
    let first = commit(&*store, vec![create("/p/a", "1")]).await;
    let second = commit(&*store, vec![update("/p/a", "2", first)]).await;
    let third = commit(&*store, vec![update("/p/a", "3", second)]).await;
    store.compact(second).await.expect("compact");
    let error = store.watch("/p/", first).await.err();
    assert!(
        matches!(error, Some(Error::Compacted { asked, oldest }) if asked == first && oldest == second),
        "{error:?}"
    );
    let mut watch = store.watch("/p/", second).await.expect("watch");
    let event = WatchEvent::Put {
        entry: entry("/p/a", "3", third),
        previous: Some(entry("/p/a", "2", second)),
    };
    assert_eq!(next_event(&mut watch).await, event);
}

/// A watch cannot begin at a revision that has not happened.
pub async fn a_watch_from_the_future_is_refused(store: Store) {
    let now = commit(&*store, vec![create("/p/a", "1")]).await;
    let error = store.watch("/p/", Revision(now.0 + 5)).await.err();
    assert!(
        matches!(error, Some(Error::Future { current, .. }) if current == now),
        "{error:?}"
    );
}
