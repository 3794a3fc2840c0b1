//! A pod does not grow beyond what its node has.

use corral_api::amounts;
use corral_api::k8s::api::core::v1::{Node, Pod};
use corral_api::status::{Status, StatusCause};
use corral_kinds::Object;

use super::Attributes;
use crate::api::Api;

const OS: &str = "kubernetes.io/os";

pub(super) fn check(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let (Some(pod), Some(old)) = (object.get::<Pod>(), old.and_then(Object::get::<Pod>)) else {
        return Ok(());
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let Some(name) = node.filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    if attributes.subresource != "resize" || pod.spec == old.spec {
        return Ok(());
    }
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let refuse = |why: String, reason: &str| {
        let mut status = attributes.forbidden(pod_name, &why);
        if !reason.is_empty() {
            let causes = &mut status.details.get_or_insert_default().causes;
            causes.push(StatusCause {
                reason: reason.to_owned(),
                ..StatusCause::default()
            });
        }
        status
    };
    let nodes = api.core("nodes");
    let stored = nodes.cacher.peek(&nodes.key("", name));
    let node = stored.and_then(|stored| serde_json::from_slice::<Node>(&stored.json).ok());
    let node = node.ok_or_else(|| refuse(format!("node {name:?} not found"), ""))?;
    let os = node
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(OS));
    if let Some(os) = os.filter(|os| *os != "linux") {
        let why = format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}");
        return Err(refuse(why, "UnsupportedPlatform"));
    }
    let wanted = pod
        .spec
        .as_ref()
        .map(amounts::pod_requests)
        .unwrap_or_default();
    let there = node.status.and_then(|status| status.allocatable);
    let there = amounts::read(there.as_ref());
    let mut short = Vec::new();
    for resource in ["cpu", "memory"] {
        let of = |amounts: &amounts::Amounts| amounts.get(resource).copied().unwrap_or_default();
        let (wanted, there) = (of(&wanted), of(&there));
        if wanted > there {
            let number = |q: corral_api::quantity::Quantity| match resource {
                "cpu" => q.milli_value(),
                _ => q.value(),
            };
            short.push(format!(
                "{resource}, requested: {}, allocatable: {}",
                number(wanted),
                number(there)
            ));
        }
    }
    if short.is_empty() {
        return Ok(());
    }
    let why = format!(
        "node didn't have enough allocatable resources: {}",
        short.join("; ")
    );
    Err(refuse(why, "NodeCapacity"))
}
