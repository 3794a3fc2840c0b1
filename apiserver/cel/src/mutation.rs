//! Types of mutating policies: `JSONPatch`, and `Object` with `Object.spec` and so on to any depth.

use std::sync::Arc;

use crate::types::Type;
use crate::value::{Evaluated, EvaluationError, Object, Value};

pub(crate) const JSON_PATCH: &str = "JSONPatch";
pub(crate) const OBJECT: &str = "Object";

/// Whether a type is one of them.
pub(crate) fn is_object(name: &str) -> bool {
    name == JSON_PATCH
        || name == OBJECT
        || name
            .strip_prefix(OBJECT)
            .is_some_and(|rest| rest.starts_with('.'))
}

/// The type of a field that `JSONPatch` doesn't have: kube-apiserver doesn't refuse such a field itself, but nothing
/// fits its type.
pub(crate) fn unknown_field() -> Type {
    Type::object("")
}

/// The type of a field. Objects have any.
pub(crate) fn field(object: &str, field: &str) -> Option<Type> {
    match (object, field) {
        (JSON_PATCH, "op" | "path" | "from") => Some(Type::String),
        (JSON_PATCH, "value") => Some(Type::Dyn),
        (JSON_PATCH, _) => Some(unknown_field()),
        _ => is_object(object).then_some(Type::Dyn),
    }
}

/// Whether a value is an `Object`.
pub(crate) fn is_opaque(value: &Value<'_>) -> bool {
    matches!(value, Value::Object(object) if *object.type_name != *JSON_PATCH)
}

impl<'a> Object<'a> {
    /// An object with these fields.
    pub(crate) fn build(type_name: &Arc<str>, fields: Vec<(Arc<str>, Value<'a>)>) -> Evaluated<'a> {
        if **type_name == *JSON_PATCH {
            for (name, value) in &fields {
                let fits = &**name == "value" || matches!(value, Value::String(_));
                if !fits {
                    return Err(EvaluationError::new(format!(
                        "unexpected type {} for JSONPatchType '{name}' field",
                        value.go_native()
                    )));
                }
            }
        }
        Ok(Value::Object(Arc::new(Self {
            type_name: type_name.clone(),
            fields,
        })))
    }

    /// A field that was given.
    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.fields
            .iter()
            .find(|(field, _)| **field == *name)
            .map(|(_, value)| value)
    }

    /// Whether a field counts as set.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Value::String(text)) if *self.type_name == *JSON_PATCH && name != "value" => {
                !text.is_empty()
            }
            found => found.is_some(),
        }
    }

    /// The value of a field, also if it wasn't given.
    pub(crate) fn get_or_empty(&self, name: &str) -> Value<'a> {
        match self.get(name) {
            Some(value) => value.clone(),
            None if *self.type_name == *JSON_PATCH && name != "value" => Value::text(""),
            None => Value::Null,
        }
    }
}
