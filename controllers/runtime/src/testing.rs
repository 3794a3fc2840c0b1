//! Fakes for tests of controllers: caches filled by hand, and an API in memory behind a real `kube::Client`.

mod api;

use std::sync::Arc;

use jiff::Timestamp;
use kube::Resource;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

pub use api::{FakeApi, Recorded};

use crate::clock::TokioClock;
use crate::key::{Object, revision_of};
use crate::{Cache, CacheFactory, Metrics, Tasks};

/// A cache that holds these objects and counts as synced.
pub fn cache_of<K: Object>(objects: impl IntoIterator<Item = K>) -> Cache<K> {
    let cache = Cache::new();
    let objects: Vec<K> = objects.into_iter().collect();
    let revision = objects
        .iter()
        .filter_map(|object| revision_of(object.meta()))
        .max();
    cache.replace(objects, revision.unwrap_or(0));
    cache
}

/// An object of a kind, written as JSON; for tests only.
///
/// # Panics
/// When the JSON is not of that kind.
pub fn object<K: Resource + serde::de::DeserializeOwned>(json: serde_json::Value) -> K {
    serde_json::from_value(json).expect("the test's JSON is of this kind")
}

/// Everything a controller needs to run against a [`FakeApi`].
pub struct World {
    /// The API.
    pub api: Arc<FakeApi>,
    /// A client of it.
    pub client: kube::Client,
    /// Caches fed by it.
    pub factory: CacheFactory,
    /// Counters in a registry of their own.
    pub metrics: Metrics,
    /// The tasks; dropping the world cancels them.
    pub tasks: Tasks,
    /// A clock that follows tokio's.
    pub clock: Arc<TokioClock>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty cluster.
    pub fn new() -> Self {
        let api = FakeApi::new();
        let client = api.client();
        let metrics = Metrics::register(&Registry::new());
        let tasks = Tasks::new(CancellationToken::new());
        let start = Timestamp::from_second(1_700_000_000).expect("a valid time");
        let clock = Arc::new(TokioClock::starting_at(start));
        api.set_clock(Arc::clone(&clock) as Arc<dyn crate::Clock>);
        // As in production, so that a reader of what is not kept fails its tests.
        let factory = CacheFactory::new(client.clone(), metrics.clone(), tasks.clone())
            .trimming(crate::trim::pod);
        Self {
            api,
            client,
            factory,
            metrics,
            tasks,
            clock,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.shutdown().cancel();
    }
}
