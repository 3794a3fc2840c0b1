//! The server over an embedded store, asked through its own transport and over real connections.

mod addresses;
mod aggregation;
mod applies;
mod attacks;
mod audit;
mod authn;
mod authz;
mod behind;
mod bounds;
mod configurations;
mod conversion;
mod custom;
mod default_roles;
mod escalation;
mod fixture;
mod flow;
mod hostile;
mod leaving;
mod lists;
mod measures;
mod neighbour;
mod node_rights;
mod nodes;
mod plugins;
mod pod_security;
mod pods;
mod policies;
mod quotas;
mod relists;
mod reviews;
mod rights;
mod rotation;
mod seeds;
mod service;
mod storage_versions;
mod surface;
mod takeover;
mod tokens;
mod traces;
mod watches;
mod webhook_server;
mod webhooks;
mod wire;
mod writes;

/// The server tells who holds memory only where it is sampled.
#[global_allocator]
static ALLOCATOR: corral_heap::Sampled<std::alloc::System> =
    corral_heap::Sampled(std::alloc::System);
