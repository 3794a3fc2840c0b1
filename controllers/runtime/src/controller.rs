//! The harness of a controller: changes wake keys, workers take keys, failures back off.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use jiff::Timestamp;

use crate::cache::Change;
use crate::key::{Object, ObjectKey};
use crate::metrics::Metrics;
use crate::{Cache, Clock, Error, Tasks, WorkQueue};

/// What to do with a key after it was worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Wait for the next change.
    Done,
    /// Also look again after this long.
    After(Duration),
}

impl Action {
    /// Look again at a time, if any.
    pub fn at(time: Option<Timestamp>, now: Timestamp) -> Self {
        match time {
            None => Self::Done,
            Some(time) => {
                let wait = Duration::try_from(time.duration_since(now)).unwrap_or_default();
                // Timers may fire a little early by the wall clock, which must not become a busy loop.
                Self::After(wait.max(Duration::from_millis(10)))
            }
        }
    }

    /// The earlier of two.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Done, other) | (other, Self::Done) => other,
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
        }
    }
}

/// The loose form of a controller: a key comes in, what comes next goes out.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Brings the object of a key to where it should be.
    async fn handle(&self, key: ObjectKey) -> Result<Action, Error>;
}

/// The strict form: look, think, act. Only `apply` may reach outside.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// All that the plan rests on.
    type World: Send + Sync;
    /// All that is to be done.
    type Plan: Send + Sync;

    /// Reads the caches; nothing when there is nothing to do for the key.
    fn observe(&self, key: &ObjectKey) -> Option<Self::World>;
    /// Decides: a pure function of its arguments.
    fn plan(&self, world: &Self::World, now: Timestamp) -> Self::Plan;
    /// Attempts every step and reports.
    async fn apply(
        &self,
        world: &Self::World,
        plan: Self::Plan,
        now: Timestamp,
    ) -> Result<Action, Error>;
}

/// Makes a [`Handler`] of a [`Reconciler`].
pub struct Planned<R> {
    reconciler: R,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl<R: Reconciler> Handler for Planned<R> {
    async fn handle(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(world) = self.reconciler.observe(&key) else {
            return Ok(Action::Done);
        };
        let now = self.clock.now();
        let plan = self.reconciler.plan(&world, now);
        self.reconciler.apply(&world, plan, now).await
    }
}

struct FromFn<F>(F);

#[async_trait]
impl<F, Fut> Handler for FromFn<F>
where
    F: Fn(ObjectKey) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, Error>> + Send,
{
    async fn handle(&self, key: ObjectKey) -> Result<Action, Error> {
        (self.0)(key).await
    }
}

/// Makes a [`Handler`] of a function.
pub fn handler_fn<F, Fut>(function: F) -> impl Handler
where
    F: Fn(ObjectKey) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, Error>> + Send,
{
    FromFn(function)
}

type Synced = futures::future::BoxFuture<'static, ()>;
type Keys = Box<dyn Fn() -> Vec<ObjectKey> + Send + Sync>;

/// A controller being put together: watches first, then [`Controller::run`].
pub struct Controller {
    name: &'static str,
    queue: Arc<WorkQueue<ObjectKey>>,
    synced: Vec<Synced>,
    all_keys: Vec<Keys>,
}

impl Controller {
    /// A controller without watches.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            queue: Arc::default(),
            synced: Vec::new(),
            all_keys: Vec::new(),
        }
    }

    /// The queue, for keys that come from elsewhere.
    pub fn queue(&self) -> Arc<WorkQueue<ObjectKey>> {
        Arc::clone(&self.queue)
    }

    /// Every change of an object wakes its own key.
    #[must_use]
    pub fn watch<K: Object>(mut self, cache: &Cache<K>) -> Self {
        let keys = cache.clone();
        self.all_keys.push(Box::new(move || keys.keys()));
        self.map(cache, |change| vec![ObjectKey::of(change.latest().meta())])
    }

    /// Every change of an object wakes the keys that `map` finds for it.
    #[must_use]
    pub fn map<K: Object>(
        self,
        cache: &Cache<K>,
        map: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) -> Self {
        let queue = Arc::clone(&self.queue);
        cache.listen(move |change| map(change).into_iter().for_each(|key| queue.add(key)));
        self.needs(cache)
    }

    /// Every change of an object wakes its controlling owner, if that is of the kind given.
    #[must_use]
    pub fn owned<K: Object>(self, cache: &Cache<K>, owner_kind: &'static str) -> Self {
        self.map(cache, move |change| {
            let states = change.states().filter_map(|object| {
                let meta = object.meta();
                let owner = corral_api::meta::controller_of(meta)?;
                (owner.kind == owner_kind).then(|| ObjectKey::of_owner(meta, owner))
            });
            states.collect()
        })
    }

    /// Work starts only when this cache has its first list, too.
    #[must_use]
    pub fn needs<K: Object>(mut self, cache: &Cache<K>) -> Self {
        let cache = cache.clone();
        self.synced
            .push(async move { cache.wait_for_sync().await }.boxed());
        self
    }

    /// Starts the workers of a planning controller.
    pub fn run_planned(
        self,
        reconciler: impl Reconciler,
        workers: usize,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        tasks: &Tasks,
    ) {
        self.run(Planned { reconciler, clock }, workers, metrics, tasks);
    }

    /// Starts the workers.
    pub fn run(self, handler: impl Handler, workers: usize, metrics: &Metrics, tasks: &Tasks) {
        let worker = Arc::new(Worker {
            name: self.name,
            queue: self.queue,
            all_keys: self.all_keys,
            handler,
            metrics: metrics.clone(),
        });
        let synced = futures::future::join_all(self.synced)
            .map(|_| ())
            .boxed()
            .shared();
        for n in 0..workers {
            let (worker, synced) = (Arc::clone(&worker), synced.clone());
            tasks.spawn(format!("{} {n}", self.name), async move {
                synced.await;
                worker.run().await;
            });
        }
    }
}

struct Worker<H> {
    name: &'static str,
    queue: Arc<WorkQueue<ObjectKey>>,
    all_keys: Vec<Keys>,
    handler: H,
    metrics: Metrics,
}

impl<H: Handler> Worker<H> {
    async fn run(&self) {
        while let Some((key, waited)) = self.queue.next_with_wait().await {
            self.metrics
                .taken(self.name, self.queue.take_adds(), waited);
            self.metrics.depth(self.name, self.queue.len());
            self.work(&key).await;
            self.queue.done(&key);
            if self.queue.is_empty() && self.queue.take_overflow() {
                self.all_keys
                    .iter()
                    .flat_map(|keys| keys())
                    .for_each(|key| self.queue.add(key));
            }
        }
    }

    async fn work(&self, key: &ObjectKey) {
        let started = tokio::time::Instant::now();
        // A panic in one reconcile must not stop the others; the key backs off like any failure.
        let outcome = AssertUnwindSafe(self.handler.handle(key.clone()))
            .catch_unwind()
            .await;
        let result = match outcome {
            Ok(Ok(action)) => {
                self.queue.forget(key);
                if let Action::After(delay) = action {
                    self.queue.add_after(key.clone(), delay);
                }
                "ok"
            }
            Ok(Err(error)) => self.failed(key, &error),
            Err(_) => {
                tracing::error!(controller = self.name, %key, "reconcile panicked");
                self.queue.retry(key.clone());
                "panic"
            }
        };
        self.metrics
            .reconciled(self.name, result, started.elapsed());
    }

    fn failed(&self, key: &ObjectKey, error: &Error) -> &'static str {
        self.metrics.retried(self.name);
        let delay = self.queue.retry(key.clone());
        if error.is_conflict() {
            tracing::debug!(controller = self.name, %key, %error, ?delay, "outdated; trying again");
            return "conflict";
        }
        tracing::warn!(controller = self.name, %key, %error, ?delay, "reconcile failed; trying again");
        "error"
    }
}
