//! What is measured of servers of others, under the names that dashboards for kube-apiserver use.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// The metrics.
pub struct Metrics {
    now: IntGaugeVec,
    total: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            now: IntGaugeVec::new(
                Opts::new(
                    "aggregator_unavailable_apiservice",
                    "APIServices that are not available.",
                ),
                &["name"],
            )?,
            total: IntCounterVec::new(
                Opts::new(
                    "aggregator_unavailable_apiservice_total",
                    "How often an APIService has become unavailable, and why.",
                ),
                &["name", "reason"],
            )?,
        };
        registry.register(Box::new(metrics.now.clone()))?;
        registry.register(Box::new(metrics.total.clone()))?;
        Ok(metrics)
    }

    /// Tells whether an APIService is there; `was`: whether it was before.
    pub fn observe(&self, name: &str, available: bool, was: bool, reason: &str) {
        self.now
            .with_label_values(&[name])
            .set(i64::from(!available));
        if was && !available {
            self.total.with_label_values(&[name, reason]).inc();
        }
    }

    /// Forgets one that has gone.
    pub fn forget(&self, name: &str) {
        // It is not there if it was never looked at.
        let _ = self.now.remove_label_values(&[name]);
    }
}
