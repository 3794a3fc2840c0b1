//! Puts in what Go always writes: a field that is neither a pointer nor left out when empty has its zero value in every
//! object that kube-apiserver answers, and clients have come to rely on it.

use serde_json::{Map, Value};

use super::{Field, Node};

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

impl Field {
    /// The value that stands in an object that does not set the field; `None` if nothing stands there.
    pub fn unset(&self) -> Option<Value> {
        let go = self.go_type.as_ref();
        if go.is_empty() || go.starts_with('*') {
            return None;
        }
        match &self.node {
            // `omitempty` leaves out no struct, and a time is one.
            Node::Struct { .. } if !self.omit_zero_struct => Some(Value::Object(Map::new())),
            Node::Time if !self.omit_zero_struct => Some(Value::Null),
            Node::Struct { .. }
            | Node::Time
            | Node::Any
            | Node::Deduced
            | Node::StructOr { .. } => None,
            _ if self.omit_zero => None,
            Node::String | Node::Bytes => Some("".into()),
            Node::Boolean => Some(false.into()),
            Node::Integer { .. } | Node::Number | Node::IntOrString => Some(0.into()),
            Node::Quantity => Some("0".into()),
            Node::List { .. } | Node::Map { .. } => Some(Value::Null),
        }
    }
}

impl Node {
    /// Adds to an object of this shape what it does not set and Go writes all the same.
    pub fn complete(&self, value: &mut Value) {
        match (self, value) {
            (
                Self::Struct { definition, .. } | Self::StructOr { definition, .. },
                Value::Object(map),
            ) => {
                let definition = definition.get();
                for name in definition.kept_empty {
                    if map.get(*name).is_some_and(is_empty) {
                        map.remove(*name);
                    }
                }
                for name in &definition.required_lists {
                    let list = map.get_mut(name.as_ref());
                    if let Some(list) = list.filter(|l| l.as_array().is_some_and(Vec::is_empty)) {
                        *list = Value::Null;
                    }
                }
                for (name, unset) in &definition.always {
                    if !map.contains_key(name.as_ref()) {
                        map.insert(name.to_string(), unset.clone());
                    }
                }
                for (name, inner) in map.iter_mut() {
                    if !inner.is_object() && !inner.is_array() {
                        continue;
                    }
                    if let Some(field) = definition.fields.get(name.as_str()) {
                        field.node.complete(inner);
                    }
                }
            }
            (Self::Map { value: node, .. }, Value::Object(map)) if node.holds_structs() => {
                map.values_mut().for_each(|inner| node.complete(inner));
            }
            (Self::List { item, .. }, Value::Array(items)) if item.holds_structs() => {
                items.iter_mut().for_each(|inner| item.complete(inner));
            }
            _ => {}
        }
    }

    fn holds_structs(&self) -> bool {
        matches!(
            self,
            Self::Struct { .. } | Self::Map { .. } | Self::List { .. }
        )
    }
}
