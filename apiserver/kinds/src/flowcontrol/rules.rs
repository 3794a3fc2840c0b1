//! What both kinds have in common.

use corral_api::field::{FieldError, FieldPath};

use crate::rules::Errors;

/// Conditions have types, each its own.
pub(super) fn condition_types<'a>(
    errors: &mut Errors,
    path: &FieldPath,
    types: impl Iterator<Item = Option<&'a str>>,
) {
    let mut seen = Vec::new();
    for (index, type_) in types.enumerate() {
        let path = path.index(index).child("type");
        let type_ = type_.unwrap_or_default();
        if seen.contains(&type_) {
            errors.push(FieldError::duplicate(&path, type_));
        }
        seen.push(type_);
        if type_.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
    }
}
