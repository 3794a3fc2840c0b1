//! Gives every Node a part of the cluster's pod addresses, its `spec.podCIDR`.
//!
//! A range that a Node has is never changed, not even when it lies outside the cluster's or overlaps another: pods
//! use it. New ranges overlap none of those. One worker handles all Nodes under one key, so that two can never be
//! given the same range at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{Node, NodeSpec};
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler, Recorder};
use jiff::Timestamp;

use crate::context::Context;
use crate::pods;

/// The prefix of a node's range: 254 addresses, more than the 110 pods that a node runs.
const NODE_PREFIX: u8 = 24;

/// An IPv4 range. The base has no bits beyond the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    base: u32,
    prefix: u8,
}

impl Block {
    fn last(self) -> u32 {
        self.base | u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0)
    }
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(base, prefix)| {
            let base: Ipv4Addr = base.parse().ok()?;
            let prefix = prefix.parse().ok().filter(|prefix: &u8| *prefix <= 32)?;
            Some((base.to_bits(), prefix))
        });
        let (address, prefix) =
            parsed.ok_or_else(|| format!("{text:?} is not an IPv4 address range"))?;
        let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let base = address & !host;
        Ok(Self { base, prefix })
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.prefix)
    }
}

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub cluster: Block,
    pub nodes: Vec<Arc<Node>>,
    /// What Nodes were given that the cache may not show yet, by uid.
    pub given: BTreeMap<String, Block>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Nodes and the ranges that they get.
    pub give: Vec<(Arc<Node>, Block)>,
    /// Nodes for which nothing is left.
    pub exhausted: Vec<Arc<Node>>,
}

pub fn plan(world: &World) -> Plan {
    let mut plan = Plan::default();
    let mut taken: Vec<Block> = world.nodes.iter().flat_map(|node| ranges(node)).collect();
    let mut waiting: Vec<&Arc<Node>> = Vec::new();
    for node in world.nodes.iter().filter(|node| needs_range(node)) {
        let given = world.given.get(uid(node)).copied();
        let usable = given.filter(|given| taken.iter().all(|other| !overlap(*given, *other)));
        match usable {
            Some(given) => {
                taken.push(given);
                plan.give.push((Arc::clone(node), given));
            }
            None => waiting.push(node),
        }
    }
    waiting.sort_by_key(|node| {
        let metadata = &node.metadata;
        (metadata.creation_timestamp.clone(), metadata.name.clone())
    });
    let free = free(world.cluster, &taken, waiting.len());
    for (place, node) in waiting.into_iter().enumerate() {
        match free.get(place) {
            Some(block) => plan.give.push((Arc::clone(node), *block)),
            None => plan.exhausted.push(Arc::clone(node)),
        }
    }
    plan
}

/// The first free blocks of the cluster's range, at most `wanted`.
fn free(cluster: Block, taken: &[Block], wanted: usize) -> Vec<Block> {
    let step = 1_u64 << (32 - NODE_PREFIX);
    let mut taken: Vec<_> = taken
        .iter()
        .map(|block| (u64::from(block.base), u64::from(block.last())))
        .collect();
    taken.sort_unstable();
    let end = u64::from(cluster.last());
    let mut found = Vec::new();
    let mut at = u64::from(cluster.base);
    let mut taken = taken.into_iter().peekable();
    while found.len() < wanted && at + step - 1 <= end {
        match taken.peek() {
            Some((_, last)) if *last < at => {
                taken.next();
            }
            // On to the first block after the one that is taken.
            Some((first, last)) if *first < at + step => at = (last / step + 1) * step,
            _ => {
                let base = u32::try_from(at).expect("inside an IPv4 range");
                let prefix = NODE_PREFIX;
                found.push(Block { base, prefix });
                at += step;
            }
        }
    }
    found
}

fn overlap(a: Block, b: Block) -> bool {
    a.base <= b.last() && b.base <= a.last()
}

/// The IPv4 ranges of a Node.
fn ranges(node: &Node) -> Vec<Block> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|spec| spec.pod_cidrs.as_ref());
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let texts = all.into_iter().flatten().chain(one);
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn needs_range(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let one = spec.and_then(|spec| spec.pod_cidr.as_deref());
    let all = spec.and_then(|spec| spec.pod_cidrs.as_deref());
    !pods::is_deleted(&node.metadata)
        && one.is_none_or(str::is_empty)
        && all.is_none_or(<[String]>::is_empty)
}

fn uid(node: &Node) -> &str {
    node.metadata.uid.as_deref().unwrap_or_default()
}

struct NodeIpam {
    nodes: Objects<Node>,
    events: Recorder,
    cluster: Block,
    /// Guards what was given and is not in the cache yet, by uid: also when a write's outcome is unknown.
    given: Mutex<BTreeMap<String, Block>>,
    /// Guards the Nodes whose people were told that nothing is left, by uid: once is enough.
    told: Mutex<BTreeSet<String>>,
}

/// Starts the controller for a cluster whose pods have the addresses of `cluster`.
pub fn start(context: &Context, cluster: &str) {
    // Kubernetes has no user of its own for it.
    let name = "node-controller";
    let cluster: Block = match cluster.parse() {
        Ok(cluster) => cluster,
        Err(error) => {
            tracing::error!(%error, "nodes are given no addresses for their pods");
            return;
        }
    };
    let nodes = context.objects::<Node>(name);
    let controller = Controller::new("nodeipam").map(nodes.cache(), |_| {
        [ObjectKey::cluster("ranges")].into_iter().collect()
    });
    let reconciler = NodeIpam {
        nodes,
        events: context.recorder(name),
        cluster,
        given: Mutex::default(),
        told: Mutex::default(),
    };
    controller.run_planned(
        reconciler,
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for NodeIpam {
    type World = World;
    type Plan = Plan;

    fn observe(&self, _key: &ObjectKey) -> Option<World> {
        let nodes = self.nodes.cache().list();
        let open: BTreeSet<_> = nodes
            .iter()
            .filter(|node| needs_range(node))
            .map(|node| uid(node))
            .collect();
        let mut given = self.given.lock().expect("no panic while held");
        given.retain(|uid, _| open.contains(uid.as_str()));
        let given = given.clone();
        let mut told = self.told.lock().expect("no panic while held");
        told.retain(|uid| open.contains(uid.as_str()));
        drop(open);
        Some(World {
            cluster: self.cluster,
            nodes,
            given,
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, _world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        for node in &plan.exhausted {
            self.tell(node);
        }
        let mut outcomes = Vec::new();
        for (node, block) in &plan.give {
            outcomes.push(self.give(node, *block).await);
        }
        Error::collect(outcomes)?;
        Ok(Action::Done)
    }
}

impl NodeIpam {
    /// The write carries the version that was seen, so that a range which the Node got meanwhile stays.
    async fn give(&self, node: &Node, block: Block) -> Result<(), Error> {
        self.given
            .lock()
            .expect("no panic while held")
            .insert(uid(node).to_owned(), block);
        let spec = NodeSpec {
            pod_cidr: Some(block.to_string()),
            pod_cidrs: Some(vec![block.to_string()]),
            ..node.spec.clone().unwrap_or_default()
        };
        let spec = Some(spec);
        let changed = Node {
            spec,
            ..node.clone()
        };
        crate::ownership::gone_is_fine(self.nodes.replace(&changed).await.map(drop))
    }

    fn tell(&self, node: &Node) {
        let mut told = self.told.lock().expect("no panic while held");
        if told.insert(uid(node).to_owned()) {
            let text = format!(
                "The cluster's pod addresses {} have no free /{NODE_PREFIX} for this node",
                self.cluster
            );
            let name = node.metadata.name.as_deref().unwrap_or_default();
            tracing::warn!(node = name, cluster = %self.cluster, "no pod addresses are left");
            self.events.warning(node, "CIDRNotAvailable", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(name: &str, range: Option<&str>) -> Arc<Node> {
        let all = range.map(|range| vec![range]);
        Arc::new(object(json!({
            "metadata": {"name": name, "uid": format!("uid-{name}")},
            "spec": {"podCIDR": range, "podCIDRs": all},
        })))
    }

    fn block(text: &str) -> Block {
        text.parse().expect("a range")
    }

    fn world(cluster: &str, nodes: Vec<Arc<Node>>) -> World {
        let (cluster, given) = (block(cluster), BTreeMap::new());
        World {
            cluster,
            nodes,
            given,
        }
    }

    #[test]
    fn the_first_free_part_is_given() {
        let nodes = vec![
            node("a", Some("10.244.0.0/24")),
            node("b", None),
            node("c", None),
        ];
        let plan = plan(&world("10.244.0.0/16", nodes));
        let given: Vec<_> = plan.give.iter().map(|(_, b)| b.to_string()).collect();
        assert_eq!(given, ["10.244.1.0/24", "10.244.2.0/24"]);
    }

    #[test]
    fn a_range_that_is_too_small_is_exhausted() {
        let plan = plan(&world("10.244.0.0/25", vec![node("a", None)]));
        assert!(plan.give.is_empty());
        assert_eq!(plan.exhausted.len(), 1);
    }

    #[test]
    fn the_end_of_the_address_space_is_no_overflow() {
        let nodes = vec![node("a", Some("255.255.254.0/24")), node("b", None)];
        let mut world = world("255.255.254.0/23", nodes);
        assert_eq!(plan(&world).give[0].1, block("255.255.255.0/24"));
        world.nodes = vec![node("a", Some("0.0.0.0/0")), node("b", None)];
        assert_eq!(plan(&world).exhausted.len(), 1);
    }

    proptest! {
        #[test]
        fn nobody_gets_what_another_has(
            // Inside and outside of the cluster's range, larger and smaller than what is given.
            nodes in prop::collection::vec(
                prop::option::weighted(0.5, (0..6_u8, any::<u8>(), 20..=28_u8)), 0..12),
            lagging in prop::collection::btree_map(0..12_usize, 0..6_u8, 0..4),
            prefix in 21..=24_u8,
        ) {
            let nodes: Vec<_> = nodes.iter().enumerate().map(|(n, range)| {
                let range = range.map(|(c, d, prefix)| {
                    block(&format!("10.244.{c}.{d}/{prefix}")).to_string()
                });
                node(&format!("n{n}"), range.as_deref())
            }).collect();
            let mut world = world(&format!("10.244.0.0/{prefix}"), nodes.clone());
            world.given = lagging.iter()
                .map(|(n, c)| (format!("uid-n{n}"), block(&format!("10.244.{c}.0/24"))))
                .collect();
            let plan = plan(&world);
            let kept: Vec<_> = nodes.iter().flat_map(|node| ranges(node)).collect();
            for (n, (node, given)) in plan.give.iter().enumerate() {
                prop_assert!(needs_range(node));
                prop_assert!(kept.iter().all(|other| !overlap(*other, *given)));
                prop_assert!(plan.give[..n].iter().all(|(_, other)| !overlap(*other, *given)));
            }
            // Everyone without a range is dealt with once.
            let open = nodes.iter().filter(|node| needs_range(node)).count();
            prop_assert_eq!(plan.give.len() + plan.exhausted.len(), open);
            if !plan.exhausted.is_empty() {
                let mut taken = kept;
                taken.extend(plan.give.iter().map(|(_, given)| *given));
                prop_assert!(free(world.cluster, &taken, 1).is_empty());
            }
            // What was given is given: another look changes nothing.
            let after: Vec<_> = nodes.iter().map(|old| {
                let range = plan.give.iter().find(|(node, _)| Arc::ptr_eq(node, old));
                range.map_or_else(|| Arc::clone(old), |(_, block)| {
                    let name = old.metadata.name.as_deref().expect("named");
                    node(name, Some(&block.to_string()))
                })
            }).collect();
            world.nodes = after;
            prop_assert!(super::plan(&world).give.is_empty());
        }
    }
}
