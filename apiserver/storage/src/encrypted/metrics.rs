//! What is counted of sealing and opening, by the names that kube-apiserver gives it.

use std::time::{Duration, Instant};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    exponential_buckets,
};

mod envelope;

use self::envelope::EnvelopeMetrics;
use super::Failure;

/// Bounds of the histograms: from 5 µs, doubling.
const BUCKETS_START: f64 = 5e-6;
const TRANSFORMATION_BUCKETS: usize = 25;
const KEY_BUCKETS: usize = 14;

/// The status of what went well, and of what failed without a plugin's answer.
const OK: &str = "OK";
const UNKNOWN: &str = "unknown-non-grpc";

fn status<T>(outcome: &Result<T, Failure>) -> &'static str {
    match outcome {
        Ok(_) => OK,
        Err(failure) => failure.code.unwrap_or(UNKNOWN),
    }
}

/// Which way a value goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    From,
    To,
}

impl Way {
    /// As a label says it.
    fn as_str(self) -> &'static str {
        match self {
            Self::From => "from_storage",
            Self::To => "to_storage",
        }
    }
}

/// Counters of the layer.
#[derive(Debug, Clone)]
pub struct EncryptionMetrics {
    durations: HistogramVec,
    operations: IntCounterVec,
    cache_misses: IntCounter,
    key_durations: Histogram,
    key_failures: IntCounter,
    pub(super) envelope: EnvelopeMetrics,
}

impl EncryptionMetrics {
    /// Counters that a registry shows.
    ///
    /// # Errors
    /// When the names are taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let name = |what: &str| format!("apiserver_storage_{what}");
        let metrics = Self {
            durations: HistogramVec::new(
                HistogramOpts::new(
                    name("transformation_duration_seconds"),
                    "Latencies in seconds of value transformation operations.",
                )
                .buckets(exponential_buckets(
                    BUCKETS_START,
                    2.0,
                    TRANSFORMATION_BUCKETS,
                )?),
                &["transformation_type", "transformer_prefix"],
            )?,
            operations: IntCounterVec::new(
                Opts::new(
                    name("transformation_operations_total"),
                    "Total number of transformations, by their outcome.",
                ),
                &[
                    "resource",
                    "transformation_type",
                    "transformer_prefix",
                    "status",
                ],
            )?,
            cache_misses: IntCounter::new(
                name("envelope_transformation_cache_misses_total"),
                "Total number of keys that a plugin was asked to decrypt.",
            )?,
            key_durations: Histogram::with_opts(
                HistogramOpts::new(
                    name("data_key_generation_duration_seconds"),
                    "Latencies in seconds of generating keys of data.",
                )
                .buckets(exponential_buckets(BUCKETS_START, 2.0, KEY_BUCKETS)?),
            )?,
            key_failures: IntCounter::new(
                name("data_key_generation_failures_total"),
                "Total number of keys of data that could not be generated.",
            )?,
            envelope: EnvelopeMetrics::register(registry)?,
        };
        registry.register(Box::new(metrics.durations.clone()))?;
        registry.register(Box::new(metrics.operations.clone()))?;
        registry.register(Box::new(metrics.cache_misses.clone()))?;
        registry.register(Box::new(metrics.key_durations.clone()))?;
        registry.register(Box::new(metrics.key_failures.clone()))?;
        Ok(metrics)
    }

    /// The same for the server of a machine, by which keys that it uses are counted.
    pub fn of_host(mut self, host: &str) -> Self {
        self.envelope.of_host(host);
        self
    }

    /// Counts an attempt; `resource` is empty for what is none.
    pub(super) fn record<T>(
        &self,
        resource: &str,
        way: Way,
        prefix: &str,
        took: Duration,
        outcome: &Result<T, Failure>,
    ) {
        let status = status(outcome);
        self.operations
            .with_label_values(&[resource, way.as_str(), prefix, status])
            .inc();
        if outcome.is_ok() {
            self.durations
                .with_label_values(&[way.as_str(), prefix])
                .observe(took.as_secs_f64());
        }
    }

    pub(super) fn cache_miss(&self) {
        self.cache_misses.inc();
    }

    pub(super) fn key_generated(&self, began: Instant, well: bool) {
        match well {
            true => self.key_durations.observe(began.elapsed().as_secs_f64()),
            false => self.key_failures.inc(),
        }
    }
}
