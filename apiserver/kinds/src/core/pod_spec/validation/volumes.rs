//! Volumes, and where containers mount them.

pub(super) mod claim_template;
pub(super) mod foreign;
mod mounts;

pub(super) use mounts::{devices, mounts};

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath, go_quote};
use corral_api::k8s::api::core::v1::{KeyToPath, PodSpec, Volume};
use corral_api::names;
use corral_api::quantity::Quantity;

use super::{Owner, projected};
use crate::rules::{self, Errors, text};

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
pub(super) fn volumes<'a>(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &'a PodSpec,
    owner: Owner<'_>,
) -> Volumes<'a> {
    let mut right = Volumes::new();
    let made = claims_made(spec, owner);
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = path.index(index);
        let n_errors = errors.len();
        source(errors, &path, volume, owner);
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
        let claim = volume.persistent_volume_claim.as_ref();
        if let Some(claim) = claim.filter(|c| made.contains(&c.claim_name)) {
            let path = path.child("persistentVolumeClaim").child("claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(
                &path,
                claim.claim_name.as_str(),
                detail,
            ));
        }
    }
    right
}

/// Names of the claims that are made for the pod's own volumes; those of a template have no name yet.
fn claims_made(spec: &PodSpec, owner: Owner<'_>) -> Vec<String> {
    let Some(pod) = owner.pod_name() else {
        return Vec::new();
    };
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter(|v| v.ephemeral.is_some())
        .map(|v| format!("{pod}-{}", v.name))
        .collect()
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

/// Rules of the one source of a volume that no pod has.
pub(crate) fn source_of_volume(errors: &mut Errors, path: &FieldPath, volume: &Volume) {
    for field in source_fields(volume) {
        let path = path.child(path_of_rules(field));
        source_rules(errors, &path, field, volume, Owner::Template);
    }
}

/// Where the rules of a source speak of it, which for some is not its field.
fn path_of_rules(field: &str) -> &str {
    match field {
        "gcePersistentDisk" => "persistentDisk",
        "cephFS" => "cephfs",
        other => other,
    }
}

fn source(errors: &mut Errors, path: &FieldPath, volume: &Volume, owner: Owner<'_>) {
    let given = source_fields(volume);
    let Some((first, more)) = given.split_first() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    source_rules(
        errors,
        &path.child(path_of_rules(first)),
        first,
        volume,
        owner,
    );
    foreign::session_name(errors, path, volume);
    if *first == "ephemeral" {
        claim_name(errors, path, volume, owner);
    }
    for field in more {
        let field = match *field {
            // The name that Kubernetes gives it here.
            "downwardAPI" => "downwarAPI",
            other => other,
        };
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(&path.child(field), detail));
    }
}

/// The claim of an ephemeral volume has the names of the pod and of the volume.
fn claim_name(errors: &mut Errors, path: &FieldPath, volume: &Volume, owner: Owner<'_>) {
    let Some(pod) = owner.pod_name().filter(|_| !volume.name.is_empty()) else {
        return;
    };
    let claim = format!("{pod}-{}", volume.name);
    for complaint in names::dns1123_subdomain(&claim) {
        let path = path.child("name");
        let detail = format!("PVC name {}: {complaint}", go_quote(&claim));
        errors.push(FieldError::invalid(&path, volume.name.as_str(), detail));
    }
}

fn source_rules(
    errors: &mut Errors,
    path: &FieldPath,
    field: &str,
    volume: &Volume,
    owner: Owner<'_>,
) {
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
        "ephemeral" => {
            let source = volume.ephemeral.as_ref();
            let template = source.and_then(|e| e.volume_claim_template.as_ref());
            let path = path.child("volumeClaimTemplate");
            match template {
                Some(template) => claim_template::claim_template(errors, &path, template),
                None => errors.push(FieldError::required(&path, "")),
            }
        }
        "image" => {
            let Some(image) = &volume.image else { return };
            // Whoever makes pods from a template may put it there.
            if matches!(owner, Owner::Pod(_)) {
                required(errors, &path.child("reference"), text(&image.reference));
            }
            let policy = text(&image.pull_policy);
            let allowed = ["Always", "IfNotPresent", "Never"];
            rules::required_of(errors, &path.child("pullPolicy"), policy, &allowed);
        }
        _ => foreign::source(errors, path, field, volume),
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
