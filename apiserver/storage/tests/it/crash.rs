//! SIGKILL at random points under 16 writers, again and again on the same directory.
//!
//! The writers run in this test executable, started again with only [`writer_process`] selected. They print what was
//! acknowledged, after it was; the parent kills, reopens and compares.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use corral_storage::conformance::{create, events_until, revision_of, update};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use corral_storage::etcd::import::TAKEN_REVISIONS;
use corral_storage::{Revision, Storage, WatchEvent};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

const DIRECTORY: &str = "CORRAL_CRASH_DIRECTORY";
const ROUNDS: &str = "CORRAL_CRASH_ROUNDS";
const WRITERS: usize = 16;

/// A write that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Acknowledged {
    key: String,
    value: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_writers_it_loses_nothing_and_repeats_nothing() {
    let rounds = std::env::var(ROUNDS)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10);
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let mut random = TestRunner::default();
    let mut acknowledged = BTreeMap::new();
    for round in 0..rounds {
        let writes = (1..400_usize)
            .new_tree(&mut random)
            .expect("a number")
            .current();
        run_and_kill(directory.path(), round, writes, &mut acknowledged);
        verify(directory.path(), &acknowledged).await;
    }
    assert!(!acknowledged.is_empty());
}

/// Lets writers run until so many writes are acknowledged, kills them, and notes all that was acknowledged.
fn run_and_kill(
    directory: &Path,
    round: usize,
    writes: usize,
    acknowledged: &mut BTreeMap<u64, Acknowledged>,
) {
    let mut child = Command::new(std::env::current_exe().expect("this executable"))
        .args(["--exact", "crash::writer_process", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(ROUNDS, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this executable starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let mut seen = 0;
    for line in output.lines().map_while(Result::ok) {
        let Some((revision, key, value)) = parse(&line) else {
            continue;
        };
        let write = Acknowledged { key, value };
        let before = acknowledged.insert(revision, write);
        assert_eq!(before, None, "revision {revision} was used twice");
        seen += 1;
        if seen == writes {
            child.kill().expect("kill");
        }
    }
    child.wait().expect("wait");
    assert!(seen >= writes, "the writers ended by themselves");
}

fn parse(line: &str) -> Option<(u64, String, String)> {
    // The test harness prints the test's name in front of the first line.
    let (_, line) = line.split_once("ack ")?;
    let mut words = line.strip_suffix(" .")?.split(' ');
    let revision = words.next()?.parse().ok()?;
    Some((revision, words.next()?.to_owned(), words.next()?.to_owned()))
}

async fn verify(directory: &Path, acknowledged: &BTreeMap<u64, Acknowledged>) {
    let store = open(directory);
    let current = store.current_revision().await.expect("revision");
    let newest = acknowledged.keys().next_back().copied().unwrap_or(0);
    assert!(
        current.0 >= newest,
        "{newest} was acknowledged, the store is at {current}"
    );
    let from = TAKEN_REVISIONS;
    let all = replay(&store, from, current).await;
    let revisions: Vec<u64> = all.iter().map(|event| revision_of(event).0).collect();
    assert_eq!(
        revisions,
        (from.0 + 1..=current.0).collect::<Vec<_>>(),
        "each revision once, in order"
    );
    let mut live = HashMap::new();
    for event in &all {
        let WatchEvent::Put { entry, previous } = event else {
            panic!("nobody deletes: {event:?}");
        };
        assert_eq!(
            live.insert(entry.key.clone(), entry.clone()).as_ref(),
            previous.as_ref()
        );
        if let Some(write) = acknowledged.get(&entry.revision.0) {
            assert_eq!(entry.key.as_str(), write.key);
            assert_eq!(entry.value, write.value.as_bytes());
        }
    }
    for (key, entry) in live {
        assert_eq!(store.get(&key).await.expect("get"), Some(entry));
    }
    for part in 1..4 {
        let from = Revision(current.0 * part / 4);
        let resumed = replay(&store, from, current).await;
        let known = from.0.saturating_sub(TAKEN_REVISIONS.0);
        assert_eq!(resumed[..], all[known as usize..]);
    }
}

async fn replay(store: &EmbeddedStore, from: Revision, to: Revision) -> Vec<WatchEvent> {
    let mut watch = store.watch("/", from).await.expect("watch");
    if from == to {
        return Vec::new();
    }
    events_until(&mut watch, to).await
}

fn open(directory: &Path) -> Arc<EmbeddedStore> {
    let config = EmbeddedConfig {
        history_window: Duration::from_secs(86_400),
        ..EmbeddedConfig::new(directory)
    };
    EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open")
}

/// The process that is killed; as a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_process() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let round = std::env::var(ROUNDS).expect("set by the parent");
    let store = open(Path::new(&directory));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write_on(store.clone(), format!("/c/{round}/{writer}"))))
        .collect();
    for writer in writers {
        writer.await.expect("writer");
    }
}

/// Creates keys and updates each a few times, and prints what was acknowledged, for ever.
async fn write_on(store: Arc<EmbeddedStore>, prefix: String) {
    for n in 0.. {
        let key = format!("{prefix}/{n}");
        let mut expected = None;
        for version in 0..3 {
            let value = format!("{version}-{}", "x".repeat(200 * (n % 7)));
            let operation = match expected {
                None => create(&key, &value),
                Some(expected) => update(&key, &value, expected),
            };
            let revision = store.commit(vec![operation]).await.expect("commit");
            expected = Some(revision);
            let line = format!("ack {revision} {key} {value} .\n");
            // One write, so that lines of several writers do not mix.
            let mut output = std::io::stdout().lock();
            if output
                .write_all(line.as_bytes())
                .and_then(|()| output.flush())
                .is_err()
            {
                return;
            }
        }
    }
}
