//! What decides where a pod goes. Filters say whether a node will do, scores how well; both are pure functions of pod,
//! snapshot and slot, so that their verdicts can be shared within an equivalence class.

mod affinity;
mod node;
mod resources;
mod taints;
pub mod unsupported;

use crate::requests::PodInfo;
use crate::snapshot::{Slot, Snapshot};

/// The best score a plugin gives.
pub const SCORE_MAX: i64 = 100;

/// Looks at a pod before any node; volumes and gangs come in here.
pub trait PreFilter: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &'static str;
    /// Turns a pod away whatever the nodes, with the reason.
    ///
    /// # Errors
    /// With the reason, when no node can do.
    fn pre_filter(&self, pod: &PodInfo) -> Result<(), String>;
}

/// Says whether a node will do.
pub trait Filter: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &'static str;
    /// Why the node will not do; nothing when it will.
    fn filter(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> Vec<String>;
}

/// Says how well a node will do.
pub trait Score: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &'static str;
    /// How much the plugin counts.
    fn weight(&self) -> i64;
    /// From 0 to [`SCORE_MAX`].
    fn score(&self, pod: &PodInfo, snapshot: &Snapshot, slot: Slot) -> i64;
}

/// Tries to make room after no node would do; preemption comes in here.
pub trait PostFilter: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &'static str;
    /// What was done or why not, to be added to the message.
    fn post_filter(&self, pod: &PodInfo, snapshot: &Snapshot) -> Option<String>;
}

/// The plugins of a scheduler, in the order in which they are asked.
pub struct Plugins {
    /// Asked once per pod.
    pub pre_filters: Vec<Box<dyn PreFilter>>,
    /// Asked per node until one objects.
    pub filters: Vec<Box<dyn Filter>>,
    /// Asked per node that will do.
    pub scores: Vec<Box<dyn Score>>,
    /// Asked when no node will do.
    pub post_filters: Vec<Box<dyn PostFilter>>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            pre_filters: vec![Box::new(unsupported::Unsupported)],
            filters: vec![
                Box::new(node::NodeUnschedulable),
                Box::new(node::NodeName),
                Box::new(taints::TaintToleration),
                Box::new(affinity::NodeAffinity),
                Box::new(node::NodePorts),
                Box::new(resources::NodeResourcesFit),
            ],
            scores: vec![
                Box::new(taints::TaintToleration),
                Box::new(affinity::NodeAffinity),
                Box::new(resources::NodeResourcesFit),
                Box::new(resources::NodeResourcesBalancedAllocation),
            ],
            post_filters: Vec::new(),
        }
    }
}
