//! Kubernetes' Common Expression Language: the language of CustomResourceDefinition rules, admission policies and
//! match conditions, with kube-apiserver's types, library, costs and words.
//!
//! Nothing here does I/O.

#![warn(missing_docs)]

pub mod admission;
mod ast;
pub mod authorizer;
pub mod budget;
mod checker;
mod cost;
mod decl;
mod deep;
mod env;
pub mod escape;
mod eval;
mod functions;
mod library;
mod mutation;
mod number;
mod parse;
mod plan;
pub mod rules;
pub mod schema;
mod shape;
mod source;
mod time;
mod types;
mod validators;
mod value;
mod version;

pub use authorizer::{Authorizer, AuthorizerValue};
pub use budget::Budget;
pub use cost::estimate::Range;
pub use decl::DeclType;
pub use env::{Env, Program};
pub use eval::Activation;
pub use source::{Issue, Issues};
pub use time::Timestamp;
pub use types::Type;
pub use value::{Evaluated, EvaluationError, List, Map, Object, Text, Value};
pub use version::Version;
