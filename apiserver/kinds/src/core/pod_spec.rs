//! What Pods and the templates of Pods have in common: defaults, and the rules of a pod's spec.

pub mod defaults;
pub mod image;
pub mod prepare;
pub mod qos;
pub(crate) mod validation;
pub mod warnings;
