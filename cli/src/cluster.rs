//! The roles that make a cluster, and how they are put together in one process.

pub mod admission;
pub mod agent;
mod clients;
pub mod control_plane;
pub mod down;
pub mod encryption;
pub mod etcd;
pub mod identity;
pub mod join;
pub mod node;
pub mod process_lock;
pub mod ranges;
pub mod security;
pub mod server;
pub mod serving;
pub mod signals;
pub mod store;
pub mod token;
pub mod up;
