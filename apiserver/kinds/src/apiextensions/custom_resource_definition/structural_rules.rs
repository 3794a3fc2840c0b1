//! Where a schema must say what it says: every field once, with a type, outside of alternatives.

use corral_api::field::{FieldError, FieldPath};
use serde_json::{Value, json};

use crate::custom::structural::Pattern;
use crate::rules::Errors;

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema[key] == true
}

fn list<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    schema[key].as_array().into_iter().flatten().enumerate()
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// Everything that keeps a schema from being structural, in the order of the texts.
pub(super) fn validate(schema: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Errors::new();
    structure(&mut errors, path, schema, Level::Root);
    completeness(&mut errors, schema, Some(schema), path, path);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn structure(errors: &mut Errors, path: &FieldPath, schema: &Value, level: Level) {
    let kind = text(schema, "type");
    if kind == "array" && schema["items"].is_null() {
        errors.push(FieldError::required(
            &path.child("items"),
            "must be specified",
        ));
    }
    if schema["items"].is_object() {
        structure(errors, &path.child("items"), &schema["items"], Level::Item);
    }
    for (name, property) in properties(schema) {
        structure(
            errors,
            &path.child("properties").key(name),
            property,
            Level::Field,
        );
    }
    let additional = &schema["additionalProperties"];
    if !additional.is_null() {
        let path = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&path, "must not be used at the root"));
        }
        if additional.is_object() {
            structure(errors, &path, additional, Level::Field);
        }
    }
    extensions(errors, path, schema);
    values(errors, path, schema);
    types(errors, path, schema, level);
    metadata(errors, path, schema, level);
}

fn extensions(errors: &mut Errors, path: &FieldPath, schema: &Value) {
    if !flag(schema, "x-kubernetes-int-or-string") {
        return;
    }
    for key in [
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
    ] {
        if flag(schema, key) {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(&path.child(key), true, why));
        }
    }
}

fn types(errors: &mut Errors, path: &FieldPath, schema: &Value, level: Level) {
    let kind = text(schema, "type");
    let at = path.child("type");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
    if embedded && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match kind.is_empty() {
            true => FieldError::required(&at, why),
            false => FieldError::invalid(&at, kind, why),
        });
    } else if kind.is_empty() && !flag(schema, "x-kubernetes-int-or-string") && !preserves {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at, why));
    }
    if embedded && !schema["additionalProperties"].is_null() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            why,
        ));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(FieldError::invalid(&at, kind, "must be object at the root"));
    }
    if embedded && !preserves && properties(schema).next().is_none() {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), why));
    }
}

/// Type and metadata of a whole object are Kubernetes' own.
fn metadata(errors: &mut Errors, path: &FieldPath, schema: &Value, level: Level) {
    let whole = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    let path = path.child("properties");
    for key in ["kind", "apiVersion"] {
        if let Some(property) = schema["properties"].get(key).filter(|_| whole)
            && text(property, "type") != "string"
        {
            let path = path.key(key).child("type");
            errors.push(FieldError::invalid(
                &path,
                text(property, "type"),
                "must be string",
            ));
        }
    }
    let Some(metadata) = schema["properties"].get("metadata") else {
        return;
    };
    let path = path.key("metadata");
    if whole && text(metadata, "type") != "object" {
        let kind = text(metadata, "type");
        errors.push(FieldError::invalid(
            &path.child("type"),
            kind,
            "must be object",
        ));
    }
    if level != Level::Root {
        return;
    }
    let names = |name: &String| matches!(name.as_str(), "name" | "generateName");
    let says_more = metadata
        .as_object()
        .into_iter()
        .flatten()
        .any(|(key, value)| match key.as_str() {
            "type" | "default" => false,
            "properties" => !properties(metadata).all(|(name, _)| names(name)),
            _ => {
                !matches!(value, Value::Null | Value::Bool(false))
                    && *value != json!([])
                    && *value != ""
            }
        });
    if says_more {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(&path, why));
    }
}

fn is_int_or_string(alternatives: &Value) -> bool {
    *alternatives == json!([{"type": "integer"}, {"type": "string"}])
}

/// What a schema says about values, and its alternatives.
fn values(errors: &mut Errors, path: &FieldPath, schema: &Value) {
    let skips_any = is_int_or_string(&schema["anyOf"]);
    let skips_first = is_int_or_string(&schema["allOf"][0]["anyOf"]);
    value_rules(errors, path, schema, skips_any, skips_first);
}

fn value_rules(
    errors: &mut Errors,
    path: &FieldPath,
    schema: &Value,
    skips_any: bool,
    skips_first: bool,
) {
    if !skips_any {
        for (index, inner) in list(schema, "anyOf") {
            alternative(errors, &path.child("anyOf").index(index), inner, false);
        }
    }
    for (index, inner) in list(schema, "allOf") {
        alternative(
            errors,
            &path.child("allOf").index(index),
            inner,
            skips_first && index == 0,
        );
    }
    for (index, inner) in list(schema, "oneOf") {
        alternative(errors, &path.child("oneOf").index(index), inner, false);
    }
    if schema["not"].is_object() {
        alternative(errors, &path.child("not"), &schema["not"], false);
    }
    let pattern = text(schema, "pattern");
    if let Some(error) = Pattern::compile(pattern)
        .err()
        .filter(|_| !pattern.is_empty())
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), pattern, why));
    }
}

/// A schema among alternatives says only more about values.
fn alternative(errors: &mut Errors, path: &FieldPath, schema: &Value, skips_any: bool) {
    value_rules(errors, path, schema, skips_any, false);
    if schema["items"].is_object() {
        alternative(errors, &path.child("items"), &schema["items"], false);
    }
    for (name, property) in properties(schema) {
        alternative(errors, &path.child("properties").key(name), property, false);
    }
    let mut forbid =
        |key: &str, why: &str| errors.push(FieldError::forbidden(&path.child(key), why));
    if !text(schema, "type").is_empty() {
        forbid("type", "must be empty to be structural");
    }
    for key in [
        "additionalProperties",
        "default",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
    ] {
        if !schema[key].is_null() {
            forbid(key, "must be undefined to be structural");
        }
    }
    for key in ["title", "description"] {
        if !text(schema, key).is_empty() {
            forbid(key, "must be empty to be structural");
        }
    }
    for key in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
        if list(schema, key).next().is_some() {
            forbid(key, "must be empty to be structural");
        }
    }
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ] {
        if flag(schema, key) {
            forbid(key, "must be false to be structural");
        }
    }
    if schema["properties"].get("metadata").is_some() {
        let path = path.child("properties").key("metadata");
        errors.push(FieldError::forbidden(
            &path,
            "must not be specified in a nested context",
        ));
    }
}

/// Every field that an alternative names must be named outside of it, too. Kubernetes looks at the alternatives of the whole
/// object alone, and into what they say.
fn completeness(
    errors: &mut Errors,
    says: &Value,
    structure: Option<&Value>,
    here: &FieldPath,
    there: &FieldPath,
) {
    let Some(schema) = structure else {
        let why = format!("because it is defined in {there}");
        errors.push(FieldError::required(here, why));
        return;
    };
    if says["not"].is_object() {
        nested(
            errors,
            &says["not"],
            Some(schema),
            here,
            &there.child("not"),
        );
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in list(says, key) {
            nested(
                errors,
                inner,
                Some(schema),
                here,
                &there.child(key).index(index),
            );
        }
    }
}

fn nested(
    errors: &mut Errors,
    says: &Value,
    structure: Option<&Value>,
    here: &FieldPath,
    there: &FieldPath,
) {
    completeness(errors, says, structure, here, there);
    let Some(schema) = structure else { return };
    if says["items"].is_object() {
        let items = Some(&schema["items"]).filter(|items| items.is_object());
        nested(
            errors,
            &says["items"],
            items,
            &here.child("items"),
            &there.child("items"),
        );
    }
    for (name, inner) in properties(says) {
        let (here, there) = (
            here.child("properties").key(name),
            there.child("properties").key(name),
        );
        nested(errors, inner, schema["properties"].get(name), &here, &there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(schema: Value) -> Vec<String> {
        let errors = validate(&schema, &FieldPath::new("s"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_structural_schema_passes() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"a": {"type": "string"}, "port": {"x-kubernetes-int-or-string": true,
                "anyOf": [{"type": "integer"}, {"type": "string"}]}},
            "oneOf": [{"required": ["a"]}, {"properties": {"a": {"pattern": "^x"}}}]}}});
        assert_eq!(told(schema), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_structural_is_told_with_its_place() {
        let schema = json!({"type": "object", "properties": {
            "list": {"type": "array"},
            "any": {},
            "metadata": {"type": "object", "properties": {"labels": {"type": "object"}}},
            "spec": {"type": "object", "anyOf": [{"type": "object", "properties": {"b": {"minimum": 1}}}]},
        }});
        assert_eq!(
            told(schema),
            [
                "s.properties[any].type: Required value: must not be empty for specified object fields",
                "s.properties[list].items: Required value: must be specified",
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
                "s.properties[spec].anyOf[0].type: Forbidden: must be empty to be structural",
            ]
        );
    }

    #[test]
    fn alternatives_of_the_whole_name_only_what_there_is() {
        let inner = json!({"properties": {"b": {"minimum": 1}}});
        let spec = json!({"type": "object", "anyOf": [inner]});
        let schema = json!({"type": "object", "properties": {"spec": spec}, "oneOf": [{"properties": {"spec": inner}}]});
        assert_eq!(
            told(schema),
            [
                "s.properties[spec].properties[b]: Required value: because it is defined in s.oneOf[0].properties[spec].properties[b]"
            ]
        );
    }
}
