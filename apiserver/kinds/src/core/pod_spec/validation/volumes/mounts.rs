//! Where containers mount volumes.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Container, VolumeMount};

use super::{Volumes, required};
use crate::rules::{self, Errors, Seen, text};

/// `volumeMounts`.
pub(in super::super) fn mounts(
    errors: &mut Errors,
    list: &FieldPath,
    container: &Container,
    volumes: &Volumes<'_>,
) {
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let mut paths = Seen::default();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = list.index(index);
        let (name, mount_path) = (mount.name.as_str(), mount.mount_path.as_str());
        required(errors, &path.child("name"), name);
        if !volumes.contains_key(name) {
            errors.push(FieldError::not_found(&path.child("name"), name));
        }
        required(errors, &path.child("mountPath"), mount_path);
        if paths.has(mount_path) {
            let path = path.child("mountPath");
            errors.push(FieldError::invalid(&path, mount_path, "must be unique"));
        } else {
            paths.check(errors, &path, mount_path);
        }
        if devices.iter().any(|d| d.name == name) {
            let detail = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(&path.child("name"), name, detail));
        }
        if devices.iter().any(|d| d.device_path == mount_path) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(
                &path.child("mountPath"),
                mount_path,
                detail,
            ));
        }
        sub_path(errors, list, &path, mount);
        propagation(errors, &list.child("mountPropagation"), mount, container);
        recursive_read_only(errors, &list.child("recursiveReadOnly"), mount);
    }
}

fn sub_path(errors: &mut Errors, list: &FieldPath, path: &FieldPath, mount: &VolumeMount) {
    let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    if !sub_path.is_empty() {
        rules::local_path(errors, &list.child("subPath"), sub_path);
    }
    if !expression.is_empty() {
        let expression_path = path.child("subPathExpr");
        if !sub_path.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&expression_path, expression, detail));
        }
        rules::local_path(errors, &list.child("subPathExpr"), expression);
    }
}

fn propagation(errors: &mut Errors, path: &FieldPath, mount: &VolumeMount, container: &Container) {
    let Some(propagation) = &mount.mount_propagation else {
        return;
    };
    let allowed = ["Bidirectional", "HostToContainer", "None"];
    rules::supported(errors, path, propagation, &allowed);
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|c| c.privileged) == Some(true);
    if propagation == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn recursive_read_only(errors: &mut Errors, path: &FieldPath, mount: &VolumeMount) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                let detail = "may only be specified when readOnly is true";
                errors.push(FieldError::forbidden(path, detail));
            }
            if !matches!(mount.mount_propagation.as_deref(), None | Some("None")) {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
        Some(other) => {
            rules::supported(errors, path, other, &["Disabled", "Enabled", "IfPossible"]);
        }
    }
}

/// `volumeDevices`.
pub(in super::super) fn devices(
    errors: &mut Errors,
    list: &FieldPath,
    container: &Container,
    volumes: &Volumes<'_>,
) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let (mut seen_names, mut seen_paths) = (Seen::default(), Seen::default());
    let mut scratch = Errors::new();
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let path = list.index(index);
        let (name_path, device_path) = (path.child("name"), path.child("devicePath"));
        let (name, at) = (device.name.as_str(), device.device_path.as_str());
        let invalid =
            |path: &FieldPath, value: &str, detail: &str| FieldError::invalid(path, value, detail);
        required(errors, &name_path, name);
        if seen_names.has(name) {
            errors.push(invalid(&name_path, name, "must be unique"));
        }
        match volumes.get(name) {
            None => errors.push(FieldError::not_found(&name_path, name)),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(invalid(&name_path, name, detail));
            }
            Some(_) => {}
        }
        required(errors, &device_path, at);
        if seen_paths.has(at) {
            errors.push(invalid(&device_path, at, "must be unique"));
        }
        if at.split('/').any(|part| part == "..") {
            let detail = "can not contain backsteps ('..')";
            errors.push(invalid(&device_path, at, detail));
        } else {
            seen_paths.check(&mut scratch, &path, at);
        }
        if mounts.iter().any(|m| m.name == name) {
            let detail = "must not already exist in volumeMounts";
            errors.push(invalid(&name_path, name, detail));
        }
        if mounts.iter().any(|m| m.mount_path == at) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(invalid(&device_path, at, detail));
        }
        if !name.is_empty() {
            seen_names.check(&mut scratch, &path, name);
        }
    }
}
