//! What an applied configuration must be before anybody can own its fields: of fields that the kind has, without the same
//! item twice.

use std::collections::HashSet;

use corral_api::status::Status;
use corral_kinds::AnyKind;
use corral_kinds::schema::{ListKind, Node};
use serde_json::Value;

use super::set::Step;

/// Most faults that one answer lists; a hostile body cannot make a huge one.
const FAULTS_MAX: usize = 100;

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What a configuration says it is, as messages tell it.
fn told_type(config: &Value) -> String {
    let (version, kind) = (text(&config["apiVersion"]), text(&config["kind"]));
    match version.matches('/').count() {
        // A group of no name is told, too.
        0 => format!("/{version}, Kind={kind}"),
        1 => format!("{version}, Kind={kind}"),
        // What names no version is no type at all.
        _ => "/, Kind=".to_owned(),
    }
}

fn told(config: &Value) -> String {
    let metadata = &config["metadata"];
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    format!("({namespace}/{name}; {})", told_type(config))
}

/// Checks a configuration as the client sent it.
///
/// # Errors
/// 400 if it is of another type, 500 (as kube-apiserver) with every field that the kind does not have and every item given
/// twice.
pub fn check(kind: &dyn AnyKind, node: &Node, config: &Value) -> Result<(), Status> {
    let names = kind.names();
    if config["apiVersion"] != names.api_version() || config["kind"] != names.kind {
        let message = format!("invalid object type: {}", told_type(config));
        return Err(Status::bad_request(message));
    }
    let Some(all) = faults(node, config) else {
        return Ok(());
    };
    Err(Status::unexpected(format!(
        "failed to create typed patch object {}: {all}",
        told(config)
    )))
}

/// Reads what an apply has made of an object, in which the configuration stands as it was sent.
///
/// # Errors
/// 500, as kube-apiserver, when it is no object of the kind.
pub fn read(
    kind: &dyn AnyKind,
    node: &Node,
    config: &Value,
    mut object: Value,
) -> Result<Value, Status> {
    let unreadable = |why: String| {
        let of_type = told_type(config);
        Status::unexpected(format!(
            "failed to convert new object {} to proper version: unable to convert unstructured object to {of_type}: {why}",
            told(config)
        ))
    };
    if kind.check(&mut object).is_ok() {
        return Ok(object);
    }
    convert_numbers(node, &mut object).map_err(unreadable)?;
    let error = match kind.check(&mut object) {
        Ok(_) => return Ok(object),
        Err(error) => error.0,
    };
    // What reads itself is told without its place.
    let why = match error.split_once(" into Go struct field ") {
        Some((what, place)) => {
            let of_type = place
                .rsplit_once(" of type ")
                .map_or(place, |(_, name)| name);
            format!("{what} into Go value of type {of_type}")
        }
        None if error.starts_with("illegal base64") => format!("error decoding from json: {error}"),
        None => error,
    };
    Err(unreadable(why))
}

/// Makes numbers fit where the schema wants whole ones of some bits, as Go converts them: what is too large loses its upper
/// bits.
fn convert_numbers(node: &Node, value: &mut Value) -> Result<(), String> {
    match (node, &mut *value) {
        (Node::Struct { .. } | Node::Map { .. }, Value::Object(map)) => {
            map.iter_mut().try_for_each(|(name, inner)| {
                let child = node.child(name).unwrap_or(&Node::Any);
                convert_numbers(child, inner)
            })
        }
        (Node::List { item, .. }, Value::Array(items)) => items
            .iter_mut()
            .try_for_each(|inner| convert_numbers(item, inner)),
        (Node::Integer { bits }, Value::Number(number)) => {
            let whole = match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => whole,
                (None, Some(float)) if float.fract() != 0.0 => {
                    return Err(format!("cannot convert float64 to int{bits}"));
                }
                (None, _) => i64::MIN,
            };
            *value = match bits {
                32 => (whole as i32).into(),
                _ => whole.into(),
            };
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Numbers without a fraction are whole, however a configuration writes them.
pub fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            // The first float that is no such number is 2^63.
            if float.fract() == 0.0 && (i64::MIN as f64..-(i64::MIN as f64)).contains(&float) {
                *value = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Every field of a configuration that its kind does not have, and every item given twice; none if there are none.
pub fn faults(node: &Node, config: &Value) -> Option<String> {
    let mut faults = Vec::new();
    walk(node, config, &mut Vec::new(), &mut faults);
    match faults.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("errors:\n  {}", several.join("\n  "))),
    }
}

/// Whether a value, or one in it, is of another type than its schema says, or has no value for its key: then nobody can own
/// anything of the object.
pub fn is_mistyped(node: &Node, value: &Value) -> bool {
    match (node, value) {
        (Node::Struct { .. } | Node::Map { .. } | Node::Deduced, Value::Object(map)) => {
            let mut fields = map.iter();
            fields.any(|(name, item)| node.child(name).is_some_and(|node| is_mistyped(node, item)))
        }
        (Node::List { item, kind }, Value::Array(items)) => items.iter().any(|inner| {
            let has_null_key = match kind {
                ListKind::Map(keys) => keys
                    .iter()
                    .any(|key| inner.get(&**key).is_some_and(Value::is_null)),
                ListKind::Atomic | ListKind::Set => false,
            };
            has_null_key || is_mistyped(item, inner)
        }),
        (_, Value::Null) => false,
        _ => expected(node, value).is_some(),
    }
}

/// One step of the way to a value.
enum Place<'a> {
    Field(&'a str),
    Item(Step),
    /// An item of a list that has one owner as a whole.
    Number(usize),
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Item(step) => write!(f, "{step}"),
            Self::Number(index) => write!(f, ".[{index}]"),
        }
    }
}

fn walk<'a>(node: &Node, value: &'a Value, path: &mut Vec<Place<'a>>, faults: &mut Vec<String>) {
    if faults.len() >= FAULTS_MAX {
        return;
    }
    let place = |path: &[Place<'_>]| path.iter().map(Place::to_string).collect::<String>();
    match (node, value) {
        (Node::Struct { .. } | Node::Map { .. } | Node::Deduced, Value::Object(map)) => {
            for (name, item) in map {
                path.push(Place::Field(name));
                match node.child(name) {
                    Some(child) => walk(child, item, path, faults),
                    None => faults.push(format!("{}: field not declared in schema", place(path))),
                }
                path.pop();
            }
        }
        (Node::List { item, kind }, Value::Array(items)) => {
            let mut seen = HashSet::new();
            for (index, inner) in items.iter().enumerate() {
                if let Some(why) = no_item(kind, inner) {
                    let place = place(path);
                    faults.push(format!("{place}: element {index}: {why}"));
                    continue;
                }
                path.push(match Step::of_item(item, kind, inner) {
                    None => Place::Number(index),
                    Some(step) if seen.insert(step.clone()) => Place::Item(step),
                    Some(step) => {
                        let place = place(path);
                        faults.push(format!("{place}: duplicate entries for key {step}"));
                        continue;
                    }
                });
                walk(item, inner, path, faults);
                path.pop();
            }
        }
        (_, Value::Null) => {}
        _ => {
            if let Some(expected) = expected(node, value) {
                let found = found(node, value);
                faults.push(format!("{}: expected {expected}, got {found}", place(path)));
            }
        }
    }
}

/// Why a value cannot be an item of a shared list; `None` if it can.
fn no_item(kind: &ListKind, value: &Value) -> Option<&'static str> {
    match (kind, value) {
        (ListKind::Map(_), Value::Null) => {
            Some("associative list with keys may not have a null element")
        }
        (ListKind::Map(_), Value::Object(_)) => None,
        (ListKind::Map(_), _) => Some("associative list with keys may not have non-map elements"),
        (ListKind::Set, Value::Null) => {
            Some("associative list without keys has an element that's an explicit null")
        }
        (ListKind::Set, Value::Object(_)) => {
            Some("associative list without keys has an element that's a map type")
        }
        (ListKind::Set, Value::Array(_)) => {
            Some("not supported: associative list with lists as elements")
        }
        _ => None,
    }
}

/// What a value should have been; `None` if it is that.
fn expected(node: &Node, value: &Value) -> Option<&'static str> {
    let (expected, good) = match node {
        Node::String | Node::Bytes | Node::Time => ("string", value.is_string()),
        Node::Boolean => ("boolean", value.is_boolean()),
        Node::Integer { .. } | Node::Number => ("numeric (int or float)", value.is_number()),
        Node::Struct { .. } | Node::Map { .. } => ("map", value.is_object()),
        Node::List { .. } => ("list", value.is_array()),
        Node::Quantity => ("any scalar", !value.is_array() && !value.is_object()),
        _ => return None,
    };
    (!good).then_some(expected)
}

/// A value as such an error shows it: its type where a number is wanted, else as Go prints it.
fn found(node: &Node, value: &Value) -> String {
    match (node, value) {
        (Node::Integer { .. } | Node::Number, value) => match value {
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            Value::Array(_) => "[]interface {}",
            Value::Object(_) => "map[string]interface {}",
            Value::Number(_) | Value::Null => "number",
        }
        .to_owned(),
        (Node::String | Node::Bytes | Node::Time, value) => {
            format!("&value.valueUnstructured{{Value:{}}}", go_syntax(value))
        }
        (_, value) => format!("&{{{}}}", go_text(value)),
    }
}

/// A value as Go prints it (`%v`).
fn go_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let fields = map.iter();
            let fields: Vec<String> = fields
                .map(|(name, inner)| format!("{name}:{}", go_text(inner)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// A value as Go's source writes it (`%#v`).
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let fields = map.iter();
            let fields: Vec<String> = fields
                .map(|(name, inner)| format!("{name:?}:{}", go_syntax(inner)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use corral_kinds::{all, schema};
    use serde_json::json;

    use super::*;

    fn told(spec: Value) -> Result<(), String> {
        let kind = all::resource("apps", "v1", "deployments").expect("served");
        let node = schema::of(kind);
        let pods = json!({"template": {"spec": spec}});
        let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": pods});
        check(kind, &node, &config).map_err(|status| status.message)
    }

    #[test]
    fn fields_that_there_are_not_and_items_given_twice_are_told_with_their_place() {
        let port = json!({"containerPort": 80, "protocol": "UDP"});
        assert_eq!(
            told(json!({"containers": [{"name": "c", "ports": [port]}]})),
            Ok(())
        );
        let twice =
            told(json!({"containers": [{"name": "c", "ports": [port, port]}]})).expect_err("twice");
        assert_eq!(
            twice,
            "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers[name=\"c\"].ports: \
             duplicate entries for key [containerPort=80,protocol=\"UDP\"]"
        );
        let unknown =
            told(json!({"containers": [{"name": "c", "imag": "x"}], "x": 1})).expect_err("two");
        assert!(unknown.contains(
            "errors:\n  .spec.template.spec.containers[name=\"c\"].imag: field not declared"
        ));
        assert!(unknown.ends_with(".spec.template.spec.x: field not declared in schema"));
    }
}
