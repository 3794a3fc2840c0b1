//! Volumes of storage systems, which are checked although Corral does not mount them.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    AzureDiskVolumeSource, CSIVolumeSource, FCVolumeSource, FlexVolumeSource, FlockerVolumeSource,
    ISCSIVolumeSource, LocalObjectReference, QuobyteVolumeSource, StorageOSVolumeSource, Volume,
};
use corral_api::names;

use super::required;
use crate::rules::{self, Errors, json, text};

/// Largest number of a partition of a disk.
const PARTITION_MAX: i32 = 255;
/// Largest number of a unit of a target.
const LUN_MAX: i32 = 255;
const LUN_RANGE: &str = "must be between 0 and 255, inclusive";
/// Longest name that an initiator has for a session.
const SESSION_NAME_LENGTH_MAX: usize = 64;
const TENANT_LENGTH_MAX: usize = 64;
const DRIVER_NAME_LENGTH_MAX: usize = 63;
const HOST_PORT_PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
const DISK_URI_MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
const DISK_URI_BLOB: &str =
    "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";

/// Rules of the volume's source, which is the one in `field`, at `path`.
pub(super) fn source(errors: &mut Errors, path: &FieldPath, field: &str, volume: &Volume) {
    for (name, value) in must_have(field, volume) {
        required(errors, &path.child(name), value);
    }
    match field {
        "gitRepo" => {
            let directory = volume.git_repo.as_ref().map_or("", |g| text(&g.directory));
            rules::local_path(errors, &path.child("directory"), directory);
        }
        "gcePersistentDisk" => {
            let disk = volume.gce_persistent_disk.as_ref();
            partition(errors, path, disk.and_then(|d| d.partition));
        }
        "awsElasticBlockStore" => {
            let disk = volume.aws_elastic_block_store.as_ref();
            partition(errors, path, disk.and_then(|d| d.partition));
        }
        "cinder" => {
            let cinder = volume.cinder.as_ref();
            secret_name(errors, path, cinder.and_then(|c| c.secret_ref.as_ref()));
        }
        "iscsi" => {
            if let Some(source) = &volume.iscsi {
                iscsi(errors, path, source);
            }
        }
        "flocker" => volume.flocker.iter().for_each(|f| flocker(errors, path, f)),
        "quobyte" => volume.quobyte.iter().for_each(|q| quobyte(errors, path, q)),
        "fc" => volume.fc.iter().for_each(|f| fc(errors, path, f)),
        "flexVolume" => volume
            .flex_volume
            .iter()
            .for_each(|f| flex(errors, path, f)),
        "azureDisk" => volume
            .azure_disk
            .iter()
            .for_each(|a| azure_disk(errors, path, a)),
        "storageos" => volume
            .storageos
            .iter()
            .for_each(|s| storageos(errors, path, s)),
        "csi" => volume.csi.iter().for_each(|c| csi(errors, path, c)),
        _ => {}
    }
}

/// The session of an initiator of its own is named after the volume and the target.
pub(super) fn session_name(errors: &mut Errors, path: &FieldPath, volume: &Volume) {
    let Some(iscsi) = &volume.iscsi else { return };
    let length = volume.name.len() + ":".len() + iscsi.target_portal.len();
    if iscsi.initiator_name.is_some() && length > SESSION_NAME_LENGTH_MAX {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is \
                      specified.";
        let path = path.child("name");
        errors.push(FieldError::invalid(&path, volume.name.as_str(), detail));
    }
}

/// The texts and lists without which a source is none; of a list the first element stands for all.
fn must_have<'a>(field: &str, volume: &'a Volume) -> Vec<(&'static str, &'a str)> {
    let first = |list: &'a [String]| if list.is_empty() { "" } else { "given" };
    let fields = match field {
        "gitRepo" => volume
            .git_repo
            .as_ref()
            .map(|s| vec![("repository", s.repository.as_str())]),
        "gcePersistentDisk" => volume
            .gce_persistent_disk
            .as_ref()
            .map(|s| vec![("pdName", s.pd_name.as_str())]),
        "awsElasticBlockStore" => volume
            .aws_elastic_block_store
            .as_ref()
            .map(|s| vec![("volumeID", s.volume_id.as_str())]),
        "glusterfs" => volume.glusterfs.as_ref().map(|s| {
            vec![
                ("endpoints", s.endpoints.as_str()),
                ("path", s.path.as_str()),
            ]
        }),
        "rbd" => volume.rbd.as_ref().map(|s| {
            vec![
                ("monitors", first(&s.monitors)),
                ("image", s.image.as_str()),
            ]
        }),
        "cinder" => volume
            .cinder
            .as_ref()
            .map(|s| vec![("volumeID", s.volume_id.as_str())]),
        "cephFS" => volume
            .cephfs
            .as_ref()
            .map(|s| vec![("monitors", first(&s.monitors))]),
        "flexVolume" => volume
            .flex_volume
            .as_ref()
            .map(|s| vec![("driver", s.driver.as_str())]),
        "azureFile" => volume.azure_file.as_ref().map(|s| {
            vec![
                ("secretName", s.secret_name.as_str()),
                ("shareName", s.share_name.as_str()),
            ]
        }),
        "azureDisk" => volume.azure_disk.as_ref().map(|s| {
            vec![
                ("diskName", s.disk_name.as_str()),
                ("diskURI", s.disk_uri.as_str()),
            ]
        }),
        "vsphereVolume" => volume
            .vsphere_volume
            .as_ref()
            .map(|s| vec![("volumePath", s.volume_path.as_str())]),
        "photonPersistentDisk" => volume
            .photon_persistent_disk
            .as_ref()
            .map(|s| vec![("pdID", s.pd_id.as_str())]),
        "portworxVolume" => volume
            .portworx_volume
            .as_ref()
            .map(|s| vec![("volumeID", s.volume_id.as_str())]),
        "scaleIO" => volume.scale_io.as_ref().map(|s| {
            vec![
                ("gateway", s.gateway.as_str()),
                ("system", s.system.as_str()),
                ("volumeName", text(&s.volume_name)),
            ]
        }),
        _ => None,
    };
    fields.unwrap_or_default()
}

fn partition(errors: &mut Errors, path: &FieldPath, partition: Option<i32>) {
    let number = partition.unwrap_or(0);
    if !(0..=PARTITION_MAX).contains(&number) {
        // Zero is the whole disk, of which Kubernetes does not speak here.
        let detail = format!("must be between 1 and {PARTITION_MAX}, inclusive");
        let path = path.child("partition");
        errors.push(FieldError::invalid(&path, number, detail));
    }
}

fn secret_name(errors: &mut Errors, path: &FieldPath, secret: Option<&LocalObjectReference>) {
    if let Some(secret) = secret {
        required(errors, &path.child("secretRef").child("name"), &secret.name);
    }
}

/// The number of a unit of a target.
pub(crate) fn lun(errors: &mut Errors, path: &FieldPath, lun: i32) {
    if !(0..=LUN_MAX).contains(&lun) {
        errors.push(FieldError::invalid(&path.child("lun"), lun, LUN_RANGE));
    }
}

fn iscsi(errors: &mut Errors, path: &FieldPath, source: &ISCSIVolumeSource) {
    required(errors, &path.child("targetPortal"), &source.target_portal);
    let iqn = source.iqn.as_str();
    if iqn.is_empty() {
        required(errors, &path.child("iqn"), iqn);
    } else {
        qualified_iscsi_name(errors, &path.child("iqn"), iqn);
    }
    lun(errors, path, source.lun);
    let authenticates =
        source.chap_auth_discovery == Some(true) || source.chap_auth_session == Some(true);
    if authenticates && source.secret_ref.is_none() {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
    if let Some(initiator) = &source.initiator_name {
        qualified_iscsi_name(errors, &path.child("initiatorname"), initiator);
    }
}

/// `iqn.2015-02.example.com:name`, or `eui.` or `naa.` with 16 or 32 characters.
fn qualified_iscsi_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    if !["eui", "naa", "iqn"].iter().any(|p| name.starts_with(p)) {
        let detail = "must be valid format starting with iqn, eui, or naa";
        errors.push(FieldError::invalid(path, name, detail));
    } else if !iscsi_name_is_valid(name) {
        errors.push(FieldError::invalid(path, name, "must be valid format"));
    }
}

/// Whether a name has one of the three forms.
pub(crate) fn iscsi_name_is_valid(name: &str) -> bool {
    let alphanumeric = |rest: &str, n: usize| {
        let mut chars = rest.chars();
        chars.next().is_some() && {
            let id = chars.as_str();
            id.len() == n && id.bytes().all(|b| b.is_ascii_alphanumeric())
        }
    };
    if let Some(rest) = name.strip_prefix("eui") {
        alphanumeric(rest, 16)
    } else if let Some(rest) = name.strip_prefix("naa") {
        alphanumeric(rest, 32)
    } else {
        // It may begin with anything as long as it ends with such a name.
        name.starts_with("iqn")
            && name
                .match_indices("iqn.")
                .any(|(at, _)| is_dated_name(&name[at + "iqn.".len()..]))
    }
}

/// `2015-02.example.com:name`.
fn is_dated_name(text: &str) -> bool {
    let Some((date, rest)) = text.split_once('.') else {
        return false;
    };
    let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_digit());
    let dated = date
        .split_once('-')
        .is_some_and(|(year, month)| digits(year, 4) && digits(month, 2));
    let named = rest.split_once(':').is_some_and(|(authority, name)| {
        let of_authority = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        let outside = |c: char| ",;*&$|".contains(c) || c.is_ascii_whitespace();
        !authority.is_empty()
            && authority.bytes().all(of_authority)
            && !name.is_empty()
            && !name.contains(outside)
    });
    dated && named
}

fn flocker(errors: &mut Errors, path: &FieldPath, source: &FlockerVolumeSource) {
    let (name, uuid) = (text(&source.dataset_name), text(&source.dataset_uuid));
    if name.is_empty() && uuid.is_empty() {
        let detail = "one of datasetName and datasetUUID is required";
        errors.push(FieldError::required(path, detail));
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(FieldError::invalid(path, "resource", detail));
    }
    if name.contains('/') {
        let path = path.child("datasetName");
        errors.push(FieldError::invalid(&path, name, "must not contain '/'"));
    }
}

fn quobyte(errors: &mut Errors, path: &FieldPath, source: &QuobyteVolumeSource) {
    let registry_path = path.child("registry");
    let registry = source.registry.as_str();
    if registry.is_empty() {
        errors.push(FieldError::required(&registry_path, HOST_PORT_PAIRS));
    } else if text(&source.tenant).len() > TENANT_LENGTH_MAX {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(&path.child("tenant"), detail));
    } else {
        let wrong = registry.split(',').filter(|pair| !is_host_port(pair));
        let complaints = wrong.map(|_| HOST_PORT_PAIRS.to_owned()).collect();
        rules::complain(errors, &registry_path, registry, complaints);
    }
    required(errors, &path.child("volume"), &source.volume);
}

/// A host, in brackets if it has colons, and a port after the last colon.
fn is_host_port(pair: &str) -> bool {
    let Some((host, port)) = pair.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_is_whole = match bracketed {
        Some(_) => true,
        None => !host.contains(':'),
    };
    let brackets = |text: &str| text.contains(['[', ']']);
    host_is_whole && !brackets(bracketed.unwrap_or(host)) && !brackets(port)
}

fn fc(errors: &mut Errors, path: &FieldPath, source: &FCVolumeSource) {
    let targets = source.target_wwns.as_deref().unwrap_or_default();
    let ids = source.wwids.as_deref().unwrap_or_default();
    let targets_path = path.child("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        let detail = "must specify either targetWWNs or wwids, but not both";
        errors.push(FieldError::required(&targets_path, detail));
    }
    if !targets.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(&targets_path, json(targets), detail));
    }
    if targets.is_empty() {
        return;
    }
    match source.lun {
        Some(number) => lun(errors, path, number),
        None => errors.push(FieldError::required(
            &path.child("lun"),
            "lun is required if targetWWNs is specified",
        )),
    }
}

fn flex(errors: &mut Errors, path: &FieldPath, source: &FlexVolumeSource) {
    for key in source.options.iter().flatten().map(|(key, _)| key) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(first, _)| first);
        let namespace = format!(".{}", namespace.to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            let path = path.child("options").key(key);
            errors.push(FieldError::invalid(&path, key.as_str(), detail));
        }
    }
}

fn azure_disk(errors: &mut Errors, path: &FieldPath, source: &AzureDiskVolumeSource) {
    if let Some(mode) = &source.caching_mode {
        let allowed = ["None", "ReadOnly", "ReadWrite"];
        rules::supported(errors, &path.child("cachingMode"), mode, &allowed);
    }
    let Some(kind) = &source.kind else { return };
    let allowed = ["Dedicated", "Managed", "Shared"];
    rules::supported(errors, &path.child("kind"), kind, &allowed);
    let (prefix, shape) = match kind.as_str() {
        "Managed" => ("/subscriptions/", DISK_URI_MANAGED),
        _ => ("https://", DISK_URI_BLOB),
    };
    if !source.disk_uri.starts_with(prefix) {
        let path = path.child("diskURI");
        let uri = source.disk_uri.as_str();
        errors.push(FieldError::not_supported(&path, uri, &[shape]));
    }
}

fn storageos(errors: &mut Errors, path: &FieldPath, source: &StorageOSVolumeSource) {
    let name = text(&source.volume_name);
    let name_path = path.child("volumeName");
    if name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        rules::complain(errors, &name_path, name, names::dns1123_label(name));
    }
    let namespace = text(&source.volume_namespace);
    if !namespace.is_empty() {
        let complaints = names::dns1123_label(namespace);
        rules::complain(
            errors,
            &path.child("volumeNamespace"),
            namespace,
            complaints,
        );
    }
    secret_name(errors, path, source.secret_ref.as_ref());
}

fn csi(errors: &mut Errors, path: &FieldPath, source: &CSIVolumeSource) {
    driver_name(errors, &path.child("driver"), &source.driver);
    let Some(secret) = &source.node_publish_secret_ref else {
        return;
    };
    let name = secret.name.as_str();
    if name.is_empty() {
        let path = path.child("nodePublishSecretRef").child("name");
        errors.push(FieldError::required(&path, ""));
    } else {
        // Kubernetes names the volume's source, not the reference.
        let complaints = names::dns1123_subdomain(name);
        rules::complain(errors, &path.child("name"), name, complaints);
    }
}

/// The name of a storage driver.
pub(crate) fn driver_name(errors: &mut Errors, path: &FieldPath, driver: &str) {
    if driver.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if driver.len() > DRIVER_NAME_LENGTH_MAX {
        errors.push(FieldError::too_long(path, DRIVER_NAME_LENGTH_MAX));
    }
    let complaints = names::dns1123_subdomain(&driver.to_lowercase());
    rules::complain(errors, path, driver, complaints);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_initiators_and_pairs_of_hosts_and_ports_are_told_from_others() {
        let complaints = |name: &str| {
            let mut errors = Errors::new();
            qualified_iscsi_name(&mut errors, &rules::at("iqn"), name);
            errors.len()
        };
        for right in [
            "iqn.2015-02.example.com:name",
            "eui.0123456789abcdef",
            "naa.0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(complaints(right), 0, "{right}");
        }
        for wrong in [
            "iqn.15-2.example.com:name",
            "iqn.2015-02.example.com:a b",
            "iqn.2015-02:x",
            "eui.0",
            "other",
        ] {
            assert_eq!(complaints(wrong), 1, "{wrong}");
        }
        assert!(is_host_port("host:1") && is_host_port("[::1]:1") && is_host_port(":"));
        assert!(!is_host_port("host") && !is_host_port("::1:1") && !is_host_port("[h:1"));
    }
}
