//! What names an object inside its kind, and what the runtime asks of a type to cache it.

use std::fmt;

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::de::DeserializeOwned;

/// A type that can be cached and written: any kube resource that can be cloned and decoded.
pub trait Object: Resource + Clone + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource + Clone + DeserializeOwned + Send + Sync + 'static> Object for K {}

/// Namespace and name; the namespace of a cluster-scoped object is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectKey {
    /// The namespace, or nothing for cluster-scoped kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// A key in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }

    /// The key of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    /// The key of an owner of an object: namespaced owners live in the namespace of what they own.
    pub fn of_owner(meta: &ObjectMeta, owner: &OwnerReference) -> Self {
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            owner.name.clone(),
        )
    }

    /// The namespace as request paths want it.
    pub fn scope(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The resourceVersion as the ordered number that Kubernetes defines it to be.
pub fn revision_of(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref()?.parse().ok()
}

/// The uid, or the empty string of an object that was never stored.
pub fn uid_of(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}
