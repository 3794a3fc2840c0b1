//! What a webhook may not change: the identity of an object, and of its metadata all but labels and annotations.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::names;
use corral_kinds::custom::go_type;
use serde_json::{Map, Value};

use crate::registry::metadata;

/// What is wrong with a converted object.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Its type.
    Type(String),
    /// It is another object.
    Object(String),
    /// Its metadata.
    Metadata(String),
}

impl Wrong {
    /// In Kubernetes' words, which depend on whether the object was asked about by itself.
    pub fn told(&self, is_alone: bool, index: usize) -> String {
        match (self, is_alone) {
            (Self::Type(why), true) => format!("invalid object at index 0: {why}"),
            (Self::Object(why), true) => format!("invalid object: {why}"),
            (Self::Metadata(why), true) => format!("invalid metadata: {why}"),
            (Self::Metadata(why), false) => {
                format!("invalid metadata in object at index {index}: {why}")
            }
            (Self::Type(why) | Self::Object(why), false) => {
                format!("invalid converted object at index {index}: {why}")
            }
        }
    }
}

/// A converted object with the metadata of the original one, save its own labels and annotations.
///
/// # Errors
/// When it is of another type, another object, or its labels and annotations are none.
pub fn checked(original: &Value, mut converted: Value, to: &str) -> Result<Value, Wrong> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let version = text(&converted, "apiVersion");
    if version != to {
        let why = format!("invalid groupVersion (expected {to}, received {version})");
        return Err(Wrong::Type(why));
    }
    let (wanted, kind) = (text(original, "kind"), text(&converted, "kind"));
    if wanted != kind {
        let why = format!("invalid kind (expected {wanted}, received {kind})");
        return Err(Wrong::Type(why));
    }
    for (key, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let before = text(&original["metadata"], key);
        let after = text(&converted["metadata"], key);
        if before != after {
            let why = format!("must have the same {shown}: {before} != {after}");
            return Err(Wrong::Object(why));
        }
    }
    let given = match converted.get("metadata") {
        None => return Err(Wrong::Metadata(missing())),
        Some(Value::Object(given)) => given,
        Some(other) => {
            let why = format!(
                "invalid metadata of type {} in converted object",
                go_type(other)
            );
            return Err(Wrong::Metadata(why));
        }
    };
    let metadata = merged(&original["metadata"], given).map_err(Wrong::Metadata)?;
    converted["metadata"] = Value::Object(metadata);
    Ok(converted)
}

fn missing() -> String {
    "missing metadata in converted object".to_owned()
}

fn merged(original: &Value, given: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut metadata = original.as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        let texts = match given.get(field) {
            None | Some(Value::Null) => {
                metadata.remove(field);
                continue;
            }
            Some(Value::Object(texts)) => texts,
            Some(other) => {
                let found = go_type(other);
                return Err(format!(
                    "invalid metadata.{field} of type {found} in converted object"
                ));
            }
        };
        let mut all = BTreeMap::new();
        for (key, value) in texts {
            let Value::String(value) = value else {
                let found = go_type(value);
                return Err(format!(
                    "metadata.{field}[{key}] must be a string, but is {found} in converted object"
                ));
            };
            all.insert(key.clone(), value.clone());
        }
        // What was there before was good, or has been taken before it was checked.
        if metadata.get(field).and_then(Value::as_object) != Some(texts) {
            let errors = faults(field, &all);
            if !errors.is_empty() {
                return Err(FieldError::aggregate(&errors));
            }
        }
        metadata.insert(field.to_owned(), Value::Object(texts.clone()));
    }
    Ok(metadata)
}

fn faults(field: &str, texts: &BTreeMap<String, String>) -> Vec<FieldError> {
    if field == "labels" {
        let path = FieldPath::new("metadata.labels");
        return metadata::validate_labels(&path, texts.iter());
    }
    // Kubernetes names it so here.
    let path = FieldPath::new("metadata.annotation");
    let bytes: usize = texts.iter().map(|(k, v)| k.len() + v.len()).sum();
    let keys = texts.keys().flat_map(|key| {
        let wrong = names::qualified_name(&key.to_lowercase());
        wrong
            .into_iter()
            .map(|why| FieldError::invalid(&path, key, why))
            .collect::<Vec<_>>()
    });
    let mut errors: Vec<FieldError> = keys.collect();
    if bytes > metadata::ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(&path, metadata::ANNOTATIONS_BYTES_MAX));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(version: &str, metadata: Value) -> Value {
        json!({"apiVersion": version, "kind": "A", "metadata": metadata})
    }

    #[test]
    fn only_labels_and_annotations_are_taken_from_the_webhook() {
        let before = json!({"name": "a", "uid": "u", "finalizers": ["a/b"], "labels": {"x": "1"}});
        let given = json!({"name": "a", "uid": "u", "generation": 7, "annotations": {"y": "2"}});
        let out = checked(&object("g/v1", before), object("g/v2", given), "g/v2");
        let kept =
            json!({"name": "a", "uid": "u", "finalizers": ["a/b"], "annotations": {"y": "2"}});
        assert_eq!(out, Ok(object("g/v2", kept)));
    }

    #[test]
    fn another_object_is_refused_in_the_words_of_kubernetes() {
        let before = object("g/v1", json!({"name": "a", "uid": "u"}));
        let refused = |metadata: Value| {
            let wrong = checked(&before, object("g/v2", metadata), "g/v2");
            wrong.expect_err("it is another").told(true, 0)
        };
        assert_eq!(
            refused(json!({"name": "a", "uid": "x"})),
            "invalid object: must have the same UID: u != x"
        );
        assert_eq!(
            refused(json!({"name": "a", "uid": "u", "labels": {"l": 3}})),
            "invalid metadata: metadata.labels[l] must be a string, but is int64 in converted object"
        );
        let wrong = checked(&before, object("g/v3", json!({})), "g/v2").expect_err("the version");
        assert_eq!(
            wrong.told(false, 4),
            "invalid converted object at index 4: invalid groupVersion (expected g/v2, received g/v3)"
        );
    }
}
