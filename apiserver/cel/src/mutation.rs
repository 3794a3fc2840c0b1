//! Types of mutating policies: `JSONPatch` and `Object`.

use crate::types::Type;

/// Which of the types there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mutation {
    /// `JSONPatch{…}`.
    pub json_patch: bool,
    /// `Object{…}` and `Object.spec{…}` to any depth.
    pub object: bool,
}

const JSON_PATCH: &str = "JSONPatch";
const OBJECT: &str = "Object";

impl Mutation {
    pub(crate) fn is_object(self, name: &str) -> bool {
        (self.json_patch && name == JSON_PATCH)
            || (self.object
                && (name == OBJECT
                    || name
                        .strip_prefix(OBJECT)
                        .is_some_and(|r| r.starts_with('.'))))
    }

    pub(crate) fn field(self, object: &str, field: &str) -> Option<Type> {
        if !self.is_object(object) {
            return None;
        }
        if object == JSON_PATCH {
            return match field {
                "op" | "path" | "from" => Some(Type::String),
                "value" => Some(Type::Dyn),
                _ => None,
            };
        }
        Some(Type::Dyn)
    }
}
