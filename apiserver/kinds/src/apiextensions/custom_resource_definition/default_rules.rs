//! Defaults must be good values themselves.

use corral_api::field::{FieldError, FieldPath};
use corral_cel::budget::Budget;
use corral_cel::rules::Rules;
use serde_json::Value;

use crate::custom::prune::{META_FIELDS, prune_value};
use crate::custom::structural::Structural;
use crate::custom::validate;
use crate::rules::Errors;

/// Everything wrong with the defaults of a structural schema.
pub(super) fn validate(errors: &mut Errors, path: &FieldPath, schema: &Value) {
    let place = Place {
        whole: true,
        in_meta: false,
    };
    walk(errors, path, schema, &Structural::parse(schema), place);
}

/// Where a schema stands.
#[derive(Clone, Copy)]
struct Place {
    /// Whether it is that of a whole object.
    whole: bool,
    /// Whether it is inside the metadata of one.
    in_meta: bool,
}

fn walk(errors: &mut Errors, path: &FieldPath, source: &Value, schema: &Structural, place: Place) {
    let Place { whole, in_meta } = place;
    let inside = |inner: &Structural| Place {
        whole: inner.embedded,
        in_meta,
    };
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
        let faults = validate::validate(default, None, schema, &path);
        if faults.is_empty() {
            errors.extend(broken_rules(&path, source, default, whole));
        }
        errors.extend(faults);
    }
    // What is inside of additional properties Kubernetes does not look at.
    if let Some(items) = &schema.items {
        walk(
            errors,
            &path.child("items"),
            &source["items"],
            items,
            inside(items),
        );
    }
    for (name, property) in schema.properties.iter() {
        let path = path.child("properties").key(name);
        let place = Place {
            in_meta: in_meta || (whole && META_FIELDS.contains(&&**name)),
            ..inside(property)
        };
        walk(
            errors,
            &path,
            &source["properties"][&**name],
            property,
            place,
        );
    }
}

/// What a default breaks as a value that is new, and as one that stays.
fn broken_rules(path: &FieldPath, source: &Value, default: &Value, whole: bool) -> Errors {
    let rules = Rules::of_stored(source, whole);
    for old in [Some(default), None] {
        let found = rules.validate(path, default, old, &mut Budget::of_request());
        if !found.errors.is_empty() {
            return found.errors;
        }
    }
    Errors::new()
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
            "map": {"type": "object", "additionalProperties": {"type": "string", "default": 1}},
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
