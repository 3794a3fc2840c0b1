//! The scheduler: gives every pod that has no node the best node it fits on.
//!
//! ```text
//! pod and node watches ─▶ snapshot (columns, updated in place)
//!                     └─▶ queue (priority, then age; back-off; unschedulable) ─▶ filter ─▶ score ─▶ assume ─▶ bind
//!                                                                                                └─ in parallel
//! ```
//!
//! One task owns snapshot and queue. Binding happens beside it: a pod counts on its node from the moment it is assumed
//! there, and is taken off again if the binding fails. Pods of one equivalence class (same needs, whatever their names)
//! share the verdicts about nodes; only nodes that changed are looked at again.
//!
//! A pod that asks for something that is not honoured yet (pod affinity, hard topology spread, claims, gangs) is
//! reported unschedulable in clear words, never placed as if it had not asked: see [`plugins::unsupported`]. The seams
//! for those are the traits [`plugins::PreFilter`], [`plugins::Filter`], [`plugins::Score`] and [`plugins::PostFilter`].
//!
//! Reading order: `requests`, `snapshot`, [`plugins`], `classes`, `queue`, `scheduler`.

mod classes;
pub mod plugins;
mod queue;
mod requests;
mod scheduler;
mod snapshot;

pub use plugins::Plugins;
pub use requests::{PodInfo, Requests};
pub use scheduler::{SchedulerConfig, start};
pub use snapshot::{Slot, Snapshot};
