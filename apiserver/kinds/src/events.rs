//! Kinds of the group `events.k8s.io`.

pub mod convert;
pub mod event;
