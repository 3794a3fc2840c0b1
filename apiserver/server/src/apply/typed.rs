//! What an applied configuration must be before anybody can own its fields: of fields that the kind has, without the same
//! item twice.

use std::collections::HashSet;

use corral_api::status::Status;
use corral_kinds::schema::{ListKind, Node};
use serde_json::Value;

use super::set::Step;

/// Most faults that one answer lists; a hostile body cannot make a huge one.
const FAULTS_MAX: usize = 100;

/// Checks a configuration as the client sent it.
///
/// # Errors
/// 400 without a type, 500 (as kube-apiserver) with every field that the kind does not have and every item given twice.
pub fn check(node: &Node, config: &Value) -> Result<(), Status> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&config["apiVersion"]), text(&config["kind"]));
    // A group of no name is told, too.
    let of_type = match version.contains('/') {
        true => version.clone(),
        false => format!("/{version}"),
    };
    if version.is_empty() || kind.is_empty() {
        let message = format!("invalid object type: {of_type}, Kind={kind}");
        return Err(Status::bad_request(message));
    }
    let Some(all) = faults(node, config) else {
        return Ok(());
    };
    let metadata = &config["metadata"];
    Err(Status::unexpected(format!(
        "failed to create typed patch object ({}/{}; {of_type}, Kind={kind}): {all}",
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )))
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
                let found = found(value);
                faults.push(format!("{}: expected {expected}, got {found}", place(path)));
            }
        }
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
        _ => return None,
    };
    (!good).then_some(expected)
}

/// A value as such an error shows it.
fn found(value: &Value) -> String {
    match value {
        Value::String(_) => "string".to_owned(),
        Value::Bool(_) => "boolean".to_owned(),
        Value::Number(n) if n.is_f64() => "float".to_owned(),
        Value::Number(_) => "int".to_owned(),
        Value::Array(_) => "list".to_owned(),
        Value::Object(_) => "map".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use corral_kinds::{all, schema};
    use serde_json::json;

    use super::*;

    fn told(spec: Value) -> Result<(), String> {
        let node = schema::of(all::resource("apps", "v1", "deployments").expect("served"));
        let pods = json!({"template": {"spec": spec}});
        let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": pods});
        check(&node, &config).map_err(|status| status.message)
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
