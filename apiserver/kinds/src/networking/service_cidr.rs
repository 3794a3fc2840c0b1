//! `ServiceCIDR`: a range of addresses of Services.

use std::borrow::Cow;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use jiff::Timestamp;
use serde_json::Value;

use super::address;
use crate::conditions;
use crate::kind::{Column, Kind, Names, Words, age, keep_metadata};
use crate::rules::{Errors, at, json};

/// The range that the server itself makes from its configuration.
pub const DEFAULT_NAME: &str = "kubernetes";
const IMMUTABLE: &str = "field is immutable";

/// `networking.k8s.io/v1 ServiceCIDR`.
pub struct ServiceCidrKind;

impl Kind for ServiceCidrKind {
    type Object = ServiceCIDR;

    const NAMES: Names<'static> = Names {
        group: "networking.k8s.io",
        version: "v1",
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const STATUS: bool = true;

    fn before_decode(value: &mut Cow<'_, Value>) {
        conditions::keep_unset_times(value);
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("CIDRs", "The networks, one of each family."),
            Column::AGE,
        ]
    }

    fn cells(range: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
        vec![
            range.metadata.name.clone().into(),
            cidrs(range).join(",").into(),
            age(&range.metadata, now),
        ]
    }

    /// Labels and annotations are not written along with the status.
    fn keep_for_status(new: &mut ServiceCIDR, old: &ServiceCIDR) {
        keep_metadata(&mut new.metadata, &old.metadata);
    }

    fn validate(range: &ServiceCIDR) -> Vec<FieldError> {
        let mut errors = Errors::new();
        networks(&mut errors, &at("spec.cidrs"), range);
        errors
    }

    /// A second family may be added, nothing else.
    fn validate_update(new: &ServiceCIDR, old: &ServiceCIDR) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let path = at("spec.cidrs");
        let (now, before) = (cidrs(new), cidrs(old));
        let may_grow = now.len() == 2 && before.len() == 1;
        if now.len() != before.len() && !may_grow {
            let given = new.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
            errors.push(FieldError::invalid(&path, json(&given), IMMUTABLE));
            return errors;
        }
        for (index, (now, before)) in now.iter().zip(before).enumerate() {
            if now != before {
                let path = path.index(index);
                errors.push(FieldError::invalid(&path, now.as_str(), IMMUTABLE));
            }
        }
        if may_grow {
            networks(&mut errors, &path, new);
        }
        errors
    }

    fn warnings(range: &ServiceCIDR) -> Vec<String> {
        if range.metadata.name.as_deref() == Some(DEFAULT_NAME) {
            return Vec::new();
        }
        vec!["spec.cidrs: accepted, but not honoured by this server yet".to_owned()]
    }
}

fn cidrs(range: &ServiceCIDR) -> &[String] {
    let spec = range.spec.as_ref();
    spec.and_then(|spec| spec.cidrs.as_deref())
        .unwrap_or_default()
}

fn networks(errors: &mut Errors, path: &FieldPath, range: &ServiceCIDR) {
    let given = cidrs(range);
    if given.is_empty() {
        errors.push(FieldError::required(path, "at least one CIDR required"));
        return;
    }
    if given.len() > 2 {
        let nothing = ServiceCIDRSpec::default();
        let spec = range.spec.as_ref().unwrap_or(&nothing);
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(path, json(spec), detail));
        return;
    }
    for (index, one) in given.iter().enumerate() {
        address::canonical_network(errors, &path.index(index), one);
    }
    if let [one, other] = given
        && let (Some(one), Some(other)) =
            (address::is_v6_network(one), address::is_v6_network(other))
        && one == other
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(path, json(given), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn range(cidrs: &[&str]) -> ServiceCIDR {
        serde_json::from_value(serde_json::json!({"spec": {"cidrs": cidrs}})).expect("a range")
    }

    #[test]
    fn a_range_has_one_network_of_each_family() {
        let of = |cidrs: &[&str]| texts(&ServiceCidrKind::validate(&range(cidrs)));
        assert_eq!(of(&["10.0.0.0/16", "2001:db8::/112"]), Vec::<String>::new());
        assert_eq!(
            of(&[]),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
        assert_eq!(of(&["10.0.0.0/16", "10.1.0.0/16"]).len(), 1);
        assert_eq!(
            of(&["2001:DB8::/112"]),
            [
                "spec.cidrs[0]: Invalid value: \"2001:DB8::/112\": must be in canonical form (\"2001:db8::/112\")"
            ]
        );
    }

    #[test]
    fn a_range_may_only_grow_by_a_family() {
        let update = |new: &[&str], old: &[&str]| {
            texts(&ServiceCidrKind::validate_update(&range(new), &range(old)))
        };
        assert_eq!(
            update(&["10.0.0.0/16", "2001:db8::/112"], &["10.0.0.0/16"]),
            Vec::<String>::new()
        );
        assert_eq!(
            update(&["10.1.0.0/16"], &["10.0.0.0/16"]),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"]
        );
        assert_eq!(update(&[], &["10.0.0.0/16"]).len(), 1);
    }
}
