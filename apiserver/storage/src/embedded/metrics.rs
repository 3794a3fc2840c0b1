//! What the embedded store tells Prometheus.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

/// Metrics of one embedded store. `EmbeddedMetrics::default()` counts without being registered anywhere.
#[derive(Debug, Clone)]
pub struct EmbeddedMetrics {
    pub(super) batch_transactions: Histogram,
    pub(super) commit_seconds: Histogram,
    pub(super) commit_failures: IntCounter,
    pub(super) watchers: IntGauge,
    pub(super) watchers_too_slow: IntCounter,
    pub(super) file_bytes: IntGauge,
    pub(super) compacted_revision: IntGauge,
}

impl EmbeddedMetrics {
    /// Metrics registered in `registry`.
    ///
    /// # Errors
    /// When the registry already has metrics of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::default();
        registry.register(Box::new(metrics.batch_transactions.clone()))?;
        registry.register(Box::new(metrics.commit_seconds.clone()))?;
        registry.register(Box::new(metrics.commit_failures.clone()))?;
        registry.register(Box::new(metrics.watchers.clone()))?;
        registry.register(Box::new(metrics.watchers_too_slow.clone()))?;
        registry.register(Box::new(metrics.file_bytes.clone()))?;
        registry.register(Box::new(metrics.compacted_revision.clone()))?;
        Ok(metrics)
    }
}

impl Default for EmbeddedMetrics {
    fn default() -> Self {
        let batch = HistogramOpts::new(
            "corral_storage_batch_transactions",
            "Transactions that shared one durable commit.",
        )
        .buckets(vec![1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024.]);
        let seconds = HistogramOpts::new(
            "corral_storage_commit_seconds",
            "Time of one durable commit of a batch, fsync included.",
        )
        .buckets(vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5,
        ]);
        Self {
            batch_transactions: histogram(batch),
            commit_seconds: histogram(seconds),
            commit_failures: counter(
                "corral_storage_commit_failures_total",
                "Batches that could not be committed.",
            ),
            watchers: gauge("corral_storage_watchers", "Watches that are open."),
            watchers_too_slow: counter(
                "corral_storage_watchers_too_slow_total",
                "Watches ended because their buffer was full.",
            ),
            file_bytes: IntGauge::with_opts(
                // The name and label that dashboards for kube-apiserver use.
                Opts::new(
                    "apiserver_storage_size_bytes",
                    "Length of the store's file.",
                )
                .const_label("storage_cluster_id", "embedded"),
            )
            .expect("the name is a constant and valid"),
            compacted_revision: gauge(
                "corral_storage_compacted_revision",
                "Oldest revision that can be read.",
            ),
        }
    }
}

fn histogram(opts: HistogramOpts) -> Histogram {
    Histogram::with_opts(opts).expect("the name and buckets are constants and valid")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("the name is a constant and valid")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("the name is a constant and valid")
}
