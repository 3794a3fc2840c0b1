//! The node: takes the pods that the scheduler put here and makes the machine run them.
//!
//! ```text
//!  API server ──watch──▶ agent ──▶ worker (one per pod) ──events──▶ pod machine (pure)
//!                          │           ▲        ▲                        │ effects
//!                          │           │        └── probes               ▼
//!                          │           └── runtime ◀── images, volumes, env, spec, network, cgroup
//!                          │                  │ unix socket
//!                          │                  ▼
//!                          └── server       shim (one process per pod, survives this one)
//! ```
//!
//! The agent never calls libcontainer; only the shim does. Nothing here talks to the store, and everything that a
//! restarted agent must know is on disk or in the shims: stopping it does not touch a container.
//!
//! Reading order: [`pod`] (what should happen), [`worker`] (making it happen), [`runtime`] and [`runtime::spec`],
//! [`images`], [`volumes`], [`env`](mod@env), [`probes`], [`network`], [`cgroup`], [`disk`], [`agent`], [`server`], [`logs`].

pub mod agent;
pub mod cgroup;
pub mod disk;
pub mod dns;
pub mod env;
pub mod events;
pub mod eviction;
pub mod files;
pub mod images;
pub mod logs;
pub mod machine;
pub mod network;
pub mod node;
pub mod objects;
pub mod pod;
pub mod probes;
pub mod runtime;
pub mod server;
pub mod streams;
mod sys;
pub mod volumes;
pub mod worker;

pub use agent::{Agent, AgentConfig, Views};
