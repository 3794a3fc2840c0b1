//! A store whose requests are measured, under the names that kube-apiserver has for those to etcd, whichever store it is.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use async_trait::async_trait;
use corral_storage::{
    Entry, Error, Key, ListOptions, Operation, Page, Revision, Storage, Transaction, Version,
    WatchStream,
};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::requests::SECONDS;
use crate::traces;

/// Where objects begin.
const ROOT: &str = "/registry/";
/// Resources that are told apart; the API has some dozens, and custom ones come on top.
const RESOURCES_MAX: usize = 5_000;

/// What is measured of one operation on one resource.
struct Series {
    total: IntCounter,
    failed: IntCounter,
    seconds: Histogram,
}

/// The store, and what is measured of it.
pub struct Measured {
    inner: Arc<dyn Storage>,
    total: IntCounterVec,
    failed: IntCounterVec,
    seconds: HistogramVec,
    // Guards which series there are; written once for each.
    series: RwLock<HashMap<u64, Arc<Series>>>,
    hasher: RandomState,
}

impl Measured {
    /// Measures a store.
    ///
    /// # Errors
    /// When a metric's name is taken.
    pub fn new(
        inner: Arc<dyn Storage>,
        registry: &Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let labels = ["group", "operation", "resource"];
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let seconds = HistogramOpts::new(
            "etcd_request_duration_seconds",
            "Time that the store takes, whichever it is.",
        );
        let seconds = HistogramVec::new(seconds.buckets(SECONDS.to_vec()), &labels)?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Arc::new(Self {
            inner,
            total: counter(
                "etcd_requests_total",
                "Requests to the store, whichever it is.",
            )?,
            failed: counter(
                "etcd_request_errors_total",
                "Requests that the store, whichever it is, refused or did not answer.",
            )?,
            seconds,
            series: RwLock::default(),
            hasher: RandomState::new(),
        }))
    }

    async fn measured<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let done = traces::of_store(operation, resource(key).1, work).await;
        let series = self.series(operation, key);
        series.total.inc();
        series.seconds.observe(began.elapsed().as_secs_f64());
        if done.is_err() {
            series.failed.inc();
        }
        done
    }

    fn series(&self, operation: &'static str, key: &str) -> Arc<Series> {
        let (group, resource) = resource(key);
        let place = self.hasher.hash_one((operation, group, resource));
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&place) {
            return series.clone();
        }
        let is_full = known.len() >= RESOURCES_MAX;
        drop(known);
        let labels = [group, operation, resource];
        let series = Arc::new(Series {
            total: self.total.with_label_values(&labels),
            failed: self.failed.with_label_values(&labels),
            seconds: self.seconds.with_label_values(&labels),
        });
        if !is_full {
            let mut known = self.series.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(place, series.clone());
        }
        series
    }
}

/// Group and resource of a key. Keys are laid out as Kubernetes lays them out: the group is in those of groups of its own
/// alone.
fn resource(key: &str) -> (&str, &str) {
    let mut parts = key.strip_prefix(ROOT).unwrap_or_default().split('/');
    let first = parts.next().unwrap_or_default();
    match first.contains('.') {
        true => (first, parts.next().unwrap_or_default()),
        false => ("", first),
    }
}

#[async_trait]
impl Storage for Measured {
    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn is_stale(&self, key: &Key) -> Result<bool, Error> {
        self.inner.is_stale(key).await
    }

    async fn checks(&self) -> Vec<(String, Result<(), String>)> {
        self.inner.checks().await
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.measured("get", key.as_str(), self.inner.get(key))
            .await
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error> {
        self.measured("list", prefix, self.inner.list(prefix, options))
            .await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        let first = transaction.first();
        let (operation, key) = match first {
            Some(Operation::Create { key, .. }) => ("create", key.clone()),
            Some(Operation::Update { key, .. }) => ("update", key.clone()),
            Some(Operation::Delete { key, .. }) => ("delete", key.clone()),
            Some(Operation::Check { key, .. }) => ("check", key.clone()),
            None => return self.inner.commit(transaction).await,
        };
        let work = self.inner.commit(transaction);
        self.measured(operation, key.as_str(), work).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.inner.watch(prefix, from).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_group_and_resource() {
        assert_eq!(resource("/registry/pods/a/b"), ("", "pods"));
        assert_eq!(resource("/registry/services/specs/a/b"), ("", "services"));
        let custom = "/registry/example.com/things/a/b";
        assert_eq!(resource(custom), ("example.com", "things"));
        assert_eq!(resource("elsewhere"), ("", ""));
    }
}
