//! All nodes and what is on them, in columns, updated in place. A node keeps its slot for as long as it exists.

use std::collections::HashMap;
use std::sync::Arc;

use corral_api::k8s::api::core::v1::Node;
use corral_api::quantity::Quantity;
use corral_runtime::ObjectKey;

use crate::requests::{HostPort, PodInfo, Requests};

/// A node's place in every column.
pub type Slot = usize;

/// Where a pod counts, and with how much.
#[derive(Debug, Clone)]
struct Placed {
    node: String,
    requests: Requests,
    scored: Requests,
    ports: Vec<HostPort>,
}

/// The columns. Slots without a node have `None` in `nodes` and are skipped.
#[derive(Debug, Default)]
pub struct Snapshot {
    slots: HashMap<String, Slot>,
    free: Vec<Slot>,
    nodes: Vec<Option<Arc<Node>>>,
    allocatable: Vec<Requests>,
    pods_max: Vec<i64>,
    requested: Vec<Requests>,
    scored: Vec<Requests>,
    pod_counts: Vec<i64>,
    ports: Vec<Vec<HostPort>>,
    versions: Vec<u64>,
    version: u64,
    placed: HashMap<String, Placed>,
    /// Pods by node, also of nodes that are not known (yet).
    by_node: HashMap<String, Vec<String>>,
    /// The uid that each name last stood for: a deletion is noticed by name.
    names: HashMap<ObjectKey, String>,
}

impl Snapshot {
    /// How many nodes there are.
    pub fn n_nodes(&self) -> usize {
        self.slots.len()
    }

    /// How many slots there are, empty ones included.
    pub fn n_slots(&self) -> usize {
        self.nodes.len()
    }

    /// The node in a slot.
    pub fn node(&self, slot: Slot) -> Option<&Arc<Node>> {
        self.nodes[slot].as_ref()
    }

    /// The slot of a node.
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.slots.get(name).copied()
    }

    /// What a node has to give.
    pub fn allocatable(&self, slot: Slot) -> &Requests {
        &self.allocatable[slot]
    }

    /// How many pods a node takes.
    pub fn pods_max(&self, slot: Slot) -> i64 {
        self.pods_max[slot]
    }

    /// How many pods a node has.
    pub fn pod_count(&self, slot: Slot) -> i64 {
        self.pod_counts[slot]
    }

    /// What is asked of a node.
    pub fn requested(&self, slot: Slot) -> &Requests {
        &self.requested[slot]
    }

    /// What is asked of a node, pods without requests counted with defaults.
    pub fn scored(&self, slot: Slot) -> &Requests {
        &self.scored[slot]
    }

    /// The ports that are taken on a node.
    pub fn ports(&self, slot: Slot) -> &[HostPort] {
        &self.ports[slot]
    }

    /// Changes whenever anything about the slot does.
    pub fn version(&self, slot: Slot) -> u64 {
        self.versions[slot]
    }

    /// Takes a node in; true if pods that did not fit might fit now.
    pub fn set_node(&mut self, node: Arc<Node>) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        let slot = match self.slots.get(&name) {
            Some(slot) => *slot,
            None => self.new_slot(&name),
        };
        let status = node.status.as_ref();
        let list =
            status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let allocatable = Requests::read(list);
        let pods_max = list
            .and_then(|list| list.get("pods"))
            .and_then(|amount| Quantity::from_wire(amount).ok())
            .map_or(0, Quantity::value);
        let old = self.nodes[slot].as_ref();
        let same = old.is_some_and(|old| is_alike(old, &node))
            && self.allocatable[slot] == allocatable
            && self.pods_max[slot] == pods_max;
        self.nodes[slot] = Some(node);
        self.allocatable[slot] = allocatable;
        self.pods_max[slot] = pods_max;
        if !same {
            self.touch(slot);
        }
        !same
    }

    /// Takes a node out; its pods are remembered, in case it returns.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.slots.remove(name) {
            self.nodes[slot] = None;
            self.touch(slot);
            self.free.push(slot);
        }
    }

    /// Counts a pod on a node, and nowhere else.
    pub fn place(&mut self, pod: &PodInfo, node: &str) {
        if let Some(known) = self.placed.get(&pod.uid) {
            if known.node == node && known.requests == pod.requests && known.ports == pod.ports {
                return;
            }
            self.remove(&pod.uid);
        }
        let placed = Placed {
            node: node.to_owned(),
            requests: pod.requests.clone(),
            scored: pod.scored.clone(),
            ports: pod.ports.clone(),
        };
        if let Some(slot) = self.slot(node) {
            self.count(slot, &placed, 1);
        }
        self.by_node
            .entry(node.to_owned())
            .or_default()
            .push(pod.uid.clone());
        self.placed.insert(pod.uid.clone(), placed);
    }

    /// Counts a pod no longer; true if it was counted.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else {
            return false;
        };
        if let Some(pods) = self.by_node.get_mut(&placed.node) {
            pods.retain(|other| other != uid);
            if pods.is_empty() {
                self.by_node.remove(&placed.node);
            }
        }
        if let Some(slot) = self.slot(&placed.node) {
            self.count(slot, &placed, -1);
        }
        true
    }

    /// Notes the uid of a name; returns the uid of a predecessor of the same name.
    pub fn rename(&mut self, key: &ObjectKey, uid: &str) -> Option<String> {
        self.names
            .insert(key.clone(), uid.to_owned())
            .filter(|old| old != uid)
    }

    /// Forgets a name and returns the uid that it stood for.
    pub fn forget_name(&mut self, key: &ObjectKey) -> Option<String> {
        self.names.remove(key)
    }

    fn count(&mut self, slot: Slot, placed: &Placed, sign: i64) {
        self.requested[slot].add(&placed.requests, sign);
        self.scored[slot].add(&placed.scored, sign);
        self.pod_counts[slot] += sign;
        for port in &placed.ports {
            if sign > 0 {
                self.ports[slot].push(port.clone());
            } else if let Some(at) = self.ports[slot].iter().position(|other| other == port) {
                self.ports[slot].swap_remove(at);
            }
        }
        self.touch(slot);
    }

    fn new_slot(&mut self, name: &str) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.allocatable.push(Requests::default());
            self.pods_max.push(0);
            self.requested.push(Requests::default());
            self.scored.push(Requests::default());
            self.pod_counts.push(0);
            self.ports.push(Vec::new());
            self.versions.push(0);
            self.nodes.len() - 1
        });
        self.requested[slot] = Requests::default();
        self.scored[slot] = Requests::default();
        self.pod_counts[slot] = 0;
        self.ports[slot].clear();
        self.slots.insert(name.to_owned(), slot);
        let waiting = self.by_node.get(name).cloned().unwrap_or_default();
        for uid in waiting {
            if let Some(placed) = self.placed.get(&uid).cloned() {
                self.count(slot, &placed, 1);
            }
        }
        slot
    }

    fn touch(&mut self, slot: Slot) {
        self.version += 1;
        self.versions[slot] = self.version;
    }
}

/// Whether two states of a node mean the same to every plugin: heart-beats change neither.
fn is_alike(a: &Node, b: &Node) -> bool {
    let spec = |node: &Node| node.spec.clone().unwrap_or_default();
    let (spec_a, spec_b) = (spec(a), spec(b));
    a.metadata.labels == b.metadata.labels
        && spec_a.taints == spec_b.taints
        && spec_a.unschedulable == spec_b.unschedulable
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(n: usize) -> PodInfo {
        PodInfo::new(Arc::new(object(json!({
            "metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}")},
            "spec": {"containers": [{
                "name": "c", "resources": {"requests": {"cpu": format!("{n}m"), "x.y/z": "1"}},
                "ports": [{"containerPort": 1, "hostPort": n + 1}],
            }]},
        }))))
    }

    fn node(name: &str) -> Arc<Node> {
        Arc::new(object(
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "pods": "10"}}}),
        ))
    }

    proptest! {
        #[test]
        fn columns_equal_the_sum_of_what_is_placed(
            steps in prop::collection::vec((0..8_usize, 0..3_usize, 0..5_u8), 0..60),
        ) {
            let mut snapshot = Snapshot::default();
            let mut model: HashMap<usize, usize> = HashMap::new();
            for (p, n, action) in steps {
                let name = format!("n{n}");
                match action {
                    0 => drop(snapshot.set_node(node(&name))),
                    1 => snapshot.remove_node(&name),
                    2 => {
                        model.remove(&p);
                        snapshot.remove(&format!("u{p}"));
                    }
                    _ => {
                        model.insert(p, n);
                        snapshot.place(&pod(p), &name);
                    }
                }
                for n in 0..3 {
                    let Some(slot) = snapshot.slot(&format!("n{n}")) else { continue };
                    let here: Vec<_> = model.iter().filter(|(_, node)| **node == n).map(|(p, _)| *p).collect();
                    prop_assert_eq!(snapshot.pod_count(slot), i64::try_from(here.len()).expect("small"));
                    let cpu: usize = here.iter().sum();
                    prop_assert_eq!(snapshot.requested(slot).cpu, i64::try_from(cpu).expect("small"));
                    prop_assert_eq!(snapshot.ports(slot).len(), here.len());
                }
            }
        }
    }
}
