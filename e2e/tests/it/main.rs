//! End-to-end tests: the real binary, unmodified kubectl, real containers. They need root and `scripts/clients`.

mod api;
mod apply;
mod lifecycle;
mod workloads;
