//! An event of the audit log, as `audit.k8s.io/v1` writes it.

use std::collections::BTreeMap;

use corral_api::status::Status;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::policy::{Level, Stage};
use crate::authn::User;

/// Somebody, as events tell it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct UserInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl From<&User> for UserInfo {
    fn from(user: &User) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

/// How it came about that somebody is taken for another.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthenticationMetadata {
    pub impersonation_constraint: String,
}

/// What a request is about.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectRef {
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

/// An event. It grows while its request goes on.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    pub level: Level,
    #[serde(rename = "auditID")]
    pub id: String,
    pub stage: Stage,
    #[serde(rename = "requestURI")]
    pub uri: String,
    pub verb: String,
    pub user: UserInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<UserInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_metadata: Option<AuthenticationMetadata>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Box<RawValue>>,
    #[serde(rename = "requestReceivedTimestamp", serialize_with = "micros")]
    pub received: Timestamp,
    #[serde(rename = "stageTimestamp", serialize_with = "micros")]
    pub staged: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn micros<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&corral_api::time::format_micros(*at))
}

impl Event {
    /// The JSON of the event without its type, as lists of events hold it.
    pub(super) fn item(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A line of the log: an event with its type.
pub(super) fn line(item: &[u8]) -> Vec<u8> {
    const TYPE: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;
    let mut out = Vec::with_capacity(item.len() + TYPE.len() + 1);
    out.extend_from_slice(TYPE);
    out.extend_from_slice(item.get(1..).unwrap_or(b"}"));
    out.push(b'\n');
    out
}

/// The outcome, as far as events tell it.
pub(super) fn outcome(code: u16, status: Option<&Status>) -> Value {
    let mut out = json!({"metadata": {}, "code": code});
    let told = status.and_then(|status| serde_json::to_value(status).ok());
    for field in ["status", "message", "reason", "details"] {
        if let Some(value) = told.as_ref().and_then(|told| told.get(field)) {
            out[field] = value.clone();
        }
    }
    out
}

/// A body without the managed fields of its object, or of its items.
pub(super) fn without_managed_fields(body: &[u8]) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(&mut value);
    let items = value.get_mut("items").and_then(Value::as_array_mut);
    items.into_iter().flatten().for_each(strip);
    let rows = value.get_mut("rows").and_then(Value::as_array_mut);
    for row in rows.into_iter().flatten() {
        if let Some(object) = row.get_mut("object") {
            strip(object);
        }
    }
    Some(value)
}
