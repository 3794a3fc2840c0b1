//! What several kinds of this group have in common.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::resource::v1::{DeviceSelector, OpaqueDeviceConfiguration};
use corral_api::names;

use crate::core::pod_spec::validation::driver_name;
use crate::rules::{self, Errors};

/// Most selectors, requests, constraints and settings of a list.
pub(super) const ITEMS_MAX: usize = 32;
const EXPRESSION_LENGTH_MAX: usize = 10 * 1024;
const PARAMETERS_LENGTH_MAX: usize = 10 * 1024;
const POOL_LENGTH_MAX: usize = 253;
const IDENTIFIER_LENGTH_MAX: usize = 32;
const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

/// A list that may have so many items.
pub(super) fn at_most<T>(errors: &mut Errors, path: &FieldPath, list: &[T], n_max: usize) {
    if list.len() > n_max {
        errors.push(FieldError::too_many(path, list.len(), n_max));
    }
}

/// Whether a device is one that is wanted. Expressions are kept as they are: there is nothing here that runs them.
pub(super) fn selectors(errors: &mut Errors, path: &FieldPath, list: Option<&[DeviceSelector]>) {
    let list = list.unwrap_or_default();
    at_most(errors, path, list, ITEMS_MAX);
    for (index, selector) in list.iter().enumerate() {
        let path = path.index(index).child("cel");
        match &selector.cel {
            None => errors.push(FieldError::required(&path, "")),
            Some(cel) if cel.expression.len() > EXPRESSION_LENGTH_MAX => {
                let path = path.child("expression");
                errors.push(FieldError::too_long(&path, EXPRESSION_LENGTH_MAX));
            }
            Some(_) => {}
        }
    }
}

/// Settings that only the driver understands.
pub(super) fn opaque(
    errors: &mut Errors,
    path: &FieldPath,
    opaque: Option<&OpaqueDeviceConfiguration>,
) {
    let path = path.child("opaque");
    let Some(opaque) = opaque else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    driver_name(errors, &path.child("driver"), &opaque.driver);
    let path = path.child("parameters");
    let parameters = &opaque.parameters.0;
    if parameters.is_null() {
        errors.push(FieldError::required(&path, ""));
    } else if parameters.to_string().len() > PARAMETERS_LENGTH_MAX {
        errors.push(FieldError::too_long(&path, PARAMETERS_LENGTH_MAX));
    } else if !parameters.is_object() {
        let detail = "must be a valid JSON object";
        errors.push(FieldError::invalid(&path, "<value omitted>", detail));
    }
}

/// A name that is a DNS label and must be given. Kubernetes complains of an empty one as of any that is wrong.
pub(super) fn label(errors: &mut Errors, path: &FieldPath, name: &str) {
    rules::complain(errors, path, name, names::dns1123_label(name));
}

/// The name of a class.
pub(super) fn class(errors: &mut Errors, path: &FieldPath, name: &str) {
    match name {
        "" => errors.push(FieldError::required(path, "")),
        name => rules::complain(errors, path, name, names::dns1123_subdomain(name)),
    }
}

/// The name of a pool: subdomains with slashes between.
pub(super) fn pool(errors: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > POOL_LENGTH_MAX {
        errors.push(FieldError::too_long(path, POOL_LENGTH_MAX));
    }
    for part in name.split('/') {
        rules::complain(errors, path, part, names::dns1123_subdomain(part));
    }
}

/// `domain/name`, or `name` in the driver's own domain.
pub(super) fn qualified(errors: &mut Errors, path: &FieldPath, name: &str) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => identifier(errors, path, id),
        [domain, id] => {
            match domain {
                "" => errors.push(FieldError::invalid(
                    path,
                    "",
                    "the domain must not be empty",
                )),
                domain => driver_name(errors, path, domain),
            }
            match id {
                "" => errors.push(FieldError::invalid(path, "", "the name must not be empty")),
                id => identifier(errors, path, id),
            }
        }
        // Kubernetes lets more slashes pass.
        _ => {}
    }
}

/// `domain/name`.
pub(super) fn fully_qualified(errors: &mut Errors, path: &FieldPath, name: &str) {
    qualified(errors, path, name);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn identifier(errors: &mut Errors, path: &FieldPath, id: &str) {
    if id.len() > IDENTIFIER_LENGTH_MAX {
        errors.push(FieldError::too_long(path, IDENTIFIER_LENGTH_MAX));
    }
    let begins = id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !begins || !id.bytes().all(goes_on) {
        errors.push(FieldError::invalid(path, id, IDENTIFIER));
    }
}
