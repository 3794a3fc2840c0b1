//! Kinds of the group `apps`.

pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub(crate) mod template;
