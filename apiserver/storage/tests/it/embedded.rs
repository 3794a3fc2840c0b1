//! What only the embedded store goes through: its directory, its file, its buffers, its window.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use corral_storage::conformance::{commit, create, entry, next_event, next_item, update};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use corral_storage::etcd::import::TAKEN_REVISIONS;
use corral_storage::{Error, Key, ListOptions, Revision, Storage, WatchEvent};
use prometheus::{Encoder, Registry, TextEncoder};
use tempfile::TempDir;

fn open(directory: &Path) -> Result<Arc<EmbeddedStore>, Error> {
    EmbeddedStore::open(EmbeddedConfig::new(directory), EmbeddedMetrics::default())
}

fn refusal(directory: &Path) -> String {
    match open(directory) {
        Err(Error::Open(text)) => text,
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("the store opened"),
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let directory = TempDir::new().expect("directory");
    let store = open(directory.path()).expect("open");
    let first = commit(&*store, vec![create("/a", "1")]).await;
    let second = commit(&*store, vec![update("/a", "2", first)]).await;
    let mut watch = store.watch("/", second).await.expect("watch");
    drop(store);
    assert!(matches!(
        next_item(&mut watch).await,
        Some(Ok(WatchEvent::Progress(_)))
    ));
    assert!(matches!(
        next_item(&mut watch).await,
        Some(Err(Error::Unavailable(_)))
    ));
    assert!(next_item(&mut watch).await.is_none());

    // The watch above is still held: it must not keep the directory.
    let store = open(directory.path()).expect("open again");
    assert_eq!(store.current_revision().await.expect("revision"), second);
    let found = store.get(&Key::from("/a")).await.expect("get");
    assert_eq!(found, Some(entry("/a", "2", second)));
    let third = commit(&*store, vec![create("/b", "3")]).await;
    assert!(third > second);
    let mut watch = store.watch("/", first).await.expect("watch from before");
    let event = next_event(&mut watch).await;
    assert!(
        matches!(event, WatchEvent::Put { previous: Some(previous), .. } if previous == entry("/a", "1", first))
    );
}

#[tokio::test]
async fn a_second_user_is_refused_with_the_pid_of_the_first() {
    let directory = TempDir::new().expect("directory");
    let _store = open(directory.path()).expect("open");
    let text = refusal(directory.path());
    let pid = format!("process {}", std::process::id());
    assert!(text.contains(&pid), "{text}");
}

#[tokio::test]
async fn a_foreign_file_is_refused_and_left_alone() {
    for content in [&b"SQLite format 3\0 and more"[..], &[0; 8192], b"redb"] {
        let directory = TempDir::new().expect("directory");
        let file = directory.path().join("store.redb");
        fs::write(&file, content).expect("write");
        let text = refusal(directory.path());
        assert!(text.contains("left as it is"), "{text}");
        assert_eq!(fs::read(&file).expect("read"), content);
    }
}

#[tokio::test]
async fn a_redb_file_of_somebody_else_is_refused_and_left_alone() {
    let directory = TempDir::new().expect("directory");
    let file = directory.path().join("store.redb");
    let table = redb::TableDefinition::<&str, u64>::new("theirs");
    let database = redb::Database::create(&file).expect("create");
    let write = database.begin_write().expect("begin");
    write
        .open_table(table)
        .expect("table")
        .insert("a", 1)
        .expect("insert");
    write.commit().expect("commit");
    drop(database);
    let before = fs::read(&file).expect("read");
    let text = refusal(directory.path());
    assert!(text.contains("not a Corral store"), "{text}");
    assert!(fs::read(&file).expect("read") == before);
}

#[tokio::test]
async fn a_truncated_file_is_refused_and_left_alone() {
    let directory = TempDir::new().expect("directory");
    let file = directory.path().join("store.redb");
    let store = open(directory.path()).expect("open");
    let value = "x".repeat(3_000);
    for n in 0..400 {
        commit(&*store, vec![create(&format!("/a/{n}"), &value)]).await;
    }
    // As a crash leaves it, too: the flag that asks for repair is set.
    let unclean = fs::read(&file).expect("read");
    drop(store);
    let clean = fs::read(&file).expect("read");
    for whole in [clean, unclean] {
        for part in [0, 5, 100, 4096, whole.len() / 4, whole.len() / 2] {
            fs::write(&file, &whole[..part]).expect("write");
            let text = refusal(directory.path());
            assert!(text.contains("left as it is"), "{part}: {text}");
            assert!(fs::read(&file).expect("read") == whole[..part], "{part}");
        }
        fs::write(&file, &whole).expect("write");
        let store = open(directory.path()).expect("the whole file opens");
        assert_eq!(count(&*store).await, 400);
        commit(&*store, vec![create("/a/later", "x")]).await;
        drop(store);
        let store = open(directory.path()).expect("and again, with what was written");
        assert_eq!(count(&*store).await, 401);
    }
}

async fn count(store: &dyn Storage) -> usize {
    let page = store.list("/a/", ListOptions::default()).await;
    page.expect("list").entries.len()
}

#[tokio::test]
async fn an_unfinished_creation_is_started_over() {
    let directory = TempDir::new().expect("directory");
    let mut file = fs::File::create(directory.path().join("store.redb.new")).expect("create");
    file.write_all(b"half a store").expect("write");
    let store = open(directory.path()).expect("open");
    assert_eq!(
        store.current_revision().await.expect("revision"),
        TAKEN_REVISIONS
    );
}

#[tokio::test]
async fn a_slow_watcher_is_ended_and_nobody_else_notices() {
    let directory = TempDir::new().expect("directory");
    let config = EmbeddedConfig {
        watch_buffer_events: 8,
        ..EmbeddedConfig::new(directory.path())
    };
    let store = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open");
    let mut slow = store.watch("/", TAKEN_REVISIONS).await.expect("watch");
    let mut quick = store.watch("/", TAKEN_REVISIONS).await.expect("watch");
    for n in 0..50 {
        let revision = commit(&*store, vec![create(&format!("/{n}"), "v")]).await;
        let event = next_event(&mut quick).await;
        assert!(matches!(event, WatchEvent::Put { entry, .. } if entry.revision == revision));
    }
    assert!(matches!(
        next_item(&mut slow).await,
        Some(Ok(WatchEvent::Progress(_)))
    ));
    assert!(matches!(
        next_item(&mut slow).await,
        Some(Err(Error::WatchTooSlow))
    ));
    assert!(next_item(&mut slow).await.is_none());
}

#[tokio::test]
async fn history_older_than_the_window_is_forgotten_but_not_the_last_revisions() {
    let directory = TempDir::new().expect("directory");
    let registry = Registry::new();
    let metrics = EmbeddedMetrics::register(&registry).expect("register");
    let config = EmbeddedConfig {
        history_window: Duration::from_millis(50),
        history_revisions_min: 20,
        ..EmbeddedConfig::new(directory.path())
    };
    let store = EmbeddedStore::open(config, metrics).expect("open");
    let old = commit(&*store, vec![create("/old", "1")]).await;
    let mut at = commit(&*store, vec![create("/a", "0")]).await;
    for n in 0..600 {
        at = commit(&*store, vec![update("/a", &n.to_string(), at)]).await;
    }
    let oldest = Revision(at.0 - 20);
    // Compaction has no event for its end; it is bounded by the window and its cadence.
    tokio::time::timeout(Duration::from_secs(20), async {
        while store.watch("/", Revision(oldest.0 - 1)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("old history goes");
    let stays = store.watch("/", oldest).await;
    assert!(stays.is_ok(), "the last revisions stay");
    let found = store.get(&Key::from("/old")).await.expect("get");
    assert_eq!(found, Some(entry("/old", "1", old)));
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("encode");
    let text = String::from_utf8(text).expect("text");
    assert!(
        text.contains(&format!("corral_storage_compacted_revision {oldest}")),
        "{text}"
    );
    assert!(
        text.contains("corral_storage_commit_seconds_count 602"),
        "{text}"
    );
}
