//! What is measured of policies, under the names that dashboards for kube-apiserver use.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Seconds, as in kube-apiserver.
const BUCKETS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// The write passed although something went wrong.
    Allow,
    /// It was refused.
    Deny,
    /// The audit log tells it.
    Audit,
    /// The client is warned.
    Warn,
}

impl Enforcement {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
            Self::Warn => "warn",
        }
    }
}

/// The metrics.
pub struct Metrics {
    validating: (IntCounterVec, HistogramVec),
    mutating: (IntCounterVec, HistogramVec),
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let pair = |subsystem: &str, labels: &[&str]| -> prometheus::Result<_> {
            let name = |name: &str| format!("apiserver_{subsystem}_admission_policy_{name}");
            let total = Opts::new(name("check_total"), "Checks by policies.");
            let total = IntCounterVec::new(total, labels)?;
            let seconds = HistogramOpts::new(
                name("check_duration_seconds"),
                "Time that expressions of policies took.",
            );
            let seconds = HistogramVec::new(seconds.buckets(BUCKETS.to_vec()), labels)?;
            registry.register(Box::new(total.clone()))?;
            registry.register(Box::new(seconds.clone()))?;
            Ok((total, seconds))
        };
        let labels = [
            "policy",
            "policy_binding",
            "error_type",
            "enforcement_action",
        ];
        Ok(Self {
            validating: pair("validating", &labels)?,
            mutating: pair("mutating", &labels[..3])?,
        })
    }

    /// Counts a check by a validating policy.
    pub fn validated(
        &self,
        (policy, binding): (&str, &str),
        error: Option<&str>,
        enforcement: Enforcement,
        took: Duration,
    ) {
        let labels = [policy, binding, error_type(error), enforcement.as_str()];
        let (total, seconds) = &self.validating;
        total.with_label_values(&labels).inc();
        seconds
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }

    /// Counts a change by a mutating policy.
    pub fn mutated(&self, (policy, binding): (&str, &str), error: Option<&str>, took: Duration) {
        let labels = [policy, binding, error_type(error)];
        let (total, seconds) = &self.mutating;
        total.with_label_values(&labels).inc();
        seconds
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }
}

fn error_type(error: Option<&str>) -> &'static str {
    match error {
        None => "no_error",
        Some(error) if error.starts_with("compilation") => "compile_error",
        Some(error) if error.contains("running out of cost budget") => "out_of_budget",
        Some(_) => "invalid_error",
    }
}
