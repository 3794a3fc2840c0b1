//! The built-in kinds: one file per kind with its names, defaults, validation, ownership of spec and status, and
//! table columns.
//!
//! This crate does no I/O. It does not know storage, HTTP or other objects: rules that need to look at another
//! object are admission and live in the server. Rules are written on the k8s-openapi type; the server meets a kind
//! only through [`AnyKind`].
//!
//! Reading order: [`kind`] (what a kind is), [`schema`] (types, lists and defaults as data), [`all`] (the list of
//! kinds), then any kind, for example [`apps::deployment`].

pub mod admissionregistration;
pub mod all;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
mod conditions;
pub mod coordination;
pub mod core;
pub mod custom;
pub mod discovery;
pub mod events;
mod fill;
pub mod flowcontrol;
pub mod kind;
pub mod networking;
pub mod node;
pub mod policy;
pub mod protobuf;
pub mod rbac;
pub mod resource;
mod rules;
pub mod scan;
pub mod scheduling;
pub mod schema;
pub mod selectable;
pub mod sorted;
pub mod storage;
mod table;
mod webhook_client;

pub use kind::{AnyKind, Column, Kind, KindRef, Names, Object, ScalePaths, Verbs};
