//! What is wrong with a changed status of a Pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    Container, ContainerStatus, Pod, PodExtendedResourceClaimStatus, PodSpec, PodStatus,
    ResourceHealth, ResourceStatus,
};
use corral_api::names;
use serde::Serialize;

use super::rules::{annotation_changes, spec_of};
use crate::rules::{self, Errors, Seen, at, json, text};

/// Largest id of a user or a group.
const ID_MAX: i64 = i32::MAX as i64;
/// Longest word about the health of a device.
const HEALTH_MESSAGE_LENGTH_MAX: usize = 1024;
/// How the resources of a claim are called among those of a container.
const CLAIM: &str = "claim:";
/// Largest number of addresses: one of each family.
const ADDRESSES_MAX: usize = 2;

/// Drops what this version of Kubernetes has but does not offer, unless the status had it before.
pub(super) fn drop_unoffered(status: &mut PodStatus, old: Option<&PodStatus>) {
    if old.is_none_or(|old| old.node_allocatable_resource_claim_statuses.is_none()) {
        status.node_allocatable_resource_claim_statuses = None;
    }
    let has_volumes = |list: &Option<Vec<ContainerStatus>>| {
        let mounts = list
            .iter()
            .flatten()
            .flat_map(|c| c.volume_mounts.iter().flatten());
        mounts.into_iter().any(|m| m.volume_status.is_some())
    };
    let had_volumes = old.is_some_and(|old| {
        has_volumes(&old.container_statuses)
            || has_volumes(&old.init_container_statuses)
            || has_volumes(&old.ephemeral_container_statuses)
    });
    if had_volumes {
        return;
    }
    for list in [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ] {
        let containers = list.iter_mut().flatten();
        for mount in containers.flat_map(|c| c.volume_mounts.iter_mut().flatten()) {
            mount.volume_status = None;
        }
    }
}

/// Rules of a changed status.
pub(super) fn rules(new: &Pod, old: &Pod) -> Errors {
    let mut errors = Errors::new();
    let path = at("status");
    let nothing = PodStatus::default();
    let status = new.status.as_ref().unwrap_or(&nothing);
    let was = old.status.as_ref().unwrap_or(&nothing);
    let (spec, spec_was) = (spec_of(new), spec_of(old));
    annotation_changes(&mut errors, new, old);
    conditions(&mut errors, &path.child("conditions"), status);
    nomination(&mut errors, &path, status, was, &spec_was);
    if status.observed_generation.is_some_and(|n| n < 0) {
        let path = path.child("observedGeneration");
        let detail = "must be a non-negative integer";
        errors.push(FieldError::invalid(
            &path,
            status.observed_generation,
            detail,
        ));
    }
    if was.qos_class.is_some() && status.qos_class.is_some() {
        let path = path.child("qosClass");
        rules::immutable(&mut errors, &path, &status.qos_class, &was.qos_class);
    }
    states(&mut errors, &path, status, was, &spec_was);
    claims(&mut errors, &path, status, &spec);
    addresses(&mut errors, &path, status);
    for (field, list) in [
        ("containerStatuses", &status.container_statuses),
        ("initContainerStatuses", &status.init_container_statuses),
        (
            "ephemeralContainerStatuses",
            &status.ephemeral_container_statuses,
        ),
    ] {
        users(&mut errors, &path.child(field), list.as_deref(), &spec);
    }
    devices(
        &mut errors,
        &path.child("containerStatuses"),
        status.container_statuses.as_deref(),
        &spec.containers,
    );
    devices(
        &mut errors,
        &path.child("initContainerStatuses"),
        status.init_container_statuses.as_deref(),
        spec.init_containers.as_deref().unwrap_or_default(),
    );
    let path = path.child("ephemeralContainerStatuses");
    let ephemeral = status.ephemeral_container_statuses.iter().flatten();
    for (index, container) in ephemeral.enumerate() {
        let devices = container.allocated_resources_status.as_ref();
        if devices.is_some_and(|d| !d.is_empty()) {
            let path = path.index(index).child("allocatedResourcesStatus");
            let detail = "must not be specified in container status";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    errors
}

fn conditions(errors: &mut Errors, path: &FieldPath, status: &PodStatus) {
    for (index, condition) in status.conditions.iter().flatten().enumerate() {
        let path = path.index(index);
        if condition.observed_generation.is_some_and(|n| n < 0) {
            let path = path.child("observedGeneration");
            let detail = "must be a non-negative integer";
            errors.push(FieldError::invalid(
                &path,
                condition.observed_generation,
                detail,
            ));
        }
        let type_ = condition.type_.as_str();
        if !matches!(type_, "PodScheduled" | "Ready" | "Initialized") {
            rules::complain(
                errors,
                &path.child("Type"),
                type_,
                names::qualified_name(type_),
            );
        }
    }
}

fn nomination(
    errors: &mut Errors,
    path: &FieldPath,
    status: &PodStatus,
    was: &PodStatus,
    spec: &PodSpec,
) {
    let nominated = text(&status.nominated_node_name);
    if nominated.is_empty() || nominated == text(&was.nominated_node_name) {
        return;
    }
    let path = path.child("nominatedNodeName");
    let complaints = names::dns1123_subdomain(nominated);
    rules::complain(errors, &path, nominated, complaints);
    if !text(&spec.node_name).is_empty() {
        let detail = "may not be set on pods that are already bound to a node";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

/// Containers that ended stay so, but for those that run again.
fn states(
    errors: &mut Errors,
    path: &FieldPath,
    status: &PodStatus,
    was: &PodStatus,
    spec: &PodSpec,
) {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let of_restart = |container: &Container| {
        let rules = container.restart_policy_rules.iter().flatten();
        rules
            .into_iter()
            .any(|r| r.action == "RestartAllContainers")
    };
    if !spec.containers.iter().chain(init).any(of_restart) {
        transitions(
            errors,
            &path.child("containerStatuses"),
            status.container_statuses.as_deref(),
            was.container_statuses.as_deref(),
            |name, code| may_restart(spec, &spec.containers, name, code),
        );
        transitions(
            errors,
            &path.child("initContainerStatuses"),
            status.init_container_statuses.as_deref(),
            was.init_container_statuses.as_deref(),
            |name, code| may_restart(spec, init, name, code),
        );
    }
    transitions(
        errors,
        &path.child("ephemeralContainerStatuses"),
        status.ephemeral_container_statuses.as_deref(),
        was.ephemeral_container_statuses.as_deref(),
        |_, _| false,
    );
}

fn transitions(
    errors: &mut Errors,
    path: &FieldPath,
    new: Option<&[ContainerStatus]>,
    old: Option<&[ContainerStatus]>,
    may_restart: impl Fn(&str, i32) -> bool,
) {
    let ended = |status: &ContainerStatus| -> Option<i32> {
        Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
    };
    for (index, was) in old.unwrap_or_default().iter().enumerate() {
        let Some(exit_code) = ended(was) else {
            continue;
        };
        let new = new.unwrap_or_default();
        let again = new.iter().any(|s| s.name == was.name && ended(s).is_none());
        if again && !may_restart(&was.name, exit_code) {
            let path = path.index(index).child("state");
            let detail = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
}

fn may_restart(spec: &PodSpec, containers: &[Container], name: &str, exit_code: i32) -> bool {
    let Some(container) = containers.iter().find(|c| c.name == name) else {
        return false;
    };
    let rule_matches = container.restart_policy_rules.iter().flatten().any(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
            listed == (codes.operator == "In")
        })
    });
    let own = container.restart_policy.as_deref();
    rule_matches
        || match own.or(spec.restart_policy.as_deref()) {
            Some("Never") => false,
            Some("OnFailure") => exit_code != 0,
            _ => true,
        }
}

/// The claims that were found or made for those of the spec.
fn claims(errors: &mut Errors, path: &FieldPath, status: &PodStatus, spec: &PodSpec) {
    let list = path.child("resourceClaimStatuses");
    let mut seen = Seen::default();
    for (index, claim) in status.resource_claim_statuses.iter().flatten().enumerate() {
        let path = list.index(index);
        let name = claim.name.as_str();
        if !spec
            .resource_claims
            .iter()
            .flatten()
            .any(|c| c.name == name)
        {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(&path.child("name"), name, detail));
        }
        seen.check(errors, &path.child("name"), name);
        if let Some(name) = &claim.resource_claim_name {
            let complaints = names::dns1123_subdomain(name);
            rules::complain(errors, &path.child("resourceClaimName"), name, complaints);
        }
    }
    if let Some(extended) = &status.extended_resource_claim_status {
        extended_claim(
            errors,
            &path.child("extendedResourceClaimStatus"),
            extended,
            spec,
        );
    }
}

fn extended_claim(
    errors: &mut Errors,
    path: &FieldPath,
    status: &PodExtendedResourceClaimStatus,
    spec: &PodSpec,
) {
    let list = path.child("requestMappings");
    if status.request_mappings.is_empty() {
        let detail = "at least one request mapping is required";
        errors.push(FieldError::required(&list, detail));
    }
    let mut seen = BTreeSet::new();
    for (index, mapping) in status.request_mappings.iter().enumerate() {
        let (container, resource, request) = (
            mapping.container_name.as_str(),
            mapping.resource_name.as_str(),
            mapping.request_name.as_str(),
        );
        let item = list.index(index);
        let of_pod = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        match of_pod.into_iter().find(|c| c.name == container) {
            Some(found) if !requests(found, resource) => errors.push(FieldError::invalid(
                &item.child("resourceName"),
                resource,
                "must match the extended resource name of an entry in spec.initContainers.resources.requests or \
                 spec.containers.resources.requests",
            )),
            Some(_) => {}
            None => errors.push(FieldError::invalid(
                &item.child("containerName"),
                container,
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            )),
        }
        let complaints = names::dns1123_label(request);
        rules::complain(errors, &path.child("requestName"), request, complaints);
        if !seen.insert((container, resource, request)) {
            for (field, value) in [
                ("containerName", container),
                ("resourceName", resource),
                ("requestName", request),
            ] {
                errors.push(FieldError::duplicate(&item.child(field), value));
            }
        }
    }
    let name = status.resource_claim_name.as_str();
    let path = path.child("resourceClaimName");
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        rules::complain(errors, &path, name, names::dns1123_subdomain(name));
    }
}

fn requests(container: &Container, resource: &str) -> bool {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref());
    requests.is_some_and(|r| r.contains_key(resource))
}

fn addresses(errors: &mut Errors, path: &FieldPath, status: &PodStatus) {
    let pods = status.pod_ips.as_deref().unwrap_or_default();
    let texts: Vec<&str> = pods.iter().map(|ip| ip.ip.as_str()).collect();
    families(errors, &path.child("podIPs"), &texts, pods);
    let hosts = status.host_ips.as_deref().unwrap_or_default();
    let texts: Vec<&str> = hosts.iter().map(|ip| ip.ip.as_str()).collect();
    let path = path.child("hostIPs");
    if let Some(first) = texts.first()
        && *first != text(&status.host_ip)
    {
        let path = path.index(0).child("ip");
        errors.push(FieldError::invalid(
            &path,
            *first,
            "must be equal to `hostIP`",
        ));
    }
    families(errors, &path, &texts, hosts);
}

/// Addresses are right, and at most one of each family.
fn families<T: Serialize>(errors: &mut Errors, path: &FieldPath, texts: &[&str], shown: &[T]) {
    let mut found = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        found.extend(rules::ip(errors, &path.index(index), text));
    }
    let dual = found.iter().any(IpAddr::is_ipv4) && found.iter().any(IpAddr::is_ipv6);
    if texts.len() > ADDRESSES_MAX || (texts.len() == ADDRESSES_MAX && !dual) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(path, json(shown), detail));
    }
}

/// Whom containers run as.
fn users(
    errors: &mut Errors,
    path: &FieldPath,
    containers: Option<&[ContainerStatus]>,
    spec: &PodSpec,
) {
    let windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    for (index, container) in containers.unwrap_or_default().iter().enumerate() {
        let Some(user) = container.user.as_ref().and_then(|u| u.linux.as_ref()) else {
            continue;
        };
        let path = path.index(index).child("user.linux");
        if windows {
            let detail = "cannot be set for a windows pod";
            errors.push(FieldError::forbidden(&path, detail));
            continue;
        }
        id(errors, &path.child("uid"), user.uid);
        id(errors, &path.child("gid"), user.gid);
        for (index, group) in user.supplemental_groups.iter().flatten().enumerate() {
            id(
                errors,
                &path.child("supplementalGroups").index(index),
                *group,
            );
        }
    }
}

fn id(errors: &mut Errors, path: &FieldPath, id: i64) {
    if !(0..=ID_MAX).contains(&id) {
        let detail = format!("must be between 0 and {ID_MAX}, inclusive");
        errors.push(FieldError::invalid(path, id, detail));
    }
}

/// The health of the devices that containers have.
fn devices(
    errors: &mut Errors,
    path: &FieldPath,
    statuses: Option<&[ContainerStatus]>,
    containers: &[Container],
) {
    for (index, status) in statuses.unwrap_or_default().iter().enumerate() {
        let list = path.index(index).child("allocatedResourcesStatus");
        let container = containers.iter().find(|c| c.name == status.name);
        let resources = status.allocated_resources_status.iter().flatten();
        for (index, resource) in resources.enumerate() {
            let path = list.index(index);
            if let Some(container) = container {
                of_container(errors, &path.child("name"), resource, container);
            }
            let healths = resource.resources.as_deref().unwrap_or_default();
            health(errors, &path.child("resources"), healths);
        }
    }
}

fn of_container(
    errors: &mut Errors,
    path: &FieldPath,
    resource: &ResourceStatus,
    container: &Container,
) {
    let name = resource.name.as_str();
    let (found, detail) = if let Some(claimed) = name.strip_prefix(CLAIM) {
        let resources = container.resources.as_ref();
        let mut claims = resources
            .into_iter()
            .flat_map(|r| r.claims.iter().flatten());
        let found = claims.any(|claim| match text(&claim.request) {
            "" => claim.name == claimed,
            request => claimed.split_once('/') == Some((claim.name.as_str(), request)),
        });
        let detail = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
                      'claim:<claimName>' if request is empty";
        (found, detail)
    } else {
        let detail = "must match one of the container's resource requests";
        (requests(container, name), detail)
    };
    if !found {
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn health(errors: &mut Errors, path: &FieldPath, devices: &[ResourceHealth]) {
    let mut seen = Seen::default();
    for (index, device) in devices.iter().enumerate() {
        let path = path.index(index);
        let allowed = ["Healthy", "Unhealthy", "Unknown"];
        rules::supported(
            errors,
            &path.child("health"),
            text(&device.health),
            &allowed,
        );
        if let Some(message) = &device.message {
            let path = path.child("message");
            if message.is_empty() {
                let detail = "must be non-empty if specified";
                errors.push(FieldError::required(&path, detail));
            } else if message.len() > HEALTH_MESSAGE_LENGTH_MAX {
                errors.push(FieldError::too_long(&path, HEALTH_MESSAGE_LENGTH_MAX));
            }
        }
        seen.check(errors, &path.child("resourceID"), &device.resource_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pod::PodKind;
    use crate::kind::Kind;
    use crate::rules::texts;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec}))
            .expect("a pod");
        PodKind::default(&mut pod);
        pod
    }

    #[test]
    fn a_container_that_ended_for_good_does_not_run_again() {
        let with = |state: Value| {
            let mut pod =
                pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}));
            pod.status = serde_json::from_value(
                json!({"containerStatuses": [{"name": "a", "state": state}]}),
            )
            .expect("a status");
            pod
        };
        let old = with(json!({"terminated": {"exitCode": 1}}));
        let new = with(json!({"running": {}}));
        assert_eq!(
            texts(&rules(&new, &old)),
            [
                "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
            ]
        );
    }
}
