//! Storage: claims without a class get the default one, what is in use is held by a finalizer, claims grow only where
//! their class allows it, and a volume tells since when it is in its phase.

use corral_api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use corral_api::k8s::api::storage::v1::{StorageClass, VolumeAttributesClass};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use corral_api::meta::ObjectMeta;
use corral_api::quantity::Quantity;
use corral_api::status::Status;
use corral_kinds::Object;
use corral_kinds::core::persistent_volume_claim::class_of;
use corral_kinds::storage::storage_class::is_default;
use jiff::Timestamp;

use super::plugins::Plugins;
use super::{Action, Attributes};
use crate::api::Api;

const STORAGE: &str = "storage";

fn classes(api: &Api) -> Vec<StorageClass> {
    let Some(resource) = api.resource("storage.k8s.io", "storageclasses") else {
        return Vec::new();
    };
    let snapshot = resource.cacher.snapshot();
    let objects = snapshot.objects.values();
    objects
        .filter_map(|stored| serde_json::from_slice(&stored.json).ok())
        .collect()
}

/// The newest of the default classes; of equally old ones the first by name.
fn default_class(api: &Api) -> Option<String> {
    let created = |class: &StorageClass| {
        let time = class.metadata.creation_timestamp.as_ref();
        time.map(|t| t.0)
    };
    let mut found = classes(api);
    found.retain(is_default);
    found.sort_by(|a, b| {
        let newest_first = created(b).cmp(&created(a));
        newest_first.then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
    found.into_iter().next()?.metadata.name
}

pub(super) fn admit(
    api: &Api,
    plugins: &Plugins,
    attributes: &Attributes<'_>,
    object: &mut Object,
    old: Option<&Object>,
) {
    if attributes.subresource == "status" {
        if let (Some(new), Some(old)) = (object.get_mut(), old.and_then(Object::get)) {
            phase_time(new, old, attributes.cx.now);
        }
        return;
    }
    let names = attributes.kind.names();
    let writes_whole = attributes.subresource.is_empty();
    if writes_whole
        && plugins.run("DefaultStorageClass")
        && names.kind == "PersistentVolumeClaim"
        && let Some(claim) = object.get_mut::<PersistentVolumeClaim>()
        && class_of(claim).is_none()
        && let Some(name) = default_class(api)
    {
        claim.spec.get_or_insert_default().storage_class_name = Some(name);
    }
    let protects = plugins.run("StorageObjectInUseProtection");
    if !writes_whole || !protects || attributes.action != Action::Create {
        return;
    }
    if let Some(claim) = object.get_mut::<PersistentVolumeClaim>() {
        protect(&mut claim.metadata, "kubernetes.io/pvc-protection");
    }
    if let Some(volume) = object.get_mut::<PersistentVolume>() {
        protect(&mut volume.metadata, "kubernetes.io/pv-protection");
    }
    if let Some(class) = object.get_mut::<VolumeAttributesClass>() {
        protect(&mut class.metadata, "kubernetes.io/vac-protection");
    }
}

fn protect(meta: &mut ObjectMeta, finalizer: &str) {
    let finalizers = meta.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == finalizer) {
        finalizers.push(finalizer.to_owned());
    }
}

/// The time belongs to the server unless whoever changes the phase knows it.
fn phase_time(new: &mut PersistentVolume, old: &PersistentVolume, now: Timestamp) {
    let was = old.status.clone().unwrap_or_default();
    let status = new.status.get_or_insert_default();
    let untold = status.last_phase_transition_time.is_none();
    if status.phase == was.phase {
        if untold {
            status.last_phase_transition_time = was.last_phase_transition_time;
        }
    } else if untold || status.last_phase_transition_time == was.last_phase_transition_time {
        status.last_phase_transition_time = Some(Time(now));
    }
}

/// Whether a claim may grow.
pub(super) fn check_growth(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let (Some(new), Some(old)) = (
        object.get::<PersistentVolumeClaim>(),
        old.and_then(Object::get::<PersistentVolumeClaim>),
    ) else {
        return Ok(());
    };
    if !attributes.subresource.is_empty() || size(new) <= size(old) {
        return Ok(());
    }
    let name = new.metadata.name.as_deref().unwrap_or_default();
    let phase = old.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase != Some("Bound") {
        let why = "Only bound persistent volume claims can be expanded";
        return Err(attributes.forbidden(name, why));
    }
    let class = class_of(new).filter(|class| !class.is_empty() && class_of(old) == Some(class));
    let grows = classes(api).iter().any(|found| {
        found.metadata.name.as_deref() == class && found.allow_volume_expansion == Some(true)
    });
    if class.is_none() || !grows {
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        return Err(attributes.forbidden(name, why));
    }
    Ok(())
}

fn size(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let wire = requests.and_then(|r| r.get(STORAGE));
    wire.and_then(|wire| Quantity::from_wire(wire).ok())
        .unwrap_or_default()
}
