//! A store that goes away for a while: what happens meanwhile reaches those who watch, or they are told to begin anew.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use corral_api::selector::{FieldSelector, LabelSelector};
use corral_kinds::{KindRef, all};
use corral_server::cacher::Cacher;
use corral_server::cacher::watcher::{WatchItem, WatchOptions, watch};
use corral_server::select::Predicate;
use corral_storage::conformance::{commit, delete, update};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use corral_storage::{
    Entry, Error, Key, ListOptions, Operation, Page, Revision, Storage, Transaction, Version,
    WatchStream,
};
use futures::{Stream, StreamExt};
use tempfile::TempDir;
use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;

/// How long anything is waited for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A store whose lists and watches can be cut off.
struct Fragile {
    inner: Arc<dyn Storage>,
    there: signal::Sender<bool>,
}

impl Fragile {
    fn check(&self) -> Result<(), Error> {
        match *self.there.borrow() {
            true => Ok(()),
            false => Err(Error::Unavailable("it is away".to_owned())),
        }
    }
}

#[async_trait]
impl Storage for Fragile {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error> {
        self.check()?;
        self.inner.list(prefix, options).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        self.inner.commit(transaction).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.check()?;
        let mut there = self.there.subscribe();
        let cut = async move {
            let _ = there.wait_for(|there| !there).await;
        };
        let events = self.inner.watch(prefix, from).await?;
        Ok(Box::pin(events.take_until(Box::pin(cut))))
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
        self.check()
    }
}

struct Setup {
    store: Arc<Fragile>,
    cacher: Arc<Cacher>,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Setup {
    async fn start() -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let config = EmbeddedConfig::new(directory.path());
        let inner = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open");
        let store = Arc::new(Fragile {
            inner,
            there: signal::Sender::new(true),
        });
        let kind = all::resource("", "v1", "configmaps").expect("served");
        let cacher = Cacher::new(KindRef::from(kind), store.clone());
        let stop = CancellationToken::new();
        tokio::spawn(cacher.clone().run(stop.clone()));
        cacher.ready().await.expect("listed");
        Self {
            store,
            cacher,
            stop,
            _directory: directory,
        }
    }

    async fn put(&self, names: &[&str]) -> Revision {
        let operations = names.iter().map(|name| Operation::Create {
            key: key(name),
            value: object(name, "").into(),
        });
        commit(&*self.store, operations.collect()).await
    }

    /// Lets the store come back, and waits until the cacher has listed it again.
    async fn come_back(&self) {
        self.store.there.send_replace(true);
        let current = self.store.current_revision().await.expect("revision");
        let listed = tokio::time::timeout(WAIT_MAX, async {
            while self.cacher.snapshot().revision < current {
                tokio::task::yield_now().await;
            }
        });
        listed.await.expect("it lists again");
    }

    async fn watch(&self, from: Revision) -> impl Stream<Item = WatchItem> + use<> {
        let options = WatchOptions {
            predicate: Predicate::new(
                self.cacher.prefix(),
                None,
                LabelSelector::everything(),
                FieldSelector::parse("").expect("everything"),
            ),
            from: Some(from),
            initial_bookmark: false,
            bookmarks: false,
            timeout: WAIT_MAX,
            begins: None,
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        watch(self.cacher.clone(), options).await.expect("a watch")
    }
}

fn key(name: &str) -> Key {
    Key::from(format!("/registry/configmaps/n/{name}"))
}

fn object(name: &str, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"n"}},"data":{{"v":"{value}"}}}}"#
    )
}

/// The next change, as its type and the object's name; a failure as its code.
async fn next(watch: &mut (impl Stream<Item = WatchItem> + Unpin)) -> (String, String) {
    let item = tokio::time::timeout(WAIT_MAX, watch.next()).await;
    let item = item.expect("it comes in time").expect("the watch goes on");
    let name = |key: &Key| key.as_str().rsplit('/').next().unwrap_or("").to_owned();
    match item {
        WatchItem::Event(event) => (event.kind.as_str().to_owned(), name(&event.object.key)),
        WatchItem::Derived(kind, stored) => (kind.as_str().to_owned(), name(&stored.key)),
        WatchItem::Bookmark(..) => ("BOOKMARK".to_owned(), String::new()),
        WatchItem::Failed(status) => ("ERROR".to_owned(), status.code.to_string()),
    }
}

fn change(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_miss_nothing_of_what_happens_while_the_store_is_away() {
    let setup = Setup::start().await;
    let from = setup.store.current_revision().await.expect("revision");
    let mut watch = Box::pin(setup.watch(from).await);
    let first = setup.put(&["a"]).await;
    assert_eq!(next(&mut watch).await, change("ADDED", "a"));
    setup.store.there.send_replace(false);
    setup.put(&["b"]).await;
    let value = object("a", "2");
    let second = update(key("a").as_str(), &value, first);
    let second = commit(&*setup.store, vec![second]).await;
    commit(&*setup.store, vec![delete(key("a").as_str(), second)]).await;
    setup.come_back().await;
    setup.put(&["c"]).await;
    for expected in [
        change("ADDED", "b"),
        change("MODIFIED", "a"),
        change("DELETED", "a"),
        change("ADDED", "c"),
    ] {
        assert_eq!(next(&mut watch).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_told_to_begin_anew_when_the_store_has_forgotten() {
    let setup = Setup::start().await;
    let from = setup.put(&["a"]).await;
    let mut watch = Box::pin(setup.watch(from).await);
    let mut other = Box::pin(setup.watch(from).await);
    setup.put(&["b"]).await;
    assert_eq!(next(&mut watch).await, change("ADDED", "b"));
    assert_eq!(next(&mut other).await, change("ADDED", "b"));
    setup.store.there.send_replace(false);
    setup.put(&["c"]).await;
    let now = setup.put(&["d"]).await;
    setup.store.compact(now).await.expect("compacted");
    setup.come_back().await;
    assert_eq!(next(&mut watch).await, change("ERROR", "410"));
    assert!(watch.next().await.is_none());
    assert_eq!(next(&mut other).await, change("ERROR", "410"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_transaction_comes_to_a_watch_from_long_ago() {
    let setup = Setup::start().await;
    let from = setup.put(&["a"]).await;
    setup.put(&["b"]).await;
    // What comes before the next list is in the store only.
    setup.store.there.send_replace(false);
    setup.put(&["c"]).await;
    // The list is of a later revision than its last object.
    let other = Operation::Create {
        key: Key::from("/registry/secrets/n/a"),
        value: "{}".into(),
    };
    commit(&*setup.store, vec![other]).await;
    setup.come_back().await;
    let last = setup.put(&["d", "e", "f"]).await;
    setup.cacher.at_least(last).await.expect("reached");
    let mut watch = Box::pin(setup.watch(from).await);
    for name in ["b", "c", "d", "e", "f"] {
        assert_eq!(next(&mut watch).await, change("ADDED", name));
    }
    setup.put(&["g"]).await;
    assert_eq!(next(&mut watch).await, change("ADDED", "g"));
}
