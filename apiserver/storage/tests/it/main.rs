//! Tests of both stores: the contract, a model, crashes, and what only the embedded store can go through.

mod compaction;
mod contract;
mod crash;
mod embedded;
mod encrypted;
mod encrypted_peer;
mod etcd_server;
mod full_disk;
mod kms_plugin;
mod leases;
mod migrate;
mod model;
mod throughput;
