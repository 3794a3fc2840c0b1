//! What Pods and the templates of Pods have in common: defaults, and the rules of a pod's spec.

pub mod defaults;
pub mod image;
pub mod prepare;
pub mod qos;
pub(crate) mod validation;
pub mod warnings;

/// Whether a name is that of a resource that somebody else than Kubernetes defines.
pub fn is_extended_resource(name: &str) -> bool {
    validation::resources::is_extended(name)
}
