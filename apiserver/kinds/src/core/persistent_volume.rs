//! `PersistentVolume`: storage that outlives the pods that use it.

mod sources;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus,
};
use corral_api::names;
use corral_api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::Value;

use super::node::labels;
use super::pod_spec::validation::scheduling::node_selector;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json, text};

pub(crate) use sources::default as default_sources;

/// The class of old clients.
pub(crate) const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
const MOUNT_OPTIONS_BETA: &str = "volume.beta.kubernetes.io/mount-options";
const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
/// Said where there is no value.
const UNSET: &str = "<unset>";

/// `v1 PersistentVolume`.
pub struct PersistentVolumeKind;

impl Kind for PersistentVolumeKind {
    type Object = PersistentVolume;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: Words::Of(&["pv"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const STATUS: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Capacity", "How much it holds."),
            Column::text("Access Modes", "How many may use it, and how."),
            Column::text("Reclaim Policy", "What becomes of it without a claim."),
            Column::text("Status", "Whether it is bound."),
            Column::text("Claim", "The claim that it is bound to."),
            Column::text("StorageClass", "Its class."),
            Column::text("VolumeAttributesClass", "The class of its attributes."),
            Column::text("Reason", "Why it failed."),
            Column::AGE,
            Column::text("VolumeMode", "Whether it has a file system.").wide(),
        ]
    }

    fn cells(volume: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let spec = volume.spec.clone().unwrap_or_default();
        let status = volume.status.clone().unwrap_or_default();
        let capacity = spec.capacity.as_ref().and_then(|c| c.get("storage"));
        let claim = spec.claim_ref.as_ref();
        let claim = claim.map(|c| format!("{}/{}", text(&c.namespace), text(&c.name)));
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        let phase = match volume.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => text(&status.phase),
        };
        let or_unset =
            |value: &Option<String>| -> Value { value.as_deref().unwrap_or(UNSET).into() };
        vec![
            volume.metadata.name.clone().into(),
            capacity.map_or("0", |wire| wire.0.as_str()).into(),
            access_modes(modes).into(),
            text(&spec.persistent_volume_reclaim_policy).into(),
            phase.into(),
            claim.unwrap_or_default().into(),
            class_of(volume).into(),
            or_unset(&spec.volume_attributes_class_name),
            text(&status.reason).into(),
            age(&volume.metadata, now),
            or_unset(&spec.volume_mode),
        ]
    }

    fn default(volume: &mut PersistentVolume) {
        let status = volume.status.get_or_insert_default();
        fill::text(&mut status.phase, "Pending");
        let spec = volume.spec.get_or_insert_default();
        fill::text(&mut spec.persistent_volume_reclaim_policy, "Retain");
        fill::absent(&mut spec.volume_mode, "Filesystem".to_owned());
        default_sources(spec);
    }

    fn prepare_create(volume: &mut PersistentVolume) {
        volume.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            last_phase_transition_time: volume.metadata.creation_timestamp.clone(),
            ..PersistentVolumeStatus::default()
        });
    }

    fn validate(volume: &PersistentVolume) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let nothing = PersistentVolumeSpec::default();
        let spec = volume.spec.as_ref().unwrap_or(&nothing);
        spec_rules(&mut errors, &at("spec"), spec, text(&volume.metadata.name));
        mount_options(&mut errors, volume, spec);
        errors
    }

    fn validate_update(new: &PersistentVolume, old: &PersistentVolume) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        let nothing = PersistentVolumeSpec::default();
        let old = old.spec.as_ref().unwrap_or(&nothing);
        let new = new.spec.as_ref().unwrap_or(&nothing);
        let mut source = new.clone();
        if let (Some(csi), Some(was)) = (&mut source.csi, &old.csi)
            && was.controller_expand_secret_ref.is_none()
        {
            csi.controller_expand_secret_ref = None;
        }
        let (now, was) = (sources::of(&source), sources::of(old));
        if !rules::same_structures(&sources::plain(&now), &sources::plain(&was)) {
            let detail = format!(
                "spec.persistentvolumesource is immutable after creation\n  {was} -> {now}"
            );
            let path = at("spec.persistentvolumesource");
            errors.push(FieldError::forbidden(&path, detail));
        }
        // Kubernetes leaves out the first step of these paths.
        let path = at("volumeMode");
        rules::immutable(&mut errors, &path, &new.volume_mode, &old.volume_mode);
        if old.node_affinity.is_some() && !rules::same(&renamed(new), &renamed(old)) {
            let detail = "field is immutable, except for updating from beta label to GA";
            let value = json(&new.node_affinity);
            errors.push(FieldError::invalid(&at("nodeAffinity"), value, detail));
        }
        let attributes = &new.volume_attributes_class_name;
        if old.volume_attributes_class_name.is_some() && attributes.is_none() {
            let path = at("spec.volumeAttributesClassName");
            let detail = "update from non-nil value to nil is forbidden";
            errors.push(FieldError::forbidden(&path, detail));
        }
        errors
    }

    fn warnings(volume: &PersistentVolume) -> Vec<String> {
        let mut warnings = vec![
            "spec: accepted, but the binding of volumes to claims is not honoured by this server yet"
                .to_owned(),
        ];
        warnings.extend(mistakes(volume));
        warnings
    }
}

/// The class of a volume.
pub(crate) fn class_of(volume: &PersistentVolume) -> &str {
    let annotations = volume.metadata.annotations.as_ref();
    let beta = annotations.and_then(|a| a.get(CLASS_BETA));
    let spec = volume.spec.as_ref().map(|spec| &spec.storage_class_name);
    beta.map_or_else(|| spec.map_or("", text), String::as_str)
}

/// Modes as tables show them.
pub(crate) fn access_modes(modes: &[String]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given = short
        .iter()
        .filter(|(mode, _)| modes.iter().any(|m| m == mode));
    let given: Vec<&str> = given.map(|(_, short)| *short).collect();
    given.join(",")
}

fn modes(errors: &mut Errors, path: &FieldPath, modes: &[String]) {
    if modes.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for mode in modes {
        rules::supported(errors, path, mode, ACCESS_MODES);
    }
    let of_one_pod = |mode: &String| mode == "ReadWriteOncePod";
    let of_more = |mode: &String| !of_one_pod(mode) && ACCESS_MODES.contains(&mode.as_str());
    if modes.iter().any(of_one_pod) && modes.iter().any(of_more) {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn capacity(errors: &mut Errors, path: &FieldPath, spec: &PersistentVolumeSpec) {
    let nothing = Default::default();
    let capacity = spec.capacity.as_ref().unwrap_or(&nothing);
    if capacity.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if capacity.len() != 1 || !capacity.contains_key("storage") {
        errors.push(FieldError::not_supported(
            path,
            json(&spec.capacity),
            &["storage"],
        ));
    }
    for (name, wire) in capacity {
        let Ok(quantity) = Quantity::from_wire(wire) else {
            continue;
        };
        let path = path.key(name);
        if quantity.value() < 0 {
            let detail = "must be a valid resource quantity";
            errors.push(FieldError::invalid(&path, quantity.value(), detail));
        }
        if quantity.is_negative() || quantity.is_zero() {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(&path, quantity.to_string(), detail));
        }
    }
}

fn spec_rules(errors: &mut Errors, path: &FieldPath, spec: &PersistentVolumeSpec, name: &str) {
    let given = spec.access_modes.as_deref().unwrap_or_default();
    modes(errors, &path.child("accessModes"), given);
    capacity(errors, &path.child("capacity"), spec);
    let policy_path = path.child("persistentVolumeReclaimPolicy");
    let policy = text(&spec.persistent_volume_reclaim_policy);
    if !policy.is_empty() {
        let allowed = ["Delete", "Recycle", "Retain"];
        rules::supported(errors, &policy_path, policy, &allowed);
    }
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity.required");
        match &affinity.required {
            Some(selector) => node_selector(errors, &path, selector),
            None => errors.push(FieldError::required(
                &path,
                "must specify required node constraints",
            )),
        }
    }
    sources::validate(errors, path, spec, name);
    let root = |path: &str| path.starts_with('/') && path.split('/').all(|p| matches!(p, "" | "."));
    if spec.host_path.as_ref().is_some_and(|h| root(&h.path)) && policy == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(&policy_path, detail));
    }
    let class = text(&spec.storage_class_name);
    if !class.is_empty() {
        let path = path.child("storageClassName");
        rules::complain(errors, &path, class, names::dns1123_subdomain(class));
    }
    if let Some(mode) = &spec.volume_mode {
        let allowed = ["Block", "Filesystem"];
        rules::supported(errors, &path.child("volumeMode"), mode, &allowed);
    }
    attributes_class(errors, path, spec);
}

fn attributes_class(errors: &mut Errors, path: &FieldPath, spec: &PersistentVolumeSpec) {
    let Some(name) = &spec.volume_attributes_class_name else {
        return;
    };
    let name_path = path.child("volumeAttributesClassName");
    if name.is_empty() {
        let detail = "an empty string is disallowed";
        errors.push(FieldError::required(&name_path, detail));
    } else {
        rules::complain(errors, &name_path, name, names::dns1123_subdomain(name));
    }
    if spec.csi.is_none() {
        let detail = "has to be specified when using volumeAttributesClassName";
        errors.push(FieldError::required(&path.child("csi"), detail));
    }
}

/// Rules of a volume that is part of an attachment.
pub(crate) fn inline_spec(errors: &mut Errors, path: &FieldPath, spec: &PersistentVolumeSpec) {
    const HERE: &str = "in the context of inline volumes";
    let forbid = |errors: &mut Errors, field: &str, given: bool| {
        if given {
            let detail = format!("may not be specified {HERE}");
            errors.push(FieldError::forbidden(&path.child(field), detail));
        }
    };
    forbid(errors, "claimRef", spec.claim_ref.is_some());
    let has_capacity = spec.capacity.as_ref().is_some_and(|c| !c.is_empty());
    forbid(errors, "capacity", has_capacity);
    if spec.csi.is_none() {
        let detail = format!("has to be specified {HERE}");
        errors.push(FieldError::required(&path.child("csi"), detail));
    }
    let given = spec.access_modes.as_deref().unwrap_or_default();
    modes(errors, &path.child("accessModes"), given);
    let policy = text(&spec.persistent_volume_reclaim_policy);
    if !matches!(policy, "" | "Retain") {
        let detail = format!("may only be Retain {HERE}");
        let path = path.child("persistentVolumeReclaimPolicy");
        errors.push(FieldError::forbidden(&path, detail));
    }
    forbid(errors, "nodeAffinity", spec.node_affinity.is_some());
    sources::validate(errors, path, spec, "");
    let has_class = !text(&spec.storage_class_name).is_empty();
    forbid(errors, "storageClassName", has_class);
    if spec.volume_mode.as_ref().is_some_and(|m| m != "Filesystem") {
        let detail = format!("may not specify volumeMode other than Filesystem {HERE}");
        errors.push(FieldError::forbidden(&path.child("volumeMode"), detail));
    }
    attributes_class(errors, path, spec);
}

/// Some sources are mounted by programs that take no options.
fn mount_options(errors: &mut Errors, volume: &PersistentVolume, spec: &PersistentVolumeSpec) {
    const TAKE_OPTIONS: [&str; 13] = [
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephfs",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
        "photonPersistentDisk",
    ];
    let given = sources::of(spec);
    let takes = TAKE_OPTIONS.iter().any(|field| given.get(field).is_some());
    let annotations = volume.metadata.annotations.as_ref();
    if !takes && annotations.is_some_and(|a| a.contains_key(MOUNT_OPTIONS_BETA)) {
        let path = at("metadata.annotations").child(MOUNT_OPTIONS_BETA);
        let detail = "may not specify mount options for this volume type";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

/// The affinity with the labels that it may be rewritten to.
fn renamed(spec: &PersistentVolumeSpec) -> Value {
    let mut affinity = spec.node_affinity.clone().unwrap_or_default();
    let terms = affinity.required.iter_mut();
    for term in terms.flat_map(|r| &mut r.node_selector_terms) {
        for expression in term.match_expressions.iter_mut().flatten() {
            let key = match expression.key.as_str() {
                "beta.kubernetes.io/os" => "kubernetes.io/os",
                "beta.kubernetes.io/arch" => "kubernetes.io/arch",
                "beta.kubernetes.io/instance-type" => "node.kubernetes.io/instance-type",
                "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
                "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
                _ => continue,
            };
            expression.key = key.to_owned();
        }
    }
    json(&affinity)
}

fn mistakes(volume: &PersistentVolume) -> Vec<String> {
    let mut warnings = Vec::new();
    let annotations = volume.metadata.annotations.as_ref();
    for (key, why) in [
        (
            CLASS_BETA,
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            MOUNT_OPTIONS_BETA,
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if annotations.is_some_and(|a| a.contains_key(key)) {
            warnings.push(format!("metadata.annotations[{key}]: {why}"));
        }
    }
    let Some(spec) = &volume.spec else {
        return warnings;
    };
    if text(&spec.persistent_volume_reclaim_policy) == "Recycle" {
        warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let selector = spec
        .node_affinity
        .as_ref()
        .and_then(|a| a.required.as_ref());
    for (i, term) in selector
        .iter()
        .flat_map(|s| s.node_selector_terms.iter().enumerate())
    {
        for (j, expression) in term.match_expressions.iter().flatten().enumerate() {
            let key = &expression.key;
            if let Some(instead) = labels::deprecated(key) {
                warnings.push(format!(
                    "spec.nodeAffinity.required.nodeSelectorTerms[{i}].matchExpressions[{j}].key: {key} is {instead}"
                ));
            }
        }
    }
    for (field, given, since) in [
        (
            "cephfs",
            spec.cephfs.is_some(),
            "v1.28, non-functional in v1.31+",
        ),
        (
            "photonPersistentDisk",
            spec.photon_persistent_disk.is_some(),
            "v1.11, non-functional in v1.16+",
        ),
        (
            "scaleIO",
            spec.scale_io.is_some(),
            "v1.16, non-functional in v1.22+",
        ),
        (
            "storageOS",
            spec.storageos.is_some(),
            "v1.22, non-functional in v1.25+",
        ),
        (
            "glusterfs",
            spec.glusterfs.is_some(),
            "v1.25, non-functional in v1.26+",
        ),
        ("rbd", spec.rbd.is_some(), "v1.28, non-functional in v1.31+"),
    ] {
        if given {
            warnings.push(format!("spec.{field}: deprecated in {since}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn volume(spec: Value) -> PersistentVolume {
        let json = serde_json::json!({"metadata": {"name": "a"}, "spec": spec});
        let mut volume = serde_json::from_value(json).expect("a volume");
        PersistentVolumeKind::default(&mut volume);
        volume
    }

    #[test]
    fn a_volume_has_one_source_and_a_size() {
        let both = volume(serde_json::json!({
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/a"}, "csi": {"driver": "d", "volumeHandle": "h"},
        }));
        assert_eq!(
            texts(&PersistentVolumeKind::validate(&both)),
            ["spec.csi: Forbidden: may not specify more than 1 volume type"]
        );
        let none = volume(serde_json::json!({
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "0"},
        }));
        assert_eq!(
            texts(&PersistentVolumeKind::validate(&none)),
            [
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
                "spec: Required value: must specify a volume type",
            ]
        );
    }

    #[test]
    fn a_source_stays_but_for_a_secret_that_was_not_there() {
        let with = |csi: Value| {
            volume(serde_json::json!({
                "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "csi": csi,
            }))
        };
        let old = with(serde_json::json!({"driver": "d", "volumeHandle": "h"}));
        let secret = serde_json::json!({"name": "s", "namespace": "n"});
        let new = with(serde_json::json!({
            "driver": "d", "volumeHandle": "h", "controllerExpandSecretRef": secret,
        }));
        assert!(PersistentVolumeKind::validate_update(&new, &old).is_empty());
        let new = with(serde_json::json!({"driver": "d", "volumeHandle": "i"}));
        let errors = texts(&PersistentVolumeKind::validate_update(&new, &old));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("spec.persistentvolumesource: Forbidden"));
    }
}
