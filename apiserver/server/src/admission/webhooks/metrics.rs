//! What is measured of webhooks, under the names that dashboards for kube-apiserver use.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Seconds, as in kube-apiserver.
const BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
/// Codes above are told as this one, so that a webhook cannot grow the set of labels.
const CODE_MAX: u16 = 600;

/// How a webhook was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It let the write pass.
    Passed,
    /// It refused, with a code.
    Rejected(u16),
    /// It could not be asked, and the write failed.
    Failed(u16),
    /// It could not be asked, and the write passed.
    FailedOpen(u16),
    /// The server could not ask it, or not make use of its answer.
    Impossible,
}

/// The metrics.
pub struct Metrics {
    duration: HistogramVec,
    requests: IntCounterVec,
    rejections: IntCounterVec,
    failed_open: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let name = format!("apiserver_admission_{name}");
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let duration = HistogramOpts::new(
            "apiserver_admission_webhook_admission_duration_seconds",
            "Time that webhooks took.",
        );
        let metrics = Self {
            duration: HistogramVec::new(
                duration.buckets(BUCKETS.to_vec()),
                &["name", "type", "operation", "rejected"],
            )?,
            requests: counter(
                "webhook_request_total",
                "Webhooks asked.",
                &["name", "type", "operation", "code", "rejected"],
            )?,
            rejections: counter(
                "webhook_rejection_count",
                "Writes refused by webhooks, or failed with them.",
                &["name", "type", "operation", "error_type", "rejection_code"],
            )?,
            failed_open: counter(
                "webhook_fail_open_count",
                "Webhooks that failed while the write passed.",
                &["name", "type"],
            )?,
        };
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.rejections.clone()))?;
        registry.register(Box::new(metrics.failed_open.clone()))?;
        Ok(metrics)
    }

    /// Counts one question; the labels are name, type and operation.
    pub fn observe(&self, labels: (&str, &str, &str), outcome: Outcome, took: Duration) {
        let (name, type_, operation) = labels;
        let (code, error) = match outcome {
            Outcome::Passed => (200, None),
            Outcome::Rejected(code) => (code, Some("no_error")),
            Outcome::Failed(code) => (code, Some("calling_webhook_error")),
            Outcome::FailedOpen(code) => (code, None),
            Outcome::Impossible => (0, Some("apiserver_internal_error")),
        };
        let code = code.min(CODE_MAX).to_string();
        let rejected = if error.is_some() { "true" } else { "false" };
        let duration = self
            .duration
            .with_label_values(&[name, type_, operation, rejected]);
        duration.observe(took.as_secs_f64());
        let requests = [name, type_, operation, &code, rejected];
        self.requests.with_label_values(&requests).inc();
        if let Some(error) = error {
            let labels = [name, type_, operation, error, &code];
            self.rejections.with_label_values(&labels).inc();
        }
        if matches!(outcome, Outcome::FailedOpen(_)) {
            self.failed_open.with_label_values(&[name, type_]).inc();
        }
    }
}
