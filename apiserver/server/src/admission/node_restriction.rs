//! A node writes its own Node, its own Lease and CSINode, its own ResourceSlices, the status of its own pods and how far their
//! claims have grown, and nothing of other nodes.
//!
//! The other half of `authz/node.rs`: what cannot be told from the URL. The rules and words are those of the
//! NodeRestriction plugin of Kubernetes.

pub(crate) mod pods;
pub(crate) mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use corral_api::k8s::api::core::v1::{Node, Pod};
use corral_api::k8s::api::resource::v1::ResourceSlice;
use corral_api::status::Status;
use corral_kinds::{AnyKind, Object};
use serde_json::Value;

use super::{Action, Attributes};
use crate::api::Api;
use crate::authz::node;
use crate::registry::WriteContext;

/// Labels in Kubernetes' name spaces that a node sets on itself.
const OWN_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

const OTHER_CSI_NODE: &str = "can only access CSINode with the same name as the requesting node";

/// Checks a creation or a change by a node.
///
/// # Errors
/// 403 for what is not the node's own.
pub fn check(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let Some(me) = node::name_of(&attributes.cx.user) else {
        return Ok(());
    };
    let names = attributes.kind.names();
    let name = attributes.kind.meta(object).name.as_deref().unwrap_or("");
    let refuse = |why: String| Err(attributes.forbidden(name, &why));
    match (names.group, names.kind) {
        ("", "Pod") => pods::check(api, me, attributes, object, old),
        ("", "Node") if name != me => refuse(format!(
            "node {me:?} is not allowed to modify node {name:?}"
        )),
        ("", "Node") => match node_refusal(me, object.get(), old.and_then(Object::get)) {
            Some(why) => refuse(why),
            None => Ok(()),
        },
        ("", "PersistentVolumeClaim") if attributes.subresource == "status" => {
            let changed = old.map(|old| changed_of_claim(attributes.kind, object, old));
            match changed.unwrap_or_default() {
                changed if changed.is_empty() => Ok(()),
                changed => refuse(format!(
                    "node {me:?} is not allowed to update fields other than status.quantity and status.conditions: {}",
                    changed.join(", ")
                )),
            }
        }
        ("storage.k8s.io", "CSINode") if name != me => refuse(OTHER_CSI_NODE.to_owned()),
        ("resource.k8s.io", "ResourceSlice")
            if attributes.action == Action::Create && !is_slice_of(me, object) =>
        {
            refuse(
                "can only create ResourceSlice with the same NodeName as the requesting node"
                    .to_owned(),
            )
        }
        ("coordination.k8s.io", "Lease") if attributes.cx.namespace != node::LEASES => {
            refuse(format!(
                "can only access leases in the {:?} system namespace",
                node::LEASES
            ))
        }
        ("coordination.k8s.io", "Lease") if name != me => refuse(
            "can only access node lease with the same name as the requesting node".to_owned(),
        ),
        _ => Ok(()),
    }
}

fn is_slice_of(me: &str, object: &Object) -> bool {
    let slice = object.get::<ResourceSlice>();
    slice.is_some_and(|slice| slice.spec.node_name.as_deref() == Some(me))
}

/// The fields of a claim that differ, but for those by which a node tells how far it has grown.
fn changed_of_claim(kind: &dyn AnyKind, object: &Object, old: &Object) -> Vec<String> {
    const OF_NODES: [&str; 6] = [
        "metadata.managedFields",
        "metadata.resourceVersion",
        "status.allocatedResourceStatuses",
        "status.allocatedResources",
        "status.capacity",
        "status.conditions",
    ];
    let (Ok(new), Ok(old)) = (kind.encode(object), kind.encode(old)) else {
        return vec!["all".to_owned()];
    };
    let mut changed = Vec::new();
    for part in ["metadata", "spec", "status"] {
        let keys = [&new[part], &old[part]]
            .into_iter()
            .filter_map(Value::as_object);
        let keys: BTreeSet<&String> = keys.flat_map(|map| map.keys()).collect();
        let differs = keys
            .into_iter()
            .filter(|key| new[part][*key] != old[part][*key]);
        changed.extend(differs.map(|key| format!("{part}.{key}")));
    }
    changed.retain(|field| !OF_NODES.contains(&field.as_str()));
    changed
}

fn node_refusal(me: &str, node: Option<&Node>, old: Option<&Node>) -> Option<String> {
    let node = node?;
    let forbidden = forbidden_labels(
        node.metadata.labels.as_ref(),
        old.and_then(|old| old.metadata.labels.as_ref()),
    );
    let source = |node: &Node| {
        node.spec
            .as_ref()
            .and_then(|spec| spec.config_source.clone())
    };
    let Some(old) = old else {
        if source(node).is_some() {
            // They are its words.
            return Some(format!(
                "node {me:?} is not allowed to create pods with a non-nil configSource"
            ));
        }
        let listed = forbidden.join(", ");
        return (!listed.is_empty())
            .then(|| format!("node {me:?} is not allowed to set the following labels: {listed}"));
    };
    if source(node).is_some() && source(node) != source(old) {
        return Some(format!(
            "node {me:?} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    if taints(node).unwrap_or_default() != taints(old).unwrap_or_default() {
        return Some(format!("node {me:?} is not allowed to modify taints"));
    }
    let owners = |node: &Node| node.metadata.owner_references.clone().unwrap_or_default();
    if owners(node) != owners(old) {
        return Some(format!(
            "node {me:?} is not allowed to modify ownerReferences"
        ));
    }
    let listed = forbidden.join(", ");
    (!listed.is_empty()).then(|| format!("is not allowed to modify labels: {listed}"))
}

type Labels = BTreeMap<String, String>;

/// Changed labels that a node could use to draw pods to itself that are not meant for it.
fn forbidden_labels(new: Option<&Labels>, old: Option<&Labels>) -> Vec<String> {
    let keys = [new, old].into_iter().flatten().flat_map(BTreeMap::keys);
    let keys: BTreeSet<&String> = keys.collect();
    let value = |labels: Option<&Labels>, key: &str| labels.and_then(|l| l.get(key)).cloned();
    keys.into_iter()
        .filter(|key| value(new, key) != value(old, key) && is_forbidden(key))
        .cloned()
        .collect()
}

fn is_forbidden(key: &str) -> bool {
    let space = key.split_once('/').map_or("", |(space, _)| space);
    let within = |domain: &str| {
        let rest = space.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    let own = OWN_LABELS.contains(&key)
        || within("kubelet.kubernetes.io")
        || within("node.kubernetes.io");
    within("node-restriction.kubernetes.io") || (of_kubernetes && !own)
}

/// Checks a deletion by a node.
///
/// # Errors
/// 403 for what is another node's.
pub async fn check_delete(
    api: &Api,
    kind: &dyn AnyKind,
    cx: &WriteContext,
    name: &str,
    old: &Value,
) -> Result<(), Status> {
    let Some(me) = node::name_of(&cx.user) else {
        return Ok(());
    };
    let names = kind.names();
    let refuse = |why: &str| Err(Status::forbidden(names.group, names.plural, name, why));
    match (names.group, names.kind) {
        ("", "Pod") => {
            let why = format!("node {me:?} can only delete pods with spec.nodeName set to itself");
            let pods = api.core("pods");
            let Some(entry) = pods.fetch(&pods.key(&cx.namespace, name)).await? else {
                return Ok(());
            };
            let pod: Pod = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
            let node = pod.spec.and_then(|spec| spec.node_name);
            if node.as_deref() == Some(me) {
                return Ok(());
            }
            refuse(&why)
        }
        ("", "Node") => refuse(&format!("node {me:?} is not allowed to delete nodes")),
        ("storage.k8s.io", "CSINode") if name != me => refuse(OTHER_CSI_NODE),
        ("resource.k8s.io", "ResourceSlice") if old["spec"]["nodeName"] != *me => {
            refuse("can only delete ResourceSlice with the same NodeName as the requesting node")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_draw_pods_are_forbidden() {
        for (key, forbidden) in [
            ("disk", false),
            ("example.com/disk", false),
            ("kubernetes.io/hostname", false),
            ("topology.kubernetes.io/zone", false),
            ("node.kubernetes.io/any", false),
            ("a.kubelet.kubernetes.io/any", false),
            ("node-restriction.kubernetes.io/any", true),
            ("my.node-restriction.kubernetes.io/any", true),
            ("node-role.kubernetes.io/control-plane", true),
            ("kubernetes.io/any", true),
            ("my.k8s.io/any", true),
            ("notkubernetes.io/any", false),
        ] {
            assert_eq!(is_forbidden(key), forbidden, "{key}");
        }
    }
}
