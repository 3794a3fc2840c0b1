//! What is counted about each controller.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Counters of all controllers of a process, labelled by controller.
#[derive(Debug, Clone)]
pub struct Metrics {
    reconciles: IntCounterVec,
    seconds: HistogramVec,
    depth: IntGaugeVec,
    retries: IntCounterVec,
    relists: IntCounterVec,
    events_dropped: IntCounterVec,
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
            depth: IntGaugeVec::new(
                Opts::new(
                    "corral_controller_queue_depth",
                    "Keys that wait to be worked on.",
                ),
                labels,
            )
            .expect("valid metric"),
            retries: IntCounterVec::new(
                Opts::new(
                    "corral_controller_retries_total",
                    "Keys put back after a failure.",
                ),
                labels,
            )
            .expect("valid metric"),
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
        let collectors: [Box<dyn prometheus::core::Collector>; 6] = [
            Box::new(metrics.reconciles.clone()),
            Box::new(metrics.seconds.clone()),
            Box::new(metrics.depth.clone()),
            Box::new(metrics.retries.clone()),
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
    }

    pub(crate) fn depth(&self, controller: &str, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.depth.with_label_values(&[controller]).set(depth);
    }

    pub(crate) fn retried(&self, controller: &str) {
        self.retries.with_label_values(&[controller]).inc();
    }

    pub(crate) fn listed(&self, resource: &str) {
        self.relists.with_label_values(&[resource]).inc();
    }

    pub(crate) fn event_dropped(&self, reason: &str) {
        self.events_dropped.with_label_values(&[reason]).inc();
    }
}
