//! What is measured of each request. The series of requests that are alike are looked up once, by a hash of what makes them
//! alike, and kept.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::request::{RequestInfo, Verb};

/// Seconds, as in kube-apiserver.
pub const SECONDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
const BYTES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// The least of the buckets of bodies, which are twice that apart, and how many there are, as in kube-apiserver: up to 3 MB.
const BODY_BYTES: f64 = 50_000.0;
const N_BODY_BUCKETS: usize = 31;
/// Kinds of requests that are told apart. There are some thousands where every resource is used in every way; beyond, nobody
/// can make more by asking for strange things.
const SERIES_MAX: usize = 50_000;
const LABELS: [&str; 8] = [
    "component",
    "dry_run",
    "group",
    "resource",
    "scope",
    "subresource",
    "verb",
    "version",
];
const LABELS_WITHOUT_DRY_RUN: [&str; 7] = [
    "component",
    "group",
    "resource",
    "scope",
    "subresource",
    "verb",
    "version",
];

/// Labels and, before them, the code of the answer.
fn with_code<'a>(labels: &[&'a str]) -> Vec<&'a str> {
    [&["code"], labels].concat()
}

/// What makes requests alike.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
struct Labels<'a> {
    component: &'static str,
    dry_run: &'static str,
    group: &'a str,
    resource: &'a str,
    scope: &'static str,
    subresource: &'a str,
    verb: &'static str,
    version: &'a str,
}

impl Labels<'static> {
    /// Those of all requests for which there is no room.
    fn of_the_rest() -> Self {
        Self {
            resource: "other",
            verb: "other",
            ..Self::default()
        }
    }
}

impl<'a> Labels<'a> {
    /// What is not served shares its labels, so that nobody can make more of them.
    fn of(info: &'a RequestInfo, headers: &HeaderMap, served: bool) -> Self {
        let mut labels = Self {
            verb: method(&info.method),
            ..Self::default()
        };
        if !info.is_resource {
            labels.subresource = page(&info.path);
            return labels;
        }
        labels.component = "apiserver";
        labels.verb = verb(info, headers);
        labels.scope = match () {
            () if !info.name.is_empty() || info.verb == Verb::Create => "resource",
            () if !info.namespace.is_empty() => "namespace",
            () => "cluster",
        };
        if !served {
            labels.resource = "unknown";
            return labels;
        }
        (labels.group, labels.version) = (&info.group, &info.version);
        (labels.resource, labels.subresource) = (&info.resource, &info.subresource);
        if info.query.get("dryRun") == Some("All") {
            labels.dry_run = "All";
        }
        labels
    }
}

fn verb(info: &RequestInfo, headers: &HeaderMap) -> &'static str {
    match info.verb {
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
        Verb::Patch => {
            let content = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
            match content.is_some_and(|content| content.starts_with(b"application/apply-patch")) {
                true => "APPLY",
                false => "PATCH",
            }
        }
        _ => "other",
    }
}

/// The verb under which bodies are counted.
fn body_verb(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" | "APPLY" => "patch",
        "DELETE" => "delete",
        "DELETECOLLECTION" => "delete_collection",
        _ => return None,
    })
}

fn method(name: &str) -> &'static str {
    const METHODS: [(&str, &str); 7] = [
        ("get", "GET"),
        ("head", "HEAD"),
        ("post", "POST"),
        ("put", "PUT"),
        ("patch", "PATCH"),
        ("delete", "DELETE"),
        ("options", "OPTIONS"),
    ];
    let found = METHODS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map_or("other", |(_, label)| *label)
}

/// Pages that are told apart.
fn page(path: &str) -> &str {
    match path {
        "/healthz" | "/livez" | "/readyz" | "/metrics" | "/version" => path,
        "/openapi/v2" => "openapi/v2",
        _ if path.starts_with("/openapi/v3") => "openapi/v3",
        _ => "",
    }
}

/// The measures of requests that are alike.
pub struct Series {
    labels: [String; 8],
    /// By the code of the answer.
    // Guards which codes there were; written once for each.
    codes: RwLock<Vec<(u16, IntCounter)>>,
    duration: Histogram,
    /// Not of those that last.
    own: Option<Histogram>,
    sizes: Histogram,
    /// Of those that send something.
    bodies: Option<Histogram>,
    lasting: IntGauge,
}

/// A request that lasts, until it has ended.
pub struct Lasting(IntGauge);

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Series {
    /// Counts a request that lasts.
    pub fn lasts(&self) -> Lasting {
        self.lasting.inc();
        Lasting(self.lasting.clone())
    }

    /// Counts the bytes of a body.
    pub fn sent(&self, bytes: usize) {
        if let Some(bodies) = &self.bodies {
            bodies.observe(bytes as f64);
        }
    }

    /// Counts the bytes of an answer.
    pub fn sizes(&self) -> &Histogram {
        &self.sizes
    }
}

/// What is measured of all requests.
pub struct Requests {
    total: IntCounterVec,
    duration: HistogramVec,
    own: HistogramVec,
    sizes: HistogramVec,
    bodies: HistogramVec,
    terminations: IntCounterVec,
    lasting: IntGaugeVec,
    hasher: RandomState,
    // Guards which series there are; written once for each.
    series: RwLock<HashMap<u64, Arc<Series>>>,
}

impl Requests {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histogram = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let total = Opts::new("apiserver_request_total", "Requests answered.");
        let total = IntCounterVec::new(total, &with_code(&LABELS))?;
        registry.register(Box::new(total.clone()))?;
        let lasting = Opts::new(
            "apiserver_longrunning_requests",
            "Requests that last: watches, and streams of pods.",
        );
        let lasting = IntGaugeVec::new(lasting, &LABELS_WITHOUT_DRY_RUN)?;
        registry.register(Box::new(lasting.clone()))?;
        let terminations = Opts::new(
            "apiserver_request_terminations_total",
            "Requests that were refused or given up to keep the server going.",
        );
        let terminations = IntCounterVec::new(terminations, &with_code(&LABELS_WITHOUT_DRY_RUN))?;
        registry.register(Box::new(terminations.clone()))?;
        Ok(Self {
            total,
            terminations,
            bodies: histogram(
                "apiserver_request_body_size_bytes",
                "Bytes of what requests send.",
                &prometheus::linear_buckets(BODY_BYTES, 2.0 * BODY_BYTES, N_BODY_BUCKETS)?,
                &["group", "resource", "verb"],
            )?,
            duration: histogram(
                "apiserver_request_duration_seconds",
                "Time to the head of the answer.",
                &SECONDS,
                &LABELS,
            )?,
            own: histogram(
                "apiserver_request_sli_duration_seconds",
                "The same, less the time that the request waited for its turn.",
                &SECONDS,
                &LABELS_WITHOUT_DRY_RUN,
            )?,
            sizes: histogram(
                "apiserver_response_sizes",
                "Bytes of answers to reads.",
                &BYTES,
                &LABELS_WITHOUT_DRY_RUN,
            )?,
            lasting,
            hasher: RandomState::new(),
            series: RwLock::default(),
        })
    }

    /// The series of a request. Whether the resource has such a subresource is asked only where there is no series yet.
    pub fn series(
        &self,
        info: &RequestInfo,
        headers: &HeaderMap,
        served: bool,
        has_subresource: impl FnOnce() -> bool,
    ) -> Arc<Series> {
        let mut labels = Labels::of(info, headers, served);
        if let Some(series) = self.find(labels) {
            return series;
        }
        if served && !has_subresource() {
            labels.subresource = "unknown";
        }
        if self.is_full() {
            labels = Labels::of_the_rest();
        }
        self.find(labels).unwrap_or_else(|| {
            let series = Arc::new(self.make(labels));
            let mut known = self.series.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(self.hasher.hash_one(labels), series.clone());
            series
        })
    }

    fn find(&self, labels: Labels<'_>) -> Option<Arc<Series>> {
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&self.hasher.hash_one(labels)).cloned()
    }

    fn is_full(&self) -> bool {
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        known.len() >= SERIES_MAX
    }

    fn make(&self, labels: Labels<'_>) -> Series {
        let Labels {
            component,
            dry_run,
            group,
            resource,
            scope,
            subresource,
            verb,
            version,
        } = labels;
        let all = [
            component,
            dry_run,
            group,
            resource,
            scope,
            subresource,
            verb,
            version,
        ];
        let some = [
            component,
            group,
            resource,
            scope,
            subresource,
            verb,
            version,
        ];
        let lasts = verb == "WATCH"
            || matches!(
                subresource,
                "exec" | "attach" | "portforward" | "log" | "proxy"
            );
        Series {
            labels: all.map(str::to_owned),
            codes: RwLock::default(),
            duration: self.duration.with_label_values(&all),
            own: (!lasts).then(|| self.own.with_label_values(&some)),
            sizes: match verb {
                "GET" | "LIST" => self.sizes.with_label_values(&some),
                // Kept for itself: nobody asks how much a write is answered with.
                _ => Histogram::with_opts(HistogramOpts::new("unused", "unused"))
                    .expect("a valid name"),
            },
            bodies: body_verb(verb)
                .map(|verb| self.bodies.with_label_values(&[group, resource, verb])),
            lasting: match lasts {
                true => self.lasting.with_label_values(&some),
                false => IntGauge::new("unused", "unused").expect("a valid name"),
            },
        }
    }

    /// Counts an answer.
    pub fn answered(&self, series: &Series, code: u16, took: Duration, waited: Duration) {
        self.counter(series, code).inc();
        series.duration.observe(took.as_secs_f64());
        if let Some(own) = &series.own {
            own.observe(took.saturating_sub(waited).as_secs_f64());
        }
    }

    /// Counts a request that was not answered to keep the server going.
    pub fn terminated(&self, series: &Series, code: u16) {
        let code = code.to_string();
        let [component, _dry_run, rest @ ..] = series.labels.each_ref().map(String::as_str);
        let [group, resource, scope, subresource, verb, version] = rest;
        let labels = [
            &code,
            component,
            group,
            resource,
            scope,
            subresource,
            verb,
            version,
        ];
        self.terminations.with_label_values(&labels).inc();
    }

    fn counter(&self, series: &Series, code: u16) -> IntCounter {
        let find = |codes: &[(u16, IntCounter)]| {
            let found = codes.iter().find(|(known, _)| *known == code);
            found.map(|(_, counter)| counter.clone())
        };
        let known = series.codes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = find(&known) {
            return counter;
        }
        drop(known);
        let text = code.to_string();
        let mut labels = vec![text.as_str()];
        labels.extend(series.labels.iter().map(String::as_str));
        let counter = self.total.with_label_values(&labels);
        let mut known = series.codes.write().unwrap_or_else(PoisonError::into_inner);
        if find(&known).is_none() {
            known.push((code, counter.clone()));
        }
        counter
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::new(&method, &uri.parse().expect("a URI")).expect("a request")
    }

    #[test]
    fn requests_have_the_labels_that_kubernetes_gives_them() {
        let headers = HeaderMap::new();
        let of = |method: Method, uri: &str| {
            let info = info(method, uri);
            let labels = Labels::of(&info, &headers, true);
            [labels.verb, labels.scope, labels.dry_run, labels.component].map(str::to_owned)
        };
        let pods = "/api/v1/namespaces/a/pods";
        assert_eq!(
            of(Method::GET, pods),
            ["LIST", "namespace", "", "apiserver"]
        );
        assert_eq!(
            of(Method::GET, "/api/v1/pods?watch=1"),
            ["WATCH", "cluster", "", "apiserver"]
        );
        let created = of(Method::POST, &format!("{pods}?dryRun=All"));
        assert_eq!(created, ["POST", "resource", "All", "apiserver"]);
        assert_eq!(of(Method::GET, "/livez"), ["GET", "", "", ""]);
        let mut apply = HeaderMap::new();
        apply.insert(
            CONTENT_TYPE,
            http::HeaderValue::from_static("application/apply-patch+yaml"),
        );
        let patch = info(Method::PATCH, &format!("{pods}/p"));
        assert_eq!(Labels::of(&patch, &apply, true).verb, "APPLY");
        assert_eq!(Labels::of(&patch, &headers, false).resource, "unknown");
        assert_eq!(page("/livez/made-up"), "");
    }

    #[test]
    fn requests_that_are_alike_share_their_series() {
        let requests = Requests::register(&Registry::new()).expect("new names");
        let headers = HeaderMap::new();
        let of = |uri| requests.series(&info(Method::GET, uri), &headers, true, || true);
        let one = of("/api/v1/namespaces/a/pods/x");
        assert!(Arc::ptr_eq(&one, &of("/api/v1/namespaces/b/pods/y")));
        assert!(!Arc::ptr_eq(&one, &of("/api/v1/namespaces/b/configmaps/y")));
        requests.answered(&one, 200, Duration::from_secs(3), Duration::from_secs(2));
        requests.answered(&one, 200, Duration::ZERO, Duration::ZERO);
        assert_eq!(requests.counter(&one, 200).get(), 2);
        assert_eq!(one.own.as_ref().map(Histogram::get_sample_sum), Some(1.0));
        let lasting = of("/api/v1/pods?watch=1");
        let open = lasting.lasts();
        assert_eq!(lasting.lasting.get(), 1);
        drop(open);
        assert_eq!(lasting.lasting.get(), 0);
    }
}
