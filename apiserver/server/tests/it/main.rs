//! The server over an embedded store, asked through its own transport and over real connections.

mod addresses;
mod attacks;
mod audit;
mod authn;
mod authz;
mod bounds;
mod custom;
mod escalation;
mod fixture;
mod flow;
mod leaving;
mod lists;
mod nodes;
mod pod_security;
mod pods;
mod policies;
mod quotas;
mod rights;
mod service;
mod storage_versions;
mod takeover;
mod watches;
mod webhook_server;
mod webhooks;
mod wire;
mod writes;
