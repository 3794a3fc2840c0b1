//! What kube-apiserver v1.36.3 left in etcd, read by us: every object of every kind served, beside its own answers.
//!
//! `e2e/tests/it/takeover.rs` records the corpus where kube-apiserver's binary is at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use corral_kinds::{KindRef, all};
use corral_server::cacher::Cacher;
use corral_server::stored_values::StoredValues;
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use corral_storage::{Key, Operation, Storage};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::fixture::answers;

async fn store_of(corpus: &Value) -> (Arc<dyn Storage>, TempDir) {
    let directory = TempDir::new().expect("temporary directory");
    let config = EmbeddedConfig::new(directory.path());
    let store = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open");
    for chunk in corpus["entries"].as_array().expect("entries").chunks(50) {
        let operations = chunk.iter().map(|entry| Operation::Create {
            key: Key::from(entry[0].as_str().expect("a key")),
            value: Bytes::from(
                STANDARD
                    .decode(entry[2].as_str().expect("a value"))
                    .expect("base64"),
            ),
        });
        store.commit(operations.collect()).await.expect("stored");
    }
    (StoredValues::over(store), directory)
}

fn by_name(items: &Value) -> BTreeMap<(String, String), Value> {
    let name = |item: &Value, key: &str| item["metadata"][key].as_str().unwrap_or("").to_owned();
    let items = items.as_array().into_iter().flatten();
    items
        .map(|item| {
            let mut shown = item.clone();
            // Stored here a second time, at other revisions.
            if let Some(metadata) = shown["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            ((name(item, "namespace"), name(item, "name")), shown)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_that_kube_apiserver_stored_is_shown_as_it_shows_it() {
    let corpus = answers("takeover.json.gz");
    let (storage, _guard) = store_of(&corpus).await;
    let stop = CancellationToken::new();
    let mut differences = Vec::new();
    let mut unknown = BTreeSet::new();
    let mut compared = 0;
    for (path, items) in corpus["lists"].as_object().expect("lists") {
        let mut parts = path.rsplitn(2, '/');
        let plural = parts.next().expect("a resource");
        let version = parts.next().expect("a version");
        let version = version
            .trim_start_matches("/apis/")
            .trim_start_matches("/api/");
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let Some(kind) = all::resource(group, version, plural) else {
            unknown.insert(path.clone());
            continue;
        };
        let cacher = Cacher::new(KindRef::from(kind), storage.clone());
        tokio::spawn(cacher.clone().run(stop.clone()));
        cacher.ready().await.expect("readable");
        let mut ours = Vec::new();
        for stored in cacher.snapshot().objects.values() {
            let mut object = stored.value().expect("JSON");
            // Items of a list leave out what the list says.
            if let Some(map) = object.as_object_mut() {
                map.remove("apiVersion");
                map.remove("kind");
            }
            ours.push(object);
        }
        let (ours, theirs) = (by_name(&Value::Array(ours)), by_name(items));
        compared += theirs.len();
        for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
            differences.push(format!("{path}: {name:?} is not theirs"));
        }
        for (name, object) in &theirs {
            match ours.get(name) {
                None => differences.push(format!("{path}: {name:?} is not shown")),
                Some(other) if other != object => {
                    differences.push(format!(
                        "{path}: {name:?}\n  theirs {object}\n  ours   {other}"
                    ));
                }
                Some(_) => {}
            }
        }
    }
    stop.cancel();
    assert!(
        differences.is_empty(),
        "{} of {compared} differ\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(compared > 150, "{compared} objects are not a cluster");
    // Only custom resources are of kinds that are not built in.
    assert!(
        unknown.iter().all(|path| path.contains(".example/")),
        "{unknown:?}"
    );
}
