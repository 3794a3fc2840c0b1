//! The roles that make a cluster, and how they are put together in one process.

pub mod control_plane;
pub mod server;
pub mod signals;
pub mod token;
