//! Where client-side apply keeps a configuration: an annotation, which `kubectl` brings along when it goes over to
//! server-side apply.

use corral_kinds::schema::Node;
use serde_json::{Map, Value};

use super::compare::compare;
use super::managed::Manager;
use super::set::Set;
use super::typed;
use crate::registry::metadata::ANNOTATIONS_BYTES_MAX;

/// Who goes over from client-side to server-side apply: what its last configuration set is no conflict.
const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"].get("annotations")?.as_object()
}

fn kept(object: &Value) -> Option<&str> {
    let text = annotations(object)?.get(ANNOTATION)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The fields that a manager may take over without force: those that client-side apply has set and that still are as it set
/// them, if the manager is `kubectl`; none if nobody can tell.
pub(super) fn taken_over(node: &Node, live: &Value, config: &Value, manager: &Manager) -> Set {
    let last = kept(live).filter(|_| manager.name == KUBECTL);
    let last = last.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let is_of_kind = |last: &Value| {
        let same = |key: &str| last[key].is_string() && last[key] == config[key];
        same("apiVersion") && same("kind") && typed::faults(node, last).is_none()
    };
    let Some(last) = last.filter(is_of_kind) else {
        return Set::default();
    };
    let mut set = Set::of(node, &last);
    let comparison = compare(node, live, &last);
    for other in [&comparison.added, &comparison.modified, &comparison.removed] {
        set.subtract(other);
    }
    set
}

/// Keeps what `kubectl` has applied where client-side apply looks for it, if that has been there before.
pub(crate) fn refresh(object: &mut Value, config: &Value, manager: &Manager) {
    if manager.name != KUBECTL || kept(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove(ANNOTATION);
            for value in annotations.values_mut().filter(|value| value.is_null()) {
                *value = "".into();
            }
        }
        metadata.remove("managedFields");
    }
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else {
        return;
    };
    annotations.insert(ANNOTATION.to_owned(), format!("{config}\n").into());
    let length = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    // Beyond that, there would be no object.
    if annotations.iter().map(length).sum::<usize>() > ANNOTATIONS_BYTES_MAX {
        annotations.remove(ANNOTATION);
    }
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}
