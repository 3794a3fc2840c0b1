//! What a node writes of pods: those that stand for what it runs on its own account, and how its own are doing.

use corral_api::k8s::api::core::v1::{Pod, PodSpec};
use corral_api::meta::OwnerReference;
use corral_api::status::Status;
use corral_kinds::Object;

use crate::admission::{Action, Attributes};
use crate::api::Api;
use crate::authz::node::names;

/// Checks a pod that a node makes or changes.
///
/// # Errors
/// 403 for what is not the node's own, 404 where it has no Node.
pub fn check(
    api: &Api,
    me: &str,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let Some(pod) = object.get::<Pod>() else {
        return Ok(());
    };
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let refuse = |why: Option<String>| match why {
        Some(why) => Err(attributes.forbidden(name, &why)),
        None => Ok(()),
    };
    if attributes.action == Action::Create {
        refuse(creation_refusal(me, pod))?;
        refuse(owner_refusal(api, me, pod)?)?;
        return refuse(
            pod.spec
                .as_ref()
                .and_then(reference)
                .map(|what| format!("node {me:?} can not create pods that reference {what}")),
        );
    }
    let old = old.and_then(Object::get::<Pod>);
    refuse(match attributes.subresource {
        "status" | "eviction" => old.and_then(|old| status_refusal(me, pod, old)),
        "" => Some(format!(
            "unexpected operation \"UPDATE\", node {me:?} can only create and delete mirror pods"
        )),
        other => Some(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
    })
}

fn creation_refusal(me: &str, pod: &Pod) -> Option<String> {
    if !names::mirrors(pod) {
        return Some(format!(
            "pod does not have {:?} annotation, node {me:?} can only create mirror pods",
            names::MIRROR
        ));
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    (node != Some(me))
        .then(|| format!("node {me:?} can only create pods with spec.nodeName set to itself"))
}

/// Such a pod belongs to its node, so that it goes with it.
fn owner_refusal(api: &Api, me: &str, pod: &Pod) -> Result<Option<String>, Status> {
    let only = |what: &str| {
        Ok(Some(format!(
            "node {me:?} can only create pods with {what}"
        )))
    };
    let owner: &OwnerReference = match pod.metadata.owner_references.as_deref() {
        Some([owner]) => owner,
        None | Some([]) => return only("an owner reference set to itself"),
        Some(_) => return only("a single owner reference set to itself"),
    };
    if (
        owner.api_version.as_str(),
        owner.kind.as_str(),
        owner.name.as_str(),
    ) != ("v1", "Node", me)
    {
        return only("an owner reference set to itself");
    }
    if owner.controller != Some(true) {
        return only("a controller owner reference set to itself");
    }
    if owner.block_owner_deletion == Some(true) {
        return Ok(Some(format!(
            "node {me:?} must not set blockOwnerDeletion on an owner reference"
        )));
    }
    let nodes = api.core("nodes");
    let live = nodes.cacher.peek(&nodes.key("", me));
    let live = live.ok_or_else(|| Status::not_found("", "node", me))?;
    let live = live.value().map_err(Status::internal)?;
    let uid = live["metadata"]["uid"].as_str().unwrap_or("");
    Ok((uid != owner.uid)
        .then(|| format!("node {me} UID mismatch: expected {} got {uid}", owner.uid)))
}

/// What such a pod names of the API's: by naming it a node would get to read it.
fn reference(spec: &PodSpec) -> Option<&'static str> {
    if names::config_maps(spec).next().is_some() {
        return Some("configmaps");
    }
    if names::projections(spec).any(|source| source.cluster_trust_bundle.is_some()) {
        return Some("clustertrustbundles");
    }
    if spec
        .resource_claims
        .as_ref()
        .is_some_and(|claims| !claims.is_empty())
    {
        return Some("resourceclaims");
    }
    names::volumes(spec).find_map(|volume| {
        if volume.persistent_volume_claim.is_some() {
            Some("persistentvolumeclaims")
        } else if volume.ephemeral.is_some() {
            Some("persistentvolumeclaims (via ephemeral volumes)")
        } else if volume.csi.is_some() {
            Some("csidrivers (via CSI volumes)")
        } else {
            None
        }
    })
}

fn status_refusal(me: &str, pod: &Pod, old: &Pod) -> Option<String> {
    let node = old.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if node != Some(me) {
        return Some(format!(
            "node {me:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let labels = |pod: &Pod| pod.metadata.labels.clone().unwrap_or_default();
    if labels(pod) != labels(old) {
        return Some(format!(
            "node {me:?} cannot update labels through pod status"
        ));
    }
    // By naming a claim of devices a node would get to read it.
    let status = |pod: &Pod| pod.status.clone().unwrap_or_default();
    let (new, old) = (status(pod), status(old));
    if new.resource_claim_statuses.unwrap_or_default()
        != old.resource_claim_statuses.unwrap_or_default()
    {
        return Some(format!("node {me:?} cannot update resource claim statues"));
    }
    (new.extended_resource_claim_status != old.extended_resource_claim_status)
        .then(|| format!("node {me:?} cannot update extended resource claim status"))
}

/// Checks the eviction of a pod by a node.
///
/// # Errors
/// 403 for a pod of another node, 404 for none.
pub fn check_eviction(me: &str, namespaced: &str, pod: Option<&Pod>) -> Result<(), Status> {
    let pod = pod.ok_or_else(|| Status::not_found("", "pod", namespaced))?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if node == Some(me) {
        return Ok(());
    }
    let why = format!("node {me} can only evict pods with spec.nodeName set to itself");
    Err(Status::forbidden("", "pods", namespaced, &why))
}
