//! What an update carries over from the object as it was, whatever the writer sent.

use corral_kinds::AnyKind;
use serde_json::{Map, Value};

use super::Part;

/// What the writer of a part may not change is as it was. Labels and annotations may be written along with `status`
/// of Kubernetes' own kinds, and not of those that clients have described.
pub(super) fn keep_unwritten(kind: &dyn AnyKind, part: Part, value: &mut Value, old: &Value) {
    let restore = |value: &mut Value, key: &str| {
        let Value::Object(map) = value else { return };
        match old.get(key) {
            Some(kept) => map.insert(key.to_owned(), kept.clone()),
            None => map.remove(key),
        };
    };
    match part {
        Part::Main if kind.has_status() => restore(value, "status"),
        Part::Status if kind.is_custom() => {
            let managed = value["metadata"].get("managedFields").cloned();
            let mut metadata = old["metadata"].clone();
            if let Some(map) = metadata.as_object_mut() {
                match managed {
                    Some(managed) => map.insert("managedFields".to_owned(), managed),
                    None => map.remove("managedFields"),
                };
            }
            let status = value.get_mut("status").map(Value::take);
            *value = old.clone();
            value["metadata"] = metadata;
            match (status, value.as_object_mut()) {
                (Some(status), _) => value["status"] = status,
                (None, Some(map)) => drop(map.remove("status")),
                (None, None) => {}
            }
        }
        Part::Status | Part::Approval => {
            let keys: Vec<String> = [value.as_object(), old.as_object()]
                .into_iter()
                .flatten()
                .flat_map(|map| map.keys().cloned())
                .filter(|key| !matches!(key.as_str(), "status" | "metadata"))
                .collect();
            keys.iter().for_each(|key| restore(value, key));
        }
        _ => {}
    }
}

pub(super) fn bump_generation(kind: &dyn AnyKind, part: Part, value: &mut Value, old: &Value) {
    // What the server itself writes, such as a pod's node, is no change of what somebody wants.
    if !kind.has_generation() || !matches!(part, Part::Main | Part::Of(_)) {
        return;
    }
    let others: &[&str] = match kind.has_status() {
        true => &["metadata", "status"],
        false => &["metadata"],
    };
    let same = match (value.as_object(), old.as_object()) {
        (Some(value), Some(old)) => same_without(value, old, others),
        _ => value == old,
    };
    if !same || counted(kind, value) != counted(kind, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        value["metadata"]["generation"] = (generation + 1).into();
    }
}

/// What of an object's metadata counts as well; none of it is as good as nothing.
fn counted<'a>(kind: &dyn AnyKind, object: &'a Value) -> Option<&'a Map<String, Value>> {
    let field = object["metadata"].get(kind.generation_metadata()?)?;
    field.as_object().filter(|map| !map.is_empty())
}

/// Takes out what belongs to other parts of an object that is approved: only the conditions are the approver's, only the
/// rest of the status the signer's, and the spec is nobody's.
pub(super) fn without_others(value: &mut Value, subresource: &str) {
    let Value::Object(map) = value else { return };
    map.remove("spec");
    match (subresource, map.get_mut("status")) {
        ("approval", Some(Value::Object(status))) => drop(status.remove("certificate")),
        ("status", Some(Value::Object(status))) => drop(status.remove("conditions")),
        _ => drop(map.remove("status")),
    }
}

/// Whether two objects are the same, whoever owns what of them.
pub(super) fn same_objects(value: &Value, old: &Value) -> bool {
    let (Some(value), Some(old)) = (value.as_object(), old.as_object()) else {
        return value == old;
    };
    same_without(value, old, &["metadata"])
        && match (value.get("metadata"), old.get("metadata")) {
            (Some(Value::Object(metadata)), Some(Value::Object(old))) => {
                same_without(metadata, old, &["managedFields", "resourceVersion"])
            }
            (metadata, old) => metadata == old,
        }
}

/// Whether two maps are the same but for some keys.
fn same_without(map: &Map<String, Value>, old: &Map<String, Value>, keys: &[&str]) -> bool {
    let compared = |map: &Map<String, Value>| {
        let left_out = keys.iter().filter(|key| map.contains_key(**key));
        map.len() - left_out.count()
    };
    compared(map) == compared(old)
        && map
            .iter()
            .all(|(key, value)| keys.contains(&key.as_str()) || old.get(key) == Some(value))
}
