//! Volumes that are bound to claims.

use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::PersistentVolume;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;

use super::Plan;
use crate::context::Context;

const NAME: &str = "pv-protection-controller";
const FINALIZER: &str = "kubernetes.io/pv-protection";

/// Decides about the volume's finalizer.
pub fn plan(volume: &PersistentVolume) -> Plan {
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    super::plan(&volume.metadata, FINALIZER, phase == Some("Bound"))
}

struct Volumes {
    volumes: Objects<PersistentVolume>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let volumes = context.objects::<PersistentVolume>(NAME);
    let controller = Controller::new("pvprotection").watch(volumes.cache());
    controller.run_planned(
        Volumes { volumes },
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for Volumes {
    type World = Arc<PersistentVolume>;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<Self::World> {
        self.volumes.get(key)
    }

    fn plan(&self, volume: &Self::World, _now: Timestamp) -> Plan {
        plan(volume)
    }

    async fn apply(
        &self,
        volume: &Self::World,
        plan: Plan,
        _now: Timestamp,
    ) -> Result<Action, Error> {
        super::apply(&self.volumes, &**volume, FINALIZER, plan).await?;
        Ok(Action::Done)
    }
}
