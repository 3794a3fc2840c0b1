//! What is measured of conversions, under the names that dashboards for kube-apiserver use.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Seconds, as in kube-apiserver: from a millisecond on, each twice the one before.
const KIND_BUCKETS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];
/// Seconds, as in kube-apiserver.
const REVIEW_BUCKETS: [f64; 15] = [
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0,
];

/// Why a review failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The webhook could not be asked.
    Call,
    /// The answer is none, or says no.
    Malformed,
    /// The answer has not as many objects as the question.
    Partial,
    /// An object of the answer is none, or another.
    Invalid,
}

impl Fault {
    fn as_str(self) -> &'static str {
        match self {
            Self::Call => "conversion_webhook_call_failure",
            Self::Malformed => "conversion_webhook_malformed_response_failure",
            Self::Partial => "conversion_webhook_partial_response_failure",
            Self::Invalid => "conversion_webhook_invalid_converted_object_failure",
        }
    }
}

/// The metrics.
pub struct Metrics {
    kinds: HistogramVec,
    requests: IntCounterVec,
    durations: HistogramVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            HistogramVec::new(
                HistogramOpts::new(name, help).buckets(buckets.to_vec()),
                labels,
            )
        };
        let metrics = Self {
            kinds: histogram(
                "apiserver_crd_conversion_webhook_duration_seconds",
                "Time that conversions of a kind took.",
                &KIND_BUCKETS,
                &["crd_name", "from_version", "to_version", "succeeded"],
            )?,
            requests: IntCounterVec::new(
                Opts::new(
                    "apiserver_conversion_webhook_request_total",
                    "Reviews sent to conversion webhooks.",
                ),
                &["result", "failure_type"],
            )?,
            durations: histogram(
                "apiserver_conversion_webhook_duration_seconds",
                "Time that conversion webhooks took.",
                &REVIEW_BUCKETS,
                &["result", "failure_type"],
            )?,
        };
        registry.register(Box::new(metrics.kinds.clone()))?;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.durations.clone()))?;
        Ok(metrics)
    }

    /// Counts one review.
    pub fn reviewed(&self, took: Duration, fault: Option<Fault>) {
        let result = if fault.is_some() {
            "failure"
        } else {
            "success"
        };
        let labels = [result, fault.map_or("", Fault::as_str)];
        self.requests.with_label_values(&labels).inc();
        let durations = self.durations.with_label_values(&labels);
        durations.observe(took.as_secs_f64());
    }

    /// Counts one conversion; the labels are the name of the definition and both versions.
    pub fn converted(&self, labels: [&str; 3], succeeded: bool, took: Duration) {
        let [definition, from, to] = labels;
        let succeeded = if succeeded { "true" } else { "false" };
        let kinds = self
            .kinds
            .with_label_values(&[definition, from, to, succeeded]);
        kinds.observe(took.as_secs_f64());
    }
}
