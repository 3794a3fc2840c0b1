//! What a schema may say.

use corral_api::field::{FieldError, FieldPath};
use serde_json::{Map, Value};

use crate::custom::formats;
use crate::custom::prune::META_FIELDS;
use crate::custom::structural::Type;
use crate::rules::Errors;

/// What the root of a schema may say where `status` has an owner of its own, as Go calls it: it must hold for `status`
/// alone, too.
const AT_ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    (
        "x-kubernetes-preserve-unknown-fields",
        "XPreserveUnknownFields",
    ),
    ("x-kubernetes-validations", "XValidations"),
];

/// Whether a field of the root is there at all, as Go sees it: lists and maps are, however empty, and so are texts that may
/// be left out.
fn is_there(key: &str, value: &Value) -> bool {
    const POINTERS: [&str; 3] = ["$ref", "x-kubernetes-list-type", "x-kubernetes-map-type"];
    match value {
        Value::Array(_) => true,
        Value::String(_) if POINTERS.contains(&key) => true,
        other => is_set(other),
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}

/// What the root of a schema has wrong.
pub(super) fn root(errors: &mut Errors, path: &FieldPath, schema: &Value, has_status: bool) {
    let keys = schema.as_object().into_iter().flatten();
    for (key, _) in keys.filter(|(key, value)| has_status && is_there(key, value)) {
        if key == "type" {
            if text(schema, "type") != "object" {
                let why = r#"only "object" is allowed as the type at the root of the schema if the status subresource is enabled"#;
                errors.push(FieldError::invalid(
                    &path.child("type"),
                    text(schema, "type"),
                    why,
                ));
                break;
            }
        } else if !AT_ROOT.iter().any(|(allowed, _)| allowed == key) {
            let names: Vec<&str> = AT_ROOT.iter().map(|(_, go)| *go).collect();
            let why = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                names.join(" ")
            );
            errors.push(FieldError::invalid(path, schema.clone(), why));
            break;
        }
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(
            &path.child("nullable"),
            "nullable cannot be true at the root",
        ));
    }
}

/// Everything that a schema says and may not say.
pub(super) fn validate(errors: &mut Errors, path: &FieldPath, schema: &Value) {
    let place = Place {
        is_root: true,
        ..Place::default()
    };
    walk(errors, path, schema, &place);
}

/// Where a schema stands.
#[derive(Clone, Default)]
struct Place {
    is_root: bool,
    in_meta: bool,
    /// Why it may have no default.
    no_defaults: Option<String>,
}

impl Place {
    fn below(&self) -> Self {
        Self {
            is_root: false,
            ..self.clone()
        }
    }
}

fn walk(errors: &mut Errors, path: &FieldPath, schema: &Value, place: &Place) {
    let Value::Object(map) = schema else { return };
    unsupported(errors, path, schema, place);
    if schema["uniqueItems"] == true {
        let why =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), why));
    }
    below(errors, path, map, place);
    topology(errors, path, schema);
}

fn below(errors: &mut Errors, path: &FieldPath, map: &Map<String, Value>, place: &Place) {
    let properties = map.get("properties").and_then(Value::as_object);
    if let Some(additional) = map.get("additionalProperties").filter(|a| !a.is_null()) {
        let path = path.child("additionalProperties");
        if properties.is_some_and(|p| !p.is_empty()) && *additional != true {
            let why = "additionalProperties and properties are mutual exclusive";
            errors.push(FieldError::forbidden(&path, why));
        }
        let mut inner = place.below();
        if place.in_meta {
            let why = "inside additionalProperties applying to object metadata";
            inner.no_defaults = Some(why.to_owned());
        }
        walk(errors, &path, additional, &inner);
    }
    let embedded = map.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
    for (name, property) in properties.into_iter().flatten() {
        let mut inner = place.below();
        if (place.is_root || embedded) && META_FIELDS.contains(&name.as_str()) {
            inner.in_meta = true;
            if place.is_root {
                inner.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        walk(
            errors,
            &path.child("properties").key(name),
            property,
            &inner,
        );
    }
    if let Some(not) = map.get("not") {
        walk(errors, &path.child("not"), not, &place.below());
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        let schemas = map.get(key).and_then(Value::as_array);
        for (index, inner) in schemas.into_iter().flatten().enumerate() {
            walk(errors, &path.child(key).index(index), inner, &place.below());
        }
    }
    if let Some(items) = map.get("items") {
        walk(errors, &path.child("items"), items, &place.below());
    }
}

/// What OpenAPI has and a definition may not use.
fn unsupported(errors: &mut Errors, path: &FieldPath, schema: &Value, place: &Place) {
    let kind = text(schema, "type");
    if !kind.is_empty() && !Type::NAMES.contains(&kind) {
        let types = ["array", "boolean", "integer", "number", "object", "string"];
        errors.push(FieldError::not_supported(&path.child("type"), kind, &types));
    }
    if schema.get("default").is_some_and(|d| !d.is_null())
        && let Some(reason) = &place.no_defaults
    {
        let why = format!("must not be set {reason}");
        errors.push(FieldError::forbidden(&path.child("default"), why));
    }
    for key in [
        "id",
        "additionalItems",
        "patternProperties",
        "definitions",
        "dependencies",
        "$ref",
    ] {
        let there = match &schema[key] {
            Value::Object(map) => key == "dependencies" || !map.is_empty(),
            Value::String(_) if key == "$ref" => true,
            other => {
                key != "additionalItems" && is_set(other)
                    || key == "additionalItems" && other.is_boolean()
            }
        };
        if there {
            errors.push(FieldError::forbidden(
                &path.child(key),
                format!("{key} is not supported"),
            ));
        }
    }
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(&path.child("type"), why));
    }
    if schema["items"]
        .as_array()
        .is_some_and(|items| !items.is_empty())
    {
        let why = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(&path.child("items"), why));
    }
    if place.in_meta && schema["x-kubernetes-embedded-resource"] == true {
        let path = path.child("x-kubernetes-embedded-resource");
        errors.push(FieldError::forbidden(
            &path,
            "must not be used inside of resource meta",
        ));
    }
}

/// How lists and maps merge.
fn topology(errors: &mut Errors, path: &FieldPath, schema: &Value) {
    let kind = text(schema, "type");
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        let path = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(
            &path,
            false,
            "must be true or undefined",
        ));
    }
    let mut must_be = |key: &str, wanted: &str| {
        if schema[key].is_string() && kind != wanted {
            let why = format!("must be {wanted} if {key} is specified");
            let path = path.child("type");
            errors.push(match kind.is_empty() {
                true => FieldError::required(&path, why),
                false => FieldError::invalid(&path, kind, why),
            });
        }
    };
    must_be("x-kubernetes-map-type", "object");
    if let Some(map_type) = schema["x-kubernetes-map-type"].as_str()
        && !matches!(map_type, "atomic" | "granular")
    {
        let path = path.child("x-kubernetes-map-type");
        errors.push(FieldError::not_supported(
            &path,
            map_type,
            &["atomic", "granular"],
        ));
    }
    let mut must_be = |key: &str, wanted: &str| {
        if schema[key].is_string() && kind != wanted {
            let why = format!("must be {wanted} if {key} is specified");
            let path = path.child("type");
            errors.push(match kind.is_empty() {
                true => FieldError::required(&path, why),
                false => FieldError::invalid(&path, kind, why),
            });
        }
    };
    must_be("x-kubernetes-list-type", "array");
    if kind == "array" && text(schema, "x-kubernetes-list-type") == "set" {
        set_of_atoms(errors, path, &schema["items"]);
    }
    if let Some(list_type) = schema["x-kubernetes-list-type"].as_str()
        && !matches!(list_type, "atomic" | "set" | "map")
    {
        let path = path.child("x-kubernetes-list-type");
        errors.push(FieldError::not_supported_of(
            &path,
            list_type,
            &["atomic", "set", "map"],
        ));
    }
    list_map(errors, path, schema);
    items_of_keyed(errors, path, schema);
}

/// The items of a set are told apart as wholes.
fn set_of_atoms(errors: &mut Errors, path: &FieldPath, items: &Value) {
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (key, good) = match text(items, "type") {
        "array" => (
            "x-kubernetes-list-type",
            matches!(text(items, "x-kubernetes-list-type"), "" | "atomic"),
        ),
        "object" => (
            "x-kubernetes-map-type",
            text(items, "x-kubernetes-map-type") == "atomic",
        ),
        _ => return,
    };
    if !good {
        let shown = items["x-kubernetes-list-type"].clone();
        errors.push(FieldError::invalid(
            &path.child("items").child(key),
            shown,
            why,
        ));
    }
}

fn list_map(errors: &mut Errors, path: &FieldPath, schema: &Value) {
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let list_type = schema["x-kubernetes-list-type"].as_str();
    let type_path = path.child("x-kubernetes-list-type");
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if !keys.is_empty() && list_type != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            None => FieldError::required(&type_path, why),
            Some(other) => FieldError::invalid(&type_path, other, why),
        });
    }
    if list_type != Some("map") {
        return;
    }
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(&keys_path, why));
    }
    let items = &schema["items"];
    let items_path = path.child("items");
    match items {
        Value::Object(_) if text(items, "type") == "object" => {
            for (index, key) in keys.iter().enumerate() {
                match items["properties"].get(*key) {
                    Some(property) if matches!(text(property, "type"), "array" | "object") => {
                        let path = items_path.child("properties").key(key).child("type");
                        let why =
                            "must be a scalar type if parent array's x-kubernetes-list-type is map";
                        errors.push(FieldError::invalid(&path, text(items, "type"), why));
                    }
                    Some(_) => {}
                    None => {
                        let why = "entries must all be names of item properties";
                        errors.push(FieldError::invalid(
                            &keys_path,
                            Value::from(keys.clone()),
                            why,
                        ));
                    }
                }
                if keys[..index].contains(key) {
                    let why = "must not contain duplicate entries";
                    errors.push(FieldError::invalid(
                        &keys_path,
                        Value::from(keys.clone()),
                        why,
                    ));
                }
            }
        }
        Value::Object(_) => {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(
                &items_path.child("type"),
                text(items, "type"),
                why,
            ));
        }
        Value::Array(_) => {
            let why = "must only have a single schema if x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&items_path, items.clone(), why));
        }
        _ => {
            let why = "must have a schema if x-kubernetes-list-type is map";
            errors.push(FieldError::required(&items_path, why));
        }
    }
}

/// An item whose key is missing could not be told from others.
fn items_of_keyed(errors: &mut Errors, path: &FieldPath, schema: &Value) {
    let list_type = text(schema, "x-kubernetes-list-type");
    let items = &schema["items"];
    if !matches!(list_type, "set" | "map") || !items.is_object() {
        return;
    }
    let path = path.child("items");
    if items["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(&path.child("nullable"), why));
    }
    if list_type != "map" {
        return;
    }
    let required: Vec<&Value> = items["required"].as_array().into_iter().flatten().collect();
    let keys = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten();
    for key in keys {
        let name = key.as_str().unwrap_or_default();
        let Some(property) = items["properties"].get(name) else {
            continue;
        };
        let path = path.child("properties").key(name);
        if !required.contains(&key) && property.get("default").is_none() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(&path.child("default"), why));
        }
        if property["nullable"] == true {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(&path.child("nullable"), why));
        }
    }
}

/// Formats that no checker knows, in the order of the schema.
pub(super) fn unknown_formats(schema: &Value, warnings: &mut Vec<String>) {
    if let Value::Object(map) = schema {
        let format = text(schema, "format");
        let kind = Type::NAMES
            .iter()
            .find(|name| **name == text(schema, "type"));
        let kind = kind.and_then(|name| Type::parse(name));
        if !format.is_empty()
            && map.get("format").is_some_and(Value::is_string)
            && formats::known(format, kind).is_none()
        {
            let warning = format!("unrecognized format {format:?}");
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        for key in ["items", "not", "additionalProperties"] {
            if let Some(inner) = map.get(key) {
                unknown_formats(inner, warnings);
            }
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            let schemas = map.get(key).and_then(Value::as_array).into_iter().flatten();
            schemas.for_each(|inner| unknown_formats(inner, warnings));
        }
        let properties = map.get("properties").and_then(Value::as_object);
        properties
            .into_iter()
            .flatten()
            .for_each(|(_, inner)| unknown_formats(inner, warnings));
    }
}
