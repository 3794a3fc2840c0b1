//! Whole objects of Kubernetes inside of a custom resource: their type and metadata are checked as everywhere.

use corral_api::field::{FieldError, FieldPath};
use corral_api::meta::ObjectMeta;
use corral_api::names;
use serde_json::{Value, json};

use super::structural::Structural;
use crate::rules;
use crate::schema::{self, TypeError};

/// Reads types and metadata of the embedded objects below a value: what they do not have is taken out and told.
///
/// # Errors
/// The first of a wrong type.
pub(super) fn read(
    value: &mut Value,
    schema: &Structural,
    path: &mut String,
    unknown: &mut Vec<String>,
) -> Result<(), TypeError> {
    match value {
        Value::Object(map) => {
            for (name, inner) in map.iter_mut() {
                let Some(below) = schema.below(name) else {
                    continue;
                };
                let length = path.len();
                if length > 0 {
                    path.push('.');
                }
                path.push_str(name);
                if below.embedded && inner.is_object() {
                    read_object(inner, path, unknown)?;
                }
                read(inner, below, path, unknown)?;
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            let Some(item) = &schema.items else {
                return Ok(());
            };
            for (index, inner) in items.iter_mut().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{index}]"));
                if item.embedded && inner.is_object() {
                    read_object(inner, path, unknown)?;
                }
                read(inner, item, path, unknown)?;
                path.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}

fn read_object(value: &mut Value, path: &str, unknown: &mut Vec<String>) -> Result<(), TypeError> {
    let wrong = |field: &str, value: &Value, why: &str| {
        let path = FieldPath::new(path).child(field);
        TypeError(FieldError::invalid(&path, value.clone(), why).to_string())
    };
    for key in ["apiVersion", "kind"] {
        if let Some(given) = value.get(key).filter(|given| !given.is_string()) {
            return Err(wrong(key, given, "must be a string"));
        }
    }
    let Some(metadata) = value.get_mut("metadata") else {
        return Ok(());
    };
    let mut whole = json!({"metadata": metadata.clone()});
    match schema::of_metadata().check(&mut whole) {
        Ok(report) => {
            unknown.extend(report.unknown.iter().map(|field| format!("{path}.{field}")));
            *metadata = whole["metadata"].take();
            Ok(())
        }
        Err(error) => {
            let why = match metadata.is_object() {
                true => error.0.replace("ObjectMeta.metadata.", "ObjectMeta."),
                false => format!(
                    "json: cannot unmarshal {} into Go value of type v1.ObjectMeta",
                    match metadata {
                        Value::String(_) => "string",
                        Value::Bool(_) => "bool",
                        Value::Number(_) => "number",
                        _ => "array",
                    }
                ),
            };
            Err(wrong("metadata", metadata, &why))
        }
    }
}

/// Everything wrong with the embedded objects below a value.
pub(super) fn validate(value: &Value, schema: &Structural, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, path, &mut errors);
    errors
}

fn walk(value: &Value, schema: &Structural, path: &FieldPath, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                object(value, path, errors);
            }
            for (name, inner) in map {
                let Some(below) = schema.below(name) else {
                    continue;
                };
                let path = match schema.properties.contains_key(name) {
                    true => path.child(name),
                    false => path.key(name),
                };
                walk(inner, below, &path, errors);
            }
        }
        Value::Array(items) => {
            let Some(item) = &schema.items else { return };
            for (index, inner) in items.iter().enumerate() {
                walk(inner, item, &path.index(index), errors);
            }
        }
        _ => {}
    }
}

fn object(value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for key in ["apiVersion", "kind"] {
        let path = path.child(key);
        match value.get(key) {
            None => errors.push(FieldError::required(&path, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&path, "", "must not be empty"));
            }
            Some(Value::String(text)) => {
                let why = if key == "kind" {
                    let complaints = names::dns1035_label(&text.to_lowercase());
                    (!complaints.is_empty()).then(|| {
                        let complaints = complaints.join(",");
                        format!("may have mixed case, but should otherwise match: {complaints}")
                    })
                } else {
                    corral_api::gvk::GroupVersion::parse(text).err()
                };
                errors.extend(why.map(|why| FieldError::invalid(&path, text, why)));
            }
            Some(other) => errors.push(FieldError::invalid(
                &path,
                other.clone(),
                "must be a string",
            )),
        }
    }
    let Some(metadata) = value.get("metadata") else {
        return;
    };
    let path = path.child("metadata");
    match serde_json::from_value::<ObjectMeta>(metadata.clone()) {
        Err(error) => errors.push(FieldError::invalid(
            &path,
            metadata.clone(),
            error.to_string(),
        )),
        Ok(meta) => {
            let name = meta.name.as_deref().unwrap_or_default();
            let complaints = names::path_segment(name);
            if !name.is_empty() {
                rules::complain(errors, &path.child("name"), name, complaints);
            }
            rules::labels(errors, &path.child("labels"), meta.labels.as_ref());
            rules::annotations(
                errors,
                &path.child("annotations"),
                meta.annotations.as_ref(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_object_has_a_type_and_metadata_like_any_other() {
        let schema = Structural::parse(
            &json!({"type": "object", "properties": {"pod": {"type": "object",
            "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}),
        );
        let errors = |pod: Value| -> Vec<String> {
            let errors = validate(&json!({"pod": pod}), &schema, &FieldPath::root());
            errors.iter().map(ToString::to_string).collect()
        };
        assert!(
            errors(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}))
                .is_empty()
        );
        assert_eq!(
            errors(json!({"kind": ""})),
            [
                "pod.apiVersion: Required value",
                r#"pod.kind: Invalid value: "": must not be empty"#
            ]
        );
        let labels =
            errors(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a b": ""}}}));
        assert!(labels[0].starts_with(r#"pod.metadata.labels: Invalid value: "a b": "#));
    }
}
