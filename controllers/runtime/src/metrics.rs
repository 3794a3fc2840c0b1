//! What is counted about each controller. What Kubernetes counts of the queues of its controllers has the same names here.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Counters of all controllers of a process, labelled by controller.
#[derive(Debug, Clone)]
pub struct Metrics {
    reconciles: IntCounterVec,
    seconds: HistogramVec,
    queues: Queues,
    relists: IntCounterVec,
    events_dropped: IntCounterVec,
}

/// The queues of keys.
#[derive(Debug, Clone)]
struct Queues {
    adds: IntCounterVec,
    depth: IntGaugeVec,
    retries: IntCounterVec,
    waits: HistogramVec,
    work: HistogramVec,
}

impl Queues {
    fn new() -> Self {
        /// Seconds, as Kubernetes' controllers have them.
        const SECONDS: [f64; 10] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0];
        let options = |name: &str, help: &str| Opts::new(format!("workqueue_{name}"), help);
        let counters =
            |name, help| IntCounterVec::new(options(name, help), &["name"]).expect("valid metric");
        let histograms = |name: &str, help: &str| {
            let options = prometheus::HistogramOpts::new(format!("workqueue_{name}"), help);
            HistogramVec::new(options.buckets(SECONDS.to_vec()), &["name"]).expect("valid metric")
        };
        let depth = options("depth", "Keys that wait to be worked on.");
        Self {
            adds: counters("adds_total", "Keys that came to wait."),
            depth: IntGaugeVec::new(depth, &["name"]).expect("valid metric"),
            retries: counters("retries_total", "Keys put back after a failure."),
            waits: histograms("queue_duration_seconds", "How long keys waited."),
            work: histograms("work_duration_seconds", "How long the work on a key took."),
        }
    }
}

impl Metrics {
    /// Makes the counters and registers them; a second registration in one registry shares nothing and is refused
    /// silently by the registry, which only happens when two sets of controllers run in one process.
    pub fn register(registry: &Registry) -> Self {
        let labels = &["controller"];
        let metrics = Self {
            reconciles: IntCounterVec::new(
                Opts::new(
                    "corral_controller_reconciles_total",
                    "Reconciles by outcome.",
                ),
                &["controller", "result"],
            )
            .expect("valid metric"),
            seconds: HistogramVec::new(
                prometheus::HistogramOpts::new(
                    "corral_controller_reconcile_seconds",
                    "Time per reconcile.",
                )
                .buckets(vec![0.0005, 0.002, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0]),
                labels,
            )
            .expect("valid metric"),
            queues: Queues::new(),
            relists: IntCounterVec::new(
                Opts::new(
                    "corral_cache_lists_total",
                    "Full lists of a kind; one is normal.",
                ),
                &["resource"],
            )
            .expect("valid metric"),
            events_dropped: IntCounterVec::new(
                Opts::new(
                    "corral_events_dropped_total",
                    "Events not written because of a limit.",
                ),
                &["reason"],
            )
            .expect("valid metric"),
        };
        let collectors: [Box<dyn prometheus::core::Collector>; 9] = [
            Box::new(metrics.reconciles.clone()),
            Box::new(metrics.seconds.clone()),
            Box::new(metrics.queues.adds.clone()),
            Box::new(metrics.queues.depth.clone()),
            Box::new(metrics.queues.retries.clone()),
            Box::new(metrics.queues.waits.clone()),
            Box::new(metrics.queues.work.clone()),
            Box::new(metrics.relists.clone()),
            Box::new(metrics.events_dropped.clone()),
        ];
        for collector in collectors {
            if let Err(error) = registry.register(collector) {
                tracing::debug!(%error, "metric is registered already");
            }
        }
        metrics
    }

    pub(crate) fn reconciled(&self, controller: &str, result: &str, took: Duration) {
        self.reconciles
            .with_label_values(&[controller, result])
            .inc();
        self.seconds
            .with_label_values(&[controller])
            .observe(took.as_secs_f64());
        let work = self.queues.work.with_label_values(&[controller]);
        work.observe(took.as_secs_f64());
    }

    pub(crate) fn taken(&self, controller: &str, adds: u64, waited: Duration) {
        let labels = [controller];
        self.queues.adds.with_label_values(&labels).inc_by(adds);
        let waits = self.queues.waits.with_label_values(&labels);
        waits.observe(waited.as_secs_f64());
    }

    pub(crate) fn depth(&self, controller: &str, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        let gauge = self.queues.depth.with_label_values(&[controller]);
        gauge.set(depth);
    }

    pub(crate) fn retried(&self, controller: &str) {
        self.queues.retries.with_label_values(&[controller]).inc();
    }

    pub(crate) fn listed(&self, resource: &str) {
        self.relists.with_label_values(&[resource]).inc();
    }

    pub(crate) fn event_dropped(&self, reason: &str) {
        self.events_dropped.with_label_values(&[reason]).inc();
    }
}
