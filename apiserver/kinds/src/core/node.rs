//! `Node`.

pub(crate) mod labels;
pub mod rules;

use std::collections::BTreeSet;

use corral_api::field::FieldError;
use corral_api::k8s::api::core::v1::{Node, NodeSpec, NodeSystemInfo};
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::text;
use crate::selectable::SelectableField;
use crate::table;

/// `v1 Node`.
pub struct NodeKind;

impl Kind for NodeKind {
    type Object = Node;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: Words::Of(&["no"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const STATUS: bool = true;
    const STATUS_AT_CREATION: bool = true;
    const SELECTABLE_FIELDS: &'static [SelectableField] =
        &[SelectableField::boolean("spec.unschedulable")];

    fn default(node: &mut Node) {
        if let Some(status) = &mut node.status
            && status.allocatable.is_none()
        {
            status.allocatable.clone_from(&status.capacity);
        }
        if let Some(spec) = &mut node.spec {
            one_range_or_several(spec);
        }
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

    fn prepare_create(node: &mut Node) {
        drop_config(node, None);
        drop_empty_names(node);
    }

    fn prepare_update(new: &mut Node, old: &Node) {
        drop_config(new, Some(old));
    }

    fn prepare_status_update(new: &mut Node, old: &Node) {
        drop_config(new, Some(old));
        drop_empty_names(new);
    }

    fn validate(node: &Node) -> Vec<FieldError> {
        rules::node(node)
    }

    fn validate_update(new: &Node, old: &Node) -> Vec<FieldError> {
        rules::update(new, old)
    }

    fn validate_status_update(new: &Node, _old: &Node) -> Vec<FieldError> {
        rules::status(new)
    }

    fn warnings(node: &Node) -> Vec<String> {
        let id = node.spec.as_ref().map_or("", |s| text(&s.external_id));
        if id.is_empty() {
            return Vec::new();
        }
        vec!["spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned()]
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

/// The field of the days when a node had one range follows the list; where they differ, the client knows that field.
fn one_range_or_several(spec: &mut NodeSpec) {
    let first = spec.pod_cidrs.as_ref().and_then(|ranges| ranges.first());
    if let Some(given) = spec.pod_cidr.as_ref().filter(|given| !given.is_empty())
        && first != Some(given)
    {
        spec.pod_cidrs = Some(vec![given.clone()]);
    } else {
        spec.pod_cidr = first.cloned();
    }
}

/// A node's configuration no longer comes from a ConfigMap; what is not there cannot be written any more.
fn drop_config(node: &mut Node, old: Option<&Node>) {
    let was = old.and_then(|old| old.spec.as_ref()?.config_source.as_ref());
    if let Some(spec) = node.spec.as_mut().filter(|_| was.is_none()) {
        spec.config_source = None;
    }
    let was = old.and_then(|old| old.status.as_ref()?.config.as_ref());
    if let Some(status) = node.status.as_mut().filter(|_| was.is_none()) {
        status.config = None;
    }
}

fn drop_empty_names(node: &mut Node) {
    let images = node.status.iter_mut().flat_map(|s| &mut s.images);
    for image in images.flatten() {
        fill::none_if_empty(&mut image.names);
    }
}

fn address(node: &Node, type_: &str) -> String {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let mut addresses = addresses.into_iter().flatten();
    let found = addresses.find(|a| a.type_ == type_);
    table::or_none(found.map(|a| a.address.clone()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_single_range_is_the_first_of_the_list() {
        let ranges = |spec: Value| {
            let json = serde_json::json!({"spec": spec});
            let mut node = serde_json::from_value(json).expect("a node");
            NodeKind::default(&mut node);
            let spec = node.spec.expect("a spec");
            (spec.pod_cidr, spec.pod_cidrs)
        };
        let (a, b) = ("10.0.0.0/24", "10.0.1.0/24");
        let only_a = (Some(a.to_owned()), Some(vec![a.to_owned()]));
        assert_eq!(ranges(serde_json::json!({"podCIDR": a})), only_a);
        assert_eq!(ranges(serde_json::json!({"podCIDRs": [a]})), only_a);
        let both = serde_json::json!({"podCIDR": a, "podCIDRs": [b]});
        assert_eq!(ranges(both), only_a, "the old field is the one that counts");
        assert_eq!(ranges(serde_json::json!({})), (None, None));
    }
}
