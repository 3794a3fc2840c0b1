//! `Status`: the object that the API answers when there is no other.
//!
//! Codes, reasons and the shape of messages follow the Kubernetes API conventions, so that clients that branch on
//! `reason` or print `message` behave as with kube-apiserver.

use serde::{Deserialize, Serialize};

use crate::field::FieldError;
use crate::gvk::qualified;

/// Machine-readable reasons of [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[allow(missing_docs)]
pub enum StatusReason {
    #[default]
    #[serde(rename = "")]
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

/// One cause of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct StatusCause {
    /// Machine-readable cause, such as `FieldValueRequired`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What a failure is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct StatusDetails {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Group of the kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind, or resource, depending on the reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Uid of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Each thing that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// When the client may try again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The answer to a request that has no object of its own, above all a failed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    #[serde(default)]
    pub kind: String,
    /// Always `v1`.
    #[serde(default)]
    pub api_version: String,
    /// Empty list metadata.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub reason: StatusReason,
    /// More for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP status code. A deletion's success does not tell it.
    #[serde(default, skip_serializing_if = "is_ok")]
    pub code: u16,
}

fn is_ok(code: &u16) -> bool {
    *code == 200
}

fn is_unknown(reason: &StatusReason) -> bool {
    *reason == StatusReason::Unknown
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with any code and reason.
    pub fn failure(code: u16, reason: StatusReason, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: Default::default(),
            status: "Failure".into(),
            message: message.into(),
            reason,
            details: None,
            code,
        }
    }

    /// What a successful deletion answers.
    pub fn success(details: Option<StatusDetails>) -> Self {
        Self {
            status: "Success".into(),
            details,
            ..Self::failure(200, StatusReason::Unknown, "")
        }
    }

    /// Adds details.
    pub fn with_details(mut self, details: StatusDetails) -> Self {
        self.details = Some(details);
        self
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.to_owned();
        details.kind = kind.to_owned();
        details.name = name.to_owned();
        self
    }

    /// 404: no such object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let what = qualified(resource, group);
        Self::failure(
            404,
            StatusReason::NotFound,
            format!("{what} {name:?} not found"),
        )
        .about(group, resource, name)
    }

    /// 404 for a path that is not served.
    pub fn no_such_path() -> Self {
        Self::failure(
            404,
            StatusReason::NotFound,
            "the server could not find the requested resource",
        )
        .with_details(StatusDetails::default())
    }

    /// 409: an object of that name is there.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let what = qualified(resource, group);
        Self::failure(
            409,
            StatusReason::AlreadyExists,
            format!("{what} {name:?} already exists"),
        )
        .about(group, resource, name)
    }

    /// 409: the object is not as the request assumed.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(resource, group);
        Self::failure(
            409,
            StatusReason::Conflict,
            format!("Operation cannot be fulfilled on {what} {name:?}: {why}"),
        )
        .about(group, resource, name)
    }

    /// 409 for an update computed from an older version.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422: the object breaks rules of its kind.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let causes = errors.iter().map(FieldError::cause).collect();
        let mut details = StatusDetails {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            ..Default::default()
        };
        details.causes = causes;
        let what = qualified(kind, group);
        Self::failure(
            422,
            StatusReason::Invalid,
            format!(
                "{what} {name:?} is invalid: {}",
                FieldError::aggregate(errors)
            ),
        )
        .with_details(details)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, StatusReason::BadRequest, message)
    }

    /// 403 for an object.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(resource, group);
        let message = match (name, resource) {
            (_, "") => format!("forbidden: {why}"),
            ("", _) => format!("{what} is forbidden: {why}"),
            _ => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::failure(403, StatusReason::Forbidden, message).about(group, resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, StatusReason::Unauthorized, "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::failure(
            405,
            StatusReason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )
        .with_details(StatusDetails::default())
    }

    /// 406.
    pub fn not_acceptable(accepted: &str) -> Self {
        Self::failure(
            406,
            StatusReason::NotAcceptable,
            format!("only the following media types are accepted: {accepted}"),
        )
    }

    /// 406 for an object that cannot be shown as the client wants it.
    pub fn not_transformable(message: String) -> Self {
        Self::failure(406, StatusReason::NotAcceptable, message)
    }

    /// 406 for what is no media type of an object at all.
    pub fn no_such_representation(accepted: &str) -> Self {
        Self::failure(
            406,
            StatusReason::NotAcceptable,
            format!("406: Not Acceptable\n\nAvailable representations: {accepted}"),
        )
        .with_details(StatusDetails::default())
    }

    /// 415 for what is no media type of a patch.
    pub fn no_such_patch() -> Self {
        let message = "415: Unsupported Media Type";
        Self::failure(415, StatusReason::UnsupportedMediaType, message)
            .with_details(StatusDetails::default())
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::failure(
            415,
            StatusReason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    /// 413.
    pub fn too_large(bytes_max: usize) -> Self {
        Self::failure(
            413,
            StatusReason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {bytes_max}"),
        )
    }

    /// 429, with the seconds to wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, StatusReason::TooManyRequests, message).with_details(StatusDetails {
            retry_after_seconds,
            ..Default::default()
        })
    }

    /// 410: a resource version that is too old, or a continue token that has expired.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, StatusReason::Expired, message)
    }

    /// 500 without a reason: what kube-apiserver answers where an error of a patch has no kind of its own.
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::failure(500, StatusReason::Unknown, message)
    }

    /// 500. The message must not hold anything internal.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        Self::failure(
            500,
            StatusReason::InternalError,
            format!("Internal error occurred: {message}"),
        )
        .with_details(StatusDetails {
            causes: vec![StatusCause {
                message,
                ..Default::default()
            }],
            ..Default::default()
        })
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, StatusReason::ServiceUnavailable, message)
    }

    /// 504: the request ran out of time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::failure(
            504,
            StatusReason::Timeout,
            format!("Timeout: {}", message.into()),
        )
    }

    /// Whether this is a failure for the given reason.
    pub fn is(&self, reason: StatusReason) -> bool {
        self.reason == reason
    }
}
