//! What is counted of plugins and their keys. Ids of keys are told hashed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

use super::super::Failure;
use super::super::kms::hash;
use super::{Way, status};

/// Keys that are told apart at a time, as in kube-apiserver: a plugin may name another with each answer.
const KEYS_MAX: usize = 100;
/// Bounds of the histogram: from 0.1 ms to a minute, doubling.
const LATENCY_START: f64 = 1e-4;
const LATENCY_BUCKETS: usize = 20;

/// Counters of plugins.
#[derive(Debug, Clone)]
pub struct EnvelopeMetrics {
    latencies: HistogramVec,
    used: IntCounterVec,
    used_last: GaugeVec,
    told_last: GaugeVec,
    invalid: IntCounterVec,
    sources: IntGaugeVec,
    server: Arc<str>,
    known: Arc<Mutex<Known>>,
}

/// The labels of what is counted by keys, those used last at the end. Guards nothing else.
#[derive(Debug, Default)]
struct Known {
    used: Vec<[String; 4]>,
    told: Vec<[String; 3]>,
}

/// Puts labels at the end; answers those that are one too many.
fn touch<const N: usize>(known: &mut Vec<[String; N]>, labels: [String; N]) -> Option<[String; N]> {
    if let Some(at) = known.iter().rposition(|other| *other == labels) {
        known.remove(at);
    }
    known.push(labels);
    (known.len() > KEYS_MAX).then(|| known.remove(0))
}

/// The name of the server of a machine, as kube-apiserver makes it: the first half of a digest in base 32.
fn server_id(host: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    const BITS: usize = 128;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, host.as_bytes());
    let bit = |at: usize| match at < BITS {
        true => digest.as_ref()[at / 8] >> (7 - at % 8) & 1,
        false => 0,
    };
    let digit = |group: usize| {
        let value = (5 * group..5 * group + 5).fold(0, |value, at| value << 1 | bit(at));
        char::from(ALPHABET[usize::from(value)])
    };
    let digits: String = (0..BITS.div_ceil(5)).map(digit).collect();
    format!("apiserver-{digits}")
}

fn now() -> f64 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0.0, |since| since.as_secs_f64())
}

impl EnvelopeMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let opts = |what: &str, help: &str| {
            let name = format!("apiserver_envelope_encryption_{what}");
            Opts::new(name, help)
        };
        let by_use = [
            "transformation_type",
            "provider_name",
            "key_id_hash",
            "apiserver_id_hash",
        ];
        let latencies = opts(
            "kms_operations_latency_seconds",
            "KMS operation duration with gRPC error code status total.",
        );
        let latencies = HistogramOpts::from(latencies).buckets(exponential_buckets(
            LATENCY_START,
            2.0,
            LATENCY_BUCKETS,
        )?);
        let metrics = Self {
            latencies: HistogramVec::new(
                latencies,
                &["provider_name", "method_name", "grpc_status_code"],
            )?,
            used: IntCounterVec::new(
                opts(
                    "key_id_hash_total",
                    "Number of times a key of a plugin was used.",
                ),
                &by_use,
            )?,
            used_last: GaugeVec::new(
                opts(
                    "key_id_hash_last_timestamp_seconds",
                    "The last time in seconds when a key of a plugin was used.",
                ),
                &by_use,
            )?,
            told_last: GaugeVec::new(
                opts(
                    "key_id_hash_status_last_timestamp_seconds",
                    "The last time in seconds when a plugin named its key.",
                ),
                &by_use[1..],
            )?,
            invalid: IntCounterVec::new(
                opts(
                    "invalid_key_id_from_status_total",
                    "Number of times a plugin named a key that cannot be one.",
                ),
                &["provider_name", "error"],
            )?,
            sources: IntGaugeVec::new(
                opts(
                    "dek_source_cache_size",
                    "Number of seeds of keys that are known without asking the plugin.",
                ),
                &["provider_name"],
            )?,
            server: "".into(),
            known: Arc::default(),
        };
        // Of plugins of version 1 of the API, of which there are none; kube-apiserver shows it without any, too.
        let filled = Gauge::with_opts(opts(
            "dek_cache_fill_percent",
            "Percent of the room for keys of version 1 of the KMS API that is taken.",
        ))?;
        registry.register(Box::new(filled))?;
        registry.register(Box::new(metrics.latencies.clone()))?;
        registry.register(Box::new(metrics.used.clone()))?;
        registry.register(Box::new(metrics.used_last.clone()))?;
        registry.register(Box::new(metrics.told_last.clone()))?;
        registry.register(Box::new(metrics.invalid.clone()))?;
        registry.register(Box::new(metrics.sources.clone()))?;
        Ok(metrics)
    }

    pub(super) fn of_host(&mut self, host: &str) {
        self.server = hash(&server_id(host)).into();
    }

    /// A plugin was asked.
    pub(in super::super) fn asked<T>(
        &self,
        provider: &str,
        method: &str,
        took: Duration,
        outcome: &Result<T, Failure>,
    ) {
        self.latencies
            .with_label_values(&[provider, method, status(outcome)])
            .observe(took.as_secs_f64());
    }

    /// A key of a plugin was used.
    pub(in super::super) fn used(&self, way: Way, provider: &str, key_id: &str) {
        let labels = [way.as_str(), provider, &hash(key_id), &self.server].map(str::to_owned);
        // Held while it is counted, so that what is removed is not made again.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.used.with_label_values(&labels).inc();
        self.used_last.with_label_values(&labels).set(now());
        if let Some(gone) = touch(&mut known.used, labels) {
            // Nobody else removes them.
            let _ = self.used.remove_label_values(&gone);
            let _ = self.used_last.remove_label_values(&gone);
        }
    }

    /// A plugin has named its key.
    pub(in super::super) fn told(&self, provider: &str, key_id: &str) {
        let labels = [provider, &hash(key_id), &self.server].map(str::to_owned);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.told_last.with_label_values(&labels).set(now());
        if let Some(gone) = touch(&mut known.told, labels) {
            let _ = self.told_last.remove_label_values(&gone);
        }
    }

    /// A plugin has named what is no key.
    pub(in super::super) fn invalid(&self, provider: &str, key_id: &str) {
        let error = match key_id.is_empty() {
            true => "empty",
            false => "too_long",
        };
        self.invalid.with_label_values(&[provider, error]).inc();
    }

    /// So many seeds are known.
    pub(in super::super) fn seeds(&self, provider: &str, n: usize) {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.sources.with_label_values(&[provider]).set(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_the_name_that_kubernetes_gives_it() {
        assert_eq!(server_id("node-1"), "apiserver-gwlrxzxjxmbevckvql7a4qxaja");
    }

    #[test]
    fn keys_that_were_used_long_ago_are_forgotten() {
        let registry = Registry::new();
        let metrics = EnvelopeMetrics::register(&registry).expect("registered");
        for index in 0..KEYS_MAX + 5 {
            metrics.used(Way::To, "vault", &format!("key-{index}"));
            metrics.used(Way::To, "vault", "key-0");
            metrics.told("vault", &format!("key-{index}"));
        }
        let series = |name: &str| {
            let families = registry.gather();
            let family = families
                .into_iter()
                .find(|family| family.name().ends_with(name));
            family.expect("it is counted").get_metric().to_vec()
        };
        let used = series("key_id_hash_total");
        let most = used.iter().map(|metric| metric.get_counter().get_value());
        assert_eq!(used.len(), KEYS_MAX);
        assert_eq!(most.fold(0.0, f64::max), KEYS_MAX as f64 + 6.0);
        assert_eq!(series("key_id_hash_last_timestamp_seconds").len(), KEYS_MAX);
        assert_eq!(series("status_last_timestamp_seconds").len(), KEYS_MAX);
    }
}
