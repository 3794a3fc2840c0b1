//! JSON patch, merge patch and strategic merge patch.

use corral_api::field::{FieldError, FieldPath};
use corral_api::status::Status;
use corral_kinds::schema::Node;
use serde_json::Value;

use crate::apply::typed::whole_numbers;

mod json;
mod strategic;

pub use json::{COPIED_BYTES_MAX, OPERATIONS_MAX, json_patch, json_patch_if_tested};

/// Applies a merge patch (RFC 7386).
///
/// # Errors
/// 400 for a patch that is not an object.
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, Status> {
    must_be_object(patch)?;
    let mut out = object.clone();
    merge(&mut out, patch);
    Ok(out)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = without_nulls(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// What is new in a list holds no fields that are to be removed.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Object(map) => {
            let fields = map.iter().filter(|(_, inner)| !inner.is_null());
            let fields = fields.map(|(key, inner)| (key.clone(), without_nulls(inner)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

/// Applies a strategic merge patch with the strategies of a kind. The object stays of its kind and version, whatever the
/// patch says.
///
/// # Errors
/// 400 for a patch that is not an object, 500 (as kube-apiserver) for directives that make no sense, and 422 for values that
/// do not fit.
pub fn strategic_patch(node: &Node, object: &Value, patch: &Value) -> Result<Value, Status> {
    let mut patch = match patch {
        Value::Object(patch) => patch.clone(),
        Value::Null => serde_json::Map::new(),
        other => return Err(Status::bad_request(not_a_map(other))),
    };
    patch.values_mut().for_each(whole_numbers);
    let mut merged = strategic::strategic_merge(node, object, &patch)?;
    node.convert(&merged).map_err(|why| {
        let error = FieldError::invalid(&FieldPath::new("patch"), strategic::go_map(&patch), why);
        Status::invalid("", "", "", &[error])
    })?;
    if let Value::Object(merged) = &mut merged {
        for key in ["apiVersion", "kind"] {
            match object.get(key) {
                Some(value) => merged.insert(key.to_owned(), value.clone()),
                None => merged.remove(key),
            };
        }
    }
    Ok(merged)
}

fn must_be_object(patch: &Value) -> Result<(), Status> {
    match patch {
        Value::Object(_) => Ok(()),
        Value::Null => Err(Status::bad_request("Invalid JSON Patch")),
        other => Err(Status::bad_request(format!(
            "error decoding patch: {}",
            not_a_map(other)
        ))),
    }
}

fn not_a_map(patch: &Value) -> String {
    format!(
        "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
        go_kind(patch)
    )
}

/// What Go's decoder calls a value.
pub(crate) fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What is wrong with a text that is not JSON.
pub(crate) fn syntax(error: &serde_json::Error) -> String {
    if error.is_eof() {
        "unexpected end of JSON input".to_owned()
    } else {
        error.to_string()
    }
}
