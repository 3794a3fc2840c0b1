//! How many pods the controller of a pod wants.

use corral_api::k8s::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use corral_api::k8s::api::core::v1::{Pod, ReplicationController};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use corral_api::meta::controller_of;
use corral_runtime::key::uid_of;
use corral_runtime::{Cache, Controller, ObjectKey};

use crate::context::Context;

/// What is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scale {
    /// The pod has no controller.
    Unmanaged,
    /// Its controller is not there, or of a kind whose scale nobody here knows.
    Unknown,
    /// The controller, and how many pods it wants.
    Of { uid: String, replicas: i32 },
}

/// The kinds that control pods in numbers.
pub struct Scales {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    stateful: Cache<StatefulSet>,
    controllers: Cache<ReplicationController>,
}

impl Scales {
    pub fn new(context: &Context, name: &str) -> Self {
        Self {
            deployments: context.objects::<Deployment>(name).cache().clone(),
            sets: context.objects::<ReplicaSet>(name).cache().clone(),
            stateful: context.objects::<StatefulSet>(name).cache().clone(),
            controllers: context
                .objects::<ReplicationController>(name)
                .cache()
                .clone(),
        }
    }

    pub fn needed_by(&self, controller: Controller) -> Controller {
        controller
            .needs(&self.deployments)
            .needs(&self.sets)
            .needs(&self.stateful)
            .needs(&self.controllers)
    }

    /// The scale of a pod's controller; a ReplicaSet's is that of its Deployment.
    pub fn of(&self, pod: &Pod) -> Scale {
        let Some(owner) = controller_of(&pod.metadata) else {
            return Scale::Unmanaged;
        };
        let found = match (group(owner), owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let key = ObjectKey::of_owner(&pod.metadata, owner);
                let found = self.controllers.get(&key);
                found.and_then(|c| scale(owner, &c.metadata, c.spec.as_ref()?.replicas))
            }
            ("apps", "ReplicaSet") => self.of_set(pod, owner),
            ("apps", "StatefulSet") => {
                let key = ObjectKey::of_owner(&pod.metadata, owner);
                let found = self.stateful.get(&key);
                found.and_then(|set| scale(owner, &set.metadata, set.spec.as_ref()?.replicas))
            }
            _ => None,
        };
        found.unwrap_or(Scale::Unknown)
    }

    fn of_set(&self, pod: &Pod, owner: &OwnerReference) -> Option<Scale> {
        let set = self.sets.get(&ObjectKey::of_owner(&pod.metadata, owner))?;
        let own = scale(owner, &set.metadata, set.spec.as_ref()?.replicas)?;
        match controller_of(&set.metadata) {
            Some(owner) if group(owner) == "apps" && owner.kind == "Deployment" => {
                let key = ObjectKey::of_owner(&set.metadata, owner);
                let deployment = self.deployments.get(&key)?;
                let replicas = deployment.spec.as_ref()?.replicas;
                scale(owner, &deployment.metadata, replicas)
            }
            _ => Some(own),
        }
    }
}

fn group(owner: &OwnerReference) -> &str {
    owner
        .api_version
        .split_once('/')
        .map_or("", |(group, _)| group)
}

/// The scale of an owner, if it is the one that is meant.
fn scale(owner: &OwnerReference, meta: &ObjectMeta, replicas: Option<i32>) -> Option<Scale> {
    (uid_of(meta) == owner.uid).then(|| Scale::Of {
        uid: owner.uid.clone(),
        replicas: replicas.unwrap_or(1),
    })
}
