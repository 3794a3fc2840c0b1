//! Traces: a span for each request that is chosen, and one for each time that it asks the store, sent in batches to an
//! OpenTelemetry collector.
//!
//! A request that comes with a W3C `traceparent` goes on with that trace, and is chosen as it says, when it is an
//! administrator's or a monitor's; anybody else's begins a trace of its own that links to it. What nobody takes in time is
//! dropped: requests never wait for the collector.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::uri::PathAndQuery;
use prometheus::{IntCounter, Registry};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use crate::authn::{MASTERS, User};
use crate::request::RequestInfo;

pub mod otlp;

use otlp::{
    ExportRequest, ExportResponse, KeyValue, Link, Resource, ResourceSpans, ScopeSpans, Span,
};

/// Where a collector listens unless somebody says otherwise.
const ENDPOINT: &str = "localhost:4317";
const MILLION: u32 = 1_000_000;
const GROUP: &str = "apiserver.config.k8s.io/";
const KIND: &str = "TracingConfiguration";
/// Spans that wait for the collector, and those of one batch, as in OpenTelemetry's own exporters.
const WAITING_MAX: usize = 2048;
const BATCH_MAX: usize = 512;
/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(5);
/// How long the collector may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Those whose trace is gone on with.
const TRUSTED: [&str; 2] = [MASTERS, "system:monitoring"];

/// Where traces are sent, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingConfig {
    /// Host and port of the collector.
    pub endpoint: String,
    /// Of a million requests that do not come with a trace, so many begin one.
    pub per_million: u32,
}

impl TracingConfig {
    /// Reads a TracingConfiguration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct File {
            api_version: String,
            kind: String,
            endpoint: Option<String>,
            sampling_rate_per_million: Option<i64>,
        }
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let version = file.api_version.strip_prefix(GROUP);
        if file.kind != KIND
            || !version.is_some_and(|version| matches!(version, "v1" | "v1beta1" | "v1alpha1"))
        {
            let (version, kind) = (file.api_version, file.kind);
            return Err(format!(
                "no kind {kind:?} is registered for version {version:?}"
            ));
        }
        let per_million = match file.sampling_rate_per_million.unwrap_or(0) {
            rate if rate < 0 => {
                return Err(format!(
                    "samplingRatePerMillion: Invalid value: {rate}: sampling rate must be positive"
                ));
            }
            rate if rate > i64::from(MILLION) => {
                return Err(format!(
                    "samplingRatePerMillion: Invalid value: {rate}: sampling rate per million must be less than or equal to one million"
                ));
            }
            rate => u32::try_from(rate).unwrap_or(MILLION),
        };
        let endpoint = file.endpoint.unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.strip_prefix("dns://").unwrap_or(&endpoint);
        channel(endpoint)
            .map_err(|error| format!("endpoint: Invalid value: {endpoint:?}: {error}"))?;
        Ok(Self {
            endpoint: endpoint.to_owned(),
            per_million,
        })
    }

    /// As its file would write it.
    pub fn configuration(&self) -> Value {
        let Self {
            endpoint,
            per_million,
        } = self;
        json!({
            "apiVersion": format!("{GROUP}v1"), "kind": KIND, "endpoint": endpoint, "samplingRatePerMillion": per_million,
        })
    }
}

fn channel(endpoint: &str) -> Result<Endpoint, String> {
    if endpoint.contains("://") {
        return Err("unsupported scheme, must be host:port".to_owned());
    }
    let made = Endpoint::from_shared(format!("http://{endpoint}"));
    let made = made.map_err(|error| error.to_string())?;
    Ok(made.connect_timeout(EXPORT_TIMEOUT).timeout(EXPORT_TIMEOUT))
}

/// What a span is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Context {
    trace: [u8; 16],
    span: [u8; 8],
    chosen: bool,
}

impl Context {
    /// Reads a `traceparent`.
    fn read(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("traceparent")?.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, trace) = (parts.next()?, parts.next()?);
        let (span, flags) = (parts.next()?, parts.next()?);
        // Later versions may have more parts, and none may be ff.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        bytes::<1>(version)?;
        let [flags] = bytes::<1>(flags)?;
        let context = Self {
            trace: bytes(trace)?,
            span: bytes(span)?,
            chosen: flags & 1 == 1,
        };
        (context.trace != [0; 16] && context.span != [0; 8]).then_some(context)
    }
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if hex.len() != 2 * N || !hex.bytes().all(is_hex) {
        return None;
    }
    let mut out = [0; N];
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(out)
}

tokio::task_local! {
    /// The span of the request that this task answers, if it was chosen.
    static CURRENT: (Context, Arc<Tracer>);
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Takes spans.
pub struct Tracer {
    per_million: u32,
    spans: mpsc::Sender<Span>,
    dropped: IntCounter,
}

/// The span of a request, until it is ended.
pub struct Open {
    tracer: Arc<Tracer>,
    context: Context,
    span: Span,
}

impl Tracer {
    /// Takes spans, and a task that sends them until it is told to stop.
    ///
    /// # Errors
    /// When the metric's name is taken.
    pub fn new(
        config: &TracingConfig,
        registry: &Registry,
        stop: CancellationToken,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<>), prometheus::Error> {
        let dropped = IntCounter::new(
            "corral_trace_spans_dropped_total",
            "Spans that the collector did not take in time.",
        )?;
        registry.register(Box::new(dropped.clone()))?;
        let (spans, waiting) = mpsc::channel(WAITING_MAX);
        let endpoint = channel(&config.endpoint).map_err(prometheus::Error::Msg)?;
        let tracer = Arc::new(Self {
            per_million: config.per_million,
            spans,
            dropped: dropped.clone(),
        });
        Ok((tracer, send(waiting, endpoint, dropped, stop)))
    }

    /// Begins the span of a request, if it is chosen.
    pub fn begin(
        self: &Arc<Self>,
        headers: &HeaderMap,
        user: &User,
        info: &RequestInfo,
        audit_id: &str,
    ) -> Option<Open> {
        let given = Context::read(headers);
        let is_trusted = TRUSTED.iter().any(|group| user.is_in(group));
        let parent = given.filter(|_| is_trusted);
        let chosen = match parent {
            Some(parent) => parent.chosen,
            None => rand::random_range(0..MILLION) < self.per_million,
        };
        if !chosen {
            return None;
        }
        let context = Context {
            trace: parent.map_or_else(rand::random, |parent| parent.trace),
            span: rand::random(),
            chosen,
        };
        let link = |given: Context| Link {
            trace_id: given.trace.to_vec(),
            span_id: given.span.to_vec(),
        };
        let span = Span {
            trace_id: context.trace.to_vec(),
            span_id: context.span.to_vec(),
            parent_span_id: parent
                .map(|parent| parent.span.to_vec())
                .unwrap_or_default(),
            name: name(info),
            kind: otlp::SERVER,
            start_time_unix_nano: nanos(SystemTime::now()),
            attributes: vec![
                KeyValue::text("http.request.method", info.method.to_ascii_uppercase()),
                KeyValue::text("url.path", info.path.clone()),
                KeyValue::text("audit-id", audit_id),
            ],
            links: given
                .filter(|_| !is_trusted)
                .map(link)
                .into_iter()
                .collect(),
            ..Span::default()
        };
        Some(Open {
            tracer: self.clone(),
            context,
            span,
        })
    }

    fn take(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.dropped.inc();
        }
    }
}

/// Without names of objects, so that requests that are alike have the same.
fn name(info: &RequestInfo) -> String {
    let method = info.method.to_ascii_uppercase();
    if !info.is_resource {
        return format!("{method} KubernetesAPI");
    }
    let mut path = match info.group.as_str() {
        "" => format!("/api/{}", info.version),
        group => format!("/apis/{group}/{}", info.version),
    };
    if !info.namespace.is_empty() {
        path.push_str("/namespaces/{:namespace}");
    }
    path.push_str(&format!("/{}", info.resource));
    if !info.name.is_empty() {
        path.push_str("/{:name}");
    }
    if !info.subresource.is_empty() {
        path.push_str(&format!("/{}", info.subresource));
    }
    format!("{method} {path}")
}

impl Open {
    /// Does the work of the request.
    pub async fn around<T>(&self, work: impl Future<Output = T>) -> T {
        let current = (self.context, self.tracer.clone());
        CURRENT.scope(current, work).await
    }

    /// The request is answered.
    pub fn end(mut self, code: u16) {
        let code = i64::from(code);
        let answered = KeyValue::number("http.response.status_code", code);
        self.span.attributes.push(answered);
        if code >= 500 {
            let status = otlp::SpanStatus { code: otlp::FAILED };
            self.span.status = Some(status);
        }
        self.span.end_time_unix_nano = nanos(SystemTime::now());
        self.tracer.take(self.span);
    }
}

/// Asks the store, in a span of its own where the request has one.
pub async fn of_store<T, E>(
    operation: &'static str,
    resource: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Ok((parent, tracer)) = CURRENT.try_with(Clone::clone) else {
        return work.await;
    };
    let began = nanos(SystemTime::now());
    let done = work.await;
    let span: [u8; 8] = rand::random();
    tracer.take(Span {
        trace_id: parent.trace.to_vec(),
        span_id: span.to_vec(),
        parent_span_id: parent.span.to_vec(),
        name: format!("store {operation}"),
        kind: otlp::CLIENT,
        start_time_unix_nano: began,
        end_time_unix_nano: nanos(SystemTime::now()),
        attributes: vec![
            KeyValue::text("operation", operation),
            KeyValue::text("resource", resource),
        ],
        links: Vec::new(),
        status: done
            .is_err()
            .then_some(otlp::SpanStatus { code: otlp::FAILED }),
    });
    done
}

/// Sends what comes in batches. What is there when it is told to stop is still sent.
async fn send(
    mut waiting: mpsc::Receiver<Span>,
    endpoint: Endpoint,
    dropped: IntCounter,
    stop: CancellationToken,
) {
    let mut grpc = Grpc::new(endpoint.connect_lazy());
    let mut failing = false;
    loop {
        let mut batch = Vec::new();
        let first = tokio::select! {
            first = waiting.recv() => first,
            () = stop.cancelled() => waiting.try_recv().ok(),
        };
        let Some(first) = first else { return };
        batch.push(first);
        let more = async {
            while batch.len() < BATCH_MAX {
                let Some(span) = waiting.recv().await else {
                    break;
                };
                batch.push(span);
            }
        };
        tokio::select! {
            () = more => {}
            () = tokio::time::sleep(BATCH_WAIT) => {}
            () = stop.cancelled() => {}
        }
        while batch.len() < BATCH_MAX
            && let Ok(span) = waiting.try_recv()
        {
            batch.push(span);
        }
        let n = batch.len();
        let sent = export(&mut grpc, batch).await;
        if let Err(error) = &sent {
            dropped.inc_by(n as u64);
            // Told once for as long as it lasts.
            if !failing {
                tracing::warn!(%error, "the collector of traces does not take spans");
            }
        }
        failing = sent.is_err();
    }
}

async fn export(grpc: &mut Grpc<Channel>, spans: Vec<Span>) -> Result<(), String> {
    let resource = Resource {
        attributes: vec![KeyValue::text("service.name", "apiserver")],
    };
    let request = ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans { spans }],
        }],
    };
    let sending = async {
        grpc.ready().await.map_err(|error| error.to_string())?;
        let codec = tonic_prost::ProstCodec::<ExportRequest, ExportResponse>::default();
        let path = PathAndQuery::from_static(otlp::EXPORT_PATH);
        let answer = grpc.unary(tonic::Request::new(request), path, codec);
        answer.await.map(drop).map_err(|status| status.to_string())
    };
    tokio::time::timeout(EXPORT_TIMEOUT, sending)
        .await
        .unwrap_or_else(|_| Err("it does not answer in time".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_w3c_writes_it() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().expect("a header"));
            Context::read(&headers)
        };
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let read = of(&format!("00-{trace}-{span}-01")).expect("a context");
        assert_eq!(
            (read.trace[0], read.span[0], read.chosen),
            (0x0a, 0xb7, true)
        );
        assert!(
            !of(&format!("00-{trace}-{span}-00"))
                .expect("a context")
                .chosen
        );
        assert!(of(&format!("01-{trace}-{span}-01-more")).is_some());
        for wrong in [
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}"),
            "00-ä-b-c".to_owned(),
        ] {
            assert_eq!(of(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_configuration_is_checked() {
        let of = |text: &str| {
            let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n";
            TracingConfig::parse(&format!("{head}{text}"))
        };
        let given = of("endpoint: collector:1234\nsamplingRatePerMillion: 5\n");
        let wanted = TracingConfig {
            endpoint: "collector:1234".to_owned(),
            per_million: 5,
        };
        assert_eq!(given, Ok(wanted));
        assert_eq!(of("").expect("valid").endpoint, ENDPOINT);
        for (text, why) in [
            ("samplingRatePerMillion: -1", "must be positive"),
            (
                "samplingRatePerMillion: 1000001",
                "less than or equal to one million",
            ),
            ("endpoint: http://localhost:4317", "unsupported scheme"),
            ("more: 1", "more"),
        ] {
            let error = of(text).expect_err(text);
            assert!(error.contains(why), "{error}");
        }
    }
}
