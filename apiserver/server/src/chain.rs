//! The request chain: what every request passes through, in this order.
//!
//! 1. request id and panic guard
//! 2. request info (what is asked)
//! 3. authentication (who asks), impersonation
//! 4. authorization (may they)
//! 5. the body, whole and bounded
//! 6. priority and fairness (whose turn it is)
//! 7. the handler, within a time
//! 8. gzip of large answers
//! 9. metrics and the access log

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corral_api::status::Status;
use futures::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use jiff::Timestamp;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::Shared;
use crate::aggregation::{self, proxy::Passed};
use crate::aside::{self, Aside};
use crate::audit::{self, Record};
use crate::authn::x509::Peer;
use crate::authn::{Notes, User};
use crate::authz::{Access, Decision};
use crate::compress;
use crate::discovery;
use crate::flow::fairness::Schema;
use crate::flow::{self, Brief, Share};
use crate::handlers::{self, Call};
use crate::metrics::requests::Series;
use crate::negotiate::{self, Representation};
use crate::registry::Warnings;
use crate::request::{RequestInfo, Verb};
use crate::response::{self, Answer};
use crate::serve::patience;

mod impersonation;

/// Longest time until the head of an answer, for everything that is not long-running.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Profiles take as long as the client wants.
const PROFILES: &str = "/debug/pprof/";

/// How a request came.
#[derive(Clone)]
pub enum Origin {
    /// Over a connection, perhaps with a certificate.
    Connection(Arc<Peer>),
    /// From a component in this process that is known.
    Local(Arc<User>),
}

/// Answers a request. Never fails: failures are answers too.
pub async fn serve<B>(shared: Arc<Shared>, request: Request<B>, origin: Origin) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let started = Instant::now();
    let received = Timestamp::now();
    let (parts, body) = request.into_parts();
    let id = audit::id_of(&parts.headers);
    let mut record = None;
    let schema = OnceLock::new();
    let warnings = Warnings::default();
    let waited = OnceLock::new();
    let info = RequestInfo::new(&parts.method, &parts.uri);
    let lasts = info.as_ref().is_ok_and(is_long_running);
    let open = (!lasts).then(|| shared.open.token());
    let representation = match &info {
        Ok(info) => negotiate::accept_failure(&parts.headers, &info.query),
        Err(_) => Representation::default(),
    };
    let (info, outcome) = match info {
        Ok(info) => {
            let info = Arc::new(info);
            let series = series_of(&shared, &info, &parts.headers);
            let found = OnceLock::new();
            let recording = Recording {
                schema: &schema,
                warnings: &warnings,
                waited: &waited,
                series: &series,
                id: &id,
                received,
                record: &found,
            };
            let work = answer(&shared, parts, body, info.clone(), origin, recording);
            let outcome = AssertUnwindSafe(work)
                .catch_unwind()
                .await
                .unwrap_or_else(|_| {
                    tracing::error!(request = id, path = info.path, "a handler panicked");
                    let status = Status::internal(
                        "this request caused apiserver to panic. Look in the logs for details.",
                    );
                    if let Some(record) = found.get() {
                        record.panicked(&status);
                    }
                    Err(status)
                });
            record = found.into_inner();
            (Some((info, series)), outcome)
        }
        Err(status) => (None, Err(status)),
    };
    if let (Some((_, series)), Err(status)) = (&info, &outcome)
        && (status.code == 504 || flow::refusal(status).is_some())
    {
        shared.metrics.requests.terminated(series, status.code);
    }
    let (mut answer, failure) = match outcome {
        Ok(answer) => (answer, None),
        Err(status) if status == Status::no_such_path() && !is_of_own_group(info.as_ref()) => {
            (response::no_page(), Some(status))
        }
        Err(status) => match flow::refusal(&status) {
            Some(refusal) => (refusal, Some(status)),
            None => (response::status(&status, representation), Some(status)),
        },
    };
    if failure.is_some() {
        // Whoever is refused is told as well what else is wrong.
        answer = handlers::warned(answer, &warnings);
    }
    if let Some(schema) = schema.get() {
        told_schema(&mut answer, schema);
    }
    if let (Some(record), Some((info, _))) = (record, &info) {
        answer = record.complete(answer, failure.as_ref(), is_long_running(info));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert("audit-id", value);
    }
    answer
        .headers_mut()
        .entry(http::header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    let code = answer.status().as_u16();
    if let Some((info, series)) = &info {
        let waited = waited.get().copied().unwrap_or_default();
        let requests = &shared.metrics.requests;
        requests.answered(series, code, started.elapsed(), waited);
        tracing::debug!(request = id, method = info.method, path = info.path, code, took = ?started.elapsed(), "answered");
    }
    match info {
        Some((_, series)) => ended(answer, &series, open),
        None => answer,
    }
}

fn series_of(shared: &Shared, info: &RequestInfo, headers: &HeaderMap) -> Arc<Series> {
    let kind = shared.api.kind(&info.group, &info.version, &info.resource);
    let requests = &shared.metrics.requests;
    let subresource = &info.subresource;
    let has_subresource = || {
        let kind = kind.as_deref();
        subresource.is_empty()
            || kind.is_some_and(|kind| discovery::has_subresource(kind, subresource))
    };
    requests.series(info, headers, kind.is_some(), has_subresource)
}

/// Whether a path that leads nowhere begins in a group of this server's own, whose answers all have the types of the API.
fn is_of_own_group(info: Option<&(Arc<RequestInfo>, Arc<Series>)>) -> bool {
    let Some((info, _)) = info else { return false };
    let parts: Vec<&str> = info.path.trim_end_matches('/').split('/').collect();
    let group = match parts.as_slice() {
        _ if info.is_resource => info.group.as_str(),
        ["", "api", _] => "",
        ["", "apis", group, _] => group,
        _ => return false,
    };
    let mut kinds = corral_kinds::all::RESOURCES.iter();
    kinds.any(|kind| kind.names().group == group)
}

/// Measures an answer, and keeps what is held until it has been sent; those that last hold nothing here.
fn ended(answer: Answer, series: &Series, open: Option<TaskTrackerToken>) -> Answer {
    let Some(open) = open else { return answer };
    match http_body::Body::size_hint(answer.body()).exact() {
        Some(bytes) => {
            series.sizes().observe(bytes as f64);
            answer
        }
        // What is not there yet is made while it is sent.
        None => {
            let sizes = series.sizes().clone();
            answer.map(|body| response::holding(response::counted(body, sizes), open))
        }
    }
}

/// Tells a client which schema and level its request belonged to, by their uids: names are the administrator's own.
fn told_schema(answer: &mut Answer, schema: &Schema) {
    const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
    const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
    let headers = answer.headers_mut();
    headers.insert(LEVEL, schema.level_uid.clone());
    headers.insert(SCHEMA, schema.uid.clone());
}

async fn answer<B>(
    shared: &Arc<Shared>,
    mut parts: Parts,
    body: B,
    info: Arc<RequestInfo>,
    origin: Origin,
    recording: Recording<'_>,
) -> Result<Answer, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    if !is_long_running(&info) {
        flow::check_time(&info)?;
    }
    let (user, notes) = match origin {
        Origin::Local(user) => (user, Notes::new()),
        Origin::Connection(peer) => {
            let began = Instant::now();
            let signers = shared.tls.signers.load_full();
            let found = shared
                .authenticator
                .authenticate(&mut parts.headers, (&peer, &signers), &info.path)
                .await;
            let name = found.as_ref().ok().map(|(user, _)| user.name.as_str());
            shared.metrics.authenticated(name, began.elapsed());
            if let Some(seconds) = peer.seconds_left(recording.received) {
                shared.metrics.certificate(seconds);
            }
            if let Err(status) = &found {
                let (id, received) = (recording.id, recording.received);
                if let Some(record) = shared.audit.begin(id, received, &parts, &info, None) {
                    record.unauthenticated(status);
                }
            }
            let (user, notes) = found?;
            (Arc::new(user), notes)
        }
    };
    let (id, received) = (recording.id, recording.received);
    let record = shared.audit.begin(id, received, &parts, &info, Some(&user));
    if let Some(record) = &record {
        for (key, told) in &notes {
            record.annotate(key, told);
        }
        if !record.received() {
            shared.audit.rejected();
            let uri = parts.uri.to_string();
            let why = format!("Internal Server Error: {uri:?}: failed to store audit event\n");
            return Ok(response::text(500, why));
        }
        let _ = recording.record.set(record.clone());
    }
    let asked = Asked {
        info,
        user,
        schema: recording.schema,
        warnings: recording.warnings,
        waited: recording.waited,
        series: recording.series,
    };
    let tracer = shared.tracer.as_ref();
    let span = tracer.and_then(|tracer| {
        let (headers, id) = (&parts.headers, recording.id);
        tracer.begin(headers, &asked.user, &asked.info, id)
    });
    let work = permitted(shared, parts, body, asked, record.as_deref());
    let work = audit::scope(record.clone(), work);
    let Some(span) = span else { return work.await };
    // Boxed, so that requests without a span do not carry the room for one.
    let outcome = span.around(Box::pin(work)).await;
    span.end(match &outcome {
        Ok(answer) => answer.status().as_u16(),
        Err(status) => status.code,
    });
    outcome
}

/// What is known of a request before it is known who asks.
struct Recording<'a> {
    id: &'a str,
    received: Timestamp,
    /// Set once there is a record.
    record: &'a OnceLock<Arc<Record>>,
    /// Set once it is known who asks.
    schema: &'a OnceLock<Arc<Schema>>,
    /// What the client is to be warned of.
    warnings: &'a Warnings,
    /// Set once it is the request's turn.
    waited: &'a OnceLock<Duration>,
    series: &'a Series,
}

/// What is asked, and by whom.
struct Asked<'a> {
    info: Arc<RequestInfo>,
    user: Arc<User>,
    /// Set once it is known whom the user is taken for.
    schema: &'a OnceLock<Arc<Schema>>,
    /// What the client is to be warned of.
    warnings: &'a Warnings,
    /// Set once it is the request's turn.
    waited: &'a OnceLock<Duration>,
    series: &'a Series,
}

/// Answers a request of somebody who is known.
async fn permitted<B>(
    shared: &Arc<Shared>,
    parts: Parts,
    body: B,
    asked: Asked<'_>,
    record: Option<&Record>,
) -> Result<Answer, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let (info, mut user) = (asked.info, asked.user);
    if let Some(taken) = impersonation::user(shared, &user, &parts.headers, &info).await? {
        let impersonation::Taken {
            user: whom,
            constraint,
        } = taken;
        if let Some(record) = record.filter(|_| constraint.is_some() || whom != *user) {
            record.impersonated(&whom, constraint);
        }
        user = Arc::new(whom);
    }
    let share = share_of(&info);
    let schema = shared.flow.classify(share, &user, &info);
    if let Some(schema) = &schema {
        let _ = asked.schema.set(schema.clone());
    }
    let schema = schema.as_ref();
    // Before the turn, as the body is: neither a decision of somebody else's nor a slow client takes up a seat.
    authorize(shared, &user, &info, record).await?;
    if let Some(remote) = shared.aggregation.remote(&shared.api, &info) {
        // A seat stands for work of this server: while others work, it is somebody else's.
        let seat = shared
            .flow
            .seat(share, schema, &user, &info, || None)
            .await?;
        drop(seat);
        let lasts =
            share == Share::LongRunning || parts.headers.contains_key(http::header::UPGRADE);
        let turn = match lasts {
            true => Some(shared.flow.last(&info, asked.series.lasts())?),
            false => None,
        };
        let passed = Passed {
            user,
            parts,
            body,
            turn,
        };
        return Box::pin(aggregation::proxy::pass(shared, &remote, passed)).await;
    }
    let body = if share == Share::LongRunning {
        None
    } else {
        let body = shared.flow.body(body).await?;
        asked.series.sent(body.bytes.len());
        Some(body)
    };
    let lasts = share == Share::LongRunning;
    let stock = || {
        let resource = shared
            .api
            .find(&info.group, &info.version, &info.resource)?;
        Some(resource.cacher.stock())
    };
    let began = Instant::now();
    let seat = shared.flow.seat(share, schema, &user, &info, stock).await?;
    let _ = asked.waited.set(began.elapsed());
    let turn = match lasts {
        true => Some(shared.flow.last(&info, asked.series.lasts())?),
        false => None,
    };
    let mut parts = parts;
    if let Some(turn) = &turn {
        parts.extensions.insert(turn.clone());
    }
    // A watch gives its seat back when it has begun; everything else, when it is answered.
    let (seat, begins) = match lasts {
        true => (None, Some(seat)),
        false => (Some(seat), None),
    };
    let compresses = compress::is_meant(&info, &parts.headers);
    let is_long = body.as_ref().is_some_and(|body| {
        aside::has_aliases(&parts.headers, &body.bytes)
            || may_take_long(shared, &info, body.bytes.len())
    });
    let call = Call {
        shared: shared.clone(),
        user,
        info,
        parts,
        body: body
            .as_ref()
            .map(|body| body.bytes.clone())
            .unwrap_or_default(),
        warnings: asked.warnings.clone(),
        begins: Mutex::new(begins),
    };
    // Boxed: it holds the largest of all handlers, and would be moved by everyone on the way here.
    let work = Aside::new(Box::pin(handlers::handle(call)), is_long);
    if let Some(turn) = turn {
        // The turn lasts as long as the answer.
        return Ok(work.await?.map(|body| response::holding(body, turn)));
    }
    let work = async {
        let mut answer = work.await?;
        if compresses {
            let compressed = shared.compressors.apply(answer).await;
            answer = compressed.map_err(Status::internal)?;
        }
        // What is there already holds nothing but itself.
        if http_body::Body::size_hint(answer.body()).exact().is_some() {
            return Ok(answer);
        }
        // What is made while it is sent is work like any other.
        let seat = seat.map(Brief::new);
        Ok(answer.map(|body| {
            let body = response::holding(body, seat);
            patience::watched(body, shared.flow.bounds().patience)
        }))
    };
    tokio::time::timeout(REQUEST_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| {
            Err(Status::timeout(
                "request did not complete within the allotted timeout",
            ))
        })
}

/// Whether a request that sends a body may take long: for what it sends, or for the object that it changes.
fn may_take_long(shared: &Shared, info: &RequestInfo, body_bytes: usize) -> bool {
    if !matches!(info.verb, Verb::Create | Verb::Update | Verb::Patch) {
        return body_bytes > aside::LARGE_BYTES;
    }
    if aside::COMPILED_GROUPS.contains(&info.group.as_str()) {
        return true;
    }
    let found = shared.api.find(&info.group, &info.version, &info.resource);
    let Some(resource) = found else {
        return body_bytes > aside::LARGE_BYTES;
    };
    let large = match resource.kind.has_expressions() {
        true => aside::LARGE_RULED_BYTES,
        false => aside::LARGE_BYTES,
    };
    let is_large = || {
        let key = resource.key(&info.namespace, &info.name);
        let known = resource.cacher.peek(&key);
        known.is_some_and(|stored| stored.json.len() > large)
    };
    body_bytes > large || (!info.name.is_empty() && is_large())
}

/// Watches and the streams of a pod last as long as the client wants.
fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == Verb::Watch
        || matches!(
            info.subresource.as_str(),
            "log" | "exec" | "attach" | "portforward" | "proxy"
        )
        || (!info.is_resource && info.path.starts_with(PROFILES))
}

fn share_of(info: &RequestInfo) -> Share {
    if is_long_running(info) {
        Share::LongRunning
    } else if info.verb.is_read() || !info.is_resource {
        Share::Read
    } else {
        Share::Write
    }
}

async fn authorize(
    shared: &Shared,
    user: &User,
    info: &RequestInfo,
    record: Option<&Record>,
) -> Result<(), Status> {
    let access = Access::of(info);
    let began = Instant::now();
    let (decision, reason) = shared.authorizer.decide(user, &access).await;
    shared.metrics.authorized(decision, began.elapsed());
    let allowed = decision == Decision::Allow;
    if let Some(record) = record {
        record.authorized(allowed, Some(&reason));
    }
    if allowed {
        return Ok(());
    }
    Err(access.forbidden(&user.name, &reason))
}
