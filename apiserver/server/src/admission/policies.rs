//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: rules and changes of the administrator, in CEL.
//!
//! ```text
//!  caches ─▶ compiled (policies with their bindings) ─▶ params (what each is evaluated with) ─▶ validating | mutating
//! ```
//!
//! A policy is evaluated for a request if the policy and one of its bindings select it, once with each of the binding's
//! parameters. What goes wrong with a policy counts as its failure policy says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use corral_api::status::{Status, StatusCause, StatusReason};
use corral_kinds::AnyKind;
use serde_json::{Value, json};

use super::exemption::{self, Exemption};
use super::expressions::Subject;
use super::matching::{self, Seen};
use super::request::{Phase, Request};
use super::rights::Rights;
use super::rounds::Rounds;
use crate::api::Api;

mod compiled;
mod metrics;
mod mutating;
mod params;
mod validating;

pub use metrics::Metrics;

use compiled::{Binding, Bound, Policy, Purpose};
use metrics::Enforcement;
use params::Source;
use validating::{Findings, Verdict};

/// Bytes of an audit annotation's value, as in Kubernetes.
const NOTE_SIZE_MAX: usize = 10 * 1024;
const FAILURE_ANNOTATION: &str = "validation.policy.admission.k8s.io/validation_failure";

/// A policy that is to be evaluated, with one binding and one object of parameters.
struct Invocation {
    policy: Arc<Policy>,
    binding: Arc<Binding>,
    seen: Seen,
    params: Option<Value>,
}

impl Invocation {
    /// Tells it from all others.
    fn key(&self) -> String {
        let metadata = self.params.as_ref().map(|params| &params["metadata"]);
        let of_params = metadata.map(|metadata| (&metadata["namespace"], &metadata["name"]));
        format!("{}/{}/{of_params:?}", self.policy.name, self.binding.name)
    }
}

/// What is wrong with a policy or a binding.
struct Fault {
    policy: Arc<Policy>,
    binding: Option<Arc<Binding>>,
    why: String,
    reason: Option<String>,
}

/// Policies that see a request.
#[derive(Default)]
pub struct Relevant {
    invocations: Vec<Invocation>,
    faults: Vec<Fault>,
}

impl Relevant {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.invocations.is_empty() && self.faults.is_empty()
    }
}

/// What mutating policies make of a changed object: what it would be as an object of its kind, with defaults.
pub type Completed<'c> = dyn FnMut(Value) -> Result<Value, Status> + Send + 'c;

/// All policies.
pub struct Policies {
    validating: compiled::Policies,
    mutating: compiled::Policies,
    metrics: Metrics,
}

impl Policies {
    /// Policies that are measured.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            validating: compiled::Policies::default(),
            mutating: compiled::Policies::default(),
            metrics,
        }
    }

    /// Whether there are no policies in effect at all.
    pub fn are_none(&self, api: &Api, phase: Phase) -> bool {
        self.current(api, phase).is_empty()
    }

    fn current(&self, api: &Api, phase: Phase) -> Arc<Vec<Bound>> {
        match phase {
            Phase::Mutating => self.mutating.current(api, phase),
            Phase::Validating => self.validating.current(api, phase),
        }
    }

    /// The policies to evaluate for a request, with what is wrong with those that cannot be.
    ///
    /// # Errors
    /// 404 when the namespace that selectors look at is not there.
    pub async fn relevant(
        &self,
        api: &Api,
        phase: Phase,
        request: &Request<'_>,
        object: &Value,
        old: &Value,
    ) -> Result<Relevant, Status> {
        let current = self.current(api, phase);
        let mut relevant = Relevant::default();
        if current.is_empty() || !concerns(request) {
            return Ok(relevant);
        }
        for bound in current.iter() {
            self.select(api, request, (object, old), bound, &mut relevant)
                .await?;
        }
        Ok(relevant)
    }

    async fn select(
        &self,
        api: &Api,
        request: &Request<'_>,
        (object, old): (&Value, &Value),
        bound: &Bound,
        relevant: &mut Relevant,
    ) -> Result<(), Status> {
        let policy = &bound.policy;
        let fault = |binding: Option<&Arc<Binding>>, why| Fault {
            policy: policy.clone(),
            binding: binding.cloned(),
            why,
            reason: None,
        };
        let Some(criteria) = &policy.criteria else {
            let why = "policy contained no match constraints, a required field".to_owned();
            relevant
                .faults
                .push(fault(None, format!("failed to configure policy: {why}")));
            return Ok(());
        };
        let Some(seen) = criteria.selects(api, request, object, old).await? else {
            return Ok(());
        };
        let source = match Source::of(api, policy) {
            Ok(source) => source,
            Err(why) => {
                let why = format!("failed to configure policy: {why}");
                relevant.faults.push(fault(None, why));
                return Ok(());
            }
        };
        for binding in &bound.bindings {
            if let Some(criteria) = &binding.criteria
                && criteria.selects(api, request, object, old).await?.is_none()
            {
                continue;
            }
            match source.collect(binding, &request.namespace).await {
                Ok(found) => {
                    let found = found.into_iter().map(|params| Invocation {
                        policy: policy.clone(),
                        binding: binding.clone(),
                        seen: seen.clone(),
                        params,
                    });
                    relevant.invocations.extend(found);
                }
                Err(why) => {
                    let why = format!("failed to configure binding: {why}");
                    relevant.faults.push(fault(Some(binding), why));
                }
            }
        }
        Ok(())
    }

    /// Evaluates validating policies.
    ///
    /// # Errors
    /// What the first says that refuses, or the namespace that is not there.
    pub async fn validate(
        &self,
        api: &Api,
        request: &Request<'_>,
        rights: &Rights<'_>,
        relevant: &Relevant,
        object: &Value,
        old: &Value,
    ) -> Result<(), Status> {
        let fails_open = exemption::of(request) == Exemption::FailsOpen;
        let namespace = self.namespace(api, request, relevant).await?;
        let mut denials = Denials::default();
        for fault in &relevant.faults {
            if !fault.policy.ignores_failures && !fails_open {
                let binding = fault.binding.as_ref().map(|binding| binding.name.as_str());
                denials.add(&fault.policy.name, binding, &fault.why, None);
            }
        }
        let mut notes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for invocation in &relevant.invocations {
            let ignores = invocation.policy.ignores_failures || fails_open;
            let subject = Subject::new(request, &invocation.seen, object, old)
                .await?
                .in_namespace(namespace.as_ref());
            let found = self.findings(invocation, rights, &subject).await;
            self.take(request, invocation, ignores, &found, &mut denials);
            for (key, value) in found.notes {
                match value {
                    Ok(value) => {
                        let key = format!("{}/{key}", invocation.policy.name);
                        let values = notes.entry(key).or_default();
                        let value = shortened(value);
                        if !values.contains(&value) {
                            values.push(value);
                        }
                    }
                    Err(_) if ignores => {}
                    Err(why) => {
                        let (policy, binding) = (&invocation.policy.name, &invocation.binding.name);
                        denials.add(policy, Some(binding), &why, None);
                    }
                }
            }
        }
        for (key, values) in notes {
            request.cx.annotate(key, values.join(", "));
        }
        denials.refuse(request, object)
    }

    async fn findings(
        &self,
        invocation: &Invocation,
        rights: &Rights<'_>,
        subject: &Subject<'_>,
    ) -> Findings {
        let (policy, params) = (&invocation.policy, invocation.params.as_ref());
        let Purpose::Validate { validations, notes } = &policy.purpose else {
            return Findings::default();
        };
        match policy.conditions.hold(rights, subject, params).await {
            Ok(true) => {
                let inputs = subject.inputs(rights, params);
                rights
                    .settle(|| validating::find(policy, validations, notes, inputs))
                    .await
            }
            Ok(false) => Findings::default(),
            Err(why) => Findings::failed(why),
        }
    }

    /// What becomes of what a policy has found: a denial, a warning, a line of the audit log.
    fn take(
        &self,
        request: &Request<'_>,
        invocation: &Invocation,
        ignores: bool,
        found: &Findings,
        denials: &mut Denials,
    ) {
        let (policy, binding) = (&invocation.policy.name, &invocation.binding.name);
        let names = (policy.as_str(), binding.as_str());
        for (index, finding) in found.rules.iter().enumerate() {
            let (message, reason, error) = match &finding.verdict {
                Verdict::Kept => continue,
                Verdict::Broken { message, reason } => (message, Some(reason.as_str()), None),
                Verdict::Failed(why) if ignores => {
                    let (why, allow) = (Some(why.as_str()), Enforcement::Allow);
                    self.metrics.validated(names, why, allow, finding.took);
                    continue;
                }
                Verdict::Failed(why) => (why, None, Some(why.as_str())),
            };
            for action in &invocation.binding.actions {
                let enforcement = match action.as_str() {
                    "Deny" => {
                        denials.add(policy, Some(binding), message, reason);
                        Enforcement::Deny
                    }
                    "Audit" => {
                        let told = json!([{
                            "message": message, "policy": policy, "binding": binding, "expressionIndex": index,
                            "validationActions": invocation.binding.actions,
                        }]);
                        let key = FAILURE_ANNOTATION.to_owned();
                        request.cx.annotate(key, told.to_string());
                        Enforcement::Audit
                    }
                    _ => {
                        request.cx.warn(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {message}"
                        ));
                        Enforcement::Warn
                    }
                };
                self.metrics
                    .validated(names, error, enforcement, finding.took);
            }
        }
    }

    /// Evaluates mutating policies, one after the other, each with what the former made of the object. Answers whether
    /// the object was changed.
    ///
    /// # Errors
    /// What is wrong with a policy whose failures count, or with what it made of the object.
    pub async fn mutate(
        &self,
        api: &Api,
        (request, rights, relevant): (&Request<'_>, &Rights<'_>, &Relevant),
        rounds: &mut Rounds,
        object: &mut Value,
        old: &Value,
        completed: &mut Completed<'_>,
    ) -> Result<bool, Status> {
        let namespace = self.namespace(api, request, relevant).await?;
        let mut faults: Vec<Fault> = Vec::new();
        let mut changed = false;
        for invocation in &relevant.invocations {
            let policy = &invocation.policy;
            let Purpose::Mutate { changes, again } = &policy.purpose else {
                continue;
            };
            let key = invocation.key();
            if rounds.leaves_out(&key) {
                continue;
            }
            let params = invocation.params.as_ref();
            let before = object.clone();
            let subject = Subject::new(request, &invocation.seen, &before, old)
                .await?
                .in_namespace(namespace.as_ref());
            let fault = |why| Fault {
                policy: policy.clone(),
                binding: Some(invocation.binding.clone()),
                why,
                reason: Some("Invalid".to_owned()),
            };
            match policy.conditions.hold(rights, &subject, params).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    faults.push(fault(why));
                    continue;
                }
            }
            let mut subject = subject;
            for change in changes {
                if object.is_null() {
                    continue;
                }
                let started = Instant::now();
                let made = match invocation.seen.owner(request) {
                    // What is no object of a resource has no schema here.
                    None => {
                        Err("the kind of this request cannot be changed by policies".to_owned())
                    }
                    Some(owner) => {
                        let inputs = subject.inputs(rights, params);
                        rights
                            .settle(|| mutating::changed(policy, change, inputs, owner.schema()))
                            .await
                    }
                };
                let names = (policy.name.as_str(), invocation.binding.name.as_str());
                let error = made.as_ref().err().map(String::as_str);
                self.metrics.mutated(names, error, started.elapsed());
                match made {
                    Ok(made) => {
                        if let Some(owner) = invocation.seen.owner(request) {
                            known_fields(&*owner.kind, &made)?;
                        }
                        *object = completed(invocation.seen.back(request, made).await?)?;
                        let seen = invocation.seen.view(request, object).await?.into_owned();
                        subject.with_object(seen);
                    }
                    Err(why) => faults.push(fault(why)),
                }
            }
            if *object != before {
                changed = true;
                rounds.changed();
            }
            if *again {
                rounds.asks_again(key);
            }
        }
        refuse_faulty(request, object, relevant.faults.iter().chain(&faults))?;
        Ok(changed)
    }

    /// The namespace of the object, where expressions may want it.
    async fn namespace(
        &self,
        api: &Api,
        request: &Request<'_>,
        relevant: &Relevant,
    ) -> Result<Option<Value>, Status> {
        let is_namespace = request.kind.group.is_empty() && request.kind.kind == "Namespace";
        if relevant.invocations.is_empty() || request.namespace.is_empty() || is_namespace {
            return Ok(None);
        }
        matching::namespace(api, &request.namespace).await.map(Some)
    }
}

/// That what a policy made of an object has no fields that there are not: nobody would see them go.
fn known_fields(kind: &dyn AnyKind, made: &Value) -> Result<(), Status> {
    if kind.is_custom() {
        return Ok(());
    }
    let report = kind.check(&mut made.clone());
    let report = report.map_err(|error| Status::unexpected(error.0))?;
    let unknown = report.unknown.iter();
    let unknown: Vec<String> = unknown.map(|f| format!("unknown field {f:?}")).collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(Status::unexpected(format!(
            "strict decoding error: {}",
            unknown.join(", ")
        ))),
    }
}

/// Whether policies have a say: not over themselves, nor over what keeps the cluster going.
fn concerns(request: &Request<'_>) -> bool {
    let (group, _, plural) = &request.resource;
    // Unlike webhooks, policies may watch over the configurations of webhooks.
    let of_webhooks =
        group == "admissionregistration.k8s.io" && plural.ends_with("webhookconfigurations");
    of_webhooks || exemption::of(request) != Exemption::NotAsked
}

fn shortened(mut value: String) -> String {
    if value.len() > NOTE_SIZE_MAX {
        let end = value.floor_char_boundary(NOTE_SIZE_MAX);
        value.truncate(end);
    }
    value
}

/// The name of an object in a message about it.
fn name_of<'a>(request: &'a Request<'_>, object: &'a Value) -> &'a str {
    let metadata = &object["metadata"];
    let names = [
        Some(request.name.as_str()),
        metadata["name"].as_str(),
        metadata["generateName"].as_str(),
    ];
    let mut given = names.into_iter().flatten();
    given.find(|name| !name.is_empty()).unwrap_or("Unknown")
}

/// The first refusal; others are not told.
#[derive(Default)]
struct Denials(Option<(String, Option<String>)>);

impl Denials {
    fn add(&mut self, policy: &str, binding: Option<&str>, message: &str, reason: Option<&str>) {
        self.0.get_or_insert_with(|| {
            let with = binding.map_or_else(String::new, |name| format!(" with binding '{name}'"));
            let message =
                format!("ValidatingAdmissionPolicy '{policy}'{with} denied request: {message}");
            (message, reason.map(str::to_owned))
        });
    }

    fn refuse(self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let Some((message, reason)) = self.0 else {
            return Ok(());
        };
        let (group, _, plural) = &request.resource;
        let mut status = Status::forbidden(group, plural, name_of(request, object), &message);
        (status.code, status.reason) = match reason.as_deref() {
            Some("Forbidden") => (403, StatusReason::Forbidden),
            Some("Unauthorized") => (401, StatusReason::Unauthorized),
            Some("RequestEntityTooLarge") => (413, StatusReason::RequestEntityTooLarge),
            _ => (422, StatusReason::Invalid),
        };
        add_cause(&mut status, message);
        Err(status)
    }
}

fn add_cause(status: &mut Status, message: String) {
    if let Some(details) = &mut status.details {
        details.causes.push(StatusCause {
            message,
            ..StatusCause::default()
        });
    }
}

/// Refuses a request for what is wrong with policies whose failures count.
fn refuse_faulty<'f>(
    request: &Request<'_>,
    object: &Value,
    faults: impl Iterator<Item = &'f Fault>,
) -> Result<(), Status> {
    let fails_open = exemption::of(request) == Exemption::FailsOpen;
    let mut refusal: Option<Status> = None;
    for fault in faults.filter(|fault| !fault.policy.ignores_failures && !fails_open) {
        let policy = &fault.policy.name;
        let message = match &fault.binding {
            Some(binding) => format!(
                "policy '{policy}' with binding '{}' denied request: {}",
                binding.name, fault.why
            ),
            None => format!("policy {policy:?} denied request: {}", fault.why),
        };
        let status = refusal.get_or_insert_with(|| {
            let (group, _, plural) = &request.resource;
            let mut status = Status::forbidden(group, plural, name_of(request, object), "");
            status.message.clone_from(&message);
            if fault.reason.is_some() {
                // As in Kubernetes, with the code of a prohibition.
                status.reason = StatusReason::Invalid;
            }
            status
        });
        add_cause(status, message);
    }
    refusal.map_or(Ok(()), Err)
}
