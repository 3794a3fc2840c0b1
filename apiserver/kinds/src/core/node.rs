//! `Node`.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Node, NodeSpec, NodeSystemInfo, Taint};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::pod_spec::validation::resources;
use super::pod_spec::validation::scheduling::TAINT_EFFECTS;
use crate::kind::{Column, Kind, Names, age};
use crate::rules::{self, Errors, at, json, text};
use crate::table;

/// `v1 Node`.
pub struct NodeKind;

impl Kind for NodeKind {
    type Object = Node;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        categories: &[],
        namespaced: false,
    };
    const STATUS: bool = true;

    fn default(node: &mut Node) {
        if let Some(status) = &mut node.status
            && status.allocatable.is_none()
        {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn selectable_fields(node: &Node) -> Vec<(&'static str, String)> {
        let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable);
        vec![(
            "spec.unschedulable",
            unschedulable.unwrap_or(false).to_string(),
        )]
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text(
                "Status",
                "Whether it is ready, and whether pods may be scheduled to it.",
            ),
            Column::text("Roles", "Roles, from its labels."),
            Column::AGE,
            Column::text("Version", "Version of its node agent."),
            Column::text("Internal-IP", "Its address inside the cluster's network.").wide(),
            Column::text("External-IP", "Its address from outside.").wide(),
            Column::text("OS-Image", "Its operating system.").wide(),
            Column::text("Kernel-Version", "Its kernel.").wide(),
            Column::text("Container-Runtime", "What runs its containers.").wide(),
        ]
    }

    fn cells(node: &Node, now: Timestamp) -> Vec<Value> {
        let nothing = NodeSystemInfo::default();
        let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
        let info = info.unwrap_or(&nothing);
        let unknown = |text: &String| table::or(text.clone(), "<unknown>");
        let mut kernel = unknown(&info.kernel_version);
        if !info.architecture.is_empty() {
            kernel = format!("{kernel} ({})", info.architecture);
        }
        vec![
            node.metadata.name.clone().into(),
            status_words(node).into(),
            table::or_none(roles(node)).into(),
            age(&node.metadata, now),
            info.kubelet_version.clone().into(),
            address(node, "InternalIP").into(),
            address(node, "ExternalIP").into(),
            unknown(&info.os_image).into(),
            kernel.into(),
            unknown(&info.container_runtime_version).into(),
        ]
    }

    fn validate(node: &Node) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_always(&mut errors, node);
        let ranges = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten());
        for (index, range) in ranges.enumerate() {
            rules::cidr(&mut errors, &at("spec.podCIDRs").index(index), range);
        }
        errors
    }

    fn validate_update(new: &Node, old: &Node) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_always(&mut errors, new);
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
        errors
    }

    fn validate_status_update(new: &Node, _old: &Node) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_always(&mut errors, new);
        errors
    }
}

const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

fn status_words(node: &Node) -> String {
    let status = node.status.as_ref();
    let conditions = status
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let ready = conditions.iter().rfind(|c| c.type_ == "Ready");
    let word = match ready {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable);
    match unschedulable {
        Some(true) => format!("{word},SchedulingDisabled"),
        _ => word.to_owned(),
    }
}

fn roles(node: &Node) -> String {
    let labels = node.metadata.labels.iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_LABEL_PREFIX) {
            Some(role) => Some(role),
            None if key == ROLE_LABEL => Some(value.as_str()),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address(node: &Node, type_: &str) -> String {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let mut addresses = addresses.into_iter().flatten();
    let found = addresses.find(|a| a.type_ == type_);
    table::or_none(found.map(|a| a.address.clone()).unwrap_or_default())
}

fn validate_always(errors: &mut Errors, node: &Node) {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref());
    validate_taints(errors, &at("metadata.taints"), taints.unwrap_or_default());
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
    let addresses = status.addresses.as_deref().unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let path = at("status.addresses").index(index);
            errors.push(FieldError::duplicate(&path, json(address)));
        }
    }
}

fn validate_taints(errors: &mut Errors, path: &FieldPath, taints: &[Taint]) {
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        let complaints = names::qualified_name(&taint.key);
        rules::complain(errors, &path.child("key"), &taint.key, complaints);
        let value = text(&taint.value);
        let complaints = names::label_value(value);
        if !complaints.is_empty() {
            let detail = complaints.join(";");
            errors.push(FieldError::invalid(&path.child("value"), value, detail));
        }
        rules::required_of(errors, &path.child("effect"), &taint.effect, TAINT_EFFECTS);
        let same = |other: &Taint| other.key == taint.key && other.effect == taint.effect;
        if taints[..index].iter().any(same) {
            let mut error = FieldError::duplicate(&path, json(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}
