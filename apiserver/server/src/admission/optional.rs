//! Plugins that run only when an administrator says so.

use std::collections::BTreeSet;

use corral_api::k8s::api::core::v1::{Pod, PodSpec, Service, Toleration};
use corral_api::status::Status;
use corral_kinds::Object;

use super::{Action, Attributes};

const ALWAYS: &str = "Always";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// AlwaysPullImages: nobody runs an image by its name that they could not pull.
pub(super) fn always_pull(object: &mut Object, old: Option<&Object>) {
    let Some(spec) = object.get_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) else {
        return;
    };
    if let Some(old) = old.and_then(Object::get::<Pod>) {
        let known = old.spec.as_ref().map(images).unwrap_or_default();
        if images(spec).is_subset(&known) {
            return;
        }
    }
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        container.image_pull_policy = Some(ALWAYS.to_owned());
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        container.image_pull_policy = Some(ALWAYS.to_owned());
    }
    for volume in spec.volumes.iter_mut().flatten() {
        if let Some(image) = &mut volume.image {
            image.pull_policy = Some(ALWAYS.to_owned());
        }
    }
}

fn images(spec: &PodSpec) -> BTreeSet<String> {
    let init = spec.init_containers.iter().flatten();
    let plain = init.chain(&spec.containers).filter_map(|c| c.image.clone());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    plain
        .chain(ephemeral.filter_map(|c| c.image.clone()))
        .collect()
}

/// ExtendedResourceToleration: who asks for a device tolerates the taint of nodes that have it.
pub(super) fn tolerate_devices(object: &mut Object) {
    let Some(spec) = object.get_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) else {
        return;
    };
    let init = spec.init_containers.iter().flatten();
    let requests = init
        .chain(&spec.containers)
        .filter_map(|container| container.resources.as_ref()?.requests.as_ref());
    let devices: BTreeSet<String> = requests
        .flat_map(|requests| requests.keys())
        .filter(|name| corral_kinds::core::pod_spec::is_extended_resource(name))
        .cloned()
        .collect();
    let tolerations = spec.tolerations.get_or_insert_default();
    for device in devices {
        let wanted = Toleration {
            key: Some(device),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&wanted) {
            tolerations.push(wanted);
        }
    }
}

/// LimitPodHardAntiAffinityTopology: pods keep others away from their node at most.
pub(super) fn check_anti_affinity(
    attributes: &Attributes<'_>,
    object: &Object,
) -> Result<(), Status> {
    let Some(pod) = object
        .get::<Pod>()
        .filter(|_| attributes.subresource.is_empty())
    else {
        return Ok(());
    };
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let terms = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let terms = terms.iter().flat_map(|anti| {
        let required = &anti.required_during_scheduling_ignored_during_execution;
        required.iter().flatten()
    });
    for term in terms {
        let key = &term.topology_key;
        if key != HOSTNAME {
            let why = format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
            );
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            return Err(attributes.forbidden(name, &why));
        }
    }
    Ok(())
}

/// DenyServiceExternalIPs: no Service takes addresses that it did not have.
pub(super) fn check_external_ips(
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let Some(service) = object
        .get::<Service>()
        .filter(|_| attributes.subresource.is_empty())
    else {
        return Ok(());
    };
    let of = |service: &Service| -> BTreeSet<String> {
        let spec = service.spec.as_ref();
        let ips = spec.and_then(|spec| spec.external_ips.clone());
        ips.unwrap_or_default().into_iter().collect()
    };
    let known = old
        .and_then(Object::get::<Service>)
        .map(of)
        .unwrap_or_default();
    if of(service).is_subset(&known) {
        return Ok(());
    }
    let name = service.metadata.name.as_deref().unwrap_or_default();
    Err(attributes.forbidden(name, "Use of external IPs is denied by admission control"))
}

/// AlwaysDeny: nothing is written but by the server itself.
pub(super) fn deny(attributes: &Attributes<'_>, object: &Object) -> Result<(), Status> {
    if attributes.cx.user.name == crate::bootstrap::SERVER {
        return Ok(());
    }
    debug_assert!(matches!(attributes.action, Action::Create | Action::Update));
    let name = attributes
        .kind
        .meta(object)
        .name
        .clone()
        .unwrap_or_default();
    let why = "admission control is denying all modifications";
    Err(attributes.forbidden(&name, why))
}
