//! The audit log: who did what, and with which outcome, as a policy asks for it.
//!
//! A [`Record`] goes with a request through the chain and grows; it is written at the stages that its rule wants. Whoever
//! works for the request may add to it by [`annotate`] without carrying it along.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use corral_api::status::Status;
use http::HeaderMap;
use http::request::Parts;
use jiff::Timestamp;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::User;
use crate::request::{RequestInfo, Verb};
use crate::response::Answer;
use crate::serve::Ends;

mod event;
pub mod log;
pub mod policy;
pub mod webhook;

use event::{Event, ObjectRef};
use log::{Log, LogConfig};
use policy::{Level, Policy, Stage, Verdict};
use webhook::{Webhook, WebhookConfig};

/// Longest `User-Agent` that is recorded whole, as in kube-apiserver.
const USER_AGENT_MAX: usize = 1024;
/// Longest id that a client may give its request.
const ID_MAX: usize = 256;
/// Annotations of one event, and bytes of a value.
const ANNOTATIONS_MAX: usize = 64;
const ANNOTATION_BYTES_MAX: usize = 16 * 1024;

/// The header that names a request.
pub const ID_HEADER: &str = "audit-id";

/// What is recorded, and where.
#[derive(Debug, Clone, Default)]
pub struct AuditConfig {
    /// The policy's file. Without one nothing is recorded.
    pub policy: Option<PathBuf>,
    /// A file of events.
    pub log: Option<LogConfig>,
    /// A service that is sent events.
    pub webhook: Option<WebhookConfig>,
}

/// The audit log of a server.
pub struct Audit {
    policy: Option<Policy>,
    log: Option<Log>,
    webhook: Option<Arc<Webhook>>,
    counted: Counted,
}

/// What is counted, by the names that kube-apiserver gives it.
struct Counted {
    written: IntCounter,
    levels: IntCounterVec,
    lost: IntCounterVec,
    rejected: IntCounter,
}

impl Counted {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counted = Self {
            written: IntCounter::new("apiserver_audit_event_total", "Audit events that were made")?,
            levels: IntCounterVec::new(
                Opts::new(
                    "apiserver_audit_level_total",
                    "Requests, by the level at which a policy has them recorded",
                ),
                &["level"],
            )?,
            lost: IntCounterVec::new(
                Opts::new(
                    "apiserver_audit_error_total",
                    "Audit events that were lost, by backend",
                ),
                &["plugin"],
            )?,
            rejected: IntCounter::new(
                "apiserver_audit_requests_rejected_total",
                "Requests that were refused as the audit log could not be written",
            )?,
        };
        registry.register(Box::new(counted.written.clone()))?;
        registry.register(Box::new(counted.levels.clone()))?;
        registry.register(Box::new(counted.lost.clone()))?;
        registry.register(Box::new(counted.rejected.clone()))?;
        Ok(counted)
    }
}

impl Audit {
    /// Opens what a configuration names.
    ///
    /// # Errors
    /// When the policy cannot be read, or the log not be written.
    pub async fn open(config: AuditConfig, registry: &Registry) -> Result<Self, String> {
        let counted = Counted::register(registry).map_err(|e| e.to_string())?;
        let policy = match &config.policy {
            None => None,
            Some(path) => {
                let told = |error: &dyn std::fmt::Display| {
                    format!("audit policy {}: {error}", path.display())
                };
                let text = std::fs::read_to_string(path).map_err(|e| told(&e))?;
                Some(Policy::parse(&text).map_err(|e| told(&e))?)
            }
        };
        let log = match config.log {
            None => None,
            Some(config) => {
                let path = config.path.clone();
                let told = |e| format!("audit log {}: {e}", path.display());
                Some(Log::open(config).map_err(told)?)
            }
        };
        let webhook = match config.webhook {
            None => None,
            Some(config) => {
                let lost = counted.lost.with_label_values(&["webhook"]);
                let webhook = Webhook::open(config, lost).await;
                Some(webhook.map_err(|e| format!("audit webhook {e}"))?)
            }
        };
        Ok(Self {
            policy: policy.filter(|_| log.is_some() || webhook.is_some()),
            log,
            webhook,
            counted,
        })
    }

    /// Starts what sends events on.
    pub fn start(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        if let Some(webhook) = &self.webhook {
            tasks.spawn(webhook.clone().run(stop.clone()));
        }
    }

    /// The policy in effect, as its file would write it; `None` where nothing is recorded.
    pub fn policy(&self) -> Option<Value> {
        // Nothing but texts and lists of them.
        self.policy
            .as_ref()
            .map(|policy| serde_json::to_value(policy).unwrap_or_default())
    }

    /// The record of a request, if there shall be one; `user` is nobody where that could not be found out.
    pub fn begin(
        self: &Arc<Self>,
        id: &str,
        received: Timestamp,
        parts: &Parts,
        info: &RequestInfo,
        user: Option<&User>,
    ) -> Option<Arc<Record>> {
        let verdict = self.policy.as_ref()?.judge(user, info);
        let level = self
            .counted
            .levels
            .with_label_values(&[verdict.level.as_str()]);
        level.inc();
        if verdict.level == Level::None {
            return None;
        }
        let event = Event {
            level: verdict.level,
            id: id.to_owned(),
            stage: Stage::RequestReceived,
            uri: parts.uri.path_and_query().map_or_else(
                || parts.uri.path().to_owned(),
                |target| target.as_str().to_owned(),
            ),
            verb: policy::verb(info).to_owned(),
            user: user.map(Into::into).unwrap_or_default(),
            impersonated_user: None,
            authentication_metadata: None,
            sources: sources(parts),
            user_agent: user_agent(&parts.headers),
            object_ref: info.is_resource.then(|| object_ref(info)),
            response_status: None,
            request_object: None,
            response_object: None,
            received,
            staged: received,
            annotations: Default::default(),
        };
        Some(Arc::new(Record {
            audit: self.clone(),
            verdict,
            event: Mutex::new(event),
        }))
    }

    /// Counts a request that is refused because its event was not written.
    pub fn rejected(&self) {
        self.counted.rejected.inc();
    }

    /// Answers whether the request may go on.
    fn write(&self, event: &Event) -> bool {
        let item = event.item();
        let mut goes_on = true;
        self.counted.written.inc();
        if let Some(log) = &self.log
            && let Err(error) = log.write(&event::line(&item))
        {
            let lost = self.counted.lost.with_label_values(&["log"]);
            if lost.get() == 0 {
                tracing::error!(%error, "the audit log cannot be written; events are lost");
            }
            lost.inc();
            goes_on = !log.is_strict();
        }
        if let Some(webhook) = &self.webhook {
            webhook.send(item);
        }
        goes_on
    }
}

/// The name of the object asked about: a collection of one name is about that object.
pub(crate) fn object_name(info: &RequestInfo) -> String {
    if !info.name.is_empty() || !matches!(info.verb, Verb::List | Verb::Watch) {
        return info.name.clone();
    }
    let fields = info.query.get("fieldSelector").unwrap_or("");
    let fields = corral_api::selector::FieldSelector::parse(fields).unwrap_or_default();
    fields.required("metadata.name").unwrap_or("").to_owned()
}

fn object_ref(info: &RequestInfo) -> ObjectRef {
    ObjectRef {
        resource: info.resource.clone(),
        namespace: info.namespace.clone(),
        name: object_name(info),
        api_group: info.group.clone(),
        api_version: info.version.clone(),
        subresource: info.subresource.clone(),
        ..ObjectRef::default()
    }
}

/// The addresses that a request came through: as proxies tell it, and the connection's own, which nobody can make up.
fn sources(parts: &Parts) -> Vec<String> {
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let forwarded = header("x-forwarded-for").unwrap_or("").split(',');
    let address = |text: &str| text.trim().parse::<std::net::IpAddr>().ok();
    let mut out: Vec<_> = forwarded.filter_map(address).collect();
    if let Some(real) = header("x-real-ip").and_then(address)
        && !out.contains(&real)
    {
        out.push(real);
    }
    let client = parts.extensions.get::<Ends>().map(|ends| ends.client);
    // Components in this process ask without a connection.
    let client = client.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    if out.last() != Some(&client) {
        out.push(client);
    }
    out.iter().map(ToString::to_string).collect()
}

fn user_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT);
    let agent = agent.and_then(|v| v.to_str().ok()).unwrap_or("");
    match agent.get(..USER_AGENT_MAX) {
        Some(head) if agent.len() > USER_AGENT_MAX => format!("{head}...TRUNCATED"),
        _ => agent.to_owned(),
    }
}

/// The id of a request: the client's own, or a new one.
pub fn id_of(headers: &HeaderMap) -> String {
    let given = headers.get(ID_HEADER).and_then(|v| v.to_str().ok());
    match given.filter(|id| !id.is_empty() && id.len() <= ID_MAX) {
        Some(id) => id.to_owned(),
        None => uuid::Uuid::new_v4().to_string(),
    }
}

/// An object as an answer tells it, for the record: the answer's own bytes may be of another format.
#[derive(Debug, Clone)]
pub struct Told(pub Bytes);

/// What is recorded of one request.
pub struct Record {
    audit: Arc<Audit>,
    verdict: Verdict,
    // The event as it is known so far. Held for changes and copies only.
    event: Mutex<Event>,
}

impl Record {
    fn event(&self) -> MutexGuard<'_, Event> {
        self.event.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the event as it is at a stage, unless the stage is not wanted.
    /// Answers whether the event was written, or need not be.
    fn stage(&self, stage: Stage) -> bool {
        let mut event = self.event();
        event.stage = stage;
        if stage != Stage::RequestReceived {
            event.staged = Timestamp::now();
        }
        let wanted = !self.verdict.omitted.contains(&stage);
        let event = wanted.then(|| event.clone());
        event.is_none_or(|event| self.audit.write(&event))
    }

    /// It is known who asks. Answers whether that was written, where the request may not go on otherwise.
    #[must_use]
    pub fn received(&self) -> bool {
        self.stage(Stage::RequestReceived)
    }

    /// The user is taken for another, by a right for just what is asked or by one for everything.
    pub fn impersonated(&self, user: &User, constraint: Option<String>) {
        let mut told = self.event();
        told.impersonated_user = Some(user.into());
        told.authentication_metadata =
            constraint.map(|impersonation_constraint| event::AuthenticationMetadata {
                impersonation_constraint,
            });
    }

    /// Whether the user may.
    pub fn authorized(&self, allowed: bool, reason: Option<&str>) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.annotate("authorization.k8s.io/decision", decision);
        self.annotate("authorization.k8s.io/reason", reason.unwrap_or(""));
    }

    /// Adds what somebody has found out. The first value of a key stays, as in Kubernetes.
    pub fn annotate(&self, key: &str, value: &str) {
        let mut event = self.event();
        if event.annotations.len() >= ANNOTATIONS_MAX || value.len() > ANNOTATION_BYTES_MAX {
            tracing::warn!(
                key,
                "an audit annotation is left out: there are too many, or it is too long"
            );
            return;
        }
        let annotations = &mut event.annotations;
        annotations
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }

    /// Whether the body of the request is recorded.
    pub fn wants_request(&self) -> bool {
        self.verdict.level >= Level::Request
    }

    /// Whether the body of the answer is recorded.
    pub fn wants_answer(&self) -> bool {
        self.verdict.level >= Level::RequestResponse
    }

    /// The object of the request is known.
    pub fn requested(&self, object: &Value) {
        let mut event = self.event();
        if let Some(about) = &mut event.object_ref {
            let metadata = &object["metadata"];
            let text = |field: &str| metadata[field].as_str().unwrap_or("").to_owned();
            let fill = |place: &mut String, field: &str| {
                if place.is_empty() {
                    *place = text(field);
                }
            };
            fill(&mut about.namespace, "namespace");
            fill(&mut about.name, "name");
            fill(&mut about.uid, "uid");
            fill(&mut about.resource_version, "resourceVersion");
        }
        if self.wants_request() {
            event.request_object = self.body(object.to_string().as_bytes());
        }
    }

    /// The patch of the request is known.
    pub fn patched(&self, patch: &Value) {
        if self.wants_request() {
            self.event().request_object = self.body(patch.to_string().as_bytes());
        }
    }

    fn body(&self, json: &[u8]) -> Option<Box<RawValue>> {
        if self.verdict.omit_managed_fields {
            let value = event::without_managed_fields(json)?;
            return RawValue::from_string(value.to_string()).ok();
        }
        serde_json::from_slice(json).ok()
    }

    fn answered(&self, code: u16, status: Option<&Status>, told: Option<&Bytes>) {
        let body = told.filter(|_| self.wants_answer());
        let body = body.and_then(|json| self.body(json));
        let mut event = self.event();
        event.response_status = Some(event::outcome(code, status));
        event.response_object = body;
    }

    /// The request has failed before it was known who asks.
    pub fn unauthenticated(&self, status: &Status) {
        self.answered(status.code, Some(status), None);
        self.stage(Stage::ResponseStarted);
    }

    /// A handler has panicked.
    pub fn panicked(&self, status: &Status) {
        self.answered(status.code, Some(status), None);
        self.stage(Stage::Panic);
    }

    /// The answer is there, or, if it lasts, its head.
    pub fn complete(
        self: &Arc<Self>,
        answer: Answer,
        failure: Option<&Status>,
        lasts: bool,
    ) -> Answer {
        let told = answer.extensions().get::<Told>().map(|told| told.0.clone());
        let status = match (failure, &told) {
            (Some(status), _) => Some(status.clone()),
            (None, Some(json)) if is_status(json) => serde_json::from_slice(json).ok(),
            _ => None,
        };
        self.answered(answer.status().as_u16(), status.as_ref(), told.as_ref());
        if !lasts || failure.is_some() {
            self.stage(Stage::ResponseComplete);
            return answer;
        }
        self.stage(Stage::ResponseStarted);
        let ended = Ended(self.clone());
        answer.map(|body| crate::response::holding(body, ended))
    }
}

/// Whether an answer's object is a `Status`, read off its beginning.
fn is_status(json: &[u8]) -> bool {
    let head = &json[..json.len().min(200)];
    memchr::memmem::find(head, br#""kind":"Status""#).is_some()
}

/// Writes the last event of an answer when its body has gone out, or is given up.
struct Ended(Arc<Record>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.stage(Stage::ResponseComplete);
    }
}

tokio::task_local! {
    static CURRENT: Option<Arc<Record>>;
}

/// Does something for the request of a record.
pub async fn scope<F: Future>(record: Option<Arc<Record>>, work: F) -> F::Output {
    CURRENT.scope(record, work).await
}

/// The record of the request that is worked for, if there is one.
pub fn current() -> Option<Arc<Record>> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Adds to the record of the request that is worked for, if there is one.
pub fn annotate(key: &str, value: &str) {
    if let Some(record) = current() {
        record.annotate(key, value);
    }
}
