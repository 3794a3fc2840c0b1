//! The vocabulary that every other crate of Corral speaks: names of kinds, object metadata, selectors,
//! quantities, field errors and `Status`.
//!
//! Nothing here does I/O and nothing here knows a particular kind's rules; those live in `apiserver/kinds`.
//! This is also the only crate that names the k8s-openapi version feature, so that all crates agree on one
//! Kubernetes API (v1.36). Use `corral_api::k8s` for its types.
//!
//! Reading order: [`gvk`], [`status`], [`field`], [`meta`], [`selector`], [`quantity`], [`amounts`], [`quota`] (what server
//! and controllers must count alike), [`names`], [`time`], [`mod@duration`].

#![warn(missing_docs)]

pub mod amounts;
pub mod base64;
pub mod disruption;
pub mod duration;
pub mod field;
pub mod gvk;
pub mod int_or_string;
pub mod meta;
pub mod names;
pub mod quantity;
pub mod quota;
pub mod selector;
pub mod status;
pub mod time;

pub use k8s_openapi as k8s;
pub use schemars;

pub use field::{FieldError, FieldPath};
pub use gvk::{GroupVersion, GroupVersionKind, GroupVersionResource};
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Status, StatusReason};
