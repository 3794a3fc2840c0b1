//! Kinds that clients describe: what a CustomResourceDefinition says of its objects, and what follows from it.
//!
//! Reading order: [`structural`] (a schema as a tree), [`prune`] and [`defaults`] (what is done to an object before anything
//! else), [`validate`] (what may be wrong with it), [`topology`] (how its fields are owned), [`path`] (the paths of columns
//! and of `scale`), [`kind`] (all of it as a kind).

pub mod defaults;
mod embedded;
pub mod formats;
pub mod kind;
mod lists;
pub mod path;
pub mod prune;
pub mod structural;
mod topology;
pub mod validate;

pub use kind::{CustomKind, CustomObject, go_type};
pub use structural::Structural;
