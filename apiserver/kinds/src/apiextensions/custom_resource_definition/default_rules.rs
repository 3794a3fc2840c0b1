//! Defaults must be good values themselves.

use corral_api::field::{FieldError, FieldPath};
use serde_json::Value;

use crate::custom::prune::{META_FIELDS, prune_value};
use crate::custom::structural::{Additional, Structural};
use crate::custom::validate;
use crate::rules::Errors;

/// Everything wrong with the defaults of a structural schema.
pub(super) fn validate(errors: &mut Errors, path: &FieldPath, schema: &Value) {
    walk(errors, path, &Structural::parse(schema), true, false);
}

fn walk(errors: &mut Errors, path: &FieldPath, schema: &Structural, whole: bool, in_meta: bool) {
    if let Some(default) = &schema.default {
        let path = path.child("default");
        let mut pruned = default.clone();
        prune_value(&mut pruned, schema);
        if pruned != *default && !in_meta {
            errors.push(FieldError::invalid(
                &path,
                default.clone(),
                "must not have unknown fields",
            ));
        }
        errors.extend(validate::validate(default, None, schema, &path));
    }
    // Defaults inside of additional properties are looked at where they stand, as the values that they are.
    if let Additional::Of(inner) = &schema.additional {
        walk(
            errors,
            &path.child("additionalProperties"),
            inner,
            false,
            in_meta,
        );
    }
    if let Some(items) = &schema.items {
        walk(errors, &path.child("items"), items, items.embedded, in_meta);
    }
    for (name, property) in &schema.properties {
        let in_meta = in_meta || (whole && META_FIELDS.contains(&name.as_str()));
        walk(
            errors,
            &path.child("properties").key(name),
            property,
            property.embedded,
            in_meta,
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_default_that_its_own_schema_refuses_is_told() {
        let schema = json!({"type": "object", "properties": {
            "n": {"type": "integer", "minimum": 5, "default": 1},
            "o": {"type": "object", "properties": {"a": {"type": "string"}}, "default": {"b": 1}},
            "good": {"type": "string", "default": "x"},
        }});
        let mut errors = Errors::new();
        validate(&mut errors, &FieldPath::new("s"), &schema);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "s.properties[n].default: Invalid value: 1:  in body should be greater than or equal to 5",
                r#"s.properties[o].default: Invalid value: {"b":1}: must not have unknown fields"#,
            ]
        );
    }
}
