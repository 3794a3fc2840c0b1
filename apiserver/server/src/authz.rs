//! Who may do what: role-based access control over the roles and bindings of the cluster.

pub mod rbac;
pub mod roles;

use crate::request::RequestInfo;

/// A question of access.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The verb.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Resource; empty for a path.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace; empty for all, or for cluster-scoped objects.
    pub namespace: String,
    /// Name; empty for all.
    pub name: String,
    /// The path, where no resource is named.
    pub path: String,
}

impl Access {
    /// What a request needs.
    pub fn of(info: &RequestInfo) -> Self {
        if !info.is_resource {
            return Self {
                verb: info.method.clone(),
                path: info.path.clone(),
                ..Default::default()
            };
        }
        Self {
            verb: info.verb.as_str().to_owned(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: String::new(),
        }
    }

    /// `resource/subresource`, as rules name it.
    pub fn qualified_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Why a user is refused, in Kubernetes' words.
    pub fn refusal(&self, user: &str) -> String {
        if self.resource.is_empty() {
            return format!("User {user:?} cannot {} path {:?}", self.verb, self.path);
        }
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        format!(
            "User {user:?} cannot {} resource {:?} in API group {:?} {scope}",
            self.verb,
            self.qualified_resource(),
            self.group
        )
    }
}
