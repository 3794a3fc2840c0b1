//! A full disk: on a small tmpfs of the test's own. Only root can mount one; others skip it, and say so.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use corral_storage::conformance::{commit, create, delete, next_event};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore, FREE_BYTES_MIN};
use corral_storage::{Error, Key, ListOptions, Storage};
use prometheus::Registry;
use tempfile::TempDir;

const DISK: &str = "size=48m";

/// Unmounts when dropped.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Option<Self> {
        let directory = TempDir::new().expect("directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: no tmpfs can be mounted here (needs root)");
            return None;
        }
        Some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn the_reserve_keeps_the_store_whole_on_a_full_disk() {
    writes_fail_and_resume(FREE_BYTES_MIN).await;
}

#[tokio::test]
async fn a_write_that_meets_the_end_of_the_disk_is_survived() {
    writes_fail_and_resume(0).await;
}

async fn writes_fail_and_resume(free_bytes_min: u64) {
    let Some(disk) = Disk::mount() else { return };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 16 << 20]).expect("ballast");
    let config = EmbeddedConfig {
        free_bytes_min,
        ..EmbeddedConfig::new(disk.path().join("data"))
    };
    let registry = Registry::new();
    let metrics = EmbeddedMetrics::register(&registry).expect("register");
    let store = EmbeddedStore::open(config.clone(), metrics).expect("open");
    let first = commit(&*store, vec![create("/first", "v")]).await;
    let mut watch = store.watch("/", first).await.expect("watch");

    let value = "x".repeat(100_000);
    let mut written = 0;
    let error = loop {
        match store
            .commit(vec![create(&format!("/fill/{written:04}"), &value)])
            .await
        {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "the disk has an end");
    };
    assert!(matches!(error, Error::NoSpace(_)), "{error:?}");
    // Only without the reserve does redb itself meet the end of the disk.
    assert_eq!(failures(&registry) > 0.0, free_bytes_min == 0);

    // Reads and watches go on.
    let page = store
        .list("/fill/", ListOptions::default())
        .await
        .expect("list");
    assert_eq!(page.entries.len(), written);
    assert!(
        page.entries
            .iter()
            .all(|entry| entry.value.len() == value.len())
    );
    for _ in 0..written {
        next_event(&mut watch).await;
    }
    let again = store.commit(vec![create("/again", &value)]).await;
    assert!(matches!(again, Err(Error::NoSpace(_))), "{again:?}");
    if free_bytes_min > 0 {
        let more = disk.path().join("more");
        fs::write(&more, vec![1; 1 << 20]).expect("more ballast");
        assert!(matches!(store.health().await, Err(Error::NoSpace(_))));
        let found = store
            .get(&Key::from("/fill/0000"))
            .await
            .expect("get")
            .expect("there");
        commit(&*store, vec![delete("/fill/0000", found.revision)]).await;
        next_event(&mut watch).await;
        fs::remove_file(&more).expect("remove");
    }

    // With room, writes resume, and the watch sees them.
    fs::remove_file(&ballast).expect("remove");
    let revision = commit(&*store, vec![create("/again", &value)]).await;
    store.health().await.expect("healthy");
    let event = next_event(&mut watch).await;
    assert_eq!(corral_storage::conformance::revision_of(&event), revision);
    drop(watch);
    drop(Arc::into_inner(store).expect("the only handle"));

    let store = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open again");
    let page = store.list("/", ListOptions::default()).await.expect("list");
    let removed = usize::from(free_bytes_min > 0);
    assert_eq!(page.entries.len(), written + 2 - removed);
}

fn failures(registry: &Registry) -> f64 {
    let families = registry.gather();
    let family = families
        .iter()
        .find(|family| family.name() == "corral_storage_commit_failures_total")
        .expect("registered");
    family.get_metric()[0].get_counter().get_value()
}
