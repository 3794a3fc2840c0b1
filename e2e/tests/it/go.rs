//! Tests with Go programs that take minutes to build: `cargo xtask clients-go` builds them and runs these.

mod aggregation;
mod envtest;
mod helm;
mod informers;
#[cfg(feature = "peers")]
mod stock_api;
#[cfg(feature = "peers")]
mod swap;
