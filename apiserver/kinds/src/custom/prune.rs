//! Takes out of an object what its schema does not have.

use serde_json::{Map, Value};

use super::structural::{Additional, Structural};

/// What every whole object of Kubernetes has, whatever its schema says.
pub(crate) const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Most fields that one report lists; a hostile body cannot make a huge answer.
const UNKNOWN_FIELDS_MAX: usize = 100;

/// Takes out fields that the schema does not have, and answers their paths in the order of the alphabet. The object is a
/// whole one: its type and metadata stay as they are.
pub fn prune(value: &mut Value, schema: &Structural) -> Vec<String> {
    let mut walk = Walk::default();
    if let Value::Object(map) = value {
        walk.object(map, Some(schema), true);
    }
    walk.unknown.sort();
    walk.unknown
}

/// The same for a value inside an object.
pub fn prune_value(value: &mut Value, schema: &Structural) {
    Walk::default().value(value, Some(schema));
}

#[derive(Default)]
struct Walk {
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    fn value(&mut self, value: &mut Value, schema: Option<&Structural>) {
        match value {
            Value::Object(map) => {
                let embedded = schema.is_some_and(|schema| schema.embedded);
                self.object(map, schema, embedded);
            }
            Value::Array(items) => {
                let item = schema.and_then(|schema| schema.items.as_deref());
                // What is preserved without a schema of its own is preserved to the bottom.
                if item.is_none() && schema.is_some_and(|schema| schema.preserves) {
                    return;
                }
                for (index, inner) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{index}]"));
                    self.value(inner, item);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, map: &mut Map<String, Value>, schema: Option<&Structural>, whole: bool) {
        let mut dropped = Vec::new();
        for (name, inner) in map.iter_mut() {
            if whole && META_FIELDS.contains(&name.as_str()) {
                continue;
            }
            let length = self.push(name);
            let below = schema.and_then(|schema| schema.below(name));
            match (below, schema) {
                (Some(below), _) => self.value(inner, Some(below)),
                (None, Some(schema)) if schema.preserves => {}
                // Whatever is allowed has no fields that could be told.
                (
                    None,
                    Some(Structural {
                        additional: Additional::Anything,
                        ..
                    }),
                ) => {
                    self.value(inner, None);
                }
                _ => dropped.push(name.clone()),
            }
            if dropped.last() == Some(name) && self.unknown.len() < UNKNOWN_FIELDS_MAX {
                self.unknown.push(self.path.clone());
            }
            self.path.truncate(length);
        }
        for name in dropped {
            map.remove(&name);
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
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_schema_does_not_have_is_taken_out_and_told() {
        let schema = Structural::parse(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "string"},
                "list": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"bound": {"type": "object"}}},
            }},
        }}));
        let mut object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"x": 1}, "other": 1, "spec": {
            "a": "1", "z": 1, "list": [{"b": "1", "c": 1}], "map": {"k": {"gone": 1}},
            "free": {"any": [{"thing": 1}], "bound": {"gone": 1}},
        }});
        let unknown = prune(&mut object, &schema);
        assert_eq!(
            unknown,
            [
                "other",
                "spec.free.bound.gone",
                "spec.list[0].c",
                "spec.map.k.gone",
                "spec.z"
            ]
        );
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "K", "metadata": {"x": 1}, "spec": {
                "a": "1", "list": [{"b": "1"}], "map": {"k": {}}, "free": {"any": [{"thing": 1}], "bound": {}},
            }})
        );
    }
}
