//! What the server measures, under the names that dashboards for kube-apiserver use.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::api::Api;
use crate::request::RequestInfo;

/// Seconds, as in kube-apiserver.
const LATENCY_BUCKETS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];

/// The server's metrics.
pub struct Metrics {
    requests: IntCounterVec,
    latency: HistogramVec,
    /// Requests being answered, by whether they change anything.
    pub inflight: IntGaugeVec,
    objects: IntGaugeVec,
    watchers: IntGaugeVec,
    /// Open connections.
    pub connections: IntGauge,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("apiserver_request_total", "Requests answered."),
                &["verb", "group", "resource", "subresource", "code"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new(
                    "apiserver_request_duration_seconds",
                    "Time to the head of the answer.",
                )
                .buckets(LATENCY_BUCKETS.to_vec()),
                &["verb", "group", "resource"],
            )?,
            inflight: IntGaugeVec::new(
                Opts::new(
                    "apiserver_current_inflight_requests",
                    "Requests being answered.",
                ),
                &["request_kind"],
            )?,
            objects: IntGaugeVec::new(
                Opts::new("apiserver_storage_objects", "Objects stored."),
                &["resource"],
            )?,
            watchers: IntGaugeVec::new(
                Opts::new("apiserver_longrunning_requests", "Watches open."),
                &["group", "resource"],
            )?,
            connections: IntGauge::new("apiserver_connections", "Connections open.")?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.latency.clone()))?;
        registry.register(Box::new(metrics.inflight.clone()))?;
        registry.register(Box::new(metrics.objects.clone()))?;
        registry.register(Box::new(metrics.watchers.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        Ok(metrics)
    }

    /// Counts an answer. Resources that are not served share one label, so that nobody can grow the set of labels.
    pub fn answered(&self, info: &RequestInfo, served: bool, code: u16, took: Duration) {
        let verb = if info.is_resource {
            info.verb.as_str()
        } else {
            "other"
        };
        let (group, resource) = match (info.is_resource, served) {
            (true, true) => (info.group.as_str(), info.resource.as_str()),
            (true, false) => ("", "unknown"),
            (false, _) => ("", ""),
        };
        let subresource = if served {
            info.subresource.as_str()
        } else {
            ""
        };
        let code = code.to_string();
        self.requests
            .with_label_values(&[verb, group, resource, subresource, &code])
            .inc();
        self.latency
            .with_label_values(&[verb, group, resource])
            .observe(took.as_secs_f64());
    }

    /// Reads sizes off the caches.
    pub fn observe(&self, api: &Api) {
        for resource in api.resources() {
            let names = resource.kind.names();
            let qualified = corral_api::gvk::qualified(names.plural, names.group);
            let n = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            self.objects
                .with_label_values(&[qualified.as_str()])
                .set(n(resource.cacher.len()));
            self.watchers
                .with_label_values(&[names.group, names.plural])
                .set(n(resource.cacher.watchers()));
        }
    }
}
