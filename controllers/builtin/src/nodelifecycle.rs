//! Node lifecycle: a node that is not heard of becomes Unknown, is tainted, and after a while its pods are evicted.
//!
//! Hearing of a node means that its Lease or its Ready heart-beat changes, by our own clock; other machines' clocks
//! are not trusted. Failing nodes are given up one after the other (`zones`); when no node at all is ready the fault is
//! more likely here than there, so nothing is evicted.

mod eviction;
mod health;
mod zones;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use corral_api::k8s::api::coordination::v1::Lease;
use corral_api::k8s::api::core::v1::{Node, NodeStatus, Pod, Taint};
use corral_api::time::MicroTime;
use corral_runtime::objects::Deletion;
use corral_runtime::{
    Action, Change, Clock, Controller, Error, ObjectKey, Objects, Reconciler, Recorder, burst,
};
use jiff::Timestamp;
use serde_json::json;

use self::zones::{Turn, Zones};
use crate::context::Context;
use crate::{ownership, pods};

/// How long a node may be silent.
pub const GRACE: Duration = Duration::from_secs(50);
const LEASES: &str = "kube-node-lease";
/// The index of pods by node.
const BY_NODE: &str = "node";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub node: Arc<Node>,
    /// When the node was last heard of, by our clock.
    pub heard: Timestamp,
    pub pods: Vec<Arc<Pod>>,
    /// When the node may be given up, should it fail.
    pub turn: Turn,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    pub status: Option<NodeStatus>,
    pub taints: Option<Vec<Taint>>,
    /// Whether the taints give the node up, which others of its zone then wait for.
    pub gives_up: bool,
    /// Pods whose Ready condition must not say True any longer.
    pub unready: Vec<Arc<Pod>>,
    pub evict: Vec<Arc<Pod>>,
    pub look_again: Option<Timestamp>,
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let silent_at = world.heard + GRACE;
    let silent = silent_at <= now;
    let status = if silent {
        health::silenced(&world.node, now)
    } else {
        None
    };
    let ready = health::ready_of(status.as_ref().or(world.node.status.as_ref()));
    let given_up = health::is_given_up(&world.node);
    let gives_up = !given_up && ready != "True" && world.turn == Turn::Now;
    let stays_given_up = given_up && world.turn != Turn::Never;
    let taints = health::taints(&world.node, ready, gives_up || stays_given_up, now);
    let present = world
        .node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let (evict, next) = eviction::due(taints.as_ref().unwrap_or(&present), &world.pods, now);
    let unready = if ready == "True" {
        Vec::new()
    } else {
        world.pods.clone()
    };
    let unready = unready
        .into_iter()
        .filter(|pod| pods::is_ready(pod) && !pods::is_terminal(pod))
        .collect();
    let wait = (!silent).then_some(silent_at);
    let turn = match world.turn {
        Turn::At(at) if ready != "True" && !given_up => Some(at),
        _ => None,
    };
    Plan {
        status,
        taints,
        gives_up,
        unready,
        evict,
        look_again: [wait, next, turn].into_iter().flatten().min(),
    }
}

/// What was last seen of a node, and when.
#[derive(Debug, PartialEq)]
struct Seen {
    uid: Option<String>,
    renewed: Option<MicroTime>,
    beat: Option<corral_api::time::Time>,
}

struct Nodes {
    nodes: Objects<Node>,
    leases: Objects<Lease>,
    pods: Objects<Pod>,
    events: Recorder,
    clock: Arc<dyn Clock>,
    /// Guards what was last seen of each node.
    seen: Mutex<HashMap<String, (Seen, Timestamp)>>,
    /// Guards who of each zone is next.
    zones: Arc<Mutex<Zones>>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "node-controller";
    let (nodes, leases) = (
        context.objects::<Node>(name),
        context.objects::<Lease>(name),
    );
    let pods = context.objects::<Pod>(name);
    pods.cache().add_index(BY_NODE, |pod| {
        pods::node_of(pod).map(Into::into).into_iter().collect()
    });
    let zones = Arc::new(Mutex::new(Zones::default()));
    let noted = Arc::clone(&zones);
    let controller = Controller::new("nodelifecycle")
        .map(nodes.cache(), move |change| {
            let (old, new) = match change {
                Change::Applied { old, new } => (old.as_deref(), Some(&**new)),
                Change::Deleted(last) => (Some(&**last), None),
            };
            let mut zones = noted.lock().expect("no panic while held");
            let woken = zones.note(old, new);
            woken.into_iter().map(ObjectKey::cluster).collect()
        })
        .watch(nodes.cache())
        .map(leases.cache(), |change| {
            let meta = &change.latest().metadata;
            let ours = meta.namespace.as_deref() == Some(LEASES);
            meta.name
                .iter()
                .filter(|_| ours)
                .map(ObjectKey::cluster)
                .collect()
        })
        .map(pods.cache(), |change| {
            pods::node_of(change.latest())
                .map(ObjectKey::cluster)
                .into_iter()
                .collect()
        });
    let reconciler = Nodes {
        nodes,
        leases,
        pods,
        events: context.recorder(name),
        clock: Arc::clone(&context.clock),
        seen: Mutex::default(),
        zones,
    };
    controller.run_planned(
        reconciler,
        2,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for Nodes {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let Some(node) = self.nodes.get(key) else {
            self.seen
                .lock()
                .expect("no panic while held")
                .remove(&key.name);
            return None;
        };
        let lease = self.leases.get(&ObjectKey::new(LEASES, &key.name));
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let beat = health::condition(node.status.as_ref(), "Ready")
            .and_then(|c| c.last_heartbeat_time.clone());
        let now_seen = Seen {
            uid: node.metadata.uid.clone(),
            renewed,
            beat,
        };
        let mut seen = self.seen.lock().expect("no panic while held");
        let heard = match seen.get(&key.name) {
            Some((known, heard)) if *known == now_seen => *heard,
            _ => self.clock.now(),
        };
        seen.insert(key.name.clone(), (now_seen, heard));
        drop(seen);
        let now = self.clock.now();
        // One that is merely silent stands in line once its status says so.
        let turn = if health::ready_of(node.status.as_ref()) != "True" {
            let mut zones = self.zones.lock().expect("no panic while held");
            zones.turn(&node, now)
        } else {
            Turn::Later
        };
        let pods = self.pods.cache().by_index(BY_NODE, &key.name);
        Some(World {
            node,
            heard,
            pods,
            turn,
        })
    }

    fn plan(&self, world: &World, now: Timestamp) -> Plan {
        plan(world, now)
    }

    async fn apply(&self, world: &World, plan: Plan, now: Timestamp) -> Result<Action, Error> {
        let mut node = Arc::clone(&world.node);
        if let Some(status) = plan.status {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let text = format!("Node {name} status is now: NodeNotReady");
            self.events.normal(&*node, "NodeNotReady", text);
            node = self
                .nodes
                .replace_status(&Node {
                    status: Some(status),
                    ..(*node).clone()
                })
                .await?;
        }
        if plan.gives_up {
            let mut zones = self.zones.lock().expect("no panic while held");
            zones.take(&node, now);
        }
        if let Some(taints) = plan.taints {
            self.nodes
                .patch(&node, json!({"spec": {"taints": taints}}))
                .await?;
        }
        let mut outcomes = burst::each(&plan.unready, |pod| self.mark_unready(pod, now)).await;
        outcomes.extend(burst::each(&plan.evict, |pod| self.evict(pod, now)).await);
        Error::collect(outcomes)?;
        Ok(Action::at(plan.look_again, now))
    }
}

impl Nodes {
    async fn mark_unready(&self, pod: &Pod, now: Timestamp) -> Result<(), Error> {
        let patch = health::unready_patch(pod, now);
        ownership::gone_is_fine(self.pods.patch_status(pod, patch).await.map(drop))
    }

    async fn evict(&self, pod: &Pod, now: Timestamp) -> Result<(), Error> {
        let text = format!("Marking for deletion Pod {}", ObjectKey::of(&pod.metadata));
        self.events.normal(pod, "TaintManagerEviction", text);
        let marked = self
            .pods
            .patch_status(pod, eviction::marked(pod, now))
            .await;
        ownership::gone_is_fine(marked.map(drop))?;
        self.pods.delete(pod, Deletion::default()).await
    }
}

#[cfg(test)]
mod tests;
