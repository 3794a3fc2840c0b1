//! JSON patch, merge patch and strategic merge patch.

use corral_api::status::Status;
use corral_kinds::schema::Node;
use serde_json::Value;

mod strategic;

pub use strategic::strategic_merge;

/// Most operations of one JSON patch, as in kube-apiserver.
pub const OPERATIONS_MAX: usize = 10_000;

/// Applies a JSON patch.
///
/// # Errors
/// 400 for a patch that is none, 413 for one with too many operations, 422 for one that does not fit the object.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value, Status> {
    let patch: json_patch::Patch = serde_json::from_slice(patch)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    if patch.0.len() > OPERATIONS_MAX {
        let n = patch.0.len();
        return Err(Status::failure(
            413,
            corral_api::StatusReason::RequestEntityTooLarge,
            format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {n}"),
        ));
    }
    let mut out = object.clone();
    json_patch::patch(&mut out, &patch).map_err(|e| {
        let message =
            format!("the server rejected our request due to an error in our request: {e}");
        Status::failure(422, corral_api::StatusReason::Invalid, message)
    })?;
    Ok(out)
}

/// Applies a merge patch.
///
/// # Errors
/// 400 for a patch that is not an object.
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request(
            "error decoding patch: a merge patch must be an object",
        ));
    }
    let mut out = object.clone();
    json_patch::merge(&mut out, patch);
    Ok(out)
}

/// Applies a strategic merge patch with the strategies of a kind.
///
/// # Errors
/// 400 for a patch that is not an object, or whose directives make no sense.
pub fn strategic_patch(node: &Node, object: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request(
            "error decoding patch: a strategic merge patch must be an object",
        ));
    }
    strategic_merge(node, object, patch).map_err(Status::bad_request)
}
