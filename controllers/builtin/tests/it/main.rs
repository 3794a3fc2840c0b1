//! Controllers together against an API in memory, with a stand-in for the nodes.

mod cleanup;
mod cluster;
mod leader;
mod quotas;
mod services;
mod sets;
mod storage;
mod workloads;
