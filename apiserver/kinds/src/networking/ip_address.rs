//! `IPAddress`: an address of a Service that is taken.

use std::borrow::Cow;

use corral_api::field::FieldError;
use corral_api::k8s::api::networking::v1::IPAddress;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::address;
use crate::kind::{Column, Kind, Names, Words};
use crate::rules::{self, Errors, at, json, text};

/// Stands for the resource of a reference that is not given at all.
const NO_PARENT: &str = "\0";

/// `networking.k8s.io/v1 IPAddress`.
pub struct IpAddressKind;

impl Kind for IpAddressKind {
    type Object = IPAddress;

    const NAMES: Names<'static> = Names {
        group: "networking.k8s.io",
        version: "v1",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: Words::Of(&["ip"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const NAME_RULE: fn(&str) -> Vec<String> =
        |name| address::canonical_address_error(name).into_iter().collect();

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("ParentRef", "Who has the address."),
        ]
    }

    fn cells(ip: &IPAddress, _now: Timestamp) -> Vec<Value> {
        let parent = &ip.spec.parent_ref;
        let mut shown = parent.resource.clone();
        if let Some(group) = parent.group.as_ref().filter(|group| !group.is_empty()) {
            shown = format!("{shown}.{group}");
        }
        shown = shown.to_lowercase();
        for part in [text(&parent.namespace), &parent.name] {
            if !part.is_empty() {
                shown = format!("{shown}/{part}");
            }
        }
        vec![ip.metadata.name.clone().into(), shown.into()]
    }

    fn before_decode(value: &mut Cow<'_, Value>) {
        if value.pointer("/spec/parentRef").is_none_or(Value::is_null)
            && let Value::Object(map) = value.to_mut()
        {
            let nobody = serde_json::json!({"resource": NO_PARENT});
            map.insert("spec".to_owned(), serde_json::json!({"parentRef": nobody}));
        }
    }

    fn validate(ip: &IPAddress) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let parent = &ip.spec.parent_ref;
        let path = at("spec.parentRef");
        if parent.resource == NO_PARENT {
            errors.push(FieldError::required(&path, ""));
            return errors;
        }
        let group = text(&parent.group);
        if !group.is_empty() {
            let path = path.child("group");
            rules::complain(&mut errors, &path, group, names::dns1123_subdomain(group));
        }
        for (field, value) in [("resource", &parent.resource), ("name", &parent.name)] {
            let path = path.child(field);
            if value.is_empty() {
                errors.push(FieldError::required(&path, ""));
            }
            rules::complain(&mut errors, &path, value, names::path_segment(value));
        }
        let namespace = text(&parent.namespace);
        let path = path.child("namespace");
        rules::complain(
            &mut errors,
            &path,
            namespace,
            names::path_segment(namespace),
        );
        errors
    }

    fn validate_update(new: &IPAddress, old: &IPAddress) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        if new.spec != old.spec {
            let path = at("spec.parentRef");
            let given = Some(&new.spec.parent_ref).filter(|p| p.resource != NO_PARENT);
            let value = json(&given);
            errors.push(FieldError::invalid(&path, value, "field is immutable"));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn address(parent: serde_json::Value) -> IPAddress {
        let value =
            serde_json::json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}});
        serde_json::from_value(value).expect("an address")
    }

    #[test]
    fn an_address_names_who_has_it_for_good() {
        let of = |name: &str| {
            address(serde_json::json!({"resource": "services", "namespace": "ns", "name": name}))
        };
        assert_eq!(
            texts(&IpAddressKind::validate(&of("a"))),
            Vec::<String>::new()
        );
        assert_eq!(
            texts(&IpAddressKind::validate(&of(""))),
            ["spec.parentRef.name: Required value"]
        );
        assert_eq!(IpAddressKind::validate_update(&of("b"), &of("a")).len(), 1);
        let row = IpAddressKind::cells(&of("a"), Timestamp::UNIX_EPOCH);
        assert_eq!(row[..2], ["10.0.0.1", "services/ns/a"].map(Value::from));
    }

    #[test]
    fn its_name_is_an_address_in_canonical_form() {
        assert_eq!((IpAddressKind::NAME_RULE)("10.0.0.1"), Vec::<String>::new());
        assert_eq!(
            (IpAddressKind::NAME_RULE)("2001:DB8::1"),
            ["must be in canonical form (\"2001:db8::1\")"]
        );
    }
}
