//! `ResourceSlice`: the devices of a driver, on a node or beside all of them.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::resource::v1::{
    Device, DeviceAttribute, ResourceSlice, ResourceSliceSpec,
};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::rules::{self as own, at_most};
use crate::core::pod_spec::validation::driver_name;
use crate::core::pod_spec::validation::scheduling::node_selector;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, Seen, at, json, text};
use crate::selectable::SelectableField;

const DEVICES_MAX: usize = 128;
/// Devices with taints or counters take more room.
const RICH_DEVICES_MAX: usize = 64;
const ATTRIBUTES_MAX: usize = 32;
const ATTRIBUTE_LENGTH_MAX: usize = 64;
const PLACES: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

/// `resource.k8s.io/v1 ResourceSlice`.
pub struct ResourceSliceKind;

impl Kind for ResourceSliceKind {
    type Object = ResourceSlice;

    const NAMES: Names<'static> = Names {
        group: "resource.k8s.io",
        version: "v1",
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const GENERATION: bool = true;
    const SELECTABLE_FIELDS: &'static [SelectableField] = &[
        SelectableField::text("spec.driver"),
        SelectableField::text("spec.nodeName"),
    ];

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Node", "The node of the devices."),
            Column::text("Driver", "The driver of the devices."),
            Column::text("Pool", "The pool of the devices."),
            Column::AGE,
        ]
    }

    fn cells(slice: &ResourceSlice, now: Timestamp) -> Vec<Value> {
        let spec = &slice.spec;
        vec![
            slice.metadata.name.clone().into(),
            text(&spec.node_name).into(),
            spec.driver.clone().into(),
            spec.pool.name.clone().into(),
            age(&slice.metadata, now),
        ]
    }

    fn validate(slice: &ResourceSlice) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (spec, path) = (&slice.spec, at("spec"));
        driver_name(&mut errors, &path.child("driver"), &spec.driver);
        pool(&mut errors, &path.child("pool"), spec);
        places(&mut errors, &path, spec);
        let devices = spec.devices.as_deref().unwrap_or_default();
        let is_rich = |device: &Device| {
            let some = |n: Option<usize>| n.is_some_and(|n| n > 0);
            some(device.taints.as_ref().map(Vec::len))
                || some(device.consumes_counters.as_ref().map(Vec::len))
        };
        let n_max = match devices.iter().any(is_rich) {
            true => RICH_DEVICES_MAX,
            false => DEVICES_MAX,
        };
        let devices_path = path.child("devices");
        at_most(&mut errors, &devices_path, devices, n_max);
        let mut seen = Seen::default();
        for (index, one) in devices.iter().enumerate() {
            let path = devices_path.index(index);
            device(&mut errors, &path, one);
            seen.check(&mut errors, &path, &one.name);
        }
        errors
    }

    fn validate_update(new: &ResourceSlice, old: &ResourceSlice) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        let (new, old, path) = (&new.spec, &old.spec, at("spec"));
        let pool = path.child("pool.name");
        rules::immutable(&mut errors, &pool, &new.pool.name, &old.pool.name);
        rules::immutable(&mut errors, &path.child("driver"), &new.driver, &old.driver);
        let path = path.child("nodeName");
        rules::immutable(&mut errors, &path, &new.node_name, &old.node_name);
        errors
    }

    fn warnings(_slice: &ResourceSlice) -> Vec<String> {
        vec![
            "spec: accepted, but the allocation of devices is not honoured by this server yet"
                .to_owned(),
        ]
    }
}

fn pool(errors: &mut Errors, path: &FieldPath, spec: &ResourceSliceSpec) {
    own::pool(errors, &path.child("name"), &spec.pool.name);
    let (slices, generation) = (spec.pool.resource_slice_count, spec.pool.generation);
    if slices <= 0 {
        let path = path.child("resourceSliceCount");
        errors.push(FieldError::invalid(
            &path,
            slices,
            "must be greater than zero",
        ));
    }
    if generation < 0 {
        let path = path.child("generation");
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&path, generation, detail));
    }
}

/// Where the devices are, in one of four ways.
fn places(errors: &mut Errors, path: &FieldPath, spec: &ResourceSliceSpec) {
    let mut given = Vec::new();
    let node_path = path.child("nodeName");
    match spec.node_name.as_deref() {
        Some("") => {
            let detail = "must be either unset or set to a non-empty string";
            errors.push(FieldError::invalid(&node_path, "", detail));
        }
        Some(node) => {
            given.push("`nodeName`");
            rules::complain(errors, &node_path, node, names::dns1123_subdomain(node));
        }
        None => {}
    }
    if let Some(selector) = &spec.node_selector {
        given.push("`nodeSelector`");
        let path = path.child("nodeSelector");
        node_selector(errors, &path, selector);
        if selector.node_selector_terms.len() != 1 {
            let path = path.child("nodeSelectorTerms");
            let detail = "must have exactly one node selector term";
            let terms = json(&selector.node_selector_terms);
            errors.push(FieldError::invalid(&path, terms, detail));
        }
    }
    for (field, quoted, value) in [
        ("allNodes", "`allNodes`", spec.all_nodes),
        (
            "perDeviceNodeSelection",
            "`perDeviceNodeSelection`",
            spec.per_device_node_selection,
        ),
    ] {
        match value {
            Some(true) => given.push(quoted),
            Some(false) => {
                let detail = "must be either unset or set to true";
                errors.push(FieldError::invalid(&path.child(field), false, detail));
            }
            None => {}
        }
    }
    match given.len() {
        0 => errors.push(FieldError::required(path, PLACES)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", given.join(", "));
            let detail = format!("{PLACES}, but multiple fields are set");
            errors.push(FieldError::invalid(path, shown, detail));
        }
    }
}

fn device(errors: &mut Errors, path: &FieldPath, device: &Device) {
    own::label(errors, &path.child("name"), &device.name);
    let attributes = device.attributes.iter().flatten();
    let capacity = device.capacity.iter().flatten();
    let n_both = attributes.clone().count() + capacity.clone().count();
    if n_both > ATTRIBUTES_MAX {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}"
        );
        let n_both = i64::try_from(n_both).unwrap_or(i64::MAX);
        errors.push(FieldError::invalid(path, n_both, detail));
    }
    for (name, value) in attributes {
        let path = path.child("attributes");
        own::qualified(errors, &path, name);
        attribute(errors, &path.key(name), value);
    }
    for (name, _) in capacity {
        own::qualified(errors, &path.child("capacity"), name);
    }
}

fn attribute(errors: &mut Errors, path: &FieldPath, attribute: &DeviceAttribute) {
    let n_values = [
        attribute.bool.is_some(),
        attribute.int.is_some(),
        attribute.string.is_some(),
        attribute.version.is_some(),
    ];
    let n_values = n_values.iter().filter(|given| **given).count();
    for (field, value) in [
        ("string", &attribute.string),
        ("version", &attribute.version),
    ] {
        if text(value).len() > ATTRIBUTE_LENGTH_MAX {
            errors.push(FieldError::too_long(
                &path.child(field),
                ATTRIBUTE_LENGTH_MAX,
            ));
        }
    }
    if n_values == 0 {
        errors.push(FieldError::required(
            path,
            "exactly one value must be specified",
        ));
    } else if n_values > 1 {
        let detail = "exactly one value must be specified";
        errors.push(FieldError::invalid(path, json(attribute), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn a_slice_is_in_one_place_and_stays_there() {
        let slice = |place: Value| -> ResourceSlice {
            let mut spec = place;
            spec["driver"] = "d".into();
            spec["pool"] =
                serde_json::json!({"name": "p", "resourceSliceCount": 1, "generation": 1});
            serde_json::from_value(serde_json::json!({"spec": spec})).expect("a slice")
        };
        let old = slice(serde_json::json!({"nodeName": "n"}));
        assert!(ResourceSliceKind::validate(&old).is_empty());
        let new = slice(serde_json::json!({"nodeName": "n", "allNodes": true}));
        assert_eq!(
            texts(&ResourceSliceKind::validate_update(&new, &old)),
            [format!(
                "spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {PLACES}, but multiple fields are set"
            )]
        );
    }
}
