//! Kinds of the group `rbac.authorization.k8s.io`.

pub mod cluster_role;
pub mod cluster_role_binding;
mod policy_rule;
pub mod role;
pub mod role_binding;
pub mod subjects;
