//! A note of how fast durable writes are; it asserts only that they are durable and shared commits.

use std::time::Instant;

use corral_storage::Storage;
use corral_storage::conformance::{commit, create};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use corral_storage::etcd::import::TAKEN_REVISIONS;
use tempfile::TempDir;

const WRITERS: u64 = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_commits() {
    // `cargo test --release … many_writers -- --nocapture` with more writes gives a figure worth reading.
    let writes = std::env::var("CORRAL_THROUGHPUT_WRITES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(50_u64);
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let config = EmbeddedConfig::new(directory.path());
    let store = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open");
    let value = "x".repeat(1_000);
    let started = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, value) = (store.clone(), value.clone());
            tokio::spawn(async move {
                for n in 0..writes {
                    commit(&*store, vec![create(&format!("/w/{writer}/{n}"), &value)]).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writer");
    }
    let rate = (WRITERS * writes) as f64 / started.elapsed().as_secs_f64();
    println!("{WRITERS} writers, 1 kB: {rate:.0} durable writes/s");
    let revision = store.current_revision().await.expect("revision");
    assert_eq!(revision.0, TAKEN_REVISIONS.0 + WRITERS * writes);
}
