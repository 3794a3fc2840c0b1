//! Tests with Go programs that take minutes to build: `cargo xtask clients-go` builds them and runs these.

mod aggregation;
mod envtest;
mod flux;
mod gitops;
mod helm;
mod informers;
mod kube_rs;
mod kustomize;
#[cfg(feature = "peers")]
mod stock_api;
#[cfg(feature = "peers")]
mod swap;
