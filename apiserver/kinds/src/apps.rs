//! Kinds of the group `apps`.

pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
mod selector;
pub(crate) mod template;
