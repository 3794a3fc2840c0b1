//! A service of the administrator's that decides: it is asked by a SubjectAccessReview.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::conditions::Conditions;
use super::config::{FailurePolicy, WebhookConfig};
use super::{Access, Decision};
use crate::authn::User;
use crate::authn::cache::Cache;
use crate::outbound::{Error, Service};

/// Longest question whose answer is kept, as in kube-apiserver.
const KEPT_BYTES_MAX: usize = 10_000;
/// How often the service is asked before its silence counts.
const TRIES_MAX: u32 = 3;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// The service.
pub struct Webhook {
    name: String,
    service: Service,
    conditions: Conditions,
    config: WebhookConfig,
    answers: Cache<Answer>,
}

/// What the service says.
type Answer = (Decision, String);

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Status {
    allowed: bool,
    denied: bool,
    reason: String,
    evaluation_error: String,
}

impl Webhook {
    /// Opens the service of a configuration. Whether it answers is found out by the first question.
    ///
    /// # Errors
    /// When the kubeconfig file or a condition cannot be used.
    pub async fn open(name: &str, config: WebhookConfig) -> Result<Self, String> {
        let told = |error: String| format!("authorizer {name}: {error}");
        let conditions = Conditions::compile(&config.match_conditions).map_err(told)?;
        let path = config
            .connection_info
            .kube_config_file
            .clone()
            .unwrap_or_default();
        let service = Service::of_kubeconfig(&path, config.timeout).await;
        Ok(Self {
            name: name.to_owned(),
            service: service.map_err(told)?,
            conditions,
            config,
            answers: Cache::default(),
        })
    }

    /// What the service says of a question.
    pub async fn decide(&self, user: &User, access: &Access) -> Answer {
        match self.conditions.hold(user, access) {
            Ok(true) => {}
            Ok(false) => return (Decision::NoOpinion, String::new()),
            Err(error) => {
                tracing::warn!(
                    authorizer = self.name,
                    error,
                    "a match condition cannot be evaluated"
                );
                return (self.without_answer(), String::new());
            }
        }
        let spec = spec(user, access);
        let text = spec.to_string();
        let key: [u8; 32] = Sha256::digest(&text).into();
        if let Some(answer) = self.answers.get(&key) {
            return answer;
        }
        match self.ask(spec).await {
            Ok(answer) => {
                let config = &self.config;
                let (kept, life) = match answer.0 {
                    Decision::Allow => (config.cache_authorized_requests, config.authorized_life),
                    _ => (config.cache_unauthorized_requests, config.unauthorized_life),
                };
                if kept && text.len() <= KEPT_BYTES_MAX {
                    self.answers.put(key, answer.clone(), life);
                }
                answer
            }
            Err(error) => {
                tracing::warn!(authorizer = self.name, %error, "the authorization webhook gives no answer");
                (self.without_answer(), String::new())
            }
        }
    }

    /// What it means that there is no answer.
    fn without_answer(&self) -> Decision {
        match self.config.failure_policy {
            FailurePolicy::Deny => Decision::Deny,
            FailurePolicy::NoOpinion => Decision::NoOpinion,
        }
    }

    async fn ask(&self, spec: Value) -> Result<Answer, Error> {
        let review = json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", self.config.subject_access_review_version),
            "metadata": {}, "spec": spec, "status": {"allowed": false},
        });
        let review = review.to_string().into_bytes();
        let tries = async {
            let mut tries = 1;
            loop {
                match self.service.post(review.clone()).await {
                    Err(error) if error.is_passing() && tries < TRIES_MAX => {
                        tries += 1;
                        tokio::time::sleep(PAUSE).await;
                    }
                    other => return other,
                }
            }
        };
        let timeout = self.config.timeout;
        let answer = tokio::time::timeout(timeout, tries).await;
        let answer = answer.unwrap_or(Err(Error::Late(timeout)))?;
        let review: Review =
            serde_json::from_slice(&answer).map_err(|e| Error::Unreadable(e.to_string()))?;
        let status = review.status;
        if !status.evaluation_error.is_empty() {
            tracing::warn!(
                authorizer = self.name,
                error = status.evaluation_error,
                "the authorization webhook failed in part"
            );
        }
        match (status.allowed, status.denied) {
            (true, true) => Err(Error::Unreadable(
                "webhook subject access review returned both allow and deny response".to_owned(),
            )),
            (false, true) => Ok((Decision::Deny, status.reason)),
            (true, false) => Ok((Decision::Allow, status.reason)),
            (false, false) => Ok((Decision::NoOpinion, status.reason)),
        }
    }
}

/// The question as a review puts it.
pub(super) fn spec(user: &User, access: &Access) -> Value {
    let texts = |pairs: &[(&str, &str)]| -> Map<String, Value> {
        let set = pairs.iter().filter(|(_, value)| !value.is_empty());
        set.map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect()
    };
    let mut spec = Map::new();
    if access.resource.is_empty() {
        let path = texts(&[("path", &access.path), ("verb", &access.verb)]);
        spec.insert("nonResourceAttributes".into(), path.into());
    } else {
        let mut resource = texts(&[
            ("namespace", &access.namespace),
            ("verb", &access.verb),
            ("group", &access.group),
            ("version", &access.version),
            ("resource", &access.resource),
            ("subresource", &access.subresource),
            ("name", &access.name),
        ]);
        for (name, requirements) in [
            ("fieldSelector", &access.fields),
            ("labelSelector", &access.labels),
        ] {
            if !requirements.is_empty() {
                resource.insert(name.into(), json!({"requirements": requirements}));
            }
        }
        spec.insert("resourceAttributes".into(), resource.into());
    }
    spec.extend(texts(&[("user", &user.name), ("uid", &user.uid)]));
    if !user.groups.is_empty() {
        spec.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
    spec.into()
}
