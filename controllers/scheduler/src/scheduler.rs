//! The loop: take changes in, give ready pods a node, bind beside it.

use std::collections::HashMap;
use std::sync::Arc;

use corral_api::k8s::api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_api::time::{Time, truncate_to_seconds};
use corral_runtime::key::Object;
use corral_runtime::{
    CacheFactory, Clock, Error, Metrics, ObjectKey, Objects, Recorder, Tasks, WorkQueue,
};
use kube::core::Request;
use kube::core::params::PostParams;
use kube::{Client, Resource};
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::classes::{Classes, no_fit_message};
use crate::plugins::Plugins;
use crate::queue::Queue;
use crate::requests::PodInfo;
use crate::snapshot::Snapshot;

/// Bindings under way together; more would only queue in the server.
const BINDINGS_MAX: usize = 128;
/// Pods scheduled before changes are looked at again.
const TURN_MAX: usize = 64;

/// What the scheduler is started with.
pub struct SchedulerConfig {
    /// A client with the scheduler's identity.
    pub client: Client,
    /// Caches shared with other parts of the process; made here when absent.
    pub caches: Option<CacheFactory>,
    /// Where metrics are registered.
    pub registry: Registry,
    /// Ends everything.
    pub shutdown: CancellationToken,
    /// Pods that name this scheduler are ours.
    pub scheduler_name: String,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What decides.
    pub plugins: Plugins,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Changed {
    Pod(ObjectKey),
    Node(String),
}

struct Bound {
    key: ObjectKey,
    uid: String,
    error: Option<Error>,
}

#[derive(Clone)]
struct SchedulerMetrics {
    attempts: IntCounterVec,
    seconds: Histogram,
    pending: IntGauge,
}

impl SchedulerMetrics {
    fn register(registry: &Registry) -> Self {
        let attempts = Opts::new(
            "corral_scheduler_attempts_total",
            "Attempts to give a pod a node, by result.",
        );
        let seconds = HistogramOpts::new(
            "corral_scheduler_attempt_seconds",
            "Time to choose a node for a pod.",
        )
        .buckets(vec![0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0]);
        let metrics = Self {
            attempts: IntCounterVec::new(attempts, &["result"]).expect("valid metric"),
            seconds: Histogram::with_opts(seconds).expect("valid metric"),
            pending: IntGauge::new("corral_scheduler_pending_pods", "Pods without a node.")
                .expect("valid metric"),
        };
        for collector in metrics.collectors() {
            if let Err(error) = registry.register(collector) {
                tracing::debug!(%error, "metric is registered already");
            }
        }
        metrics
    }

    /// Makes room for the metrics of the next term, if there is one.
    fn unregister(&self, registry: &Registry) {
        for collector in self.collectors() {
            if let Err(error) = registry.unregister(collector) {
                tracing::debug!(%error, "metric was not registered");
            }
        }
    }

    fn collectors(&self) -> [Box<dyn prometheus::core::Collector>; 3] {
        [
            Box::new(self.attempts.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.pending.clone()),
        ]
    }
}

/// Runs the scheduler until shutdown.
pub async fn start(config: SchedulerConfig) {
    let tasks = Tasks::new(config.shutdown.clone());
    let caches = config.caches.unwrap_or_else(|| {
        let metrics = Metrics::register(&config.registry);
        CacheFactory::new(config.client.clone(), metrics, tasks.clone())
            .trimming(corral_runtime::trim::pod)
    });
    // Caches that outlive us must not go on waking our queue.
    let caches = caches.during(config.shutdown.clone());
    let metrics = caches.metrics().clone();
    let pods = caches.objects::<Pod>(&config.client);
    let nodes = caches.cache::<Node>();
    let changes = Arc::new(WorkQueue::default());
    feed(pods.cache(), &changes, |meta| {
        Changed::Pod(ObjectKey::of(meta))
    });
    feed(&nodes, &changes, |meta| {
        Changed::Node(meta.name.clone().unwrap_or_default())
    });
    let (sender, receiver) = mpsc::channel(BINDINGS_MAX);
    let events = Recorder::new(
        config.client.clone(),
        &config.scheduler_name,
        Arc::clone(&config.clock),
        &metrics,
        &tasks,
    );
    let counters = SchedulerMetrics::register(&config.registry);
    let scheduler = Scheduler {
        client: config.client,
        name: config.scheduler_name,
        pods,
        nodes,
        events,
        clock: config.clock,
        plugins: config.plugins,
        metrics: counters.clone(),
        tasks: tasks.clone(),
        changes,
        bound: sender,
        snapshot: Snapshot::default(),
        classes: Classes::default(),
        queue: Queue::default(),
        assumed: HashMap::new(),
        binding: 0,
    };
    tasks.spawn("scheduler", scheduler.run(receiver));
    config.shutdown.cancelled().await;
    tasks.join().await;
    counters.unregister(&config.registry);
}

fn feed<K: Object>(
    cache: &corral_runtime::Cache<K>,
    changes: &Arc<WorkQueue<Changed>>,
    changed: fn(&ObjectMeta) -> Changed,
) {
    let changes = Arc::clone(changes);
    cache.listen(move |change| changes.add(changed(change.latest().meta())));
}

struct Scheduler {
    client: Client,
    name: String,
    pods: Objects<Pod>,
    nodes: corral_runtime::Cache<Node>,
    events: Recorder,
    clock: Arc<dyn Clock>,
    plugins: Plugins,
    metrics: SchedulerMetrics,
    tasks: Tasks,
    changes: Arc<WorkQueue<Changed>>,
    bound: mpsc::Sender<Bound>,
    snapshot: Snapshot,
    classes: Classes,
    queue: Queue,
    /// Pods given a node that the watch has not shown there yet: by key, the uid.
    assumed: HashMap<ObjectKey, String>,
    binding: usize,
}

impl Scheduler {
    async fn run(mut self, mut bound: mpsc::Receiver<Bound>) {
        self.pods.cache().wait_for_sync().await;
        self.nodes.wait_for_sync().await;
        loop {
            self.wait(&mut bound).await;
            self.take_waiting(&mut bound).await;
            self.queue.advance();
            for _ in 0..TURN_MAX {
                if self.binding >= BINDINGS_MAX {
                    break;
                }
                let Some(pod) = self.queue.pop() else { break };
                self.schedule(&pod);
            }
            self.metrics
                .pending
                .set(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
        }
    }

    /// Waits until there is anything to do.
    async fn wait(&mut self, bound: &mut mpsc::Receiver<Bound>) {
        if self.queue.has_ready() && self.binding < BINDINGS_MAX {
            return tokio::task::yield_now().await;
        }
        let timer = self.queue.next_timer();
        let changes = Arc::clone(&self.changes);
        tokio::select! {
            changed = changes.next() => if let Some(changed) = changed { self.take(changed) },
            Some(done) = bound.recv() => self.bound(done),
            () = async { tokio::time::sleep_until(timer.expect("guarded")).await }, if timer.is_some() => {}
        }
    }

    /// Takes everything in that is there already.
    async fn take_waiting(&mut self, bound: &mut mpsc::Receiver<Bound>) {
        while let Ok(done) = bound.try_recv() {
            self.bound(done);
        }
        while !self.changes.is_empty() {
            if let Some(changed) = self.changes.next().await {
                self.take(changed);
            }
        }
    }

    fn take(&mut self, changed: Changed) {
        match &changed {
            Changed::Node(name) => match self.nodes.get(&ObjectKey::cluster(name)) {
                Some(node) => {
                    if self.snapshot.set_node(node) {
                        self.queue.wake_unschedulable();
                    }
                }
                None => self.snapshot.remove_node(name),
            },
            Changed::Pod(key) => self.take_pod(key),
        }
        self.changes.done(&changed);
    }

    fn take_pod(&mut self, key: &ObjectKey) {
        let pod = self.pods.get(key);
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        let assumed = self.assumed.get(key).cloned();
        if assumed.is_some() && assumed != uid {
            // The pod that was on its way is gone; another may have its name.
            self.forget(key);
        }
        let Some(pod) = pod else {
            self.queue.remove(key);
            return self.released_by_name(key);
        };
        let ended = matches!(
            pod.status
                .as_ref()
                .and_then(|status| status.phase.as_deref()),
            Some("Succeeded" | "Failed")
        );
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .filter(|node| !node.is_empty());
        let info = PodInfo::new(pod);
        self.known_uid(key, &info.uid);
        match node {
            _ if ended => {
                self.queue.remove(key);
                self.assumed.remove(key);
                if self.snapshot.remove(&info.uid) {
                    self.queue.wake_unschedulable();
                }
            }
            Some(node) => {
                self.queue.remove(key);
                self.assumed.remove(key);
                self.snapshot.place(&info, &node);
            }
            None if self.assumed.contains_key(key) => {}
            None if self.is_ours(&info) => self.queue.put(info),
            None => self.queue.remove(key),
        }
    }

    /// Whether a pod without a node is for us to place now.
    fn is_ours(&self, pod: &PodInfo) -> bool {
        let spec = pod.spec();
        let name = spec
            .scheduler_name
            .as_deref()
            .unwrap_or("default-scheduler");
        let gated = spec
            .scheduling_gates
            .as_ref()
            .is_some_and(|gates| !gates.is_empty());
        name == self.name && !gated && pod.pod.metadata.deletion_timestamp.is_none()
    }

    fn schedule(&mut self, pod: &PodInfo) {
        let timer = self.metrics.seconds.start_timer();
        let n_nodes = self.snapshot.n_nodes();
        let refused = self
            .plugins
            .pre_filters
            .iter()
            .find_map(|plugin| plugin.pre_filter(pod).err());
        let outcome = match refused {
            Some(reason) => Err(format!("0/{n_nodes} nodes are available: {reason}.")),
            None => self
                .classes
                .best(&self.plugins, &self.snapshot, pod)
                .map_err(|reasons| no_fit_message(n_nodes, &reasons)),
        };
        timer.observe_duration();
        match outcome {
            Ok(slot) => {
                let node = self
                    .snapshot
                    .node(slot)
                    .and_then(|node| node.metadata.name.clone());
                self.assume(pod, node.expect("a node that was chosen has a name"));
            }
            Err(message) => self.refuse(pod, message),
        }
    }

    fn assume(&mut self, pod: &PodInfo, node: String) {
        self.metrics
            .attempts
            .with_label_values(&["scheduled"])
            .inc();
        self.snapshot.place(pod, &node);
        self.assumed.insert(pod.key.clone(), pod.uid.clone());
        self.binding += 1;
        let (client, events, sender) =
            (self.client.clone(), self.events.clone(), self.bound.clone());
        let pod = pod.clone();
        self.tasks.spawn("bind", async move {
            let error = bind(&client, &pod, &node).await.err();
            if error.is_none() {
                let text = format!("Successfully assigned {} to {node}", pod.key);
                events.normal(&*pod.pod, "Scheduled", text);
            }
            let done = Bound {
                key: pod.key,
                uid: pod.uid,
                error,
            };
            // The receiver ends only with the scheduler itself.
            let _ = sender.send(done).await;
        });
    }

    fn bound(&mut self, done: Bound) {
        self.binding -= 1;
        let Some(error) = done.error else { return };
        self.metrics
            .attempts
            .with_label_values(&["bind-error"])
            .inc();
        tracing::debug!(pod = %done.key, %error, "binding failed");
        if self.assumed.get(&done.key) == Some(&done.uid) {
            self.forget(&done.key);
            self.queue.failed(&done.key);
        }
    }

    fn forget(&mut self, key: &ObjectKey) {
        if let Some(uid) = self.assumed.remove(key) {
            self.snapshot.remove(&uid);
            self.queue.wake_unschedulable();
        }
    }

    fn refuse(&mut self, pod: &PodInfo, mut message: String) {
        self.metrics
            .attempts
            .with_label_values(&["unschedulable"])
            .inc();
        let helped = self
            .plugins
            .post_filters
            .iter()
            .filter_map(|p| p.post_filter(pod, &self.snapshot));
        for help in helped {
            message.push(' ');
            message.push_str(&help);
        }
        self.queue.unschedulable(&pod.key);
        self.events
            .warning(&*pod.pod, "FailedScheduling", message.clone());
        let Some(patch) = unschedulable_patch(&pod.pod, &message, self.clock.now()) else {
            return;
        };
        let (pods, pod) = (self.pods.clone(), Arc::clone(&pod.pod));
        self.tasks.spawn("report unschedulable", async move {
            if let Err(error) = pods.patch_status(&pod, patch).await {
                // A pod that changed meanwhile is looked at again, and reported again.
                tracing::debug!(%error, "condition not written");
            }
        });
    }
}

impl Scheduler {
    /// Remembers which uid a key stands for, so that the pod's deletion can be accounted to it.
    fn known_uid(&mut self, key: &ObjectKey, uid: &str) {
        if let Some(old) = self.snapshot.rename(key, uid)
            && self.snapshot.remove(&old)
        {
            self.queue.wake_unschedulable();
        }
    }

    fn released_by_name(&mut self, key: &ObjectKey) {
        if let Some(old) = self.snapshot.forget_name(key)
            && self.snapshot.remove(&old)
        {
            self.queue.wake_unschedulable();
        }
    }
}

async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.key.name.clone()),
            namespace: Some(pod.key.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let request = Request::new(Pod::url_path(&(), pod.key.scope()));
    let body = serde_json::to_vec(&binding)?;
    let request =
        request.create_subresource("binding", &pod.key.name, &PostParams::default(), body)?;
    client.request::<Value>(request).await?;
    Ok(())
}

/// The condition that says why a pod has no node; nothing if it says so already.
fn unschedulable_patch(pod: &Pod, message: &str, now: jiff::Timestamp) -> Option<Value> {
    let mut conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let known = conditions
        .iter()
        .position(|condition| condition.type_ == "PodScheduled");
    let known = known.map(|at| conditions.remove(at));
    let same = |known: &PodCondition| {
        known.status == "False" && known.reason.as_deref() == Some("Unschedulable")
    };
    if known
        .as_ref()
        .is_some_and(|k| same(k) && k.message.as_deref() == Some(message))
    {
        return None;
    }
    let since = known
        .filter(|known| known.status == "False")
        .and_then(|known| known.last_transition_time);
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or(Time(truncate_to_seconds(now)))),
        ..PodCondition::default()
    });
    Some(json!({"status": {"conditions": conditions}}))
}
