//! Validation of a pod's spec, by subject.

pub(crate) mod containers;
mod env;
mod handlers;
mod network;
mod projected;
pub(crate) mod resources;
pub(crate) mod scheduling;
mod security;
mod volumes;

pub(crate) use volumes::source_fields as volume_sources;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{PodSpec, PodTemplateSpec};
use corral_api::names;

use crate::rules::{self, Errors, text};

/// Largest `activeDeadlineSeconds`.
pub(crate) const DEADLINE_SECONDS_MAX: i64 = i32::MAX as i64;

/// Whose spec it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A Pod's own.
    Pod,
    /// A template's, from which pods are made.
    Template,
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
    let volumes = volumes::volumes(errors, &path.child("volumes"), spec);
    containers::all(errors, path, spec, &volumes);
    if let Some(resources) = &spec.resources {
        resources::pod_level(errors, &path.child("resources"), resources);
    }
    network::host_ports(errors, path, spec, owner);
    let policy = text(&spec.restart_policy);
    let policies = ["Always", "OnFailure", "Never"];
    rules::required_of(errors, &path.child("restartPolicy"), policy, &policies);
    network::dns_policy(errors, &path.child("dnsPolicy"), spec);
    rules::labels(
        errors,
        &path.child("nodeSelector"),
        spec.node_selector.as_ref(),
    );
    security::pod(errors, &path.child("securityContext"), spec);
    if let Some(affinity) = &spec.affinity {
        scheduling::affinity(errors, &path.child("affinity"), affinity);
    }
    network::dns_config(errors, &path.child("dnsConfig"), spec);
    scheduling::gates(errors, path, spec);
    scheduling::spread(errors, &path.child("topologySpreadConstraints"), spec);
    security::host_users(errors, path, spec);
    network::hostname_override(errors, &path.child("hostnameOverride"), spec);
    simple_names(errors, path, spec);
    active_deadline(errors, &path.child("activeDeadlineSeconds"), spec, 1);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::tolerations(errors, &path.child("tolerations"), tolerations);
    network::host_aliases(errors, &path.child("hostAliases"), spec);
    if let Some(policy) = &spec.preemption_policy {
        preemption_policy(errors, &path.child("preemptionPolicy"), policy);
    }
    if let Some(overhead) = &spec.overhead {
        resources::overhead(errors, &path.child("overhead"), overhead);
    }
    if let Some(os) = &spec.os {
        let path = path.child("os").child("name");
        rules::required_of(errors, &path, &os.name, &["linux", "windows"]);
    }
}

/// `PreemptLowerPriority` or `Never`.
pub(crate) fn preemption_policy(errors: &mut Errors, path: &FieldPath, policy: &str) {
    rules::required_of(errors, path, policy, &["PreemptLowerPriority", "Never"]);
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

fn simple_names(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let named: [(&str, &Option<String>, NameRule); 6] = [
        (
            "serviceAccountName",
            &spec.service_account_name,
            names::dns1123_subdomain,
        ),
        ("nodeName", &spec.node_name, names::dns1123_subdomain),
        ("hostname", &spec.hostname, names::dns1123_label),
        ("subdomain", &spec.subdomain, names::dns1123_label),
        (
            "priorityClassName",
            &spec.priority_class_name,
            names::dns1123_subdomain,
        ),
        (
            "runtimeClassName",
            &spec.runtime_class_name,
            names::dns1123_subdomain,
        ),
    ];
    for (field, value, rule) in named {
        let value = text(value);
        // An absent runtime class is no runtime class, an empty one is a wrong name.
        let given_empty = field == "runtimeClassName" && spec.runtime_class_name.is_some();
        if !value.is_empty() || given_empty {
            rules::complain(errors, &path.child(field), value, rule(value));
        }
    }
}

#[cfg(test)]
mod tests;
