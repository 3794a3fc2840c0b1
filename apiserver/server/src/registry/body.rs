//! What a body must be before anything is done with it: of the kind that the path means, with fields that the kind has.

use std::collections::HashSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::status::Status;
use corral_kinds::AnyKind;
use serde_json::Value;

use super::{FieldValidation, WriteContext};
use crate::apply::typed;
use crate::decode::Decoded;

/// Most owners that a warning tells to be there twice; a hostile body cannot make a huge one.
const OWNERS_TOLD_MAX: usize = 100;

/// Checks a body against the kind: its type, its fields.
///
/// # Errors
/// 400 for a body of another kind, of wrong types, or (strictly) with unknown or duplicate fields.
pub fn read(kind: &dyn AnyKind, cx: &WriteContext, body: Decoded) -> Result<Value, Status> {
    let mut value = read_fields(kind, cx, body)?;
    without_equal_owners(&mut value, cx, "");
    Ok(value)
}

fn read_fields(kind: &dyn AnyKind, cx: &WriteContext, body: Decoded) -> Result<Value, Status> {
    let Decoded {
        mut value,
        duplicates,
        head,
    } = body;
    check_names(kind, &value, &head)?;
    if kind.is_custom() {
        check_custom_type(kind, &value, &head)?;
    }
    check_type(kind, &mut value)?;
    check_fields(kind, cx, &mut value, duplicates)?;
    Ok(value)
}

/// Checks what a patch has made of an object.
///
/// # Errors
/// 422 with the object that it made, where a body would be answered with 400.
pub fn read_patched(
    kind: &dyn AnyKind,
    cx: &WriteContext,
    patch: impl Fn() -> Result<Value, Status>,
) -> Result<Value, Status> {
    let read = read_fields(kind, cx, Decoded::of(patch()?));
    let mut value = read.map_err(|status| {
        let frame = format!(" cannot be handled as a {}: ", kind.names().kind);
        let Some((_, why)) = status.message.split_once(&frame) else {
            return status;
        };
        // Reading takes the object apart; it is made once more to be shown.
        let shown = match patch() {
            Ok(patched) => patched.to_string(),
            Err(status) => return status,
        };
        let error = FieldError::invalid(&FieldPath::new("patch"), shown, why);
        Status::invalid("", "", "", &[error])
    })?;
    without_equal_owners(&mut value, cx, " after mutating admission happens");
    Ok(value)
}

/// An owner that is given several times is one owner, and a mistake of whoever gives it.
fn without_equal_owners(value: &mut Value, cx: &WriteContext, when: &str) {
    let owners = value.pointer_mut("/metadata/ownerReferences");
    let Some(Value::Array(owners)) = owners else {
        return;
    };
    let mut seen = HashSet::new();
    let is_first: Vec<bool> = owners.iter().map(|owner| seen.insert(owner)).collect();
    let again = owners.iter().zip(&is_first).filter(|(_, first)| !**first);
    let again = again.filter_map(|(owner, _)| owner["uid"].as_str());
    let again = again.take(OWNERS_TOLD_MAX).collect::<Vec<_>>().join(", ");
    if is_first.iter().all(|first| *first) {
        return;
    }
    cx.warn(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may \
         reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {again}"
    ));
    let mut is_first = is_first.into_iter();
    owners.retain(|_| is_first.next().unwrap_or(true));
}

/// What somebody applies.
pub struct Configuration {
    /// As it was sent.
    pub sent: Value,
    /// Whether an object holds it in the same way, so that what becomes of the two need not be read again.
    pub is_plain: bool,
}

/// Reads a configuration whose type and fields have been looked at.
///
/// # Errors
/// 400 (strictly) with duplicate fields, and for metadata of wrong types.
pub fn read_configuration(
    kind: &dyn AnyKind,
    cx: &WriteContext,
    body: Decoded,
) -> Result<Configuration, Status> {
    let Decoded {
        value: mut sent,
        duplicates,
        ..
    } = body;
    let mut object = sent.clone();
    let unknown = match kind.check(&mut object) {
        Ok(report) => Some(report.unknown),
        Err(error) if kind.is_custom() => return Err(cannot(kind, &error.0)),
        Err(_) => None,
    };
    let is_plain = unknown.is_some() && object == sent;
    report_fields(kind, cx, &unknown.unwrap_or_default(), duplicates)?;
    if !is_plain {
        typed::whole_numbers(&mut sent);
    }
    Ok(Configuration { sent, is_plain })
}

/// What a body calls itself must be text.
fn check_names(kind: &dyn AnyKind, value: &Value, head: &str) -> Result<(), Status> {
    for key in ["apiVersion", "kind"] {
        let found = match value.get(key) {
            None | Some(Value::Null | Value::String(_)) => continue,
            Some(Value::Bool(_)) => "bool",
            Some(Value::Number(_)) => "number",
            Some(Value::Array(_)) => "array",
            Some(Value::Object(_)) => "object",
        };
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: \
             json: cannot unmarshal {found} into Go struct field .{key} of type string ({head})",
            kind.names().kind
        )));
    }
    Ok(())
}

/// Objects of kinds that clients have described always say what they are.
fn check_custom_type(kind: &dyn AnyKind, value: &Value, head: &str) -> Result<(), Status> {
    let names = kind.names();
    let sent = |key: &str| value[key].as_str().unwrap_or_default();
    for (key, told) in [("kind", "Kind"), ("apiVersion", "apiVersion")] {
        if sent(key).is_empty() {
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): Object '{told}' is missing in '{head}' ({head})",
                names.kind
            )));
        }
    }
    let api_version = names.api_version();
    if sent("apiVersion") != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({api_version})",
            sent("apiVersion")
        )));
    }
    if sent("kind") != names.kind {
        let why = format!("must be {}", names.kind);
        let error = FieldError::invalid(&FieldPath::new("kind"), sent("kind"), why);
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Status::invalid(names.group, sent("kind"), name, &[error]));
    }
    Ok(())
}

pub(super) fn check_type(kind: &dyn AnyKind, value: &mut Value) -> Result<(), Status> {
    let names = kind.names();
    let api_version = names.api_version();
    let Value::Object(map) = value else {
        return Err(Status::bad_request(
            "the body of the request must be an object",
        ));
    };
    let sent = |key: &str| {
        map.get(key)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let (sent_version, sent_kind) = (sent("apiVersion"), sent("kind"));
    // What is left out is that of the path.
    let meant_version = [sent_version.as_str(), &api_version];
    let meant_version = meant_version
        .into_iter()
        .find(|v| !v.is_empty())
        .unwrap_or_default();
    let meant_kind = [sent_kind.as_str(), names.kind];
    let meant_kind = meant_kind
        .into_iter()
        .find(|k| !k.is_empty())
        .unwrap_or_default();
    let own = meant_version == api_version && meant_kind == names.kind;
    if !own && !corral_kinds::schema::is_kind(meant_version, meant_kind) {
        let version = meant_version.rsplit('/').next().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "{meant_kind} in version {version:?} cannot be handled as a {}: no kind {meant_kind:?} is registered for \
             version {meant_version:?} in scheme \"pkg/runtime/scheme.go:111\"",
            names.kind
        )));
    }
    if !sent_kind.is_empty() && sent_kind != names.kind {
        let version = meant_version.rsplit('/').next().unwrap_or_default();
        // Go names the package of the types inside the server.
        let package = match names.group.split('.').next().unwrap_or_default() {
            "" | "events" => "core",
            first => first,
        };
        return Err(Status::bad_request(format!(
            "{sent_kind} in version {version:?} cannot be handled as a {0}: converting ({version}.{sent_kind}) to \
             ({package}.{0}): unknown conversion",
            names.kind,
        )));
    }
    if !sent_version.is_empty() && sent_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({sent_version}) does not match the expected API version ({api_version})"
        )));
    }
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), names.kind.into());
    Ok(())
}

fn check_fields(
    kind: &dyn AnyKind,
    cx: &WriteContext,
    value: &mut Value,
    duplicates: Vec<String>,
) -> Result<(), Status> {
    let report = kind.check(value).map_err(|error| cannot(kind, &error.0))?;
    report_fields(kind, cx, &report.unknown, duplicates)
}

fn cannot(kind: &dyn AnyKind, why: &str) -> Status {
    let names = kind.names();
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        names.kind, names.version, names.kind
    ))
}

fn report_fields(
    kind: &dyn AnyKind,
    cx: &WriteContext,
    unknown: &[String],
    duplicates: Vec<String>,
) -> Result<(), Status> {
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    // Kubernetes finds both at once in JSON, and in YAML first what the YAML itself has wrong.
    let of_yaml = |text: &String| !text.starts_with("duplicate field ");
    let (first, last): (Vec<_>, Vec<_>) = duplicates.into_iter().partition(of_yaml);
    let found: Vec<String> = first.into_iter().chain(unknown).chain(last).collect();
    match cx.validation {
        FieldValidation::Strict if !found.is_empty() => Err(cannot(
            kind,
            &format!("strict decoding error: {}", found.join(", ")),
        )),
        FieldValidation::Warn => {
            found.into_iter().for_each(|text| cx.warn(text));
            Ok(())
        }
        _ => Ok(()),
    }
}
