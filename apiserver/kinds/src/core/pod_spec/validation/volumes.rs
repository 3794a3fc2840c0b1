//! Volumes, and where containers mount them.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Container, KeyToPath, PodSpec, Volume, VolumeMount};
use corral_api::names;
use corral_api::quantity::Quantity;

use super::projected;
use crate::rules::{self, Errors, Seen, text};

/// The volumes of a pod that are right, by their names.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const MODE_MAX: i32 = 0o777;

/// A mode of files.
pub(super) fn file_mode(errors: &mut Errors, path: &FieldPath, mode: Option<i32>) {
    if let Some(mode) = mode
        && !(0..=MODE_MAX).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, mode, detail));
    }
}

/// All volumes; those that are right can be mounted.
pub(super) fn volumes<'a>(errors: &mut Errors, path: &FieldPath, spec: &'a PodSpec) -> Volumes<'a> {
    let mut right = Volumes::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = path.index(index);
        let n_errors = errors.len();
        source(errors, &path, volume);
        let name_path = path.child("name");
        let name = volume.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else {
            rules::complain(errors, &name_path, name, names::dns1123_label(name));
        }
        if right.contains_key(name) {
            errors.push(FieldError::duplicate(&name_path, name));
        }
        if errors.len() == n_errors {
            right.insert(name, volume);
        }
    }
    right
}

/// The kinds of sources a volume names, with the field of each.
pub(crate) fn source_fields(volume: &Volume) -> Vec<&'static str> {
    let fields = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        (
            "awsElasticBlockStore",
            volume.aws_elastic_block_store.is_some(),
        ),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        (
            "persistentVolumeClaim",
            volume.persistent_volume_claim.is_some(),
        ),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephFS", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        (
            "photonPersistentDisk",
            volume.photon_persistent_disk.is_some(),
        ),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    let given = fields.into_iter().filter(|(_, given)| *given);
    given.map(|(field, _)| field).collect()
}

fn source(errors: &mut Errors, path: &FieldPath, volume: &Volume) {
    let given = source_fields(volume);
    let Some((first, more)) = given.split_first() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    source_rules(errors, &path.child(first), first, volume);
    for field in more {
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(&path.child(field), detail));
    }
}

fn source_rules(errors: &mut Errors, path: &FieldPath, field: &str, volume: &Volume) {
    match field {
        "emptyDir" => empty_dir(errors, path, volume),
        "hostPath" => host_path(errors, path, volume),
        "secret" => {
            let Some(secret) = &volume.secret else { return };
            required(errors, &path.child("secretName"), text(&secret.secret_name));
            file_mode(errors, &path.child("defaultMode"), secret.default_mode);
            keys_to_paths(errors, &path.child("items"), secret.items.as_deref());
        }
        "configMap" => {
            let Some(map) = &volume.config_map else {
                return;
            };
            required(errors, &path.child("name"), &map.name);
            file_mode(errors, &path.child("defaultMode"), map.default_mode);
            keys_to_paths(errors, &path.child("items"), map.items.as_deref());
        }
        "downwardAPI" => {
            let Some(downward) = &volume.downward_api else {
                return;
            };
            file_mode(errors, &path.child("defaultMode"), downward.default_mode);
            for file in downward.items.iter().flatten() {
                projected::downward_file(errors, path, file);
            }
        }
        "projected" => {
            let Some(source) = &volume.projected else {
                return;
            };
            projected::volume(errors, path, source);
        }
        "persistentVolumeClaim" => {
            let claim = volume.persistent_volume_claim.as_ref();
            let name = claim.map_or("", |c| c.claim_name.as_str());
            required(errors, &path.child("claimName"), name);
        }
        "nfs" => nfs(errors, path, volume),
        "csi" => {
            let driver = volume.csi.as_ref().map_or("", |c| c.driver.as_str());
            required(errors, &path.child("driver"), driver);
        }
        "ephemeral" => {
            let template = volume
                .ephemeral
                .as_ref()
                .and_then(|e| e.volume_claim_template.as_ref());
            if template.is_none() {
                let path = path.child("volumeClaimTemplate");
                errors.push(FieldError::required(&path, ""));
            }
        }
        "image" => {
            let Some(image) = &volume.image else { return };
            required(errors, &path.child("reference"), text(&image.reference));
            let policy = text(&image.pull_policy);
            let allowed = ["Always", "IfNotPresent", "Never"];
            rules::required_of(errors, &path.child("pullPolicy"), policy, &allowed);
        }
        // The rest is accepted with a warning that it is not mounted.
        _ => {}
    }
}

fn required(errors: &mut Errors, path: &FieldPath, value: &str) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

fn empty_dir(errors: &mut Errors, path: &FieldPath, volume: &Volume) {
    let limit = volume
        .empty_dir
        .as_ref()
        .and_then(|e| e.size_limit.as_ref());
    let negative = |q: Quantity| q.is_negative();
    if limit.is_some_and(|wire| Quantity::from_wire(wire).is_ok_and(negative)) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&path.child("sizeLimit"), detail));
    }
}

fn host_path(errors: &mut Errors, path: &FieldPath, volume: &Volume) {
    let Some(source) = &volume.host_path else {
        return;
    };
    if source.path.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    rules::no_backsteps(errors, &path.child("path"), &source.path);
    if let Some(type_) = &source.type_ {
        rules::supported(errors, &path.child("type"), type_, HOST_PATH_TYPES);
    }
}

fn nfs(errors: &mut Errors, path: &FieldPath, volume: &Volume) {
    let Some(nfs) = &volume.nfs else { return };
    required(errors, &path.child("server"), &nfs.server);
    required(errors, &path.child("path"), &nfs.path);
    if !nfs.path.starts_with('/') {
        let detail = "must be an absolute path";
        errors.push(FieldError::invalid(
            &path.child("path"),
            nfs.path.as_str(),
            detail,
        ));
    }
}

/// Keys of an object that become files.
pub(super) fn keys_to_paths(errors: &mut Errors, path: &FieldPath, items: Option<&[KeyToPath]>) {
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        required(errors, &path.child("key"), &item.key);
        if item.path.is_empty() {
            errors.push(FieldError::required(&path.child("path"), ""));
        }
        rules::unreserved_path(errors, &path.child("path"), &item.path);
        file_mode(errors, &path.child("mode"), item.mode);
    }
}

/// `volumeMounts`.
pub(super) fn mounts(
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
pub(super) fn devices(
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
        let mut invalid = |path: &FieldPath, value: &str, detail: &str| {
            errors.push(FieldError::invalid(path, value, detail));
        };
        if seen_names.has(name) {
            invalid(&name_path, name, "must be unique");
        }
        if seen_paths.has(at) {
            invalid(&device_path, at, "must be unique");
        }
        if at.split('/').any(|part| part == "..") {
            invalid(&device_path, at, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|m| m.name == name) {
            invalid(&name_path, name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.mount_path == at) {
            let detail = "must not already exist as a path in volumeMounts";
            invalid(&device_path, at, detail);
        }
        match volumes.get(name) {
            None => errors.push(FieldError::not_found(&name_path, name)),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                invalid(&name_path, name, detail);
            }
            Some(_) => {}
        }
        required(errors, &name_path, name);
        required(errors, &device_path, at);
        seen_names.check(&mut scratch, &path, name);
        seen_paths.check(&mut scratch, &path, at);
    }
}
