//! The node's own API.

pub mod tls;
