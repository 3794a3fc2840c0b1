//! The roles that make a cluster, and how they are put together in one process.

pub mod admission;
pub mod agent;
mod clients;
mod component;
pub mod control_plane;
pub mod controllers;
pub mod down;
pub mod encryption;
pub mod etcd;
pub mod given_node;
pub mod identity;
pub mod join;
pub mod node;
pub mod process_lock;
pub mod ranges;
pub mod scheduler;
pub mod security;
pub mod server;
pub mod serving;
pub mod signals;
pub mod store;
pub mod token;
pub mod up;
mod work;
