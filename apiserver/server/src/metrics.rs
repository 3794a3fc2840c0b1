//! What the server measures, under the names that dashboards for kube-apiserver use.

use std::time::Duration;

use corral_storage::Storage;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::Shared;
use crate::authz::Decision;
use crate::health::Indicators;
use crate::paths::{self, KUBERNETES_MINOR, KUBERNETES_VERSION};
use crate::request::RequestInfo;

pub mod allocations;
mod process;
pub mod requests;
pub mod store;

use requests::Requests;

/// Seconds that deciding who asks, and what they may, takes, as in kube-apiserver.
const DECISION_SECONDS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];
const CLIENT_SECONDS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];
const EVENT_BYTES: [f64; 8] = [
    1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0,
];
/// How long certificates of clients are good from now, in seconds: from none to a year, as in kube-apiserver.
const CERTIFICATE_SECONDS: [f64; 14] = [
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];
/// Users that are told apart; there are more of them than labels should be.
const USERS: [&str; 5] = ["admin", "client", "kube_proxy", "kubelet", "other"];
const KINDS: [&str; 2] = ["readOnly", "mutating"];

/// The server's metrics.
pub struct Metrics {
    /// Of each request.
    pub requests: Requests,
    /// Of the checks of health.
    pub indicators: Indicators,
    deprecated: IntGaugeVec,
    inflight: IntGaugeVec,
    inqueue: IntGaugeVec,
    stored: IntGaugeVec,
    objects: IntGaugeVec,
    bytes: IntGaugeVec,
    events: IntCounterVec,
    event_sizes: HistogramVec,
    /// Open connections.
    pub connections: IntGauge,
    /// Handshakes that failed.
    pub handshake_errors: IntCounter,
    authentications: Decisions<2>,
    certificates: Histogram,
    users: [IntCounter; USERS.len()],
    authorizations: Decisions<3>,
    /// Of requests in somebody else's name.
    pub impersonations: Impersonations,
    /// Of the questions that they took.
    pub impersonation_reviews: Impersonations,
    client_requests: IntCounterVec,
    client_seconds: HistogramVec,
}

/// How often something was decided in which way, and how long it took.
struct Decisions<const N: usize>([(IntCounter, Histogram); N]);

impl<const N: usize> Decisions<N> {
    fn register(
        registry: &Registry,
        names: [&str; 2],
        what: &str,
        results: [&str; N],
    ) -> Result<Self, prometheus::Error> {
        let [attempts, seconds] = names;
        let attempts = Opts::new(attempts, format!("How often {what}."));
        let attempts = IntCounterVec::new(attempts, &["result"])?;
        let seconds = HistogramOpts::new(seconds, format!("How long it takes that {what}."));
        let seconds = HistogramVec::new(seconds.buckets(DECISION_SECONDS.to_vec()), &["result"])?;
        registry.register(Box::new(attempts.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self(results.map(|result| {
            let labels = [result];
            (
                attempts.with_label_values(&labels),
                seconds.with_label_values(&labels),
            )
        })))
    }

    fn made(&self, index: usize, took: Duration) {
        let (attempts, seconds) = &self.0[index];
        attempts.inc();
        seconds.observe(took.as_secs_f64());
    }
}

/// How often, how long and how somebody was, or was not, to be taken for another.
pub struct Impersonations {
    attempts: IntCounterVec,
    seconds: HistogramVec,
}

impl Impersonations {
    fn register(make: &Maker<'_>, name: &str, what: &str) -> Result<Self, prometheus::Error> {
        const LABELS: [&str; 2] = ["decision", "mode"];
        Ok(Self {
            attempts: make.counters(
                &format!("apiserver_impersonation_{name}_total"),
                &format!("How often {what}."),
                &LABELS,
            )?,
            seconds: make.histograms(
                &format!("apiserver_impersonation_{name}_duration_seconds"),
                &format!("How long it takes that {what}."),
                &DECISION_SECONDS,
                &LABELS,
            )?,
        })
    }

    /// It was decided. The mode is one of a few.
    pub fn made(&self, mode: &str, allowed: bool, took: Duration) {
        let labels = [if allowed { "allowed" } else { "denied" }, mode];
        self.attempts.with_label_values(&labels).inc();
        let seconds = self.seconds.with_label_values(&labels);
        seconds.observe(took.as_secs_f64());
    }
}

/// The events of watches of one kind.
pub struct Events {
    total: IntCounter,
    sizes: Histogram,
}

impl Events {
    /// One was told.
    pub fn told(&self, bytes: usize) {
        self.total.inc();
        self.sizes.observe(bytes as f64);
    }
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(options, labels)?;
        self.0.register(Box::new(histograms.clone()))?;
        Ok(histograms)
    }
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        const RESOURCE: [&str; 2] = ["group", "resource"];
        const VERSIONED: [&str; 3] = ["group", "resource", "version"];
        let make = Maker(registry);
        let connections = IntGauge::new("apiserver_connections", "Connections open.")?;
        registry.register(Box::new(connections.clone()))?;
        let handshake_errors = IntCounter::new(
            "apiserver_tls_handshake_errors_total",
            "TLS handshakes that failed or were given up.",
        )?;
        registry.register(Box::new(handshake_errors.clone()))?;
        let users = make.counters(
            "authenticated_user_requests",
            "Requests of somebody who is known, by who it is as far as that is told apart.",
            &["username"],
        )?;
        let certificates = make.histograms(
            "apiserver_client_certificate_expiration_seconds",
            "How long the certificates by which somebody asks are good from then on.",
            &CERTIFICATE_SECONDS,
            &[],
        )?;
        registry.register(Box::new(process::Process::own()))?;
        tell_versions(&make, registry)?;
        Ok(Self {
            requests: Requests::register(registry)?,
            indicators: Indicators::new()?,
            deprecated: make.gauges(
                "apiserver_requested_deprecated_apis",
                "Whether somebody has asked for something that is to go.",
                &[
                    "group",
                    "removed_release",
                    "resource",
                    "subresource",
                    "version",
                ],
            )?,
            inflight: make.gauges(
                "apiserver_current_inflight_requests",
                "Requests being answered, but those that last.",
                &["request_kind"],
            )?,
            inqueue: make.gauges(
                "apiserver_current_inqueue_requests",
                "Requests that wait for their turn.",
                &["request_kind"],
            )?,
            stored: make.gauges(
                "apiserver_storage_objects",
                "Objects stored.",
                &["resource"],
            )?,
            objects: make.gauges("apiserver_resource_objects", "Objects stored.", &RESOURCE)?,
            bytes: make.gauges(
                "apiserver_resource_size_estimate_bytes",
                "Bytes of the objects stored.",
                &RESOURCE,
            )?,
            events: make.counters(
                "apiserver_watch_events_total",
                "Events sent to watches.",
                &VERSIONED,
            )?,
            event_sizes: make.histograms(
                "apiserver_watch_events_sizes",
                "Bytes of events sent to watches.",
                &EVENT_BYTES,
                &VERSIONED,
            )?,
            connections,
            handshake_errors,
            authentications: Decisions::register(
                registry,
                ["authentication_attempts", "authentication_duration_seconds"],
                "it was found out who asks",
                ["success", "failure"],
            )?,
            certificates: certificates.with_label_values(&[] as &[&str]),
            users: USERS.map(|name| users.with_label_values(&[name])),
            authorizations: Decisions::register(
                registry,
                [
                    "authorization_attempts_total",
                    "authorization_duration_seconds",
                ],
                "it was decided what somebody may",
                ["allowed", "denied", "no-opinion"],
            )?,
            impersonations: Impersonations::register(
                &make,
                "attempts",
                "somebody asked to be taken for another",
            )?,
            impersonation_reviews: Impersonations::register(
                &make,
                "authorization_attempts",
                "it was asked what somebody needs for that",
            )?,
            client_requests: make.counters(
                "rest_client_requests_total",
                "Requests of components in this process to the API.",
                &["code", "host", "method"],
            )?,
            client_seconds: make.histograms(
                "rest_client_request_duration_seconds",
                "Time to the head of the answer, for components in this process.",
                &CLIENT_SECONDS,
                &["host", "verb"],
            )?,
        })
    }

    /// It was tried to find out who asks.
    pub fn authenticated(&self, user: Option<&str>, took: Duration) {
        self.authentications.made(usize::from(user.is_none()), took);
        if let Some(user) = user {
            let known = USERS.iter().position(|known| *known == user);
            self.users[known.unwrap_or(USERS.len() - 1)].inc();
        }
    }

    /// Somebody asked with a certificate that is good for so many seconds.
    pub fn certificate(&self, seconds_left: f64) {
        self.certificates.observe(seconds_left);
    }

    /// Somebody asked for a kind that is deprecated. None of them is to be removed in a known release.
    pub fn deprecated(&self, info: &RequestInfo) {
        let labels = [
            info.group.as_str(),
            "",
            &info.resource,
            &info.subresource,
            &info.version,
        ];
        self.deprecated.with_label_values(&labels).set(1);
    }

    /// It was decided what somebody may.
    pub fn authorized(&self, decision: Decision, took: Duration) {
        let index = match decision {
            Decision::Allow => 0,
            Decision::Deny => 1,
            Decision::NoOpinion => 2,
        };
        self.authorizations.made(index, took);
    }

    /// A component in this process was answered.
    pub fn client(&self, host: &str, method: &http::Method, code: u16, took: Duration) {
        let code = code.to_string();
        let labels = [code.as_str(), host, method.as_str()];
        self.client_requests.with_label_values(&labels).inc();
        let seconds = self
            .client_seconds
            .with_label_values(&[host, method.as_str()]);
        seconds.observe(took.as_secs_f64());
    }

    /// Counts the events of a watch.
    pub fn events(&self, group: &str, resource: &str, version: &str) -> Events {
        let labels = [group, resource, version];
        Events {
            total: self.events.with_label_values(&labels),
            sizes: self.event_sizes.with_label_values(&labels),
        }
    }

    /// Reads how things stand.
    pub fn observe(&self, shared: &Shared) {
        let n = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for resource in shared.api.resources() {
            let names = resource.kind.names();
            let qualified = corral_api::gvk::qualified(names.plural, names.group);
            let stock = resource.cacher.stock();
            let labels = [names.group, names.plural];
            self.stored
                .with_label_values(&[qualified.as_str()])
                .set(n(stock.objects));
            self.objects
                .with_label_values(&labels)
                .set(n(stock.objects));
            self.bytes.with_label_values(&labels).set(n(stock.bytes));
        }
        shared.allocations.observe(&shared.api);
        let [waiting, executing] = shared.flow.current();
        for (kind, (waiting, executing)) in KINDS.iter().zip(waiting.into_iter().zip(executing)) {
            self.inqueue.with_label_values(&[kind]).set(waiting);
            self.inflight.with_label_values(&[kind]).set(executing);
        }
    }
}

/// What does not change: which version this is.
fn tell_versions(make: &Maker<'_>, registry: &Registry) -> Result<(), prometheus::Error> {
    let (major, _, version) = KUBERNETES_VERSION;
    let told = paths::version();
    // Labels, and the fields of what the server says of its version.
    let (labels, fields): (Vec<&str>, Vec<&str>) = [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ]
    .into_iter()
    .unzip();
    let build = make.gauges("kubernetes_build_info", "Whose API this is.", &labels)?;
    let values: Vec<&str> = fields
        .iter()
        .map(|field| told[field].as_str().unwrap_or_default())
        .collect();
    build.with_label_values(&values).set(1);
    let labels = ["binary", "component", "emulation", "min_compat"];
    let info = GaugeVec::new(Opts::new("version_info", "Whose API this is."), &labels)?;
    registry.register(Box::new(info.clone()))?;
    let emulated = format!("{major}.{KUBERNETES_MINOR}");
    let least = format!("{major}.{}", KUBERNETES_MINOR - 1);
    let labels = [version.trim_start_matches('v'), "kube", &emulated, &least];
    info.with_label_values(&labels).set(1.0);
    Ok(())
}

/// A store, measured.
///
/// # Errors
/// When a metric's name is taken.
pub fn measure(
    storage: std::sync::Arc<dyn Storage>,
    registry: &Registry,
) -> Result<std::sync::Arc<dyn Storage>, prometheus::Error> {
    Ok(store::Measured::new(storage, registry)?)
}
