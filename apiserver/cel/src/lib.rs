//! Kubernetes' Common Expression Language: the language of CustomResourceDefinition rules, admission policies and
//! match conditions, with kube-apiserver's types, library, costs and words.
//!
//! Nothing here does I/O.

#![warn(missing_docs)]

pub mod budget;
pub mod rules;

pub use budget::Budget;
