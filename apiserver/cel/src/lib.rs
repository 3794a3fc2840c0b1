//! Kubernetes' Common Expression Language: the language of CustomResourceDefinition rules, admission policies and
//! match conditions, with kube-apiserver's types, library, costs and words.
//!
//! An [`Env`] declares variables and a [`Version`]; [`Env::compile`] reads and checks an expression and gives a
//! [`Program`], which is cheap to clone and to share; [`Program::evaluate`] evaluates it over borrowed data and takes
//! the cost from a [`Budget`]. Nothing here does I/O, and nothing runs longer than its budget.
//!
//! ```
//! use corral_cel::{Budget, Env, Type, Value, Version};
//!
//! let env = Env::new(Version::new(1, 36)).with_variable("object", Type::Dyn);
//! let program = env.compile("object.spec.replicas <= 5").expect("it compiles");
//! let object = serde_json::json!({"spec": {"replicas": 3}});
//! let variables = std::collections::HashMap::from([("object", Value::of_json(&object))]);
//! let value = program.evaluate(&variables, &mut Budget::of_request()).expect("it is evaluated");
//! assert!(matches!(value, Value::Bool(true)));
//!
//! let issues = env.compile("object.spec.replicas >").expect_err("a part is missing");
//! assert!(issues.to_string().starts_with("ERROR: <input>:1:23: Syntax error: mismatched input '<EOF>'"));
//! ```
//!
//! Those who need expressions mostly use [`rules`] (CustomResourceDefinitions) or [`admission`] (webhooks and
//! policies); [`schema`] makes types and views of data from schemas.
//!
//! # The way of an expression
//!
//! `parse` reads words (`lexer`) into the tree that was written (`cst`); if that fails, `mistakes` reads again as the
//! generated reader of kube-apiserver does, to tell the same. `reader` and `macros` make the tree to evaluate (`ast`).
//! `checker` gives every node its type with the signatures of `overloads.txt`; `validators` look at constants and
//! nesting; `cost::estimate` tells what it may cost by the sizes that `decl` knows. `plan` prepares the tree for
//! `eval`, which counts the cost (`cost::actual`) and calls `library`. Values are in `value`: data stays borrowed JSON,
//! seen through a `shape` where a schema says that a text is a time or a list is a set.
//!
//! # Proof
//!
//! `tests/data` holds some twelve thousand questions with the answers of kube-apiserver's own libraries: issues, types,
//! estimated costs, values, errors, actual costs, problems and findings of rules, results of policies. `cargo test`
//! compares without them; to ask anew, build `peer` (a Go program) and run the tests with `CORRAL_CEL_PEER` set to its
//! path. `peer generate N SEED` writes questions.
//!
//! # Known differences
//!
//! - Messages of protocol buffers, such as `google.protobuf.Int64Value{value: 1}`, can't be made, except those of
//!   mutating policies.
//! - Expressions over which the Go libraries panic (`[?dyn(1)]` with a value that isn't optional at run time) give an
//!   error.
//! - Maps keep the order of the data, or of the literal; in Go the order is another one each time.
//! - Named time zones are those of the machine.
//! - A regular expression may take 2 MiB once it is compiled; Go limits its length and repetitions otherwise.
//! - A host in brackets, as in `http://[::1]/`, isn't looked at more closely by `url()`.
//! - A policy's `variables` as a whole, without a field (`dyn(variables)`), are a map, for which all are evaluated.
//! - The sum of two lists of data, inside of an optional value, keeps the types that its schema gives to the first.
//! - Applied configurations may hold maps within maps that an expression made; Kubernetes can't read them.

#![warn(missing_docs)]

pub mod admission;
mod ast;
pub mod authorizer;
pub mod budget;
mod checker;
mod cost;
mod decl;
mod deep;
pub mod device;
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

/// Patterns as Go has them.
pub use library::regex as pattern;

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
