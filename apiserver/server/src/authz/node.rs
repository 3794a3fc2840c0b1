//! What a node may do: what the pods on it need, and no more.
//!
//! A node that was taken over must not be able to read every Secret or take on any ServiceAccount. So what names one
//! object is for what belongs to the node: its pods, what those name, the volumes behind their claims and the Secrets of
//! those volumes; its VolumeAttachments and ResourceSlices; the Lease and the CSINode of its name. Everything else that
//! nodes do is the role `system:node`. Writes that a URL does not tell enough about (whose pod, whose new Lease) are admitted
//! or refused by `admission/node_restriction.rs`, which sees the objects.
//!
//! What belongs to whom is looked up when it is asked for: a node's pods are an index of their cache, everything else is found
//! from them by its key. Leases and statuses, which nodes write all the time, need no look at all.

pub mod names;

use std::sync::Arc;

use corral_api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use corral_api::k8s::api::rbac::v1::PolicyRule;
use corral_api::k8s::api::storage::v1::VolumeAttachment;

use super::Access;
use super::rbac::rule_allows;
use super::roles;
use crate::api::Api;
use crate::authn::User;
use crate::object::Stored;

/// The group of all nodes.
pub const NODES: &str = "system:nodes";
/// What the name of a node's user begins with.
pub const USER_PREFIX: &str = "system:node:";
/// The namespace of nodes' Leases.
pub const LEASES: &str = "kube-node-lease";
/// The field by which objects say whose they are.
const NODE_NAME: &str = "spec.nodeName";

/// Nothing, or why not; empty where there is nothing to say.
type Answer = Result<(), String>;

/// The name of the node that a user is; `None` for everybody else.
pub fn name_of(user: &User) -> Option<&str> {
    if !user.is_in(NODES) {
        return None;
    }
    user.name
        .strip_prefix(USER_PREFIX)
        .filter(|name| !name.is_empty())
}

/// Decides about requests of nodes.
pub struct NodeAuthorizer {
    api: Arc<Api>,
    rules: Vec<PolicyRule>,
}

impl NodeAuthorizer {
    /// Over the objects of a server.
    pub fn new(api: Arc<Api>) -> Self {
        Self {
            api,
            rules: roles::node_rules(),
        }
    }

    /// Whether a node may.
    ///
    /// # Errors
    /// Why it may not, in the words of Kubernetes; empty where that says nothing either.
    pub fn check(&self, node: &str, access: &Access) -> Answer {
        match (access.group.as_str(), access.resource.as_str()) {
            ("", "secrets" | "configmaps") => self.reading(node, access),
            ("", "serviceaccounts") => self.account(node, access),
            ("", "pods") => self.pod(node, access),
            ("", "nodes") => self.node(node, access),
            ("", "persistentvolumeclaims") if access.subresource == "status" => {
                if !matches!(access.verb.as_str(), "update" | "patch") {
                    return refuse("can only get/update/patch this type");
                }
                self.related(node, access)
            }
            ("", "persistentvolumeclaims" | "persistentvolumes")
            | ("resource.k8s.io", "resourceclaims")
            | ("storage.k8s.io", "volumeattachments") => self.getting(node, access),
            ("resource.k8s.io", "resourceslices") => self.slice(node, access),
            ("storage.k8s.io", "csinodes") => csi_node(node, access),
            ("coordination.k8s.io", "leases") => lease(node, access),
            _ => self.ruled(access),
        }
    }

    /// What is the same for all nodes.
    fn ruled(&self, access: &Access) -> Answer {
        match self.rules.iter().any(|rule| rule_allows(rule, access)) {
            true => Ok(()),
            false => refuse(""),
        }
    }

    /// Objects that are read one by one, also by lists and watches of one name.
    fn reading(&self, node: &str, access: &Access) -> Answer {
        if !matches!(access.verb.as_str(), "get" | "list" | "watch") {
            return refuse("can only read resources of this type");
        }
        if !access.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if access.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.related(node, access)
    }

    /// Objects that are got, and not listed.
    fn getting(&self, node: &str, access: &Access) -> Answer {
        if access.verb != "get" {
            return refuse("can only get individual resources of this type");
        }
        if !access.subresource.is_empty() {
            return refuse("cannot get subresource");
        }
        self.related(node, access)
    }

    fn account(&self, node: &str, access: &Access) -> Answer {
        if access.verb == "get" && access.subresource.is_empty() {
            return self.reading(node, access);
        }
        if access.verb != "create" || access.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        if access.subresource != "token" {
            return refuse("can only create token subresource of serviceaccount");
        }
        self.related(node, access)
    }

    fn pod(&self, node: &str, access: &Access) -> Answer {
        match (access.verb.as_str(), access.subresource.as_str()) {
            ("get", "") => self.related(node, access),
            ("list" | "watch", "") if !access.name.is_empty() => self.related(node, access),
            ("list" | "watch", "") => match selects(access, node) {
                true => Ok(()),
                false => refuse("can only list/watch pods with spec.nodeName field selector"),
            },
            _ => self.ruled(access),
        }
    }

    fn node(&self, node: &str, access: &Access) -> Answer {
        let reads = matches!(access.verb.as_str(), "get" | "list" | "watch");
        if !reads || !access.subresource.is_empty() || access.name == node {
            return self.ruled(access);
        }
        let what = match access.name.as_str() {
            "" => "all nodes".to_owned(),
            name => format!("'{name}'"),
        };
        Err(format!(
            "node '{node}' cannot read {what}, only its own Node object"
        ))
    }

    fn slice(&self, node: &str, access: &Access) -> Answer {
        if !access.subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match access.verb.as_str() {
            // Whose it will be tells the object.
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, access),
            "list" | "watch" | "deletecollection" if selects(access, node) => Ok(()),
            "list" | "watch" | "deletecollection" => refuse(
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn related(&self, node: &str, access: &Access) -> Answer {
        if access.name.is_empty() {
            return refuse("No Object name found");
        }
        if self.is_related(node, access) {
            return Ok(());
        }
        Err(format!(
            "no relationship found between node '{node}' and this object"
        ))
    }

    fn is_related(&self, node: &str, access: &Access) -> bool {
        let (namespace, name) = (access.namespace.as_str(), access.name.as_str());
        match access.resource.as_str() {
            "pods" => self
                .peek("", "pods", namespace, name)
                .is_some_and(|pod| pod.field(NODE_NAME) == Some(node)),
            "resourceslices" => self
                .peek("resource.k8s.io", "resourceslices", "", name)
                .is_some_and(|slice| slice.field(NODE_NAME) == Some(node)),
            "volumeattachments" => self
                .api
                .cached::<VolumeAttachment>("storage.k8s.io", "volumeattachments", "", name)
                .is_some_and(|attachment| attachment.spec.node_name == node),
            "persistentvolumes" => self
                .api
                .cached::<PersistentVolume>("", "persistentvolumes", "", name)
                .and_then(|volume| names::claim_of(&volume))
                .is_some_and(|(namespace, claim)| {
                    self.is_named(node, "persistentvolumeclaims", &namespace, &claim)
                }),
            "secrets" => {
                self.is_named(node, "secrets", namespace, name)
                    || self.is_of_a_volume(node, namespace, name)
            }
            resource => self.is_named(node, resource, namespace, name),
        }
    }

    fn peek(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        let resource = self.api.resource(group, plural)?;
        resource.cacher.peek(&resource.key(namespace, name))
    }

    /// Whether a pod of the node names an object of its namespace.
    fn is_named(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let cacher = &self.api.core("pods").cacher;
        let snapshot = cacher.snapshot();
        let quoted = format!("\"{name}\"");
        snapshot.indexed(node).any(|stored| {
            let (place, pod) = stored.namespace_and_name(cacher.prefix());
            if place != namespace {
                return false;
            }
            // The name stands in the pod's JSON as it is, but for the claim of an ephemeral volume, which begins with the
            // pod's. So pods that cannot name it need not be parsed.
            let found = memchr::memmem::find(&stored.json, quoted.as_bytes()).is_some();
            let made = resource == "persistentvolumeclaims" && name.starts_with(pod);
            (found || made)
                && parsed(stored).is_some_and(|pod| names::of(&pod, resource).any(|n| n == name))
        })
    }

    /// Whether a volume behind a claim of the node's pods needs a Secret.
    fn is_of_a_volume(&self, node: &str, namespace: &str, name: &str) -> bool {
        let cacher = &self.api.core("pods").cacher;
        let snapshot = cacher.snapshot();
        let quoted = format!("\"{name}\"");
        snapshot.indexed(node).any(|stored| {
            let claims = [&b"\"persistentVolumeClaim\""[..], b"\"ephemeral\""];
            let any = |text: &&[u8]| memchr::memmem::find(&stored.json, text).is_some();
            if !claims.iter().any(any) {
                return false;
            }
            let Some(pod) = parsed(stored) else {
                return false;
            };
            let (place, _) = stored.namespace_and_name(cacher.prefix());
            names::of(&pod, "persistentvolumeclaims").any(|claim| {
                let volume = self.volume_behind(place, &claim, quoted.as_bytes());
                volume.is_some_and(|volume| {
                    names::secrets_of(&volume, place).any(|secret| secret == (namespace, name))
                })
            })
        })
    }

    /// The volume that is bound to a claim, if it mentions something.
    fn volume_behind(
        &self,
        namespace: &str,
        claim: &str,
        mentioned: &[u8],
    ) -> Option<PersistentVolume> {
        let plural = "persistentvolumeclaims";
        let bound = self
            .api
            .cached::<PersistentVolumeClaim>("", plural, namespace, claim)?;
        let name = bound.spec?.volume_name?;
        let stored = self.peek("", "persistentvolumes", "", &name)?;
        memchr::memmem::find(&stored.json, mentioned)?;
        let volume = serde_json::from_slice(&stored.json).ok()?;
        // Whose it is says the volume, which nobody but administrators writes.
        let (place, owner) = names::claim_of(&volume)?;
        (place == namespace && owner == claim).then_some(volume)
    }
}

fn refuse(why: &str) -> Answer {
    Err(why.to_owned())
}

fn parsed(stored: &Stored) -> Option<Pod> {
    serde_json::from_slice(&stored.json).ok()
}

/// Whether a collection is asked for the objects of the node alone.
fn selects(access: &Access, node: &str) -> bool {
    access.fields.iter().any(|requirement| {
        requirement.key == NODE_NAME
            && requirement.operator == "In"
            && matches!(requirement.values.as_slice(), [only] if only == node)
    })
}

fn lease(node: &str, access: &Access) -> Answer {
    let verb = access.verb.as_str();
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if access.namespace != LEASES {
        return Err(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    if verb != "create" && access.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, access: &Access) -> Answer {
    let verb = access.verb.as_str();
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !access.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if verb != "create" && access.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}
