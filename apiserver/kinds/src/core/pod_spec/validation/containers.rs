//! Containers: names, ports, images, and what init containers may not have.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, PodSpec,
};
use corral_api::names;

use super::volumes::Volumes;
use super::{env, handlers, resources, security, volumes};
use crate::rules::{self, Errors, PROTOCOLS, Seen, json, text};

/// Restart rules of a container.
const RESTART_RULES_MAX: usize = 20;
/// Exit codes of a restart rule: as many as there are without success.
const EXIT_CODES_MAX: usize = 255;
const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";
const SPACE_AROUND_IMAGE: &str = "must not have leading or trailing whitespace";

/// Containers and init containers.
pub(super) fn all(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, volumes: &Volumes<'_>) {
    let main = path.child("containers");
    if spec.containers.is_empty() {
        errors.push(FieldError::required(&main, ""));
    }
    let mut seen = Seen::default();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = main.index(index);
        common(errors, &path, container, spec, volumes);
        seen.check(errors, &path.child("name"), &container.name);
        handlers::of_container(errors, &path, container, spec);
        restart_policy(errors, &path, container);
    }
    host_port_conflicts(errors, &main, &spec.containers);
    let init = path.child("initContainers");
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = init.index(index);
        common(errors, &path, container, spec, volumes);
        if container.restart_policy.is_some() || container.restart_policy_rules.is_none() {
            restart_policy(errors, &path, container);
        } else {
            unnamed_policy(errors, &path, container);
        }
        // An empty name is missed in each container, and taken by none.
        if !container.name.is_empty() || seen.has("") {
            seen.check(errors, &path.child("name"), &container.name);
        }
        host_port_conflicts(errors, &init, std::slice::from_ref(container));
        if container.restart_policy.as_deref() == Some("Always") {
            handlers::of_container(errors, &path, container, spec);
        } else {
            plain_init(errors, &path, container);
        }
    }
}

/// An image's name without spaces around it, which Pods are asked and templates are not.
pub(crate) fn image_spaces(errors: &mut Errors, path: &FieldPath, containers: &[Container]) {
    for (index, container) in containers.iter().enumerate() {
        image_space(errors, &path.index(index), container);
    }
}

/// The same of one container.
pub(super) fn image_space(errors: &mut Errors, path: &FieldPath, container: &Container) {
    let image = text(&container.image);
    if image != image.trim() {
        let path = path.child("image");
        errors.push(FieldError::invalid(&path, image, SPACE_AROUND_IMAGE));
    }
}

pub(super) fn common(
    errors: &mut Errors,
    path: &FieldPath,
    container: &Container,
    spec: &PodSpec,
    volumes: &Volumes<'_>,
) {
    let name_path = path.child("name");
    let name = &container.name;
    if name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        rules::complain(errors, &name_path, name, names::dns1123_label(name));
    }
    if text(&container.image).is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    let policy_path = path.child("terminationMessagePolicy");
    let policies = ["File", "FallbackToLogsOnError"];
    let policy = text(&container.termination_message_policy);
    rules::required_in_order(errors, &policy_path, policy, &policies);
    container_ports(
        errors,
        &path.child("ports"),
        container.ports.as_deref().unwrap_or_default(),
    );
    env::variables(errors, &path.child("env"), container);
    env::sources(errors, &path.child("envFrom"), container);
    volumes::mounts(errors, &path.child("volumeMounts"), container, volumes);
    volumes::devices(errors, &path.child("volumeDevices"), container, volumes);
    rules::required_of(
        errors,
        &path.child("imagePullPolicy"),
        text(&container.image_pull_policy),
        &["Always", "IfNotPresent", "Never"],
    );
    if let Some(requirements) = &container.resources {
        resources::container(errors, &path.child("resources"), requirements, spec);
    }
    let policies = container.resize_policy.as_deref().unwrap_or_default();
    resize_policy(errors, &path.child("resizePolicy"), policies, spec);
    if let Some(context) = &container.security_context {
        security::container(errors, &path.child("securityContext"), context, spec);
    }
}

fn container_ports(errors: &mut Errors, path: &FieldPath, ports: &[ContainerPort]) {
    let mut seen = Seen::default();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            let complaints = names::port_name(name);
            if complaints.is_empty() {
                seen.check(errors, &path.child("name"), name);
            }
            rules::complain(errors, &path.child("name"), name, complaints);
        }
        if port.container_port == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        } else {
            rules::port(errors, &path.child("containerPort"), port.container_port);
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            rules::port(errors, &path.child("hostPort"), host_port);
        }
        let protocol = text(&port.protocol);
        rules::required_of(errors, &path.child("protocol"), protocol, PROTOCOLS);
    }
}

fn host_port_conflicts(errors: &mut Errors, path: &FieldPath, containers: &[Container]) {
    let mut taken = std::collections::BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index).child("ports");
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let Some(host_port) = port.host_port.filter(|p| *p != 0) else {
                continue;
            };
            let claim = format!(
                "{}/{}/{host_port}",
                text(&port.protocol),
                text(&port.host_ip)
            );
            if taken.contains(&claim) {
                let path = path.index(index).child("hostPort");
                errors.push(FieldError::duplicate(&path, claim));
            } else {
                taken.insert(claim);
            }
        }
    }
}

fn resize_policy(
    errors: &mut Errors,
    path: &FieldPath,
    policies: &[ContainerResizePolicy],
    spec: &PodSpec,
) {
    let mut seen = Seen::default();
    for (index, policy) in policies.iter().enumerate() {
        seen.check(errors, &path.index(index), &policy.resource_name);
        rules::required_of(errors, path, &policy.resource_name, &["cpu", "memory"]);
        let allowed = ["NotRequired", "RestartContainer"];
        rules::required_of(errors, path, &policy.restart_policy, &allowed);
        if spec.restart_policy.as_deref() == Some("Never") && policy.restart_policy != "NotRequired"
        {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(
                path,
                policy.restart_policy.as_str(),
                detail,
            ));
        }
    }
}

fn restart_policy(errors: &mut Errors, path: &FieldPath, container: &Container) {
    let restart_rules = container
        .restart_policy_rules
        .as_deref()
        .unwrap_or_default();
    match &container.restart_policy {
        Some(policy) => {
            let allowed = ["Always", "Never", "OnFailure"];
            rules::supported(errors, &path.child("restartPolicy"), policy, &allowed);
        }
        None => unnamed_policy(errors, path, container),
    }
    let path = path.child("restartPolicyRules");
    if restart_rules.len() > RESTART_RULES_MAX {
        errors.push(FieldError::too_many(
            &path,
            restart_rules.len(),
            RESTART_RULES_MAX,
        ));
    }
    for (index, rule) in restart_rules.iter().enumerate() {
        restart_rule(errors, &path.index(index), rule);
    }
}

/// Rules of when to restart need a policy that they are exceptions from.
fn unnamed_policy(errors: &mut Errors, path: &FieldPath, container: &Container) {
    let restart_rules = container.restart_policy_rules.as_ref();
    if restart_rules.is_some_and(|rules| !rules.is_empty()) {
        let detail = "must specify restartPolicy when restart rules are used";
        let path = path.child("restartPolicy");
        errors.push(FieldError::required(&path, detail));
    }
}

fn restart_rule(errors: &mut Errors, path: &FieldPath, rule: &ContainerRestartRule) {
    let actions = ["Restart", "RestartAllContainers"];
    rules::supported(errors, &path.child("action"), &rule.action, &actions);
    let path = path.child("exitCodes");
    let Some(codes) = &rule.exit_codes else {
        errors.push(FieldError::required(&path, "must be specified"));
        return;
    };
    rules::supported(
        errors,
        &path.child("operator"),
        &codes.operator,
        &["In", "NotIn"],
    );
    let n_values = codes.values.as_ref().map_or(0, Vec::len);
    if n_values > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(
            &path.child("values"),
            n_values,
            EXIT_CODES_MAX,
        ));
    }
}

/// What makes sense only for a container that keeps running.
fn plain_init(errors: &mut Errors, path: &FieldPath, container: &Container) {
    for (field, given) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if given {
            errors.push(FieldError::forbidden(&path.child(field), NOT_FOR_INIT));
        }
    }
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        if policy.restart_policy == "RestartContainer" {
            let path = path
                .child("resizePolicy")
                .index(index)
                .child("restartPolicy");
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.push(FieldError::invalid(
                &path,
                json(&policy.restart_policy),
                detail,
            ));
        }
    }
}
