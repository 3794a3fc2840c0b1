//! The controllers of the control plane. Each file is one of them: a `World` that its `plan` may look at, a `Plan`, the
//! pure function between them, and around it `observe` (caches only) and `apply`.
//!
//! They reach the API only through clients, each under its own identity (`deployment-controller`, …), and share one
//! watch per kind. [`start`] starts a set of them in the present process.

mod admissionpolicystatus;
mod certificates;
mod clusterroleaggregation;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod garbagecollector;
mod history;
mod job;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod ownership;
mod podgc;
mod pods;
mod protection;
mod replicaset;
mod resourcequota;
mod rootca;
mod serviceaccount;
mod servicepods;
mod start;
mod statefulset;

pub use certificates::SigningCa;
pub use context::ClientFactory;
pub use start::{ControllersConfig, Name, start};
