//! What several kinds of this group have in common.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::resource::v1::{DeviceSelector, OpaqueDeviceConfiguration};
use corral_api::names;
use corral_cel::device::{self, Wrong};

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

/// The expressions of selectors.
pub(super) type Expressions<'a> = BTreeSet<&'a str>;

/// The expressions in some selectors.
pub(super) fn expressions<'a>(
    lists: impl IntoIterator<Item = &'a Option<Vec<DeviceSelector>>>,
) -> Expressions<'a> {
    let selectors = lists.into_iter().flatten().flatten();
    let read = selectors.filter_map(|selector| selector.cel.as_ref());
    read.map(|cel| cel.expression.as_str()).collect()
}

/// Whether a device is one that is wanted. Expressions that were there before stay as they are: an object that was stored
/// without a look at them can still be changed, and deleted.
pub(super) fn selectors(
    errors: &mut Errors,
    path: &FieldPath,
    list: Option<&[DeviceSelector]>,
    kept: &Expressions<'_>,
) {
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
            Some(cel) if kept.contains(cel.expression.as_str()) => {}
            Some(cel) => expression(errors, &path.child("expression"), &cel.expression),
        }
    }
}

fn expression(errors: &mut Errors, path: &FieldPath, text: &str) {
    match device::check(text) {
        Ok(()) => {}
        Err(Wrong::Invalid(error)) => errors.push(FieldError::invalid(path, text, error.detail)),
        Err(Wrong::TooComplex) => {
            let detail = "too complex, exceeds cost limit";
            errors.push(FieldError::forbidden(path, detail));
        }
    }
}

/// The identity of a share of a device.
pub(super) fn share(errors: &mut Errors, path: &FieldPath, id: Option<&str>) {
    let Some(id) = id else { return };
    const LENGTH: usize = 36;
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let is_right = |(at, byte): (usize, u8)| match DASHES.contains(&at) {
        true => byte == b'-',
        false => byte.is_ascii_hexdigit(),
    };
    let why = if id.len() != LENGTH {
        format!("error validating uid: invalid UUID length: {}", id.len())
    } else if !id.bytes().enumerate().all(is_right) {
        "error validating uid: invalid UUID format".to_owned()
    } else if id.bytes().any(|byte| byte.is_ascii_uppercase()) {
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters".to_owned()
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, id, why));
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
