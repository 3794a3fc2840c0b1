//! A server whose cache is behind the store: updates begin from the cache, and nobody may notice.

use std::sync::Arc;

use async_trait::async_trait;
use corral_storage::{
    Entry, Error, Key, ListOptions, Page, Revision, Storage, Transaction, Version, WatchStream,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::watch as signal;

use crate::fixture::{Answer, Fixture};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CONFIG_MAP: &str = "/api/v1/namespaces/default/configmaps/a";

/// A store whose watches of ConfigMaps say nothing while they are held.
struct Late {
    inner: Arc<dyn Storage>,
    held: signal::Sender<bool>,
}

#[async_trait]
impl Storage for Late {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error> {
        self.inner.list(prefix, options).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        self.inner.commit(transaction).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let events = self.inner.watch(prefix, from).await?;
        if !prefix.starts_with("/registry/configmaps/") {
            return Ok(events);
        }
        let held = self.held.subscribe();
        Ok(Box::pin(events.then(move |event| {
            let mut held = held.clone();
            async move {
                let _ = held.wait_for(|held| !held).await;
                event
            }
        })))
    }
    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }
    async fn history(&self, key: &Key) -> Result<Vec<Version>, Error> {
        self.inner.history(key).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }
    async fn current_revision(&self) -> Result<Revision, Error> {
        self.inner.current_revision().await
    }
    async fn health(&self) -> Result<(), Error> {
        self.inner.health().await
    }
}

/// Two servers over one store, of which one hears late of what the other does.
struct Pair {
    ahead: Fixture,
    behind: Fixture,
    held: signal::Sender<bool>,
}

impl Pair {
    /// They have the same object, and from now on one of them is behind.
    async fn of(object: Value) -> Self {
        let ahead = Fixture::start().await;
        let held = signal::Sender::new(false);
        let through = held.clone();
        let behind = ahead.beside_through(|inner| {
            Arc::new(Late {
                inner,
                held: through,
            })
        });
        let pair = Self {
            behind: behind.await,
            ahead,
            held,
        };
        let created = pair.ahead.create(CONFIG_MAPS, object).await;
        assert_eq!(created.code, 201, "{}", created.body);
        // A list that is not older waits until the cache is there.
        let version = revision(&created);
        let list =
            format!("{CONFIG_MAPS}?resourceVersion={version}&resourceVersionMatch=NotOlderThan");
        assert_eq!(pair.behind.get(&list).await.code, 200);
        pair.held.send_replace(true);
        pair
    }

    /// Changes the object where it is known at once, and answers it.
    async fn change(&self, patch: Value) -> Answer {
        let changed = self
            .ahead
            .patch(CONFIG_MAP, "merge-patch+json", patch)
            .await;
        assert_eq!(changed.code, 200, "{}", changed.body);
        assert_ne!(self.cached().await, changed.body, "the cache is not behind");
        changed
    }

    /// The object as the cache of the server that is behind has it.
    async fn cached(&self) -> Value {
        let list = format!("{CONFIG_MAPS}?resourceVersion=0");
        let list = self.behind.get(&list).await.body;
        let mut items = list["items"].as_array().expect("items").iter();
        let named = items.find(|item| item["metadata"]["name"] == "a");
        named.cloned().unwrap_or_default()
    }

    async fn patch(&self, patch: Value) -> Answer {
        self.behind
            .patch(CONFIG_MAP, "merge-patch+json", patch)
            .await
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.held.send_replace(false);
    }
}

fn object() -> Value {
    json!({"metadata": {"name": "a"}, "data": {"v": "1"}})
}

fn revision(answer: &Answer) -> &str {
    let version = &answer.body["metadata"]["resourceVersion"];
    version.as_str().expect("a version")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_made_to_the_newest_state() {
    let pair = Pair::of(object()).await;
    pair.change(json!({"data": {"theirs": "2"}})).await;
    let patched = pair.patch(json!({"data": {"mine": "3"}})).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let expected = json!({"v": "1", "theirs": "2", "mine": "3"});
    assert_eq!(patched.body["data"], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_change_nothing_of_an_older_state_changes_the_newest() {
    let pair = Pair::of(object()).await;
    let changed = pair.change(json!({"data": {"v": "2"}})).await;
    let dry = format!("{CONFIG_MAP}?dryRun=All");
    let patch = json!({"data": {"w": "3"}});
    let dry = pair.behind.patch(&dry, "merge-patch+json", patch).await;
    assert_eq!(dry.body["data"], json!({"v": "2", "w": "3"}));
    let back = pair.patch(json!({"data": {"v": "1"}})).await;
    assert_eq!(back.body["data"], json!({"v": "1"}));
    assert_ne!(revision(&back), revision(&changed));
    // And what changes nothing answers the newest, as it is.
    let same = pair.patch(json!({"data": {"v": "1"}})).await;
    assert_eq!(revision(&same), revision(&back));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_the_cache_does_not_know_yet_may_be_named() {
    let pair = Pair::of(object()).await;
    let before = pair.cached().await;
    let mut newest = pair.change(json!({"data": {"v": "2"}})).await.body;
    newest["data"]["v"] = "3".into();
    let replaced = pair.behind.ask("PUT", CONFIG_MAP, newest).await;
    assert_eq!(replaced.code, 200, "{}", replaced.body);
    // The cache's own is an old one.
    let refused = pair.behind.ask("PUT", CONFIG_MAP, before).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    assert_eq!(refused.body["reason"], "Conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_state_forbids_is_done_if_the_newest_allows_it() {
    let mut fixed = object();
    fixed["immutable"] = true.into();
    let pair = Pair::of(fixed).await;
    let change = json!({"data": {"v": "2"}});
    assert_eq!(pair.patch(change.clone()).await.code, 422);
    let deleted = pair.ahead.ask("DELETE", CONFIG_MAP, Value::Null).await;
    assert_eq!(deleted.code, 200);
    assert_eq!(pair.patch(change.clone()).await.code, 404);
    assert_eq!(pair.ahead.create(CONFIG_MAPS, object()).await.code, 201);
    assert_eq!(pair.cached().await["immutable"], true);
    let changed = pair.patch(change).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(changed.body["data"], json!({"v": "2"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warning_is_given_once_however_often_a_change_is_computed() {
    let pair = Pair::of(object()).await;
    pair.change(json!({"data": {"theirs": "2"}})).await;
    let patched = pair
        .patch(json!({"data": {"mine": "3"}, "unknown": 1}))
        .await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let warnings: Vec<_> = patched.headers.get_all("warning").iter().collect();
    assert_eq!(warnings, [r#"299 - "unknown field \"unknown\"""#]);
}
