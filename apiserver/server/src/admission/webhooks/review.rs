//! AdmissionReview: what a webhook is asked, and what it answers, in both versions of it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use corral_api::status::{Status, StatusReason};
use serde::Deserialize;
use serde_json::{Value, json};

use super::hooks::Hook;
use super::{Invocation, Refusal, Sent};
use crate::admission::request::{Phase, Request};

/// The version of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1`.
    V1,
    /// `v1beta1`.
    V1Beta1,
}

impl Version {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::Failed {
        why: format!("received invalid webhook response: {}", why.into()),
        code: 503,
    }
}

/// The first version that a webhook names and the server speaks.
pub(super) fn version(hook: &Hook) -> Result<Version, Refusal> {
    let mut named = hook.webhook.admission_review_versions.iter();
    let known = named.find_map(|version| match version.as_str() {
        "v1" => Some(Version::V1),
        "v1beta1" => Some(Version::V1Beta1),
        _ => None,
    });
    known.ok_or_else(|| Refusal::Failed {
        why: "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
            .to_owned(),
        code: 400,
    })
}

/// The question.
pub(super) fn write(
    version: Version,
    uid: &str,
    request: &Request<'_>,
    invocation: &Invocation,
    sent: &Sent<'_>,
) -> Bytes {
    let mut asked = request.described(&invocation.seen);
    asked["uid"] = uid.into();
    asked["object"] = sent.object.clone().into_owned();
    asked["oldObject"] = sent.old.clone().into_owned();
    let review =
        json!({"kind": "AdmissionReview", "apiVersion": version.as_str(), "request": asked});
    review.to_string().into()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Review {
    api_version: String,
    kind: String,
    response: Option<Response>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Value>,
    patch: Option<String>,
    patch_type: Option<String>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

/// What a webhook says.
#[derive(Debug, Default)]
pub struct Verdict {
    allowed: bool,
    result: Option<Value>,
    /// A JSON patch.
    pub patch: Option<Vec<u8>>,
    /// For the audit log.
    pub audit_annotations: BTreeMap<String, String>,
    /// For the client.
    pub warnings: Vec<String>,
}

/// The answer.
pub(super) fn read(
    version: Version,
    uid: &str,
    phase: Phase,
    body: &[u8],
) -> Result<Verdict, Refusal> {
    let review: Review = serde_json::from_slice(body).map_err(|error| Refusal::Failed {
        why: format!(
            "failed to call webhook: couldn't get version/kind; json parse error: {error}"
        ),
        code: 503,
    })?;
    let response = review
        .response
        .ok_or_else(|| invalid("webhook response was absent"))?;
    if version == Version::V1 {
        if response.uid != uid {
            let why = format!("expected response.uid={uid:?}, got {:?}", response.uid);
            return Err(invalid(why));
        }
        let expected = version.as_str();
        if review.api_version != expected || review.kind != "AdmissionReview" {
            let why = format!(
                "expected webhook response of {expected}, Kind=AdmissionReview, got {}, Kind={}",
                if review.api_version.is_empty() {
                    "/"
                } else {
                    &review.api_version
                },
                review.kind
            );
            return Err(invalid(why));
        }
    }
    let patch = patch(version, phase, &response)?;
    Ok(Verdict {
        allowed: response.allowed,
        result: response.status,
        patch,
        audit_annotations: response.audit_annotations.unwrap_or_default(),
        warnings: response.warnings.unwrap_or_default(),
    })
}

fn patch(version: Version, phase: Phase, response: &Response) -> Result<Option<Vec<u8>>, Refusal> {
    let given = response.patch.as_deref().filter(|patch| !patch.is_empty());
    let type_ = response.patch_type.as_deref();
    match (version, phase) {
        (Version::V1, Phase::Validating) => {
            if given.is_some() {
                return Err(invalid("validating webhook may not return response.patch"));
            }
            if type_.is_some() {
                return Err(invalid(
                    "validating webhook may not return response.patchType",
                ));
            }
            return Ok(None);
        }
        (Version::V1Beta1, Phase::Validating) => return Ok(None),
        (Version::V1, Phase::Mutating) => match (given, type_) {
            (Some(_), None) => {
                return Err(invalid(
                    "webhook returned response.patch but not response.patchType",
                ));
            }
            (None, Some(_)) => {
                return Err(invalid(
                    "webhook returned response.patchType but not response.patch",
                ));
            }
            (Some(_), Some("")) => {
                return Err(invalid(
                    "webhook returned invalid response.patchType of \"\"",
                ));
            }
            (Some(_), Some(other)) if other != "JSONPatch" => {
                return Err(Refusal::Failed {
                    why: format!("unsupported patch type {other:?}"),
                    code: 400,
                });
            }
            _ => {}
        },
        // The older version does not look at the type.
        (Version::V1Beta1, Phase::Mutating) => {}
    }
    let decoded = given.map(|patch| STANDARD.decode(patch));
    decoded.transpose().map_err(|error| Refusal::Failed {
        why: format!("failed to call webhook: illegal base64 data: {error}"),
        code: 503,
    })
}

impl Verdict {
    /// What the client is told, if the webhook refuses.
    pub fn rejection(&self, webhook: &str) -> Option<Status> {
        if self.allowed {
            return None;
        }
        let given = self.result.clone().unwrap_or_else(|| json!({}));
        let text = |key: &str| given[key].as_str().unwrap_or_default();
        let denied = format!("admission webhook {webhook:?} denied the request");
        let message = match (text("message"), text("reason")) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        let code = given["code"]
            .as_u64()
            .and_then(|code| u16::try_from(code).ok());
        let code = code.filter(|code| *code >= 400).unwrap_or(400);
        let mut status = Status::failure(code, StatusReason::Unknown, message);
        if let Ok(reason) = serde_json::from_value(given["reason"].clone()) {
            status.reason = reason;
        }
        status.details = serde_json::from_value(given["details"].clone())
            .ok()
            .flatten();
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(answer: Result<Verdict, Refusal>) -> String {
        match answer {
            Err(Refusal::Failed { why, .. }) => why,
            _ => String::new(),
        }
    }

    #[test]
    fn an_answer_is_to_the_question_and_of_its_version() {
        let answer = |value: Value| value.to_string();
        let right = answer(
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
            "response": {"uid": "u", "allowed": true, "warnings": ["w"]}}),
        );
        let verdict = read(Version::V1, "u", Phase::Validating, right.as_bytes());
        assert!(verdict.is_ok_and(|v| v.allowed && v.warnings == ["w"]));
        assert_eq!(
            why(read(Version::V1, "v", Phase::Validating, right.as_bytes())),
            "received invalid webhook response: expected response.uid=\"v\", got \"u\""
        );
        let other = answer(json!({"response": {"uid": "u", "allowed": true}}));
        assert_eq!(
            why(read(Version::V1, "u", Phase::Validating, other.as_bytes())),
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, \
             got /, Kind="
        );
        assert!(read(Version::V1Beta1, "x", Phase::Validating, other.as_bytes()).is_ok());
        assert_eq!(
            why(read(Version::V1, "u", Phase::Mutating, b"{}")),
            "received invalid webhook response: webhook response was absent"
        );
        let patch = answer(
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
            "response": {"uid": "u", "allowed": true, "patch": "W10="}}),
        );
        assert_eq!(
            why(read(Version::V1, "u", Phase::Mutating, patch.as_bytes())),
            "received invalid webhook response: webhook returned response.patch but not response.patchType"
        );
    }

    #[test]
    fn a_refusal_has_a_code_of_failure_and_says_whose_it_is() {
        let verdict = |result: Value| Verdict {
            result: Some(result),
            ..Verdict::default()
        };
        let status = verdict(json!({"code": 200}))
            .rejection("w")
            .expect("refused");
        assert_eq!(status.code, 400);
        assert_eq!(
            status.message,
            "admission webhook \"w\" denied the request without explanation"
        );
        let status = verdict(json!({"code": 403, "reason": "Forbidden", "message": "no"}));
        let status = status.rejection("w").expect("refused");
        assert!(status.is(StatusReason::Forbidden));
        assert_eq!(
            status.message,
            "admission webhook \"w\" denied the request: no"
        );
    }
}
