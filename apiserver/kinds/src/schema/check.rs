//! Checks a JSON tree against a schema: unknown fields are reported and taken out, nulls are taken out, and a value of
//! the wrong type is an error in the words that Kubernetes uses.

use std::fmt::Write as _;

use base64::Engine as _;
use serde_json::Value;

use super::{Node, Other};

/// What a check found that is not an error by itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths of fields that the schema does not have.
    pub unknown: Vec<String>,
}

/// Most unknown fields that one report lists; a hostile body cannot make a huge answer.
const UNKNOWN_FIELDS_MAX: usize = 100;

/// What stands for a time that is not set where there must be one; Go's zero time is the same moment.
pub(crate) const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A value of the wrong type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeError(pub String);

/// The same while its place is still a path of the object.
enum Wrong {
    /// Where, what was found, what is wanted.
    Type {
        path: String,
        owner: String,
        found: String,
        wanted: String,
    },
    /// Something that says all by itself.
    Value(String),
}

#[derive(Default)]
struct Walk<'a> {
    report: Report,
    path: String,
    owner: &'a str,
    /// The first value of a wrong type. Go reads on behind it, and tells of it only when nothing worse comes: a value that
    /// its type reads by itself (a time, a quantity) ends the reading.
    mistyped: Option<Wrong>,
}

/// What a type that reads itself, which stands by itself, says of a value.
///
/// # Errors
/// When it cannot be read.
pub(super) fn own_words(node: &Node, value: &Value, go_type: &str) -> Result<(), String> {
    let mut walk = Walk::default();
    let read = walk.node(node, &mut value.clone(), go_type);
    match read.err().or(walk.mistyped) {
        None => Ok(()),
        Some(wrong) => Err(wrong.told(node)),
    }
}

impl Node {
    /// Checks and prunes `value`, which is an object of the kind whose schema this is.
    ///
    /// # Errors
    /// The first value of a wrong type.
    pub fn check(&self, value: &mut Value) -> Result<Report, TypeError> {
        let mut walk = Walk::default();
        match walk.node(self, value, "").err().or(walk.mistyped) {
            None => Ok(walk.report),
            Some(wrong) => Err(TypeError(wrong.told(self))),
        }
    }

    /// The zero value of Go that a `null` in a list or a map stands for.
    fn zero(&self) -> Value {
        match self {
            Self::List { .. } => Value::Array(Vec::new()),
            Self::Any | Self::Deduced | Self::StructOr { .. } | Self::Map { .. } | Self::Time => {
                Value::Null
            }
            Self::String | Self::Bytes => "".into(),
            Self::Quantity => "0".into(),
            Self::Boolean => false.into(),
            Self::Integer { .. } | Self::Number | Self::IntOrString => 0.into(),
            Self::Struct { .. } => Value::Object(serde_json::Map::new()),
        }
    }
}

impl Wrong {
    /// The message, for an object of this shape.
    fn told(self, root: &Node) -> String {
        match self {
            Self::Value(message) => message,
            Self::Type {
                path,
                found,
                wanted,
                ..
            } if path.is_empty() => {
                format!("json: cannot unmarshal {found} into Go value of type {wanted}")
            }
            Self::Type {
                path,
                owner,
                found,
                wanted,
            } => format!(
                "json: cannot unmarshal {found} into Go struct field {owner}.{} of type {wanted}",
                go_path(root, &path)
            ),
        }
    }
}

/// A path as Go tells it: without positions in lists, with the names of embedded structs.
fn go_path(root: &Node, path: &str) -> String {
    let mut told = Vec::new();
    let mut node = Some(root);
    for part in path.split('.') {
        // Keys of maps are no part of it either.
        if let Some(Node::Map { value, .. }) = node {
            node = Some(value);
            continue;
        }
        let name = part.split('[').next().unwrap_or(part);
        let field = node.and_then(|node| node.field(name));
        if let Some(field) = field.filter(|field| !field.embedded.is_empty()) {
            told.push(field.embedded.as_ref());
        }
        told.push(name);
        node = field.map(|field| &field.node);
        for _ in part.matches('[') {
            node = match node {
                Some(Node::List { item, .. }) => Some(item.as_ref()),
                other => other,
            };
        }
    }
    told.join(".")
}

impl<'a> Walk<'a> {
    fn node(&mut self, node: &'a Node, value: &mut Value, go_type: &str) -> Result<(), Wrong> {
        match node {
            Node::Any | Node::Deduced => Ok(()),
            Node::StructOr { other, .. } if !value.is_object() => self.other(*other, node, value),
            Node::String => {
                self.expect(value.is_string(), value, node, go_type);
                Ok(())
            }
            Node::Bytes => self.bytes(value, node),
            Node::Time => self.time(value, go_type),
            Node::Boolean => {
                self.expect(value.is_boolean(), value, node, go_type);
                Ok(())
            }
            Node::Integer { bits } => {
                self.expect(fits(*bits, value), value, node, go_type);
                Ok(())
            }
            Node::Number => {
                self.expect(value.is_number(), value, node, go_type);
                Ok(())
            }
            Node::Quantity => self.quantity(value),
            Node::IntOrString => self.int_or_string(value),
            Node::Struct { definition, .. } | Node::StructOr { definition, .. } => {
                if !value.is_object() {
                    self.mistyped(value, node, go_type);
                    return Ok(());
                }
                let owner = std::mem::replace(&mut self.owner, &definition.get().short_name);
                let result = self.structure(node, value, go_type);
                self.owner = owner;
                result
            }
            Node::Map { value: inner, .. } => self.map(inner, node, value, go_type),
            Node::List { item, .. } => self.list(item, node, value, go_type),
        }
    }

    /// What stands in place of a struct, whose type in Go reads it by itself.
    fn other(&mut self, other: Other, node: &Node, value: &mut Value) -> Result<(), Wrong> {
        match (other, &mut *value) {
            (Other::Boolean, Value::Bool(_)) => Ok(()),
            (Other::Boolean, _) => Err(Wrong::Value("boolean or JSON schema expected".to_owned())),
            (Other::List, Value::Array(items)) => match items.iter().find(|i| !i.is_object()) {
                Some(item) => Err(self.mismatch(item, node, "v1.JSONSchemaProps")),
                None => Ok(()),
            },
            (Other::List, _) => {
                // Read, and understood as nothing.
                *value = Value::Null;
                Ok(())
            }
        }
    }

    fn structure(&mut self, node: &'a Node, value: &mut Value, go_type: &str) -> Result<(), Wrong> {
        let Value::Object(map) = value else {
            self.mistyped(value, node, go_type);
            return Ok(());
        };
        let mut dropped = Vec::new();
        for (name, inner) in map.iter_mut() {
            let Some(field) = node.field(name) else {
                self.unknown(name);
                dropped.push(name.clone());
                continue;
            };
            if inner.is_null() {
                dropped.push(name.clone());
                continue;
            }
            let length = self.push(name);
            self.node(&field.node, inner, &field.go_type)?;
            self.path.truncate(length);
            let is_dropped = field.omit_zero && !field.keeps_empty && is_zero(&field.node, inner);
            if is_dropped || inner.is_null() {
                dropped.push(name.clone());
            }
        }
        for name in dropped {
            map.remove(&name);
        }
        if let Node::Struct { definition, .. } = node {
            for name in &definition.get().required_times {
                map.entry(name.as_ref()).or_insert_with(|| ZERO_TIME.into());
            }
        }
        Ok(())
    }

    fn map(
        &mut self,
        inner: &'a Node,
        node: &'a Node,
        value: &mut Value,
        go_type: &str,
    ) -> Result<(), Wrong> {
        let Value::Object(map) = value else {
            self.mistyped(value, node, go_type);
            return Ok(());
        };
        for (name, item) in map.iter_mut() {
            if item.is_null() {
                *item = inner.zero();
            }
            let length = self.push(name);
            if !item.is_null() {
                let inner_type = element_type(go_type);
                self.node(inner, item, inner_type)?;
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn list(
        &mut self,
        item: &'a Node,
        node: &'a Node,
        value: &mut Value,
        go_type: &str,
    ) -> Result<(), Wrong> {
        let Value::Array(items) = value else {
            self.mistyped(value, node, go_type);
            return Ok(());
        };
        for (index, inner) in items.iter_mut().enumerate() {
            if inner.is_null() {
                *inner = item.zero();
            }
            let length = self.path.len();
            let _ = write!(self.path, "[{index}]"); // memory takes it
            self.node(item, inner, item_type(go_type))?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn quantity(&mut self, value: &mut Value) -> Result<(), Wrong> {
        let text = match value {
            Value::Number(n) => n.to_string(),
            Value::String(s) => s.trim().to_owned(),
            _ => {
                return Err(Wrong::Value(corral_api::quantity::ParseError.to_string()));
            }
        };
        match corral_api::quantity::Quantity::parse(&text) {
            Ok(quantity) => *value = Value::String(quantity.to_string()),
            Err(error) => return Err(Wrong::Value(error.to_string())),
        }
        Ok(())
    }

    fn time(&mut self, value: &Value, go_type: &str) -> Result<(), Wrong> {
        let Value::String(text) = value else {
            // Go reads a time from a text of its own.
            return Err(self.mismatch(value, &Node::String, "string"));
        };
        let layout = match go_type.ends_with("MicroTime") {
            true => corral_api::time::MICRO_LAYOUT,
            false => corral_api::time::LAYOUT,
        };
        match corral_api::time::check(text, layout) {
            Ok(()) => Ok(()),
            Err(message) => Err(Wrong::Value(message)),
        }
    }

    /// Go reads what is no text as a number.
    fn int_or_string(&mut self, value: &Value) -> Result<(), Wrong> {
        match value {
            Value::String(_) => Ok(()),
            number if fits(32, number) => Ok(()),
            other => Err(self.mismatch(other, &Node::Integer { bits: 32 }, "int32")),
        }
    }

    fn bytes(&mut self, value: &mut Value, node: &Node) -> Result<(), Wrong> {
        let Value::String(text) = value else {
            self.mistyped(value, node, "");
            return Ok(());
        };
        // Go reads over the ends of lines.
        if text.contains(['\n', '\r']) {
            text.retain(|c| !matches!(c, '\n' | '\r'));
        }
        match base64::engine::general_purpose::STANDARD.decode(&text) {
            Ok(_) => Ok(()),
            Err(error) => {
                let told = corral_api::base64::told(&error, text.len());
                self.mistyped.get_or_insert(Wrong::Value(told));
                Ok(())
            }
        }
    }

    fn expect(&mut self, fits: bool, value: &Value, node: &Node, go_type: &str) {
        if !fits {
            self.mistyped(value, node, go_type);
        }
    }

    fn mistyped(&mut self, value: &Value, node: &Node, go_type: &str) {
        if self.mistyped.is_none() {
            self.mistyped = Some(self.mismatch(value, node, go_type));
        }
    }

    fn push(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }

    fn unknown(&mut self, name: &str) {
        if self.report.unknown.len() < UNKNOWN_FIELDS_MAX {
            let length = self.push(name);
            self.report.unknown.push(self.path.clone());
            self.path.truncate(length);
        }
    }

    fn mismatch(&self, value: &Value, node: &Node, go_type: &str) -> Wrong {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if matches!(node, Node::Integer { .. }) => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let wanted = if go_type.is_empty() {
            node.go_type()
        } else {
            go_type
        };
        Wrong::Type {
            path: self.path.clone(),
            owner: self.owner.to_owned(),
            found,
            wanted: go_name(wanted.trim_start_matches('*')),
        }
    }
}

impl Node {
    fn go_type(&self) -> &str {
        match self {
            Self::Any | Self::Deduced => "interface {}",
            Self::String | Self::Quantity => "string",
            Self::Bytes => "[]uint8",
            Self::Time => "time.Time",
            Self::Boolean => "bool",
            Self::Integer { bits: 32 } => "int32",
            Self::Integer { .. } => "int64",
            Self::Number => "float64",
            Self::IntOrString => "intstr.IntOrString",
            Self::Struct { definition, .. } | Self::StructOr { definition, .. } => {
                definition.name().rsplit('.').next().unwrap_or("")
            }
            Self::Map { .. } => "map[string]string",
            Self::List { .. } => "[]string",
        }
    }
}

/// The type of what a map holds: `map[KEY]TYPE`.
fn element_type(go_type: &str) -> &str {
    let rest = go_type.strip_prefix("map[");
    let element = rest.and_then(|rest| rest.split_once(']'));
    match (element, go_type) {
        (Some((_, element)), _) => element,
        // A name for such a map.
        (None, "v1.JSONSchemaDefinitions") => "v1.JSONSchemaProps",
        (None, _) => "",
    }
}

/// A type as Go names it when it runs: not by the names of imports.
fn go_name(go_type: &str) -> String {
    let name = go_type.replace("[]byte", "[]uint8");
    match name.strip_prefix("apiv1.") {
        Some(name) => format!("v1.{name}"),
        None => name,
    }
}

/// The type of what a list holds: `[]TYPE`.
fn item_type(go_type: &str) -> &str {
    match go_type {
        // A name for such a list.
        "v1.ValidationRules" => "v1.ValidationRule",
        other => other.strip_prefix("[]").unwrap_or(""),
    }
}

/// Whether a value is a whole number of so many bits.
fn fits(bits: u8, value: &Value) -> bool {
    value
        .as_i64()
        .is_some_and(|n| bits == 64 || i32::try_from(n).is_ok())
}

fn is_zero(node: &Node, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        // A struct stays, even an empty one: Go leaves out only empty maps.
        Value::Object(map) => map.is_empty() && matches!(node, Node::Map { .. }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Erased;

    fn check(mut value: Value) -> Result<(Value, Vec<String>), TypeError> {
        let node = super::super::of(&Erased::<crate::apps::deployment::DeploymentKind>::new());
        let report = node.check(&mut value)?;
        Ok((value, report.unknown))
    }

    #[test]
    fn unknown_fields_are_reported_with_their_path_and_taken_out() {
        let (value, unknown) = check(json!({
            "spec": {"replicas": 1, "extra": 1, "template": {"spec": {"containers": [{"name": "a", "imag": "x"}]}}},
            "status": null,
        }))
        .expect("right types");
        assert_eq!(
            unknown,
            ["spec.extra", "spec.template.spec.containers[0].imag"]
        );
        assert_eq!(
            value,
            json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a"}]}}}})
        );
    }

    #[test]
    fn wrong_types_are_told_as_go_tells_them() {
        let error = check(json!({"spec": {"replicas": "three"}})).expect_err("wrong type");
        assert_eq!(
            error.0,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
    }

    #[test]
    fn quantities_become_canonical() {
        let (value, _) = check(json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}}}}))
        .expect("right types");
        let limits = &value["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
        assert_eq!(*limits, json!({"cpu": "500m", "memory": "1Gi"}));
    }
}
