//! `Node`.

use std::collections::BTreeSet;

use corral_api::k8s::api::core::v1::{Node, NodeSystemInfo};
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, age};
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
        vec![("spec.unschedulable", unschedulable.unwrap_or(false).to_string())]
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Status", "Whether it is ready, and whether pods may be scheduled to it."),
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
}

const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

fn status_words(node: &Node) -> String {
    let status = node.status.as_ref();
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .filter(|c| c.type_ == "Ready")
        .next_back();
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
