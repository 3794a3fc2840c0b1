//! Plugins that look at the node itself: its name, whether it takes pods, its ports.

use corral_api::k8s::api::core::v1::Taint;
use corral_runtime::placement::tolerates;

use super::Filter;
use crate::requests::PodInfo;
use crate::snapshot::{Slot, Snapshot};

/// A cordoned node takes only pods that tolerate it.
pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> Vec<String> {
        let spec = snapshot.node(slot).and_then(|node| node.spec.as_ref());
        if !spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
            return Vec::new();
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if pod
            .spec()
            .tolerations
            .iter()
            .flatten()
            .any(|toleration| tolerates(toleration, &taint))
        {
            return Vec::new();
        }
        vec!["node(s) were unschedulable".into()]
    }
}

/// A pod that names its node goes nowhere else.
pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> Vec<String> {
        let wanted = pod
            .spec()
            .node_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let name = snapshot
            .node(slot)
            .and_then(|node| node.metadata.name.as_deref());
        if wanted.is_none() || wanted == name {
            return Vec::new();
        }
        vec!["node(s) didn't match the requested node name".into()]
    }
}

/// Two pods cannot have one port of a machine.
pub struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> Vec<String> {
        let taken = |port| {
            snapshot
                .ports(slot)
                .iter()
                .any(|other| other.conflicts(port))
        };
        if pod.ports.iter().any(taken) {
            vec!["node(s) didn't have free ports for the requested pod ports".into()]
        } else {
            Vec::new()
        }
    }
}
