//! Conversion of custom resources by somebody else: a webhook brings objects from one version into another.
//!
//! ```text
//!   stored bytes ─▶ settled in their own version ─▶ review (many objects) ─▶ webhook ─▶ checked, pruned ─▶ wanted version
//! ```
//!
//! Only what is in another version than the wanted one is sent. A webhook that is down or slow costs the users of its kind
//! an error, and nobody else anything: the reviews of one kind at a time are bounded, and so are those that wait for their
//! turn; while it does not answer in time, one review asks it and the others fail at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corral_api::k8s::api::admissionregistration::v1::WebhookClientConfig;
use corral_api::status::Status;
use corral_kinds::AnyKind;
use corral_kinds::apiextensions::custom_resource_definition::CustomResourceDefinition;
use corral_kinds::custom::kind::{CustomKind, Described};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::admission::webhooks::client::{Clients, Unanswered};
use crate::api::Api;
use crate::object::canonical;

mod metrics;
mod restore;
mod review;

pub use metrics::Metrics;

use metrics::Fault;
use review::Version;

/// How long a webhook may take, as in Kubernetes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of one review. A webhook written for single objects takes its time for each.
const OBJECTS_MAX: usize = 500;
/// Bytes of the objects of one review; a single object may be larger by itself.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of an answer: the converted form is rarely more than a few times as large.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Reviews of one kind at a time.
const REVIEWS_MAX: usize = 16;
/// Reviews of one kind that wait for their turn. Together with those above far less than the requests that the server
/// answers at a time, so that a slow webhook does not take the turns of other kinds' users.
const WAITING_MAX: usize = 64;

/// Why objects were not converted.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What the client is told.
    pub status: Status,
    /// Whether the webhook could not be asked: the same objects may be converted when it is back.
    pub unreachable: bool,
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.status
    }
}

/// What the conversions of all kinds share.
pub struct Conversions {
    clients: Clients,
    metrics: Metrics,
}

impl Conversions {
    /// Conversions that are measured.
    pub fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            clients: Clients::default(),
            metrics,
        })
    }
}

/// The conversion of one kind.
pub struct Conversion {
    shared: Arc<Conversions>,
    api: Weak<Api>,
    /// The name of the definition.
    definition: String,
    /// The kind by its versions, as `group/version`.
    versions: HashMap<String, Arc<CustomKind>>,
    config: WebhookClientConfig,
    review_versions: Vec<String>,
    turns: Semaphore,
    waiting: Semaphore,
    /// Why the last review that asked too long was not answered; nothing while the webhook answers.
    late: Mutex<Option<String>>,
    /// Whoever may ask a webhook that does not answer in time.
    probe: Semaphore,
}

impl Conversion {
    /// How a definition wants its objects converted; nothing if it wants only their version changed.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn of(
        definition: &CustomResourceDefinition,
        kinds: &[Described],
        api: &Arc<Api>,
        shared: &Arc<Conversions>,
    ) -> Result<Option<Arc<Self>>, serde_json::Error> {
        let conversion = definition.spec.conversion.as_ref();
        let Some(conversion) = conversion.filter(|conversion| conversion.strategy == "Webhook")
        else {
            return Ok(None);
        };
        let webhook = conversion.webhook.clone().unwrap_or_default();
        let mut config = serde_json::to_value(webhook.client_config.unwrap_or_default())?;
        // Nothing but white space is no authority.
        if config["caBundle"].as_str().is_some_and(is_blank)
            && let Value::Object(map) = &mut config
        {
            map.remove("caBundle");
        }
        let by_version = |described: &Described| {
            let version = described.kind.names().api_version();
            (version, described.kind.clone())
        };
        Ok(Some(Arc::new(Self {
            shared: shared.clone(),
            api: Arc::downgrade(api),
            definition: definition.metadata.name.clone().unwrap_or_default(),
            versions: kinds.iter().map(by_version).collect(),
            config: serde_json::from_value(config)?,
            review_versions: webhook.conversion_review_versions.unwrap_or_default(),
            turns: Semaphore::new(REVIEWS_MAX),
            waiting: Semaphore::new(WAITING_MAX),
            late: Mutex::default(),
            probe: Semaphore::new(1),
        })))
    }

    /// Whether the kind has a version.
    pub fn knows(&self, version: &str) -> bool {
        self.versions.contains_key(version)
    }

    /// The kind in a version.
    pub fn kind(&self, version: &str) -> Option<&Arc<CustomKind>> {
        self.versions.get(version)
    }

    /// What the store keeps, in a version, as canonical JSON.
    ///
    /// # Errors
    /// When one of the objects cannot be brought into it.
    pub async fn read(&self, stored: Vec<Bytes>, version: &str) -> Result<Vec<Bytes>, Failure> {
        let mut values = Vec::with_capacity(stored.len());
        for bytes in &stored {
            let mut value: Value = serde_json::from_slice(bytes).map_err(internal)?;
            let from = value["apiVersion"].as_str().unwrap_or_default();
            let kind = self
                .versions
                .get(from)
                .ok_or_else(|| invalid_version(from))?;
            let is_wanted = from == version;
            let settled = kind.settle(&mut value);
            // What is as it should be need not be written anew.
            values.push((value, !is_wanted || settled));
        }
        let (values, changed): (Vec<Value>, Vec<bool>) = values.into_iter().unzip();
        let converted = self.convert(values, version).await?;
        let pairs = converted.into_iter().zip(changed).zip(stored);
        Ok(pairs
            .map(|((value, changed), bytes)| if changed { canonical(value) } else { bytes })
            .collect())
    }

    /// Objects in a version.
    ///
    /// # Errors
    /// In Kubernetes' words, when the webhook does not convert one of them.
    pub async fn convert(&self, objects: Vec<Value>, to: &str) -> Result<Vec<Value>, Failure> {
        let mut out: Vec<Value> = Vec::with_capacity(objects.len());
        // Where in `out` what is being collected belongs.
        let (mut batch, mut places, mut size) = (Vec::new(), Vec::new(), 0);
        for object in objects {
            let from = object["apiVersion"].as_str().unwrap_or_default();
            if from == to {
                out.push(object);
                continue;
            }
            if !self.versions.contains_key(from) {
                return Err(invalid_version(from));
            }
            let length = object.to_string().len();
            if !batch.is_empty() && (batch.len() >= OBJECTS_MAX || size + length > BYTES_MAX) {
                self.fill(&mut out, &mut batch, &mut places, to).await?;
                size = 0;
            }
            size += length;
            places.push(out.len());
            batch.push(object);
            out.push(Value::Null);
        }
        if !batch.is_empty() {
            self.fill(&mut out, &mut batch, &mut places, to).await?;
        }
        Ok(out)
    }

    /// Converts what was collected and puts it where it belongs.
    async fn fill(
        &self,
        out: &mut [Value],
        batch: &mut Vec<Value>,
        places: &mut Vec<usize>,
        to: &str,
    ) -> Result<(), Failure> {
        let converted = self.review(std::mem::take(batch), to).await?;
        for (place, value) in places.drain(..).zip(converted) {
            out[place] = value;
        }
        Ok(())
    }

    async fn review(&self, objects: Vec<Value>, to: &str) -> Result<Vec<Value>, Failure> {
        let kind = self.versions.get(to);
        let kind = kind.ok_or_else(|| {
            let why = format!("request to convert CR to an invalid group/version: {to}");
            failure(why)
        })?;
        let subject = subject(&objects[0]);
        let began = Instant::now();
        let asked = self.ask(&objects, to, &subject).await;
        let metrics = &self.shared.metrics;
        metrics.reviewed(
            began.elapsed(),
            asked.as_ref().err().map(|(_, fault)| *fault),
        );
        let from = objects[0]["apiVersion"].as_str().unwrap_or_default();
        let short = |version: &str| version.rsplit('/').next().unwrap_or_default().to_owned();
        metrics.converted(
            [&self.definition, &short(from), &short(to)],
            asked.is_ok(),
            began.elapsed(),
        );
        let mut converted = asked.map_err(|(failure, _)| failure)?;
        converted.iter_mut().for_each(|value| kind.prune(value));
        Ok(converted)
    }

    async fn ask(
        &self,
        objects: &[Value],
        to: &str,
        subject: &str,
    ) -> Result<Vec<Value>, (Failure, Fault)> {
        let failed = |why: &str| format!("conversion webhook for {subject} failed: {why}");
        let unreachable = |why: String| {
            let status = Status::unexpected(failed(&why));
            let unreachable = true;
            (
                Failure {
                    status,
                    unreachable,
                },
                Fault::Call,
            )
        };
        let known = self.review_versions.iter();
        let version = known
            .filter_map(|version| Version::parse(version))
            .next()
            .ok_or_else(|| {
                let why = "no supported conversion review versions";
                (failure(why.to_owned()), Fault::Call)
            })?;
        let api = self.api.upgrade();
        let api = api.ok_or_else(|| unreachable("the server is stopping".to_owned()))?;
        let (_turn, _probe) = self.turn().await.map_err(&unreachable)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let body = review::write(version, &uid, to, objects);
        let answer = self
            .shared
            .clients
            .send(&api, &self.config, body, TIMEOUT, ANSWER_BYTES_MAX)
            .await;
        self.remember(&answer);
        let answer = answer.map_err(|unanswered| match unanswered {
            Unanswered::NoTarget(why) | Unanswered::Failed { why, .. } => unreachable(why),
        })?;
        let converted = review::read(version, &uid, &answer)
            .map_err(|why| (failure(failed(&why)), Fault::Malformed))?;
        if converted.len() != objects.len() {
            let (got, expected) = (converted.len(), objects.len());
            let why = format!(
                "conversion webhook for {subject} returned {got} objects, expected {expected}"
            );
            return Err((failure(why), Fault::Partial));
        }
        let is_alone = objects.len() == 1;
        let pairs = objects.iter().zip(converted).enumerate();
        let checked = pairs.map(|(index, (original, converted))| {
            restore::checked(original, converted, to).map_err(|why| {
                let why = why.told(is_alone, index);
                let why = format!("conversion webhook for {subject} returned {why}");
                (failure(why), Fault::Invalid)
            })
        });
        checked.collect()
    }

    /// Waits for a turn.
    async fn turn(&self) -> Result<(SemaphorePermit<'_>, Option<SemaphorePermit<'_>>), String> {
        let late = self.late.lock().expect("no panic under the lock").clone();
        let probe = match late {
            None => None,
            Some(why) => Some(self.probe.try_acquire().map_err(|_| why)?),
        };
        let busy = |_| "too many conversions wait for it".to_owned();
        let _waiting = self.waiting.try_acquire().map_err(busy)?;
        let turn = tokio::time::timeout(TIMEOUT, self.turns.acquire()).await;
        let late = || "context deadline exceeded".to_owned();
        let turn = turn.map_err(|_| late())?.map_err(|_| late())?;
        Ok((turn, probe))
    }

    fn remember(&self, answer: &Result<Bytes, Unanswered>) {
        let why = match answer {
            Err(Unanswered::Failed {
                why, late: true, ..
            }) => Some(why.clone()),
            _ => None,
        };
        *self.late.lock().expect("no panic under the lock") = why;
    }
}

fn is_blank(base64: &str) -> bool {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(base64);
    decoded.is_ok_and(|bytes| bytes.trim_ascii().is_empty())
}

fn failure(why: String) -> Failure {
    Failure {
        status: Status::unexpected(why),
        unreachable: false,
    }
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure {
        status: Status::internal(error),
        unreachable: false,
    }
}

fn invalid_version(version: &str) -> Failure {
    failure(format!(
        "request to convert CR from an invalid group/version: {version}"
    ))
}

/// The type of an object as messages show it.
fn subject(object: &Value) -> String {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}
