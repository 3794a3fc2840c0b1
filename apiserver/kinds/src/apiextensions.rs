//! `apiextensions.k8s.io`: kinds that clients describe.

pub mod custom_resource_definition;
