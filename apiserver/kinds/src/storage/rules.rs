//! What several kinds of this group have in common.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::names;

use crate::rules::{self, Errors};

/// Most parameters that a class has, and their bytes together.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_SIZE_MAX: usize = 256 * 1024;

/// A name of the program that makes volumes: a qualified name in any case of letters.
pub(super) fn provisioner(errors: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let lower = name.to_lowercase();
    rules::complain(errors, path, &lower, names::qualified_name(&lower));
}

/// What is handed to the program.
pub(super) fn parameters(
    errors: &mut Errors,
    path: &FieldPath,
    parameters: Option<&BTreeMap<String, String>>,
) {
    let count = parameters.map_or(0, BTreeMap::len);
    if count > PARAMETERS_MAX {
        errors.push(FieldError::too_long(path, PARAMETERS_MAX));
        return;
    }
    let pairs = || parameters.into_iter().flatten();
    for (key, _) in pairs().filter(|(key, _)| key.is_empty()) {
        let detail = "field can not be empty.";
        errors.push(FieldError::invalid(path, key.as_str(), detail));
    }
    let size: usize = pairs().map(|(key, value)| key.len() + value.len()).sum();
    if size > PARAMETERS_SIZE_MAX {
        errors.push(FieldError::too_long(path, PARAMETERS_SIZE_MAX));
    }
}
