//! ImagePolicyWebhook: a service of the administrator's says which images may run. It is asked by an `ImageReview`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Pod, PodSpec};
use corral_api::status::Status;
use corral_kinds::Object;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Attributes;
use crate::authn::cache::Cache;
use crate::outbound::{Error, Service};

/// How the names of annotations for the service go on after a prefix of their own.
const ANNOTATIONS: &str = ".image-policy.k8s.io/";
/// How those for the audit log begin.
const AUDIT: &str = "imagepolicywebhook.image-policy.k8s.io/";
/// How often the service is asked before its silence counts, and how pauses grow, as in kube-apiserver.
const TRIES_MAX: u32 = 5;
const GROWTH: f64 = 1.5;
/// How long an answer is waited for, all tries together: half of what a request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Which service, and what its answers mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePolicyConfig {
    kubeconfig: PathBuf,
    allowed_life: Duration,
    denied_life: Duration,
    pause: Duration,
    /// Whether images may run while there is no answer.
    default_allow: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    image_policy: Given,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    #[serde(rename = "kubeConfigFile")]
    kubeconfig: PathBuf,
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    #[serde(rename = "retryBackoff")]
    retry_backoff: i64,
    #[serde(rename = "defaultAllow")]
    default_allow: bool,
}

impl ImagePolicyConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(value: Value) -> Result<Self, String> {
        let File { image_policy } = serde_json::from_value(value).map_err(|e| e.to_string())?;
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let milli = Duration::from_millis(1);
        let lives = (second, 30 * minute);
        Ok(Self {
            pause: time(
                image_policy.retry_backoff,
                milli,
                (milli, 5 * minute),
                second / 2,
            )?,
            allowed_life: time(image_policy.allow_ttl, second, lives, 5 * minute)?,
            denied_life: time(image_policy.deny_ttl, second, lives, second * 30)?,
            kubeconfig: image_policy.kubeconfig,
            default_allow: image_policy.default_allow,
        })
    }
}

/// A time in a unit: 0 for the default, -1 for none.
fn time(
    value: i64,
    unit: Duration,
    (least, most): (Duration, Duration),
    default: Duration,
) -> Result<Duration, String> {
    let wrong = || format!("valid value is between {least:?} and {most:?}, got {value}");
    match value {
        -1 => Ok(Duration::ZERO),
        0 => Ok(default),
        value => {
            let time = u32::try_from(value).ok().and_then(|n| unit.checked_mul(n));
            let time = time.filter(|time| (least..=most).contains(time));
            time.ok_or_else(wrong)
        }
    }
}

/// The plugin.
pub struct ImagePolicy {
    service: Service,
    config: ImagePolicyConfig,
    answers: Cache<Answer>,
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Answer,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    allowed: bool,
    reason: String,
    audit_annotations: BTreeMap<String, String>,
}

impl ImagePolicy {
    /// Opens the service of a configuration. Whether it answers is found out by the first question.
    ///
    /// # Errors
    /// When the kubeconfig file cannot be used.
    pub async fn open(config: ImagePolicyConfig) -> Result<Self, String> {
        let service = Service::of_kubeconfig(&config.kubeconfig, TIMEOUT).await;
        let told = |why| format!("couldn't init admission plugin \"ImagePolicyWebhook\": {why}");
        Ok(Self {
            service: service.map_err(told)?,
            config,
            answers: Cache::default(),
        })
    }

    /// Asks about the images of a pod.
    ///
    /// # Errors
    /// 403 when one may not run.
    pub(super) async fn check(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
    ) -> Result<(), Status> {
        let Some(pod) = object.get::<Pod>() else {
            return Ok(());
        };
        let images = pod
            .spec
            .as_ref()
            .map(|spec| images(spec, attributes.subresource));
        let Some(images) = images.flatten() else {
            return Ok(());
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let annotations = pod.metadata.annotations.iter().flatten();
        let annotations: BTreeMap<_, _> = annotations
            .filter(|(name, _)| name.contains(ANNOTATIONS))
            .collect();
        let spec = json!({"containers": images, "annotations": annotations,
            "namespace": attributes.cx.namespace});
        let answer = match self.answer(spec).await {
            Ok(answer) => answer,
            Err(error) if self.config.default_allow => {
                tracing::warn!(%error, "images run though the image policy webhook gives no answer");
                let key = format!("{AUDIT}failed-open");
                attributes.cx.annotate(key, "true".to_owned());
                return Ok(());
            }
            Err(error) => return Err(attributes.forbidden(name, &error.to_string())),
        };
        for (key, value) in answer.audit_annotations {
            attributes.cx.annotate(format!("{AUDIT}{key}"), value);
        }
        match (answer.allowed, answer.reason.as_str()) {
            (true, _) => Ok(()),
            (false, "") => {
                Err(attributes.forbidden(name, "one or more images rejected by webhook backend"))
            }
            (false, reason) => {
                let why =
                    format!("image policy webhook backend denied one or more images: {reason}");
                Err(attributes.forbidden(name, &why))
            }
        }
    }

    async fn answer(&self, spec: Value) -> Result<Answer, Error> {
        let key: [u8; 32] = Sha256::digest(spec.to_string()).into();
        if let Some(known) = self.answers.get(&key) {
            return Ok(known);
        }
        let review = json!({"kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1",
            "metadata": {}, "spec": spec, "status": {"allowed": false}});
        let review = review.to_string().into_bytes();
        let tries = async {
            let (mut tries, mut pause) = (1, self.config.pause);
            loop {
                match self.service.post(review.clone()).await {
                    Err(error) if error.is_passing() && tries < TRIES_MAX => {
                        tries += 1;
                        tokio::time::sleep(pause).await;
                        pause = pause.mul_f64(GROWTH);
                    }
                    other => return other,
                }
            }
        };
        let answer = tokio::time::timeout(TIMEOUT, tries).await;
        let answer = answer.unwrap_or(Err(Error::Late(TIMEOUT)))?;
        let review: Review =
            serde_json::from_slice(&answer).map_err(|e| Error::Unreadable(e.to_string()))?;
        let life = match review.status.allowed {
            true => self.config.allowed_life,
            false => self.config.denied_life,
        };
        self.answers.put(key, review.status.clone(), life);
        Ok(review.status)
    }
}

/// The images that a write brings; nothing if it cannot bring any.
fn images(spec: &PodSpec, subresource: &str) -> Option<Vec<Value>> {
    let image = |image: &Option<String>| match image {
        Some(image) if !image.is_empty() => json!({"image": image}),
        _ => json!({}),
    };
    match subresource {
        "" => {
            let init = spec.init_containers.iter().flatten();
            let all = spec.containers.iter().chain(init);
            Some(all.map(|container| image(&container.image)).collect())
        }
        "ephemeralcontainers" => {
            let all = spec.ephemeral_containers.iter().flatten();
            Some(all.map(|container| image(&container.image)).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_their_units_and_bounds() {
        let read = |policy: Value| ImagePolicyConfig::read(json!({"imagePolicy": policy}));
        let given =
            read(json!({"kubeConfigFile": "f", "allowTTL": 2, "denyTTL": -1, "retryBackoff": 3}));
        let given = given.expect("a configuration");
        assert_eq!(given.allowed_life, Duration::from_secs(2));
        assert_eq!(given.denied_life, Duration::ZERO);
        assert_eq!(given.pause, Duration::from_millis(3));
        assert_eq!(
            read(json!({})).expect("defaults").allowed_life,
            Duration::from_secs(300)
        );
        let wrong = read(json!({"allowTTL": 1801})).expect_err("refused");
        assert_eq!(wrong, "valid value is between 1s and 1800s, got 1801");
        assert!(read(json!({"unknown": 1})).is_err());
    }
}
