//! Rules that fields of many kinds share, in the words of the Kubernetes API. Each adds what is wrong to a list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use corral_api::field::{FieldError, FieldErrorKind, FieldPath};
use corral_api::int_or_string::{IntOrString, percent};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use corral_api::names;
use serde::Serialize;
use serde_json::Value;

/// What is wrong with an object.
pub(crate) type Errors = Vec<FieldError>;

/// Most bytes that all annotations of an object have together.
const ANNOTATIONS_SIZE_MAX: usize = 256 * 1024;

/// Protocols of ports.
pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// A text that may be absent.
pub(crate) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// The root path of a top-level field.
pub(crate) fn at(path: &str) -> FieldPath {
    FieldPath::new(path)
}

/// A value as JSON, the way errors show what is more than a number or a text.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// A selector as errors show it: the labels before the expressions.
pub(crate) fn selector_words(selector: &LabelSelector) -> String {
    let parts = [
        ("matchLabels", json(&selector.match_labels)),
        ("matchExpressions", json(&selector.match_expressions)),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, value)| !matches!(value, Value::Null) && *value != json(&[(); 0]))
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", parts.join(","))
}

/// An invalid selector.
pub(crate) fn invalid_selector(
    path: &FieldPath,
    selector: &LabelSelector,
    detail: &str,
) -> FieldError {
    FieldError {
        value: Some(selector_words(selector)),
        ..invalid_unshown(path, detail)
    }
}

/// An invalid value that the error does not show.
pub(crate) fn invalid_unshown(path: &FieldPath, detail: &str) -> FieldError {
    FieldError {
        kind: FieldErrorKind::Invalid,
        path: path.clone(),
        value: None,
        detail: detail.to_owned(),
    }
}

/// Adds an `Invalid` error for each complaint about a text.
pub(crate) fn complain(
    errors: &mut Errors,
    path: &FieldPath,
    value: &str,
    complaints: Vec<String>,
) {
    for complaint in complaints {
        errors.push(FieldError::invalid(path, value, complaint));
    }
}

/// A number that may not be below zero.
pub(crate) fn nonnegative(errors: &mut Errors, path: &FieldPath, n: impl Into<i64>) {
    let n = n.into();
    if n < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path, n, detail));
    }
}

/// An optional number that may not be below zero.
pub(crate) fn nonnegative_opt(errors: &mut Errors, path: &FieldPath, n: Option<impl Into<i64>>) {
    if let Some(n) = n {
        nonnegative(errors, path, n);
    }
}

/// Ports from 1 to 65535.
pub(crate) fn port(errors: &mut Errors, path: &FieldPath, port: i32) {
    for complaint in names::port_number(port) {
        errors.push(FieldError::invalid(path, port, complaint));
    }
}

/// A port by number or by name.
pub(crate) fn port_or_name(errors: &mut Errors, path: &FieldPath, value: &IntOrString) {
    match value {
        IntOrString::Int(number) => port(errors, path, *number),
        IntOrString::String(name) => complain(errors, path, name, names::port_name(name)),
    }
}

/// A value that is one of a few.
pub(crate) fn supported(errors: &mut Errors, path: &FieldPath, value: &str, allowed: &[&str]) {
    if !allowed.contains(&value) {
        errors.push(FieldError::not_supported(path, value, allowed));
    }
}

/// The same; the error tells the allowed values in the order given.
pub(crate) fn supported_of(errors: &mut Errors, path: &FieldPath, value: &str, allowed: &[&str]) {
    if !allowed.contains(&value) {
        errors.push(FieldError::not_supported_of(path, value, allowed));
    }
}

/// A value that must be given and is one of a few.
pub(crate) fn required_of(errors: &mut Errors, path: &FieldPath, value: &str, allowed: &[&str]) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        supported(errors, path, value, allowed);
    }
}

/// Whether two values are the same to Kubernetes, which does not tell empty from absent.
pub(crate) fn same<T: Serialize>(one: &T, other: &T) -> bool {
    fn is_empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }
    fn without_empty(value: Value) -> Value {
        match value {
            Value::Array(items) => items.into_iter().map(without_empty).collect(),
            Value::Object(map) => {
                let map = map.into_iter().map(|(k, v)| (k, without_empty(v)));
                Value::Object(map.filter(|(_, v)| !is_empty(v)).collect())
            }
            other => other,
        }
    }
    let (one, other) = (without_empty(json(one)), without_empty(json(other)));
    one == other || (is_empty(&one) && is_empty(&other))
}

/// Whether two values are the same to Kubernetes, which tells an empty structure from none, but not an empty list.
pub(crate) fn same_structures<T: Serialize>(one: &T, other: &T) -> bool {
    fn plain(value: Value) -> Value {
        let is_none = |value: &Value| {
            value.is_null() || value.as_array().is_some_and(|items| items.is_empty())
        };
        match value {
            Value::Array(items) => items.into_iter().map(plain).collect(),
            Value::Object(map) => {
                let map = map.into_iter().filter(|(_, value)| !is_none(value));
                Value::Object(map.map(|(key, value)| (key, plain(value))).collect())
            }
            other => other,
        }
    }
    plain(json(one)) == plain(json(other))
}

/// A value that may not change.
pub(crate) fn immutable<T: Serialize + PartialEq>(
    errors: &mut Errors,
    path: &FieldPath,
    new: &T,
    old: &T,
) {
    if new != old {
        errors.push(FieldError::invalid(path, json(new), "field is immutable"));
    }
}

/// Labels.
pub(crate) fn labels(
    errors: &mut Errors,
    path: &FieldPath,
    labels: Option<&BTreeMap<String, String>>,
) {
    for (key, value) in labels.into_iter().flatten() {
        complain(errors, path, key, names::qualified_name(key));
        complain(errors, path, value, names::label_value(value));
    }
}

/// Annotations.
pub(crate) fn annotations(
    errors: &mut Errors,
    path: &FieldPath,
    annotations: Option<&BTreeMap<String, String>>,
) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        let lower = key.to_ascii_lowercase();
        complain(errors, path, key, names::qualified_name(&lower));
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_SIZE_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_SIZE_MAX));
    }
}

/// A label selector.
pub(crate) fn label_selector(errors: &mut Errors, path: &FieldPath, selector: &LabelSelector) {
    labels(
        errors,
        &path.child("matchLabels"),
        selector.match_labels.as_ref(),
    );
    let path = path.child("matchExpressions");
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.index(index);
        let values = expression.values.as_deref().unwrap_or_default();
        let values_path = path.child("values");
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &values_path,
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &values_path,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        let key = &expression.key;
        complain(errors, &path.child("key"), key, names::qualified_name(key));
        for (index, value) in values.iter().enumerate() {
            complain(
                errors,
                &values_path.index(index),
                value,
                names::label_value(value),
            );
        }
    }
}

/// The address in a text.
pub(crate) fn ip(errors: &mut Errors, path: &FieldPath, value: &str) -> Option<IpAddr> {
    let address = value.parse().ok();
    if address.is_none() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, value, detail));
    }
    address
}

/// An address that traffic can be sent to. What is no address at all is said once more, in fewer words than
/// [`ip`] has for it: Kubernetes checks the form and the use of an address apart.
pub(crate) fn endpoint_ip(errors: &mut Errors, path: &FieldPath, value: &str) {
    let Ok(address) = value.parse::<IpAddr>() else {
        errors.push(FieldError::invalid(
            path,
            value,
            "must be a valid IP address",
        ));
        return;
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.segments()[0] & 0xffc0 == 0xfe80,
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    let detail = if address.is_unspecified() {
        format!("may not be unspecified ({value})")
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if link_local_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, value, detail));
}

/// A network such as `10.9.8.0/24`.
pub(crate) fn cidr(errors: &mut Errors, path: &FieldPath, value: &str) {
    if !is_cidr(value) {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(path, value, detail));
    }
}

/// Whether a text is a network.
pub(crate) fn is_cidr(value: &str) -> bool {
    value.split_once('/').is_some_and(|(address, prefix)| {
        let bits_max = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        prefix.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
    })
}

/// A number or a percentage, not negative.
pub(crate) fn int_or_percent(errors: &mut Errors, path: &FieldPath, value: &IntOrString) {
    match value {
        IntOrString::Int(n) => nonnegative(errors, path, *n),
        IntOrString::String(given) if percent(given).is_none() => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                          regex used for validation is '[0-9]+%')";
            errors.push(FieldError::invalid(path, given.as_str(), detail));
        }
        IntOrString::String(_) => {}
    }
}

/// A percentage may be 100 at most.
pub(crate) fn at_most_100_percent(errors: &mut Errors, path: &FieldPath, value: &IntOrString) {
    if let IntOrString::String(given) = value
        && percent(given).is_some_and(|p| p > 100)
    {
        let detail = "must not be greater than 100%";
        errors.push(FieldError::invalid(path, given.as_str(), detail));
    }
}

/// The number or the percentage in a value.
pub(crate) fn number_of(value: &IntOrString) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(given) => percent(given).unwrap_or(0),
    }
}

/// A path that stays inside the directory it is relative to.
pub(crate) fn local_path(errors: &mut Errors, path: &FieldPath, value: &str) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    no_backsteps(errors, path, value);
}

/// A path without `..`.
pub(crate) fn no_backsteps(errors: &mut Errors, path: &FieldPath, value: &str) {
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

/// A local path whose first part is not one that the node itself uses.
pub(crate) fn unreserved_path(errors: &mut Errors, path: &FieldPath, value: &str) {
    local_path(errors, path, value);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
}

/// A value that must be given and is one of a few, which are told in this order.
pub(crate) fn required_in_order(
    errors: &mut Errors,
    path: &FieldPath,
    value: &str,
    allowed: &[&str],
) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !allowed.contains(&value) {
        errors.push(FieldError::not_supported_of(path, value, allowed));
    }
}

/// Tells the first time of something from later ones.
#[derive(Default)]
pub(crate) struct Seen<'a>(BTreeSet<&'a str>);

impl<'a> Seen<'a> {
    /// Adds an error if the value was there before.
    pub(crate) fn check(&mut self, errors: &mut Errors, path: &FieldPath, value: &'a str) {
        if !self.0.insert(value) {
            errors.push(FieldError::duplicate(path, value));
        }
    }

    /// Whether the value was there.
    pub(crate) fn has(&self, value: &str) -> bool {
        self.0.contains(value)
    }
}

/// Texts of errors, for tests.
#[cfg(test)]
pub(crate) fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_and_paths_are_told_what_is_wrong() {
        let mut errors = Errors::new();
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchExpressions": [{"key": "a", "operator": "In"}, {"key": "b", "operator": "Is"}],
        }))
        .expect("a selector");
        label_selector(&mut errors, &at("selector"), &selector);
        unreserved_path(&mut errors, &at("path"), "..data");
        local_path(&mut errors, &at("path"), "/a/../b");
        cidr(&mut errors, &at("range"), "10.0.0.0/33");
        assert_eq!(
            texts(&errors),
            [
                "selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "selector.matchExpressions[1].operator: Invalid value: \"Is\": not a valid selector operator",
                "path: Invalid value: \"..data\": must not start with '..'",
                "path: Invalid value: \"/a/../b\": must be a relative path",
                "path: Invalid value: \"/a/../b\": must not contain '..'",
                "range: Invalid value: \"10.0.0.0/33\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ]
        );
    }
}
