//! Who may do what: nodes what their pods need, everybody what the roles and bindings of the cluster say.

pub mod coverage;
pub mod node;
pub mod rbac;
pub mod roles;

use std::sync::Arc;

use corral_api::selector::FieldSelector;

use crate::api::Api;
use crate::authn::User;
use crate::request::{RequestInfo, Verb};

use node::NodeAuthorizer;
use rbac::Rbac;

/// Decides who may do what. The first that allows decides.
pub struct Authorizer {
    node: NodeAuthorizer,
    /// Roles and bindings.
    pub rbac: Rbac,
}

impl Authorizer {
    /// Over the objects of a server.
    pub fn new(api: &Arc<Api>) -> Self {
        Self {
            node: NodeAuthorizer::new(api.clone()),
            rbac: Rbac::new(api.clone()),
        }
    }

    /// Whether a user may.
    pub fn allows(&self, user: &User, access: &Access) -> bool {
        if let Some(node) = node::name_of(user)
            && self.node.allows(node, access)
        {
            return true;
        }
        self.rbac.allows(user, access)
    }

    /// Why a user may, in Kubernetes' words; nothing where it gives no reason.
    pub fn reason(&self, user: &User, access: &Access) -> Option<String> {
        if node::name_of(user).is_some_and(|node| self.node.allows(node, access)) {
            return None;
        }
        self.rbac.reason(user, access)
    }
}

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
    /// The node whose objects alone are asked for, by a field selector.
    pub node_selected: Option<String>,
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
        let collection = matches!(info.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
        let fields = info.query.get("fieldSelector").filter(|_| collection);
        let fields = fields
            .and_then(|text| FieldSelector::parse(text).ok())
            .unwrap_or_default();
        // Asking for a collection with one name is asking for that object, as rules with names see it.
        let name = match fields.required("metadata.name") {
            Some(name) if info.name.is_empty() => name,
            _ => &info.name,
        };
        Self {
            verb: info.verb.as_str().to_owned(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: name.to_owned(),
            path: String::new(),
            node_selected: fields.required("spec.nodeName").map(str::to_owned),
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
