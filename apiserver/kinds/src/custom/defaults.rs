//! Fills in what an object leaves out and its schema has a default for.

use serde_json::Value;

use super::structural::{Additional, Structural};

/// Takes out `null` where it is no value and there is no default to replace it.
pub fn drop_nulls(value: &mut Value, schema: &Structural) -> bool {
    match value {
        Value::Object(map) => {
            let n_before = map.len();
            map.retain(|name, inner| {
                let below = schema.below(name);
                !(inner.is_null()
                    && below.is_some_and(|below| !below.nullable && below.default.is_none()))
            });
            let mut changed = map.len() != n_before;
            for (name, inner) in map.iter_mut() {
                if let Some(below) = schema.below(name) {
                    changed |= drop_nulls(inner, below);
                }
            }
            changed
        }
        Value::Array(items) => match &schema.items {
            Some(item) => items
                .iter_mut()
                .fold(false, |changed, inner| drop_nulls(inner, item) | changed),
            None => false,
        },
        _ => false,
    }
}

/// Sets what is missing, and what is `null` where that is no value. Answers whether anything was set.
pub fn set(value: &mut Value, schema: &Structural) -> bool {
    let mut changed = false;
    match value {
        Value::Object(map) => {
            for (name, property) in schema.properties.iter() {
                let Some(default) = &property.default else {
                    continue;
                };
                let unset = match map.get(&**name) {
                    None => true,
                    Some(there) => there.is_null() && !property.nullable,
                };
                if unset {
                    map.insert(name.to_string(), default.clone());
                    changed = true;
                }
            }
            for (name, inner) in map.iter_mut() {
                let Some(below) = schema.below(name) else {
                    continue;
                };
                if !schema.properties.contains_key(name) {
                    changed |= replace_null(inner, below);
                }
                changed |= set(inner, below);
            }
        }
        Value::Array(items) => {
            if let Some(item) = &schema.items {
                for inner in items {
                    changed |= replace_null(inner, item);
                    changed |= set(inner, item);
                }
            }
        }
        _ => {}
    }
    changed
}

fn replace_null(value: &mut Value, schema: &Structural) -> bool {
    match &schema.default {
        Some(default) if value.is_null() && !schema.nullable => {
            *value = default.clone();
            true
        }
        _ => false,
    }
}

/// Whether a schema has any default, so that objects need to be looked at.
pub fn has_any(schema: &Structural) -> bool {
    let here = |inner: &Structural| {
        let in_additional = match &inner.additional {
            Additional::Of(below) => below.default.is_some(),
            _ => false,
        };
        inner.default.is_some() || in_additional
    };
    schema.any(&here)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_fill_what_is_missing_and_null_where_it_is_no_value() {
        let schema = Structural::parse(
            &json!({"type": "object", "properties": {"spec": {"type": "object",
            "default": {}, "properties": {
                "n": {"type": "integer", "default": 3},
                "s": {"type": "string", "nullable": true, "default": "x"},
                "t": {"type": "string"},
                "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            }}}}),
        );
        assert!(has_any(&schema));
        let mut object = json!({"spec": {"n": null, "s": null, "t": null, "list": [{}]}});
        drop_nulls(&mut object, &schema);
        assert!(set(&mut object, &schema));
        assert_eq!(
            object,
            json!({"spec": {"n": 3, "s": null, "list": [{"p": "TCP"}]}})
        );
        let mut empty = json!({});
        set(&mut empty, &schema);
        assert_eq!(empty, json!({"spec": {"n": 3, "s": "x"}}));
        assert!(!set(&mut empty, &schema), "once is enough");
    }
}
