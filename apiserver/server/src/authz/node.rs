//! What a node may do: what the pods on it need, and no more.
//!
//! A node that was taken over must not be able to read every Secret or take on any ServiceAccount. So reads of
//! Secrets, ConfigMaps and ServiceAccounts, and tokens, are for what a pod on that node names; everything else that
//! nodes do is the role `system:node`. Writes that a URL does not tell enough about (whose pod, whose Lease) are
//! admitted or refused by `admission/node_restriction.rs`, which sees the objects.
//!
//! Unlike the node authorizer of Kubernetes, nodes may read all Nodes: they make the routes to each other.

use std::sync::Arc;

use corral_api::k8s::api::core::v1::{Pod, PodSpec, Volume};
use corral_api::k8s::api::rbac::v1::PolicyRule;

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
    /// Over the pods of a server.
    pub fn new(api: Arc<Api>) -> Self {
        Self {
            api,
            rules: roles::node_rules(),
        }
    }

    /// Whether a node may.
    pub fn allows(&self, node: &str, access: &Access) -> bool {
        match (access.group.as_str(), access.resource.as_str()) {
            ("", "secrets" | "configmaps") => {
                let reads = matches!(access.verb.as_str(), "get" | "list" | "watch");
                reads && access.subresource.is_empty() && self.is_needed(node, access)
            }
            ("", "serviceaccounts") => {
                let wanted = (access.verb.as_str(), access.subresource.as_str());
                matches!(wanted, ("get", "") | ("create", "token")) && self.is_needed(node, access)
            }
            ("", "pods") if access.subresource.is_empty() => match access.verb.as_str() {
                "list" | "watch" if access.node_selected.as_deref() == Some(node) => true,
                "get" | "list" | "watch" => self.has_pod(node, &access.namespace, &access.name),
                "create" | "delete" => true,
                _ => false,
            },
            ("coordination.k8s.io", "leases") => {
                let verb = access.verb.as_str();
                access.namespace == LEASES
                    && matches!(verb, "get" | "create" | "update" | "patch" | "delete")
                    && (verb == "create" || access.name == node)
            }
            _ => self.rules.iter().any(|rule| rule_allows(rule, access)),
        }
    }

    fn pods_of(&self, node: &str, namespace: &str) -> Vec<Arc<Stored>> {
        let cacher = &self.api.core("pods").cacher;
        let below = format!("{}{namespace}/", cacher.prefix());
        let snapshot = cacher.snapshot();
        snapshot
            .indexed(node)
            .filter(|stored| stored.key.as_str().starts_with(&below))
            .cloned()
            .collect()
    }

    fn has_pod(&self, node: &str, namespace: &str, name: &str) -> bool {
        let pods = self.api.core("pods");
        let stored = pods.cacher.peek(&pods.key(namespace, name));
        !name.is_empty() && stored.is_some_and(|pod| pod.field("spec.nodeName") == Some(node))
    }

    /// Whether a pod of the node names the object.
    fn is_needed(&self, node: &str, access: &Access) -> bool {
        if access.name.is_empty() || access.namespace.is_empty() {
            return false;
        }
        self.pods_of(node, &access.namespace).iter().any(|stored| {
            // The name stands in the pod's JSON as it is, so pods that cannot name it need not be parsed.
            let json = &stored.json;
            let quoted = format!("\"{}\"", access.name);
            if memchr::memmem::find(json, quoted.as_bytes()).is_none() {
                return false;
            }
            let pod = serde_json::from_slice::<Pod>(json).ok();
            let spec = pod.and_then(|pod| pod.spec);
            spec.is_some_and(|spec| names(&spec, &access.resource, &access.name))
        })
    }
}

/// Whether a pod names a Secret, ConfigMap or ServiceAccount.
fn names(spec: &PodSpec, resource: &str, name: &str) -> bool {
    match resource {
        "serviceaccounts" => spec.service_account_name.as_deref() == Some(name),
        "secrets" => secrets(spec).any(|secret| secret == name),
        _ => config_maps(spec).any(|map| map == name),
    }
}

fn volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten()
}

fn projections(
    spec: &PodSpec,
) -> impl Iterator<Item = &corral_api::k8s::api::core::v1::VolumeProjection> {
    volumes(spec)
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten())
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &corral_api::k8s::api::core::v1::Container> {
    spec.init_containers
        .iter()
        .flatten()
        .chain(spec.containers.iter())
}

fn secrets(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let pull = spec.image_pull_secrets.iter().flatten();
    let pull = pull.map(|reference| reference.name.as_str());
    let mounted = volumes(spec).filter_map(|v| v.secret.as_ref()?.secret_name.as_deref());
    let projected = projections(spec).filter_map(|p| Some(p.secret.as_ref()?.name.as_str()));
    let environment = containers(spec).flat_map(|container| {
        let each = container.env.iter().flatten().filter_map(|env| {
            let reference = env.value_from.as_ref()?.secret_key_ref.as_ref()?;
            Some(reference.name.as_str())
        });
        let whole = container.env_from.iter().flatten();
        each.chain(whole.filter_map(|from| Some(from.secret_ref.as_ref()?.name.as_str())))
    });
    pull.chain(mounted).chain(projected).chain(environment)
}

fn config_maps(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let mounted = volumes(spec).filter_map(|v| Some(v.config_map.as_ref()?.name.as_str()));
    let projected = projections(spec).filter_map(|p| Some(p.config_map.as_ref()?.name.as_str()));
    let environment = containers(spec).flat_map(|container| {
        let each = container.env.iter().flatten().filter_map(|env| {
            let reference = env.value_from.as_ref()?.config_map_key_ref.as_ref()?;
            Some(reference.name.as_str())
        });
        let whole = container.env_from.iter().flatten();
        each.chain(whole.filter_map(|from| Some(from.config_map_ref.as_ref()?.name.as_str())))
    });
    mounted.chain(projected).chain(environment)
}
