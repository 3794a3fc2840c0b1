//! Classes of attributes that volumes or claims have, or shall have.

use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use corral_api::k8s::api::storage::v1::VolumeAttributesClass;
use corral_runtime::{Action, Cache, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;

use super::Plan;
use crate::context::Context;

const NAME: &str = "volumeattributesclass-protection-controller";
const FINALIZER: &str = "kubernetes.io/vac-protection";

/// Everything that the plan may look at.
pub struct World {
    pub class: Arc<VolumeAttributesClass>,
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    pub volumes: Vec<Arc<PersistentVolume>>,
}

/// Decides about the class's finalizer.
pub fn plan(world: &World) -> Plan {
    let name = world.class.metadata.name.as_deref().unwrap_or_default();
    let claims = world.claims.iter().flat_map(|claim| of_claim(claim));
    let volumes = world.volumes.iter().filter_map(|volume| of_volume(volume));
    let in_use = claims.chain(volumes).any(|used| used == name);
    super::plan(&world.class.metadata, FINALIZER, in_use)
}

/// The class that a claim wants, the one that it has, and the one that it is moved to.
fn of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    let moved = status.and_then(|s| s.modify_volume_status.as_ref());
    [
        spec.and_then(|s| s.volume_attributes_class_name.as_deref()),
        status.and_then(|s| s.current_volume_attributes_class_name.as_deref()),
        moved.and_then(|m| m.target_volume_attributes_class_name.as_deref()),
    ]
    .into_iter()
    .flatten()
}

fn of_volume(volume: &PersistentVolume) -> Option<&str> {
    let spec = volume.spec.as_ref()?;
    spec.volume_attributes_class_name.as_deref()
}

struct Classes {
    classes: Objects<VolumeAttributesClass>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let classes = context.objects::<VolumeAttributesClass>(NAME);
    let claims = context.caches.cache::<PersistentVolumeClaim>();
    let volumes = context.caches.cache::<PersistentVolume>();
    let controller = Controller::new("volumeattributesclassprotection")
        .watch(classes.cache())
        .map(&claims, |change| {
            let names = change.states().flat_map(|claim| of_claim(claim));
            names.map(ObjectKey::cluster).collect()
        })
        .map(&volumes, |change| {
            let names = change.states().filter_map(|volume| of_volume(volume));
            names.map(ObjectKey::cluster).collect()
        });
    let reconciler = Classes {
        classes,
        claims,
        volumes,
    };
    controller.run_planned(
        reconciler,
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for Classes {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        Some(World {
            class: self.classes.get(key)?,
            claims: self.claims.list(),
            volumes: self.volumes.list(),
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        super::apply(&self.classes, &*world.class, FINALIZER, plan).await?;
        Ok(Action::Done)
    }
}
