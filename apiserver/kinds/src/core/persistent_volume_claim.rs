//! `PersistentVolumeClaim`: what somebody wants of a volume.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference,
    TypedObjectReference,
};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::names;
use corral_api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::Value;

use super::persistent_volume::{CLASS_BETA, access_modes};
use super::pod_spec::validation::claim_spec;
use super::pod_spec::validation::resources::amount;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json, same_structures, text};

const STORAGE: &str = "storage";
const RESIZE_STATUSES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// `v1 PersistentVolumeClaim`.
pub struct PersistentVolumeClaimKind;

impl Kind for PersistentVolumeClaimKind {
    type Object = PersistentVolumeClaim;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: Words::Of(&["pvc"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const STATUS: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Status", "Whether it is bound."),
            Column::text("Volume", "The volume that it is bound to."),
            Column::text("Capacity", "How much the volume holds."),
            Column::text("Access Modes", "How many may use it, and how."),
            Column::text("StorageClass", "Its class."),
            Column::text("VolumeAttributesClass", "The class of its attributes."),
            Column::AGE,
            Column::text("VolumeMode", "Whether it has a file system.").wide(),
        ]
    }

    fn cells(claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let spec = claim.spec.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let phase = match claim.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => text(&status.phase),
        };
        let bound = !text(&spec.volume_name).is_empty();
        let capacity = status.capacity.as_ref().and_then(|c| c.get(STORAGE));
        let capacity = capacity.map_or("0", |wire| wire.0.as_str());
        let modes = access_modes(status.access_modes.as_deref().unwrap_or_default());
        let or_unset =
            |value: &Option<String>| -> Value { value.as_deref().unwrap_or("<unset>").into() };
        vec![
            claim.metadata.name.clone().into(),
            phase.into(),
            text(&spec.volume_name).into(),
            if bound { capacity } else { "" }.into(),
            if bound { modes } else { String::new() }.into(),
            class_of(claim).unwrap_or_default().into(),
            or_unset(&spec.volume_attributes_class_name),
            age(&claim.metadata, now),
            or_unset(&spec.volume_mode),
        ]
    }

    fn default(claim: &mut PersistentVolumeClaim) {
        let status = claim.status.get_or_insert_default();
        fill::text(&mut status.phase, "Pending");
        let spec = claim.spec.get_or_insert_default();
        fill::absent(&mut spec.volume_mode, "Filesystem".to_owned());
    }

    fn prepare_create(claim: &mut PersistentVolumeClaim) {
        if let Some(spec) = &mut claim.spec {
            data_sources(spec, None);
        }
    }

    fn prepare_update(new: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        if let Some(spec) = &mut new.spec {
            data_sources(spec, old.spec.as_ref());
        }
    }

    fn validate(claim: &PersistentVolumeClaim) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let nothing = PersistentVolumeClaimSpec::default();
        let spec = claim.spec.as_ref().unwrap_or(&nothing);
        claim_spec(&mut errors, &at("spec"), spec);
        errors
    }

    fn validate_update(
        new: &PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
    ) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        kept(&mut errors, new, old);
        errors
    }

    fn validate_status_update(
        new: &PersistentVolumeClaim,
        _old: &PersistentVolumeClaim,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(status) = &new.status else {
            return errors;
        };
        let path = at("status.capacity");
        for (name, wire) in status.capacity.iter().flatten() {
            basic(&mut errors, &path.key(name), wire);
        }
        let path = at("status.allocatedResourceStatuses");
        for (name, status) in status.allocated_resource_statuses.iter().flatten() {
            resource_name(&mut errors, &path, name);
            if !RESIZE_STATUSES.contains(&status.as_str()) {
                let name = name.as_str();
                errors.push(FieldError::not_supported(&path, name, RESIZE_STATUSES));
            }
        }
        let path = at("status.allocatedResources");
        for (name, wire) in status.allocated_resources.iter().flatten() {
            let n_errors = errors.len();
            resource_name(&mut errors, &path, name);
            if errors.len() > n_errors {
                continue;
            }
            basic(&mut errors, &path.key(name), wire);
            if errors.len() == n_errors {
                amount(&mut errors, &path.key(name), STORAGE, wire);
            }
        }
        errors
    }

    fn warnings(claim: &PersistentVolumeClaim) -> Vec<String> {
        let mut warnings = vec![
            "spec: accepted, but the binding of claims to volumes is not honoured by this server yet"
                .to_owned(),
        ];
        let annotations = claim.metadata.annotations.as_ref();
        if annotations.is_some_and(|a| a.contains_key(CLASS_BETA)) {
            warnings.push(format!(
                "metadata.annotations[{CLASS_BETA}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
        for (field, list) in [
            ("requests", resources.and_then(|r| r.requests.as_ref())),
            ("limits", resources.and_then(|r| r.limits.as_ref())),
        ] {
            let quantity = list.and_then(|l| Quantity::from_wire(l.get(STORAGE)?).ok());
            if let Some(quantity) = quantity.filter(|q| q.milli_value() % 1000 != 0) {
                warnings.push(format!(
                    "spec.resources.{field}[{STORAGE}]: fractional byte value \"{quantity}\" is invalid, must be an integer"
                ));
            }
        }
        warnings
    }
}

/// The class of a claim; `None` where the claim leaves it to the cluster.
pub fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref();
    let beta = annotations.and_then(|a| a.get(CLASS_BETA));
    let spec = claim.spec.as_ref();
    let class = || spec.and_then(|spec| spec.storage_class_name.as_ref());
    beta.or_else(class).map(String::as_str)
}

/// The two fields of what the volume is filled from say the same. What the old one could not say is dropped, as ever.
fn data_sources(spec: &mut PersistentVolumeClaimSpec, old: Option<&PersistentVolumeClaimSpec>) {
    let is_given = |reference: &TypedObjectReference| !text(&reference.namespace).is_empty();
    let had_new = old.is_some_and(|old| old.data_source_ref.is_some());
    if spec.data_source_ref.as_ref().is_some_and(is_given) && !had_new {
        // Its feature is alpha in v1.36.
        spec.data_source_ref = None;
    }
    let had = old.is_some_and(|o| o.data_source.is_some() || o.data_source_ref.is_some());
    let known = |source: &TypedLocalObjectReference| {
        matches!(
            (source.kind.as_str(), text(&source.api_group)),
            ("PersistentVolumeClaim", "") | ("VolumeSnapshot", "snapshot.storage.k8s.io")
        )
    };
    if !had && spec.data_source_ref.is_none() {
        spec.data_source = spec.data_source.take().filter(known);
    }
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) if text(&source.namespace).is_empty() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
            });
        }
        _ => {}
    }
}

/// What stays of a claim: all but its volume, which is chosen once, a class that it did not have, and, once it is
/// bound, its size and its attributes.
fn kept(errors: &mut Errors, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) {
    let (wanted, was) = (
        new.spec.clone().unwrap_or_default(),
        old.spec.clone().unwrap_or_default(),
    );
    let (mut spec, mut old_spec) = (wanted.clone(), was.clone());
    if text(&was.volume_name).is_empty() {
        old_spec.volume_name.clone_from(&spec.volume_name);
    }
    let beta = |claim: &PersistentVolumeClaim| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.and_then(|a| a.get(CLASS_BETA)).cloned()
    };
    let (new_beta, old_beta) = (beta(new), beta(old));
    let class = wanted.storage_class_name.as_ref();
    let moves = old_beta.is_some()
        && was.storage_class_name.is_none()
        && class == old_beta.as_ref()
        && new_beta
            .as_ref()
            .is_none_or(|b| Some(b) == old_beta.as_ref());
    if moves {
        spec.storage_class_name = None;
    } else {
        let shown = new_beta.clone().unwrap_or_default();
        if shown != old_beta.clone().unwrap_or_default() {
            let path = at("metadata").key(CLASS_BETA);
            errors.push(FieldError::invalid(&path, shown, "field is immutable"));
        }
        let fits = old_beta.is_none() || class == old_beta.as_ref();
        if class.is_some() && was.storage_class_name.is_none() && fits {
            spec.storage_class_name = None;
        }
    }
    let bound = new
        .status
        .as_ref()
        .is_some_and(|s| text(&s.phase) == "Bound");
    if bound {
        if let Some(requests) = spec.resources.as_mut().and_then(|r| r.requests.as_mut()) {
            let size = storage(&was)
                .cloned()
                .unwrap_or_else(|| Wire("0".to_owned()));
            requests.insert(STORAGE.to_owned(), size);
        }
        spec.volume_attributes_class_name
            .clone_from(&was.volume_attributes_class_name);
    }
    if !same_structures(&without_empty(&spec), &without_empty(&old_spec)) {
        let detail = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n  {} -> {}",
            json(&old_spec),
            json(&spec)
        );
        errors.push(FieldError::forbidden(&at("spec"), detail));
    }
    size(errors, new, &wanted, &was);
    let path = at("volumeMode");
    rules::immutable(errors, &path, &wanted.volume_mode, &was.volume_mode);
    attributes(errors, old, &wanted);
}

/// Without maps and texts that are as good as none.
fn without_empty(spec: &PersistentVolumeClaimSpec) -> PersistentVolumeClaimSpec {
    let mut spec = spec.clone();
    spec.volume_name = spec.volume_name.filter(|name| !name.is_empty());
    let resources = spec.resources.get_or_insert_default();
    for list in [&mut resources.limits, &mut resources.requests] {
        *list = list.take().filter(|list| !list.is_empty());
    }
    spec
}

fn storage(spec: &PersistentVolumeClaimSpec) -> Option<&Wire> {
    spec.resources.as_ref()?.requests.as_ref()?.get(STORAGE)
}

/// A wish that was too big may be taken back, but not below what there is.
fn size(
    errors: &mut Errors,
    new: &PersistentVolumeClaim,
    wanted: &PersistentVolumeClaimSpec,
    was: &PersistentVolumeClaimSpec,
) {
    let quantity = |wire: Option<&Wire>| {
        let quantity = wire.and_then(|wire| Quantity::from_wire(wire).ok());
        quantity.unwrap_or_default()
    };
    let capacity = new.status.as_ref().and_then(|s| s.capacity.as_ref());
    let capacity = quantity(capacity.and_then(|c| c.get(STORAGE)));
    let (new, old) = (quantity(storage(wanted)), quantity(storage(was)));
    if new < old && new <= capacity {
        let path = at("spec.resources.requests.storage");
        let detail = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

fn attributes(
    errors: &mut Errors,
    old: &PersistentVolumeClaim,
    wanted: &PersistentVolumeClaimSpec,
) {
    let status = old.status.as_ref();
    let was = old.spec.as_ref();
    let was = was.and_then(|spec| spec.volume_attributes_class_name.as_ref());
    let now = wanted.volume_attributes_class_name.as_ref();
    if now == was || status.is_none_or(|s| s.current_volume_attributes_class_name.is_none()) {
        return;
    }
    let to = match now.map(String::as_str) {
        None => "nil",
        Some("") => "empty string",
        Some(_) => return,
    };
    let detail = format!(
        "update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil"
    );
    let path = at("spec.volumeAttributesClassName");
    errors.push(FieldError::forbidden(&path, detail));
}

fn basic(errors: &mut Errors, path: &FieldPath, wire: &Wire) {
    let value = Quantity::from_wire(wire).map_or(0, Quantity::value);
    if value < 0 {
        let detail = "must be a valid resource quantity";
        errors.push(FieldError::invalid(path, value, detail));
    }
}

/// Of Kubernetes' own resources a claim has only storage.
fn resource_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    let complaints = names::qualified_name(name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    if complaints.is_empty() && native && name != STORAGE {
        errors.push(FieldError::not_supported(path, name, &[STORAGE]));
    }
    rules::complain(errors, path, name, complaints);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn claim(change: Value) -> PersistentVolumeClaim {
        let mut spec = serde_json::json!({
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}},
        });
        for (key, value) in change.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let json = serde_json::json!({"metadata": {"name": "a"}, "spec": spec});
        let mut claim = serde_json::from_value(json).expect("a claim");
        PersistentVolumeClaimKind::default(&mut claim);
        PersistentVolumeClaimKind::prepare_create(&mut claim);
        claim
    }

    fn size(amount: &str) -> Value {
        serde_json::json!({"resources": {"requests": {"storage": amount}}})
    }

    #[test]
    fn a_claim_keeps_its_spec_but_takes_a_volume_and_a_class_once() {
        let old = claim(Value::Null);
        let new = claim(serde_json::json!({"volumeName": "v", "storageClassName": "c"}));
        assert!(PersistentVolumeClaimKind::validate_update(&new, &old).is_empty());
        let other = claim(serde_json::json!({"volumeName": "w", "storageClassName": "c"}));
        let errors = texts(&PersistentVolumeClaimKind::validate_update(&other, &new));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("spec: Forbidden: spec is immutable after creation"));
    }

    #[test]
    fn a_bound_claim_grows_and_does_not_shrink_below_its_volume() {
        let bound = |amount| {
            let mut claim = claim(size(amount));
            let status = claim.status.get_or_insert_default();
            status.phase = Some("Bound".to_owned());
            let capacity = status.capacity.get_or_insert_default();
            capacity.insert(STORAGE.to_owned(), Wire("1Gi".to_owned()));
            claim
        };
        let old = bound("2Gi");
        for amount in ["3Gi", "1500Mi"] {
            assert!(PersistentVolumeClaimKind::validate_update(&bound(amount), &old).is_empty());
        }
        assert_eq!(
            texts(&PersistentVolumeClaimKind::validate_update(
                &bound("1Gi"),
                &old
            )),
            [
                "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
            ]
        );
        let unbound =
            PersistentVolumeClaimKind::validate_update(&claim(size("3Gi")), &claim(size("2Gi")));
        assert_eq!(unbound.len(), 1);
    }

    #[test]
    fn both_fields_say_what_a_claim_is_filled_from() {
        let source = serde_json::json!({"kind": "PersistentVolumeClaim", "name": "b"});
        let spec = claim(serde_json::json!({"dataSource": source}))
            .spec
            .expect("a spec");
        assert_eq!(spec.data_source_ref.map(|r| r.name), Some("b".to_owned()));
        let source = serde_json::json!({"kind": "Other", "apiGroup": "example.com", "name": "b"});
        let spec = claim(serde_json::json!({"dataSource": source}))
            .spec
            .expect("a spec");
        assert!(spec.data_source.is_none() && spec.data_source_ref.is_none());
    }
}
