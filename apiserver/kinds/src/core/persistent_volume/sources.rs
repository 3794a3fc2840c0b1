//! Where the bytes of a volume are. Most sources are those of a pod's own volumes, and so are their rules; what differs
//! is here.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    CSIPersistentVolumeSource, ISCSIPersistentVolumeSource, PersistentVolumeSpec, SecretReference,
    StorageOSPersistentVolumeSource, Volume,
};
use corral_api::names;
use serde_json::{Value, json};

use crate::core::pod_spec::defaults::foreign_volume;
use crate::core::pod_spec::validation::{
    driver_name, iscsi_name_is_valid, lun_of_target, source_of_volume,
};
use crate::fill;
use crate::rules::{self, Errors, text};

/// Longest name that an initiator has for a session.
const SESSION_NAME_LENGTH_MAX: usize = 64;
/// The fields of all sources, in the order in which they are checked.
const FIELDS: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The sources alone, as they are written.
pub(super) fn of(spec: &PersistentVolumeSpec) -> Value {
    let mut value = rules::json(spec);
    if let Value::Object(map) = &mut value {
        map.retain(|field, _| FIELDS.contains(&field.as_str()));
    }
    value
}

/// Without texts and flags that are as good as none.
pub(super) fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let given = map.iter().filter(|(_, v)| **v != "" && **v != false);
            Value::Object(given.map(|(k, v)| (k.clone(), plain(v))).collect())
        }
        other => other.clone(),
    }
}

/// Fills in what Kubernetes fills in.
pub(crate) fn default(spec: &mut PersistentVolumeSpec) {
    if let Some(host_path) = &mut spec.host_path {
        fill::absent(&mut host_path.type_, String::new());
    }
    if let Some(iscsi) = &mut spec.iscsi {
        fill::text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut spec.rbd {
        fill::text(&mut rbd.pool, "rbd");
        fill::text(&mut rbd.user, "admin");
        fill::text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(scale_io) = &mut spec.scale_io {
        fill::text(&mut scale_io.storage_mode, "ThinProvisioned");
        fill::text(&mut scale_io.fs_type, "xfs");
    }
    if spec.azure_disk.is_some() {
        let mut volume = Volume {
            azure_disk: spec.azure_disk.take(),
            ..Volume::default()
        };
        foreign_volume(&mut volume);
        spec.azure_disk = volume.azure_disk;
    }
}

/// Rules of the sources, of which there is one.
pub(super) fn validate(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &PersistentVolumeSpec,
    name: &str,
) {
    let all = of(spec);
    let mut n_sources = 0;
    for field in FIELDS {
        let Some(source) = all.get(field) else {
            continue;
        };
        n_sources += 1;
        // Kubernetes does not count before this one.
        if n_sources > 1 && field != "flexVolume" {
            // The name that Kubernetes gives it here.
            let field = if field == "cephfs" { "cephFS" } else { field };
            let detail = "may not specify more than 1 volume type";
            errors.push(FieldError::forbidden(&path.child(field), detail));
            continue;
        }
        one(errors, path, spec, (field, source), name);
    }
    if n_sources == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn one(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &PersistentVolumeSpec,
    (field, source): (&str, &Value),
    name: &str,
) {
    let inner = path.child(field);
    match field {
        "iscsi" => {
            let source = spec.iscsi.iter();
            source.for_each(|source| iscsi(errors, &inner, source, name));
            return;
        }
        "csi" => {
            return spec
                .csi
                .iter()
                .for_each(|source| csi(errors, &inner, source));
        }
        "local" => return local(errors, path, spec),
        "storageos" => {
            let source = spec.storageos.iter();
            return source.for_each(|source| storageos(errors, &inner, source));
        }
        _ => {}
    }
    let shared: Result<Volume, _> = serde_json::from_value(json!({field: source}));
    if let Ok(volume) = shared {
        source_of_volume(errors, path, &volume);
    }
    if field == "cinder" && source.get("secretRef").is_some() {
        let namespace = source["secretRef"]["namespace"].as_str().unwrap_or("");
        required(errors, &inner.child("secretRef.namespace"), namespace);
    }
    if field == "azureFile"
        && let Some(namespace) = source["secretNamespace"].as_str()
    {
        required(errors, &inner.child("secretNamespace"), namespace);
    }
    if field == "glusterfs"
        && let Some(namespace) = source["endpointsNamespace"].as_str()
    {
        let path = inner.child("endpointsNamespace");
        let complaints = match namespace {
            "" => {
                vec![
                    "if the endpointnamespace is set, it must be a valid namespace name".to_owned(),
                ]
            }
            namespace => names::dns1123_label(namespace),
        };
        rules::complain(errors, &path, namespace, complaints);
    }
}

fn required(errors: &mut Errors, path: &FieldPath, value: &str) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

fn iscsi(errors: &mut Errors, path: &FieldPath, source: &ISCSIPersistentVolumeSource, name: &str) {
    let portal = source.target_portal.as_str();
    required(errors, &path.child("targetPortal"), portal);
    if source.initiator_name.is_some()
        && name.len() + ":".len() + portal.len() > SESSION_NAME_LENGTH_MAX
    {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is \
                      specified.";
        let path = path.child("targetportal");
        errors.push(FieldError::invalid(&path, portal, detail));
    }
    match source.iqn.as_str() {
        "" => errors.push(FieldError::required(&path.child("iqn"), "")),
        iqn => valid_name(errors, &path.child("iqn"), iqn),
    }
    lun_of_target(errors, path, source.lun);
    let authenticates =
        source.chap_auth_discovery == Some(true) || source.chap_auth_session == Some(true);
    if authenticates && source.secret_ref.is_none() {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
    if let Some(secret) = &source.secret_ref {
        required(errors, &path.child("secretRef.name"), text(&secret.name));
    }
    if let Some(initiator) = &source.initiator_name {
        valid_name(errors, &path.child("initiatorname"), initiator);
    }
}

fn valid_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    if !iscsi_name_is_valid(name) {
        errors.push(FieldError::invalid(path, name, "must be valid format"));
    }
}

fn csi(errors: &mut Errors, path: &FieldPath, source: &CSIPersistentVolumeSource) {
    driver_name(errors, &path.child("driver"), &source.driver);
    required(errors, &path.child("volumeHandle"), &source.volume_handle);
    for (field, reference) in [
        (
            "controllerPublishSecretRef",
            &source.controller_publish_secret_ref,
        ),
        (
            "controllerExpandSecretRef",
            &source.controller_expand_secret_ref,
        ),
        ("nodePublishSecretRef", &source.node_publish_secret_ref),
        ("nodeExpandSecretRef", &source.node_expand_secret_ref),
    ] {
        if let Some(reference) = reference {
            secret(errors, &path.child(field), reference);
        }
    }
}

fn secret(errors: &mut Errors, path: &FieldPath, reference: &SecretReference) {
    let (name, namespace) = (text(&reference.name), text(&reference.namespace));
    for (field, value, complaints) in [
        ("name", name, names::dns1123_subdomain(name)),
        ("namespace", namespace, names::dns1123_label(namespace)),
    ] {
        let path = path.child(field);
        match value {
            "" => errors.push(FieldError::required(&path, "")),
            value => rules::complain(errors, &path, value, complaints),
        }
    }
}

/// A disk of a node: only that node can use it.
fn local(errors: &mut Errors, path: &FieldPath, spec: &PersistentVolumeSpec) {
    let Some(source) = &spec.local else { return };
    let inner = path.child("local.path");
    required(errors, &inner, &source.path);
    rules::no_backsteps(errors, &inner, &source.path);
    if spec.node_affinity.is_none() {
        let detail = "Local volume requires node affinity";
        errors.push(FieldError::required(&path.child("nodeAffinity"), detail));
    }
}

fn storageos(errors: &mut Errors, path: &FieldPath, source: &StorageOSPersistentVolumeSource) {
    let (name, namespace) = (text(&source.volume_name), text(&source.volume_namespace));
    match name {
        "" => errors.push(FieldError::required(&path.child("volumeName"), "")),
        name => {
            let path = path.child("volumeName");
            rules::complain(errors, &path, name, names::dns1123_label(name));
        }
    }
    if !namespace.is_empty() {
        let path = path.child("volumeNamespace");
        rules::complain(errors, &path, namespace, names::dns1123_label(namespace));
    }
    if let Some(secret) = &source.secret_ref {
        required(errors, &path.child("secretRef.name"), text(&secret.name));
        let namespace = text(&secret.namespace);
        required(errors, &path.child("secretRef.namespace"), namespace);
    }
}
