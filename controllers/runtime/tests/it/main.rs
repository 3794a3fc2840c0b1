//! Controllers against the API in memory: caches, writes, the harness.

mod cache;
mod controller;
mod leader;
