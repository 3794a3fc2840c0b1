//! How long each plugin takes, and each step of admission as a whole.

use std::time::Instant;

use prometheus::{HistogramOpts, HistogramVec, Registry};

use super::plugins::Plugins;

/// Seconds, as in kube-apiserver.
const SECONDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

/// What is measured of admission.
pub struct Metrics {
    plugins: HistogramVec,
    steps: HistogramVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(format!("apiserver_admission_{name}"), help);
            let histogram = HistogramVec::new(options.buckets(SECONDS.to_vec()), labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        Ok(Self {
            plugins: histogram(
                "controller_admission_duration_seconds",
                "Time that an admission plugin takes.",
                &["name", "operation", "rejected", "type"],
            )?,
            steps: histogram(
                "step_admission_duration_seconds",
                "Time that all of admission takes, those who change objects and those who look at them.",
                &["operation", "rejected", "type"],
            )?,
        })
    }

    /// Begins a step.
    pub fn begin(&self, operation: &'static str, step: &'static str) -> Laps<'_> {
        let now = Instant::now();
        Laps {
            metrics: self,
            operation,
            step,
            began: now,
            lap: None,
            rejected: true,
        }
    }
}

/// One step, plugin by plugin. One that is dropped before it has passed has been rejected, by the plugin that ran last.
pub struct Laps<'a> {
    metrics: &'a Metrics,
    operation: &'static str,
    step: &'static str,
    began: Instant,
    lap: Option<(&'static str, Instant)>,
    rejected: bool,
}

impl Laps<'_> {
    /// Whether a plugin runs; if so, it does from here on.
    pub fn run(&mut self, plugins: &Plugins, name: &'static str) -> bool {
        if !plugins.run(name) {
            return false;
        }
        let now = Instant::now();
        self.end_lap(now, "false");
        self.lap = Some((name, now));
        true
    }

    fn end_lap(&mut self, now: Instant, rejected: &str) {
        if let Some((name, began)) = self.lap.take() {
            let labels = [name, self.operation, rejected, self.step];
            let plugin = self.metrics.plugins.with_label_values(&labels);
            plugin.observe(now.duration_since(began).as_secs_f64());
        }
    }

    /// No plugin runs from here on.
    pub fn pause(&mut self) {
        self.end_lap(Instant::now(), "false");
    }

    /// The step has passed.
    pub fn pass(mut self) {
        self.rejected = false;
    }
}

impl Drop for Laps<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let rejected = if self.rejected { "true" } else { "false" };
        self.end_lap(now, rejected);
        let labels = [self.operation, rejected, self.step];
        let step = self.metrics.steps.with_label_values(&labels);
        step.observe(now.duration_since(self.began).as_secs_f64());
    }
}
