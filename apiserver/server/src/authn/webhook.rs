//! Tokens that a service of the administrator's knows: it is asked by a TokenReview.

use std::path::PathBuf;
use std::time::Duration;

use corral_api::k8s::api::authentication::v1::{TokenReviewStatus, UserInfo};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::{AUTHENTICATED, User};
use crate::outbound::{Error, Service};

/// How long the service has for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is asked before its silence counts.
const TRIES_MAX: u32 = 3;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// The service, and how it is asked.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Where the service is, and who asks, as a kubeconfig file.
    pub kubeconfig: PathBuf,
    /// The version of the TokenReview: `v1` or `v1beta1`.
    pub version: String,
    /// How long answers are kept.
    pub cache_life: Duration,
}

/// What the service says of a token.
type Answer = Option<(User, Vec<String>)>;

/// The service.
pub struct Webhook {
    service: Service,
    api_version: String,
    life: Duration,
    answers: Cache<Answer>,
}

#[derive(Deserialize)]
struct Review {
    status: Option<TokenReviewStatus>,
}

impl Webhook {
    /// Opens the service of a configuration. Whether it answers is found out by the first token.
    ///
    /// # Errors
    /// When the kubeconfig file cannot be used.
    pub async fn open(config: WebhookConfig) -> Result<Self, String> {
        Ok(Self {
            service: Service::of_kubeconfig(&config.kubeconfig, TIMEOUT).await?,
            api_version: format!("authentication.k8s.io/{}", config.version),
            life: config.cache_life,
            answers: Cache::default(),
        })
    }

    /// The user of a token and the audiences that it is good for.
    pub async fn authenticate(&self, token: &str, audiences: &[String]) -> Answer {
        let mut hash = Sha256::new();
        hash.update(token);
        for audience in audiences {
            hash.update([0]);
            hash.update(audience);
        }
        let key: [u8; 32] = hash.finalize().into();
        if let Some(answer) = self.answers.get(&key) {
            return answer;
        }
        match self.ask(token, audiences).await {
            Ok(answer) => {
                self.answers.put(key, answer.clone(), self.life);
                answer
            }
            Err(error) => {
                tracing::warn!(%error, "the token webhook gives no answer");
                None
            }
        }
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Answer, Error> {
        let mut spec = json!({"token": token});
        if !audiences.is_empty() {
            spec["audiences"] = audiences.into();
        }
        let review = json!({
            "kind": "TokenReview", "apiVersion": self.api_version, "metadata": {}, "spec": spec, "status": {"user": {}},
        });
        let review = review.to_string().into_bytes();
        let mut tries = 1;
        let answer = loop {
            match self.service.post(review.clone()).await {
                Err(error) if error.is_passing() && tries < TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                other => break other?,
            }
        };
        let review: Review =
            serde_json::from_slice(&answer).map_err(|e| Error::Unreadable(e.to_string()))?;
        Ok(review.status.and_then(|status| known(status, audiences)))
    }
}

fn known(status: TokenReviewStatus, audiences: &[String]) -> Answer {
    if status.authenticated != Some(true) {
        return None;
    }
    let good_for = status.audiences.unwrap_or_default();
    // A service that knows nothing of audiences means the API itself.
    let good_for: Vec<String> = match good_for.is_empty() || audiences.is_empty() {
        true => audiences.to_vec(),
        false => good_for
            .into_iter()
            .filter(|a| audiences.contains(a))
            .collect(),
    };
    if good_for.is_empty() && !audiences.is_empty() {
        return None;
    }
    Some((user(status.user?)?, good_for))
}

fn user(info: UserInfo) -> Option<User> {
    let mut groups = info.groups.unwrap_or_default();
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    Some(User {
        name: info.username.filter(|name| !name.is_empty())?,
        uid: info.uid.unwrap_or_default(),
        groups,
        extra: info.extra.unwrap_or_default(),
    })
}
