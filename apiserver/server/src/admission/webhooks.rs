//! Admission webhooks: servers of others that are asked about a write, may change its object, and may refuse it.
//!
//! ```text
//!  request ─▶ hooks (who is there) ─▶ matching (who is asked) ─▶ review (what is asked) ─▶ client ─▶ webhook
//! ```
//!
//! Mutating webhooks are asked one after the other, each with what the former made of the object; validating ones at
//! once. What a webhook sees is the JSON of the object in the version that its rules name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corral_api::status::Status;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;

use super::exemption::{self, Exemption};
use super::expressions::Subject;
use super::matching::Seen;
use super::request::{Operation, Phase, Request};
use super::rights::Rights;
use super::rounds::Rounds;
use crate::api::Api;
use crate::patch;
use crate::registry::WriteContext;

pub(crate) mod client;
mod hooks;
mod metrics;
mod review;
pub(crate) mod target;
pub(crate) mod trust;

pub use metrics::Metrics;

use client::Clients;
use hooks::{Hook, Hooks};
use metrics::Outcome;
use review::Verdict;

/// The plural of the resource that holds configurations.
fn plural(phase: Phase) -> &'static str {
    match phase {
        Phase::Mutating => "mutatingwebhookconfigurations",
        Phase::Validating => "validatingwebhookconfigurations",
    }
}

/// The word of metrics.
fn step(phase: Phase) -> &'static str {
    match phase {
        Phase::Mutating => "admit",
        Phase::Validating => "validating",
    }
}

/// A webhook that is to be asked about a request.
pub struct Invocation {
    hook: Arc<Hook>,
    /// Its place among all webhooks of its kind.
    index: usize,
    /// The version in which it sees the request.
    seen: Seen,
    fails_open: bool,
}

/// Why a webhook did not let a write pass.
enum Refusal {
    /// It said so.
    Rejected(Status),
    /// It could not be asked, or what it answered was no answer: the failure policy decides.
    Failed { why: String, code: u16 },
    /// The write cannot be: a fault of the client, or of the server.
    Impossible(Status),
}

/// All webhooks.
pub struct Webhooks {
    mutating: Hooks,
    validating: Hooks,
    clients: Clients,
    metrics: Metrics,
}

impl Webhooks {
    /// Webhooks that are measured.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            mutating: Hooks::default(),
            validating: Hooks::default(),
            clients: Clients::default(),
            metrics,
        }
    }

    /// The webhooks that are to be asked about a request, as far as that can be told without the object.
    ///
    /// # Errors
    /// 404 when the namespace that selectors look at is not there.
    pub async fn relevant(
        &self,
        api: &Api,
        phase: Phase,
        request: &Request<'_>,
    ) -> Result<Vec<Invocation>, Status> {
        let fails_open = match exemption::of(request) {
            Exemption::NotAsked => return Ok(Vec::new()),
            Exemption::FailsOpen => true,
            Exemption::None => false,
        };
        let hooks = match phase {
            Phase::Mutating => self.mutating.current(api, phase),
            Phase::Validating => self.validating.current(api, phase),
        };
        let mut found = Vec::new();
        for (index, hook) in hooks.iter().enumerate() {
            let Some(seen) = hook.criteria.by_rules(api, request) else {
                continue;
            };
            if !hook.criteria.by_namespace(api, request).await? {
                continue;
            }
            found.push(Invocation {
                hook: hook.clone(),
                index,
                seen,
                fails_open,
            });
        }
        Ok(found)
    }

    /// Asks mutating webhooks, one after the other. Answers whether the object was changed.
    ///
    /// # Errors
    /// What the webhook says that refuses, or 500 for one that cannot be asked and whose failures count.
    pub async fn mutate(
        &self,
        api: &Api,
        request: &Request<'_>,
        rights: &Rights<'_>,
        (invocations, rounds): (&[Invocation], &mut Rounds),
        object: &mut Value,
        old: &Value,
    ) -> Result<bool, Status> {
        let mut changed = false;
        for invocation in invocations {
            let hook = &invocation.hook;
            if rounds.leaves_out(&hook.uid) {
                continue;
            }
            if !invocation.wants(request, rights, object, old).await? {
                continue;
            }
            let patched = self
                .observed(
                    Phase::Mutating,
                    request,
                    invocation,
                    rounds.is_second(),
                    async {
                        self.mutate_one(api, request, invocation, rounds.is_second(), object, old)
                            .await
                    },
                )
                .await?;
            if let Some(patched) = patched.filter(|patched| patched != object) {
                *object = patched;
                changed = true;
                rounds.changed();
            }
            if hook.webhook.reinvocation_policy.as_deref() == Some("IfNeeded") {
                rounds.asks_again(hook.uid.clone());
            }
        }
        Ok(changed)
    }

    /// Asks validating webhooks, all at once.
    ///
    /// # Errors
    /// As [`Webhooks::mutate`].
    pub async fn validate(
        &self,
        api: &Api,
        request: &Request<'_>,
        rights: &Rights<'_>,
        invocations: &[Invocation],
        object: &Value,
        old: &Value,
    ) -> Result<(), Status> {
        let mut asked = Vec::new();
        for invocation in invocations {
            if invocation.wants(request, rights, object, old).await? {
                asked.push(invocation);
            }
        }
        let mut answers: FuturesUnordered<_> = asked
            .into_iter()
            .map(|invocation| {
                self.observed(Phase::Validating, request, invocation, false, async {
                    let sent = Sent::new(request, invocation, object, old).await?;
                    self.ask(api, Phase::Validating, request, invocation, &sent)
                        .await?;
                    Ok(())
                })
            })
            .collect();
        // Each is waited for: what one does outside shall not depend on how fast another is.
        let mut first = None;
        while let Some(answer) = answers.next().await {
            if let Err(status) = answer {
                first.get_or_insert(status);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Asks one mutating webhook; answers what it makes of the object, if anything.
    async fn mutate_one(
        &self,
        api: &Api,
        request: &Request<'_>,
        invocation: &Invocation,
        again: bool,
        object: &Value,
        old: &Value,
    ) -> Result<Option<Value>, Refusal> {
        let sent = Sent::new(request, invocation, object, old).await?;
        let answered = self
            .ask(api, Phase::Mutating, request, invocation, &sent)
            .await;
        let patch = answered
            .as_ref()
            .ok()
            .and_then(|verdict| verdict.patch.clone());
        let patched = match (&answered, patch.as_deref()) {
            (Ok(_), Some(patch)) => sent.patched(request, invocation, patch).await?,
            _ => None,
        };
        let changed = patched.as_ref().is_some_and(|patched| patched != object);
        invocation.annotate(request.cx, again, changed, patch.as_deref());
        answered.map(|_| patched)
    }

    async fn ask(
        &self,
        api: &Api,
        phase: Phase,
        request: &Request<'_>,
        invocation: &Invocation,
        sent: &Sent<'_>,
    ) -> Result<Verdict, Refusal> {
        let hook = &invocation.hook;
        let free = matches!(hook.webhook.side_effects.as_str(), "None" | "NoneOnDryRun");
        if request.cx.dry_run && !free {
            let why = format!(
                "admission webhook {:?} does not support dry run",
                hook.webhook.name
            );
            return Err(Refusal::Impossible(Status::bad_request(why)));
        }
        let timeout = hook.timeout();
        let timeout = match request.cx.asked.deadline {
            Some(deadline) => timeout.min(deadline.saturating_duration_since(Instant::now())),
            None => timeout,
        };
        let version = review::version(hook)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let body = review::write(version, &uid, request, invocation, sent);
        let answer = self.clients.post(api, hook, body, timeout).await?;
        let verdict = review::read(version, &uid, phase, &answer)?;
        for (key, value) in &verdict.audit_annotations {
            request
                .cx
                .annotate(format!("{}/{key}", hook.webhook.name), value.clone());
        }
        verdict
            .warnings
            .iter()
            .for_each(|text| request.cx.warn(text.as_str()));
        match verdict.rejection(&hook.webhook.name) {
            Some(status) => Err(Refusal::Rejected(status)),
            None => Ok(verdict),
        }
    }

    /// Measures how a webhook is asked, and lets its failure policy decide.
    async fn observed<T: Default>(
        &self,
        phase: Phase,
        request: &Request<'_>,
        invocation: &Invocation,
        again: bool,
        asking: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Status> {
        let (name, started) = (&invocation.hook.webhook.name, Instant::now());
        let answer = asking.await;
        let ignores = invocation.ignores_failures();
        let outcome = match &answer {
            Ok(_) => Outcome::Passed,
            Err(Refusal::Rejected(status)) => Outcome::Rejected(status.code),
            Err(Refusal::Failed { code, .. }) if ignores => Outcome::FailedOpen(*code),
            Err(Refusal::Failed { code, .. }) => Outcome::Failed(*code),
            Err(Refusal::Impossible(_)) => Outcome::Impossible,
        };
        let labels = (name.as_str(), step(phase), request.operation.as_str());
        self.metrics.observe(labels, outcome, started.elapsed());
        match answer {
            Ok(value) => Ok(value),
            Err(Refusal::Rejected(status) | Refusal::Impossible(status)) => Err(status),
            Err(Refusal::Failed { why, .. }) => {
                let why = format!("failed calling webhook {name:?}: {why}");
                if !ignores {
                    tracing::warn!(webhook = name, why, "a webhook failed, and with it a write");
                    return Err(Status::internal(why));
                }
                tracing::warn!(
                    webhook = name,
                    why,
                    "a webhook failed, which its policy or its subject lets pass"
                );
                invocation.annotate_failure(request.cx, phase, again);
                let late = |deadline: Instant| deadline <= Instant::now();
                if request.cx.asked.deadline.is_some_and(late) {
                    return Err(Status::timeout(
                        "request did not complete within requested timeout",
                    ));
                }
                Ok(T::default())
            }
        }
    }
}

impl Hook {
    fn timeout(&self) -> Duration {
        let seconds = self
            .webhook
            .timeout_seconds
            .unwrap_or(hooks::TIMEOUT_SECONDS_DEFAULT);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

impl Invocation {
    /// Whether the object is one that the webhook is asked about, and its conditions hold.
    async fn wants(
        &self,
        request: &Request<'_>,
        rights: &Rights<'_>,
        object: &Value,
        old: &Value,
    ) -> Result<bool, Status> {
        if !self.hook.criteria.by_object(object, old) {
            return Ok(false);
        }
        let conditions = &self.hook.conditions;
        if conditions.is_empty() {
            return Ok(true);
        }
        let subject = Subject::new(request, &self.seen, object, old).await?;
        match conditions.hold(rights, &subject, None).await {
            Ok(hold) => Ok(hold),
            Err(_) if self.ignores_failures() => Ok(false),
            Err(why) => {
                let (group, _, plural) = &request.resource;
                Err(Status::forbidden(group, plural, &request.name, &why))
            }
        }
    }

    fn ignores_failures(&self) -> bool {
        self.fails_open || self.hook.webhook.failure_policy.as_deref() == Some("Ignore")
    }

    /// Tells the audit log what a mutating webhook did.
    fn annotate(&self, cx: &WriteContext, again: bool, mutated: bool, patch: Option<&[u8]>) {
        const PATCHES: &str = "patch.webhook.admission.k8s.io/";
        const MUTATIONS: &str = "mutation.webhook.admission.k8s.io/";
        let (configuration, webhook) = (&self.hook.configuration, &self.hook.webhook.name);
        let place = self.place(again);
        let (configuration, webhook) = (
            Value::from(configuration.as_str()),
            Value::from(webhook.as_str()),
        );
        let head = format!("{{\"configuration\":{configuration},\"webhook\":{webhook}");
        if let Some(patch) = patch.and_then(|patch| serde_json::from_slice::<Value>(patch).ok()) {
            let text = format!("{head},\"patch\":{patch},\"patchType\":\"JSONPatch\"}}");
            cx.annotate_request(format!("{PATCHES}{place}"), text);
        }
        let text = format!("{head},\"mutated\":{mutated}}}");
        cx.annotate(format!("{MUTATIONS}{place}"), text);
    }

    fn annotate_failure(&self, cx: &WriteContext, phase: Phase, again: bool) {
        let prefix = match phase {
            Phase::Mutating => "failed-open.mutation.webhook.admission.k8s.io/",
            Phase::Validating => "failed-open.validating.webhook.admission.k8s.io/",
        };
        let name = self.hook.webhook.name.clone();
        cx.annotate(format!("{prefix}{}", self.place(again)), name);
    }

    fn place(&self, again: bool) -> String {
        format!("round_{}_index_{}", i32::from(again), self.index)
    }
}

/// The objects of a request in the version in which a webhook is asked.
struct Sent<'a> {
    object: std::borrow::Cow<'a, Value>,
    old: std::borrow::Cow<'a, Value>,
}

impl<'a> Sent<'a> {
    async fn new(
        request: &Request<'_>,
        invocation: &Invocation,
        object: &'a Value,
        old: &'a Value,
    ) -> Result<Self, Refusal> {
        let view = async |value| {
            let seen = invocation.seen.view(request, value).await;
            seen.map_err(Refusal::Impossible)
        };
        Ok(Self {
            object: view(object).await?,
            old: view(old).await?,
        })
    }

    /// The object with a patch, in the request's own version; nothing if the patch is empty.
    async fn patched(
        &self,
        request: &Request<'_>,
        invocation: &Invocation,
        patch: &[u8],
    ) -> Result<Option<Value>, Refusal> {
        let undecodable = |why: String| Refusal::Failed {
            why: format!("received undecodable patch in webhook response: {why}"),
            code: 503,
        };
        let operations: Vec<Value> =
            serde_json::from_slice(patch).map_err(|error| undecodable(error.to_string()))?;
        if operations.is_empty() {
            return Ok(None);
        }
        if self.object.is_null() || request.operation == Operation::Connect {
            let name = &invocation.hook.webhook.name;
            let why = format!(
                "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
            );
            return Err(Refusal::Impossible(Status::internal(why)));
        }
        let patched = patch::json_patch(&self.object, patch)
            .map_err(|status| Refusal::Impossible(Status::internal(status.message)))?;
        let back = invocation.seen.back(request, patched).await;
        back.map(Some).map_err(Refusal::Impossible)
    }
}
