//! What is wrong with a Node, and what an update of one may change.

use std::net::IpAddr;

use corral_api::field::{FieldError, FieldErrorKind, FieldPath};
use corral_api::k8s::api::core::v1::{Node, NodeSpec, Taint};
use corral_api::names;

use crate::core::pod_spec::validation::resources;
use crate::core::pod_spec::validation::scheduling::TAINT_EFFECTS;
use crate::rules::{self, Errors, at, json, text};

const FEATURE_NAME_LENGTH_MAX: usize = 253;

/// Rules of a Node.
pub fn node(node: &Node) -> Errors {
    let mut errors = Errors::new();
    taints(&mut errors, node);
    amounts(&mut errors, node);
    swap(&mut errors, node);
    features(&mut errors, node);
    ranges(&mut errors, node);
    errors
}

/// Rules of a changed Node.
pub fn update(new: &Node, old: &Node) -> Errors {
    let mut errors = node(new);
    addresses(&mut errors, new);
    let nothing = NodeSpec::default();
    let (spec, was) = (
        new.spec.as_ref().unwrap_or(&nothing),
        old.spec.as_ref().unwrap_or(&nothing),
    );
    let had_ranges = was.pod_cidrs.as_ref().is_some_and(|r| !r.is_empty());
    if had_ranges && spec.pod_cidrs != was.pod_cidrs {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&at("spec.podCIDRs"), detail));
    }
    if !text(&was.provider_id).is_empty() && spec.provider_id != was.provider_id {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&at("spec.providerID"), detail));
    }
    if text(&spec.external_id) != text(&was.external_id) {
        let path = at("spec.externalID");
        errors.push(FieldError::forbidden(&path, "may not be updated"));
    }
    errors
}

/// Rules of a changed status. The node agent may leave an odd swap size behind.
pub fn status(node: &Node) -> Errors {
    let mut errors = Errors::new();
    amounts(&mut errors, node);
    features(&mut errors, node);
    addresses(&mut errors, node);
    taints(&mut errors, node);
    errors
}

fn amounts(errors: &mut Errors, node: &Node) {
    let Some(status) = &node.status else { return };
    for (field, list) in [
        ("capacity", &status.capacity),
        ("allocatable", &status.allocatable),
    ] {
        for (name, wire) in list.iter().flatten() {
            let path = at("status").child(field).child(name);
            resources::amount(errors, &path, name, wire);
        }
    }
}

fn swap(errors: &mut Errors, node: &Node) {
    let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
    let capacity = info.and_then(|info| info.swap.as_ref()?.capacity);
    if let Some(capacity) = capacity.filter(|capacity| *capacity <= 0) {
        let path = at("metadata.nodeSwapStatus.capacity");
        let detail = "must be greater than zero";
        errors.push(FieldError::invalid(&path, capacity, detail));
    }
}

fn features(errors: &mut Errors, node: &Node) {
    let features = node.status.as_ref();
    let features = features.and_then(|s| s.declared_features.as_deref());
    let features = features.unwrap_or_default();
    let list = at("status.declaredFeatures");
    for (index, feature) in features.iter().enumerate() {
        let path = list.index(index);
        if let Some(why) = unlike_a_feature(feature) {
            errors.push(FieldError::invalid(&path, feature.as_str(), why));
        }
        let (Some(next), path) = (features.get(index + 1), list.index(index + 1)) else {
            continue;
        };
        if feature == next {
            errors.push(FieldError::duplicate(&path, next.as_str()));
        } else if feature > next {
            let detail = "list must be sorted alphabetically";
            errors.push(FieldError::invalid(&path, next.as_str(), detail));
        }
    }
}

fn unlike_a_feature(name: &str) -> Option<String> {
    if name.len() > FEATURE_NAME_LENGTH_MAX {
        return Some(format!(
            "invalid feature name {name:?}: must be no more than {FEATURE_NAME_LENGTH_MAX} characters"
        ));
    }
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric())
    };
    if name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(word) {
        return None;
    }
    Some(format!(
        "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments \
         separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and \
         slashes"
    ))
}

fn ranges(errors: &mut Errors, node: &Node) {
    let ranges = node.spec.as_ref().and_then(|s| s.pod_cidrs.as_deref());
    let (ranges, path) = (ranges.unwrap_or_default(), at("spec.podCIDRs"));
    for (index, range) in ranges.iter().enumerate() {
        rules::cidr(errors, &path.index(index), range);
    }
    let is_v4 = |range: &String| {
        let address = range.split_once('/').map(|(address, _)| address);
        address.and_then(|address| address.parse::<IpAddr>().ok().map(|ip| ip.is_ipv4()))
    };
    let both = ranges.iter().any(|r| is_v4(r) == Some(true))
        && ranges.iter().any(|r| is_v4(r) == Some(false));
    let broken = ranges.iter().position(|range| !rules::is_cidr(range));
    if let Some(index) = broken.filter(|_| ranges.len() > 1) {
        let detail = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{index}]: <nil> (invalid CIDR \
             address: {})",
            ranges[index]
        );
        errors.push(FieldError {
            kind: FieldErrorKind::Internal,
            ..rules::invalid_unshown(&path, &detail)
        });
    }
    if ranges.len() > 2 || (ranges.len() == 2 && !both) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(&path, json(ranges), detail));
    }
}

fn addresses(errors: &mut Errors, node: &Node) {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref());
    let addresses = addresses.unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let path = at("status.addresses").index(index);
            let shown = format!(
                "{{\"Type\":{},\"Address\":{}}}",
                json(&address.type_),
                json(&address.address)
            );
            let mut error = FieldError::duplicate(&path, "");
            error.value = Some(shown);
            errors.push(error);
        }
    }
}

fn taints(errors: &mut Errors, node: &Node) {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref());
    let (taints, list) = (taints.unwrap_or_default(), at("metadata.taints"));
    for (index, taint) in taints.iter().enumerate() {
        one_taint(errors, &list.index(index), taint);
        let same = |other: &Taint| other.key == taint.key && other.effect == taint.effect;
        if taints[..index].iter().any(same) {
            let mut error = FieldError::duplicate(&list.index(index), "");
            error.value = Some(taint_words(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

fn one_taint(errors: &mut Errors, path: &FieldPath, taint: &Taint) {
    let complaints = names::qualified_name(&taint.key);
    rules::complain(errors, &path.child("key"), &taint.key, complaints);
    let value = text(&taint.value);
    let complaints = names::label_value(value);
    if !complaints.is_empty() {
        let detail = complaints.join(";");
        errors.push(FieldError::invalid(&path.child("value"), value, detail));
    }
    let path = path.child("effect");
    match taint.effect.as_str() {
        "" => errors.push(FieldError::required(&path, "")),
        effect => rules::supported_of(errors, &path, effect, TAINT_EFFECTS),
    }
}

/// A taint under the names of Kubernetes' own code, as its errors show it.
fn taint_words(taint: &Taint) -> String {
    format!(
        "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{}}}",
        json(&taint.key),
        json(text(&taint.value)),
        json(&taint.effect),
        json(&taint.time_added)
    )
}
