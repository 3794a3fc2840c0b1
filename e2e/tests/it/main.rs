//! End-to-end tests: the real binary, unmodified kubectl, real containers. They need root and `scripts/clients`.

mod admission_types;
mod api;
mod api_client;
mod apply;
mod certificates;
mod components;
mod custom;
mod encryption;
mod envtest;
mod etcd;
mod flow;
#[cfg(feature = "go-clients")]
mod go;
mod kills;
mod kubectl;
mod kubectl_versions;
mod lifecycle;
mod links;
mod migrate;
mod operations;
mod python;
mod quotas;
mod security;
mod services;
mod sets;
mod several_servers;
mod side_by_side;
mod storage;
mod streams;
mod takeover;
mod two_nodes;
mod verbs;
mod webhooks;
mod workloads;
