//! The claim that is made for an ephemeral volume.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate, TypedLocalObjectReference,
    TypedObjectReference,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_api::names;
use corral_api::quantity::Quantity;

use super::super::resources;
use super::required;
use crate::rules::{self, Errors, text};

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// Rules of the template.
pub(super) fn claim_template(
    errors: &mut Errors,
    path: &FieldPath,
    template: &PersistentVolumeClaimTemplate,
) {
    if let Some(meta) = &template.metadata {
        metadata(errors, &path.child("metadata"), meta);
    }
    spec(errors, &path.child("spec"), &template.spec);
}

/// Only labels and annotations are taken over into the claim.
pub(crate) fn metadata(errors: &mut Errors, path: &FieldPath, meta: &ObjectMeta) {
    let annotations = meta.annotations.as_ref();
    rules::annotations(errors, &path.child("annotations"), annotations);
    rules::labels(errors, &path.child("labels"), meta.labels.as_ref());
    let given = |value: &Option<String>| !text(value).is_empty();
    for (field, set) in [
        ("name", given(&meta.name)),
        ("generateName", given(&meta.generate_name)),
        ("namespace", given(&meta.namespace)),
        ("selfLink", given(&meta.self_link)),
        ("uID", given(&meta.uid)),
        ("resourceVersion", given(&meta.resource_version)),
        ("generation", meta.generation.is_some_and(|n| n != 0)),
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        (
            "deletionGracePeriodSeconds",
            meta.deletion_grace_period_seconds.is_some(),
        ),
        ("ownerReferences", meta.owner_references.is_some()),
        ("finalizers", meta.finalizers.is_some()),
        ("managedFields", meta.managed_fields.is_some()),
    ] {
        if set {
            errors.push(FieldError::forbidden(&path.child(field), "cannot be set"));
        }
    }
}

/// Rules of a claim.
pub(crate) fn spec(errors: &mut Errors, path: &FieldPath, spec: &PersistentVolumeClaimSpec) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let modes_path = path.child("accessModes");
    if modes.is_empty() {
        let detail = "at least 1 access mode is required";
        errors.push(FieldError::required(&modes_path, detail));
    }
    if let Some(selector) = &spec.selector {
        rules::label_selector(errors, &path.child("selector"), selector);
    }
    for mode in modes {
        rules::supported(errors, &modes_path, mode, ACCESS_MODES);
    }
    let of_one_pod = |mode: &String| mode == "ReadWriteOncePod";
    let of_more = |mode: &String| !of_one_pod(mode) && ACCESS_MODES.contains(&mode.as_str());
    if modes.iter().any(of_one_pod) && modes.iter().any(of_more) {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(&modes_path, detail));
    }
    storage(errors, &path.child("resources").key("storage"), spec);
    class(
        errors,
        &path.child("storageClassName"),
        &spec.storage_class_name,
    );
    if let Some(mode) = &spec.volume_mode {
        let allowed = ["Block", "Filesystem"];
        rules::supported(errors, &path.child("volumeMode"), mode, &allowed);
    }
    sources(errors, path, spec);
    let attributes = &spec.volume_attributes_class_name;
    class(errors, &path.child("volumeAttributesClassName"), attributes);
}

fn storage(errors: &mut Errors, path: &FieldPath, spec: &PersistentVolumeClaimSpec) {
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let Some(wire) = requests.and_then(|r| r.get("storage")) else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    match Quantity::from_wire(wire) {
        Ok(q) if q.is_negative() || q.is_zero() => {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(path, q.to_string(), detail));
        }
        _ => resources::amount(errors, path, "storage", wire),
    }
}

fn class(errors: &mut Errors, path: &FieldPath, name: &Option<String>) {
    let name = text(name);
    if !name.is_empty() {
        rules::complain(errors, path, name, names::dns1123_subdomain(name));
    }
}

/// What the volume is filled from, in its old and in its new form.
fn sources(errors: &mut Errors, path: &FieldPath, spec: &PersistentVolumeClaimSpec) {
    let old_path = path.child("dataSource");
    if let Some(source) = &spec.data_source {
        data_source(errors, &old_path, source);
    }
    if let Some(source) = &spec.data_source_ref {
        let path = path.child("dataSourceRef");
        let TypedObjectReference {
            api_group,
            kind,
            name,
            namespace,
        } = source.clone();
        let local = TypedLocalObjectReference {
            api_group,
            kind,
            name,
        };
        data_source(errors, &path, &local);
        let namespace = text(&namespace);
        if !namespace.is_empty() {
            let complaints = names::dns1123_label(namespace);
            rules::complain(errors, &path.child("namespace"), namespace, complaints);
        }
    }
    let (Some(old), Some(new)) = (&spec.data_source, &spec.data_source_ref) else {
        return;
    };
    let detail = if !text(&new.namespace).is_empty() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if (&old.api_group, &old.kind, &old.name) != (&new.api_group, &new.kind, &new.name) {
        "must match dataSourceRef"
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, old_path.as_str(), detail));
}

fn data_source(errors: &mut Errors, path: &FieldPath, source: &TypedLocalObjectReference) {
    required(errors, &path.child("name"), &source.name);
    required(errors, &path.child("kind"), &source.kind);
    let group = text(&source.api_group);
    if group.is_empty() && source.kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(path, source.kind.as_str(), detail));
    }
    if !group.is_empty() {
        let complaints = names::dns1123_subdomain(group);
        rules::complain(errors, &path.child("apiGroup"), group, complaints);
    }
}
