//! What Pods and the templates of Pods have in common: defaults, and the rules of a pod's spec.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::Toleration;

pub mod app_armor;
pub mod defaults;
pub mod image;
pub mod prepare;
pub mod qos;
pub(crate) mod validation;
pub mod warnings;

/// What is wrong with tolerations that an administrator gives to pods.
pub fn check_tolerations(path: &FieldPath, tolerations: &[Toleration]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validation::scheduling::tolerations(&mut errors, path, tolerations);
    errors
}

/// Whether a name is that of a resource that somebody else than Kubernetes defines.
pub fn is_extended_resource(name: &str) -> bool {
    validation::resources::is_extended(name)
}
