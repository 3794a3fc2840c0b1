//! Validation of a pod's spec, by subject.

pub(crate) mod annotations;
pub(crate) mod containers;
mod env;
mod ephemeral;
mod handlers;
mod network;
mod os;
mod projected;
mod resource_claims;
pub(crate) mod resources;
pub(crate) mod scheduling;
mod security;
mod volumes;
mod windows;

pub(crate) use volumes::claim_template::{metadata as claim_metadata, spec as claim_spec};
pub(crate) use volumes::foreign::{driver_name, iscsi_name_is_valid, lun as lun_of_target};
pub(crate) use volumes::{source_fields as volume_sources, source_of_volume};

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_api::names;

use crate::rules::{self, Errors, text};

/// Largest `activeDeadlineSeconds`.
pub(crate) const DEADLINE_SECONDS_MAX: i64 = i32::MAX as i64;

/// Whose spec it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// A Pod's own, with the Pod's metadata.
    Pod(&'a ObjectMeta),
    /// A template's, from which pods are made.
    Template,
}

impl<'a> Owner<'a> {
    /// The name of the Pod, if it is one and has one.
    fn pod_name(self) -> Option<&'a str> {
        match self {
            Self::Pod(meta) => meta.name.as_deref().filter(|name| !name.is_empty()),
            Self::Template => None,
        }
    }
}

/// Rules of a template of pods.
pub(crate) fn template(errors: &mut Errors, path: &FieldPath, template: &PodTemplateSpec) {
    // Kubernetes names these without `metadata`.
    let meta = template.metadata.as_ref();
    rules::labels(
        errors,
        &path.child("labels"),
        meta.and_then(|m| m.labels.as_ref()),
    );
    rules::annotations(
        errors,
        &path.child("annotations"),
        meta.and_then(|m| m.annotations.as_ref()),
    );
    let nothing = PodSpec::default();
    let pod_spec = template.spec.as_ref().unwrap_or(&nothing);
    let given = meta.and_then(|m| m.annotations.as_ref());
    annotations::annotations(errors, &path.child("annotations"), given, pod_spec);
    let path = path.child("spec");
    spec(errors, &path, pod_spec, Owner::Template);
    if pod_spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|c| !c.is_empty())
    {
        errors.push(FieldError::forbidden(
            &path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// Rules of a pod's spec.
pub(crate) fn spec(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, owner: Owner) {
    if spec.termination_grace_period_seconds.is_none() {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::required(&path, ""));
    }
    let volumes = volumes::volumes(errors, &path.child("volumes"), spec, owner);
    resource_claims::of_pod(errors, &path.child("resourceClaims"), spec, owner);
    containers::all(errors, path, spec, &volumes);
    ephemeral::containers(errors, &path.child("ephemeralContainers"), spec, &volumes);
    resources::pod_level(errors, &path.child("resources"), spec);
    network::host_ports(errors, path, spec, owner);
    let policy = text(&spec.restart_policy);
    let policies = ["Always", "OnFailure", "Never"];
    rules::required_in_order(errors, &path.child("restartPolicy"), policy, &policies);
    network::dns_policy(errors, &path.child("dnsPolicy"), spec);
    let selector = spec.node_selector.as_ref();
    rules::labels(errors, &path.child("nodeSelector"), selector);
    security::pod(errors, &path.child("securityContext"), spec);
    if let Some(affinity) = &spec.affinity {
        scheduling::affinity(errors, &path.child("affinity"), affinity);
    }
    network::dns_config(errors, &path.child("dnsConfig"), spec);
    scheduling::gates(errors, path, spec);
    scheduling::spread(errors, &path.child("topologySpreadConstraints"), spec);
    windows::host_processes(errors, path, spec);
    security::host_users(errors, path, spec);
    network::hostname_override(errors, &path.child("hostnameOverride"), spec);
    names_and_rest(errors, path, spec);
    os::rules(errors, path, spec);
    env::file_volumes(errors, path, spec);
}

/// The fields that speak for themselves.
fn names_and_rest(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let name = |errors: &mut Errors, field: &str, value: &Option<String>, rule: NameRule| {
        let value = text(value);
        if !value.is_empty() {
            rules::complain(errors, &path.child(field), value, rule(value));
        }
    };
    name(
        errors,
        "serviceAccountName",
        &spec.service_account_name,
        names::dns1123_subdomain,
    );
    name(
        errors,
        "nodeName",
        &spec.node_name,
        names::dns1123_subdomain,
    );
    active_deadline(errors, &path.child("activeDeadlineSeconds"), spec, 1);
    name(errors, "hostname", &spec.hostname, names::dns1123_label);
    name(errors, "subdomain", &spec.subdomain, names::dns1123_label);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::tolerations(errors, &path.child("tolerations"), tolerations);
    network::host_aliases(errors, &path.child("hostAliases"), spec);
    name(
        errors,
        "priorityClassName",
        &spec.priority_class_name,
        names::dns1123_subdomain,
    );
    // An absent runtime class is no runtime class, an empty one is a wrong name.
    if let Some(class) = &spec.runtime_class_name {
        let complaints = names::dns1123_subdomain(class);
        rules::complain(errors, &path.child("runtimeClassName"), class, complaints);
    }
    if let Some(policy) = &spec.preemption_policy {
        preemption_policy(errors, &path.child("preemptionPolicy"), policy);
    }
    if let Some(overhead) = &spec.overhead {
        resources::overhead(errors, &path.child("overhead"), overhead);
    }
}

/// Every container of a pod with its path, in the order in which Kubernetes speaks of them.
pub(super) fn every_container(path: &FieldPath, spec: &PodSpec) -> Vec<(FieldPath, Container)> {
    let list = |field: &str, containers: Vec<Container>| {
        let path = path.child(field);
        let containers = containers.into_iter().enumerate();
        containers
            .map(|(index, c)| (path.index(index), c))
            .collect::<Vec<_>>()
    };
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let mut all = list(
        "initContainers",
        spec.init_containers.clone().unwrap_or_default(),
    );
    all.extend(list("containers", spec.containers.clone()));
    all.extend(list(
        "ephemeralContainers",
        ephemeral.map(ephemeral::as_container).collect(),
    ));
    all
}

/// `PreemptLowerPriority` or `Never`.
pub(crate) fn preemption_policy(errors: &mut Errors, path: &FieldPath, policy: &str) {
    rules::required_in_order(errors, path, policy, &["PreemptLowerPriority", "Never"]);
}

/// Seconds from `min` to what fits in 32 bits.
pub(crate) fn active_deadline(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, min: i64) {
    if let Some(seconds) = spec.active_deadline_seconds
        && !(min..=DEADLINE_SECONDS_MAX).contains(&seconds)
    {
        let detail = format!("must be between {min} and {DEADLINE_SECONDS_MAX}, inclusive");
        errors.push(FieldError::invalid(path, seconds, detail));
    }
}

type NameRule = fn(&str) -> Vec<String>;

#[cfg(test)]
mod tests;
