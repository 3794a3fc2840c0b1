//! Lists whose items are told apart by value or by keys must not have one twice.

use std::collections::HashMap;

use corral_api::field::{FieldError, FieldPath};
use serde_json::{Map, Value};

use super::structural::{ListType, Structural};

/// Every item that is there again.
pub(super) fn validate(value: &Value, schema: &Structural, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, path, &mut errors);
    errors
}

fn walk(value: &Value, schema: &Structural, path: &FieldPath, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
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
            match schema.list_type {
                ListType::Atomic => {}
                ListType::Set => again(items.iter().cloned(), path, errors),
                ListType::Map => {
                    let no_object = |item: &Value| !item.is_null() && !item.is_object();
                    if let Some(index) = items.iter().position(no_object) {
                        let why = "must be an object for an array of list-type map";
                        errors.push(FieldError::invalid(
                            &path.index(index),
                            items[index].clone(),
                            why,
                        ));
                    } else {
                        again(items.iter().map(|item| key_of(item, schema)), path, errors);
                    }
                }
            }
            if let Some(item) = &schema.items {
                for (index, inner) in items.iter().enumerate() {
                    walk(inner, item, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn key_of(item: &Value, schema: &Structural) -> Value {
    let fields = schema.list_keys.iter();
    let fields = fields.filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// An error for each value that is there a second time; later ones are not told again.
fn again(values: impl Iterator<Item = Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, value) in values.enumerate() {
        let times = seen.entry(value.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.push(FieldError::duplicate(&path.index(index), value));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_item_that_is_there_again_is_told_once() {
        let schema = Structural::parse(&json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object"}},
        }}));
        let object = json!({"set": ["a", "b", "a", "a"], "map": [{"k": 1}, {"k": 1, "v": 2}]});
        let errors = validate(&object, &schema, &FieldPath::root());
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                r#"map[1]: Duplicate value: {"k":1}"#,
                r#"set[2]: Duplicate value: "a""#
            ]
        );
    }
}
