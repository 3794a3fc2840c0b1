//! Ephemeral containers: what only pods have, and pods only after they were made.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    Container, EphemeralContainer, PodSpec, ResourceRequirements,
};

use super::containers as all_containers;
use super::volumes::Volumes;
use crate::rules::{Errors, Seen, text};

const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// `ephemeralContainers`. Templates, which have none, are told what is wrong with them all the same.
pub(super) fn containers(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &PodSpec,
    volumes: &Volumes<'_>,
) {
    let init = spec.init_containers.iter().flatten();
    let others: Vec<&str> = spec
        .containers
        .iter()
        .chain(init)
        .map(|c| c.name.as_str())
        .collect();
    let mut seen = Seen::default();
    for name in &others {
        seen.check(&mut Errors::new(), path, name);
    }
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(index);
        let plain = as_container(container);
        all_containers::common(errors, &path, &plain, spec, volumes);
        all_containers::image_space(errors, &path, &plain);
        seen.check(errors, &path.child("name"), &container.name);
        let target = text(&container.target_container_name);
        if !target.is_empty() && !others.contains(&target) {
            let path = path.child("targetContainerName");
            errors.push(FieldError::not_found(&path, target));
        }
        unusable_fields(errors, &path, &plain);
    }
}

/// An ephemeral container serves nobody and claims nothing for good.
fn unusable_fields(errors: &mut Errors, path: &FieldPath, container: &Container) {
    let resources = container.resources.as_ref();
    let forbid = |errors: &mut Errors, path: &FieldPath| {
        errors.push(FieldError::forbidden(path, NOT_FOR_EPHEMERAL));
    };
    for (field, given) in [
        ("ports", container.ports.is_some()),
        (
            "resources",
            resources.is_some_and(|r| *r != ResourceRequirements::default()),
        ),
        ("resizePolicy", container.resize_policy.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
        (
            "restartPolicyRules",
            container.restart_policy_rules.is_some(),
        ),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if given {
            forbid(errors, &path.child(field));
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.child("volumeMounts").index(index);
        for (field, value) in [
            ("subPath", &mount.sub_path),
            ("subPathExpr", &mount.sub_path_expr),
        ] {
            if !text(value).is_empty() {
                forbid(errors, &path.child(field));
            }
        }
    }
}

/// What an ephemeral container has in common with others.
pub(super) fn as_container(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    }
}
