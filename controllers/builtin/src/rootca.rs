//! Every namespace has the ConfigMap `kube-root-ca.crt` with the certificate by which pods know the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{ConfigMap, Namespace};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;

use crate::context::Context;
use crate::serviceaccount::{created, is_active};

const MAP: &str = "kube-root-ca.crt";
const ENTRY: &str = "ca.crt";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub namespace: Arc<Namespace>,
    pub map: Option<Arc<ConfigMap>>,
    pub certificate: String,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Plan {
    Nothing,
    Create(Box<ConfigMap>),
    /// The map holds something else.
    Correct,
}

pub fn plan(world: &World) -> Plan {
    if !is_active(&world.namespace) {
        return Plan::Nothing;
    }
    let data = BTreeMap::from([(ENTRY.to_owned(), world.certificate.clone())]);
    match &world.map {
        Some(map) if map.data.as_ref() == Some(&data) => Plan::Nothing,
        Some(_) => Plan::Correct,
        None => {
            let metadata = ObjectMeta {
                name: Some(MAP.into()),
                namespace: world.namespace.metadata.name.clone(),
                ..ObjectMeta::default()
            };
            Plan::Create(Box::new(ConfigMap {
                metadata,
                data: Some(data),
                ..ConfigMap::default()
            }))
        }
    }
}

struct RootCa {
    namespaces: Objects<Namespace>,
    maps: Objects<ConfigMap>,
    certificate: String,
}

/// Starts the controller.
pub fn start(context: &Context, certificate: String) {
    let name = "root-ca-cert-publisher";
    let namespaces = context.objects::<Namespace>(name);
    let cache = context
        .caches
        .selected::<ConfigMap>("metadata.name=kube-root-ca.crt");
    let maps = Objects::new((context.clients)(name), cache);
    let controller =
        Controller::new("rootca")
            .watch(namespaces.cache())
            .map(maps.cache(), |change| {
                change
                    .latest()
                    .metadata
                    .namespace
                    .iter()
                    .map(ObjectKey::cluster)
                    .collect()
            });
    let reconciler = RootCa {
        namespaces,
        maps,
        certificate,
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
impl Reconciler for RootCa {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let namespace = self.namespaces.get(key)?;
        let map = self.maps.get(&ObjectKey::new(&key.name, MAP));
        Some(World {
            namespace,
            map,
            certificate: self.certificate.clone(),
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        match (plan, &world.map) {
            (Plan::Create(map), _) => created(self.maps.create(&map).await.map(drop))?,
            (Plan::Correct, Some(map)) => {
                let data = BTreeMap::from([(ENTRY.to_owned(), self.certificate.clone())]);
                let corrected = ConfigMap {
                    data: Some(data),
                    ..(**map).clone()
                };
                self.maps.replace(&corrected).await?;
            }
            _ => {}
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn a_namespace_that_lives_ends_up_with_the_certificate_and_one_that_ends_is_left_alone(
            ending in any::<bool>(),
            held in proptest::option::of(proptest::collection::btree_map("[a-c.]{1,4}|ca\\.crt", "[xy]", 0..3)),
        ) {
            let phase = if ending { "Terminating" } else { "Active" };
            let namespace: Namespace = object(json!({"metadata": {"name": "n"}, "status": {"phase": phase}}));
            let map = held.map(|data| ConfigMap { data: Some(data), ..ConfigMap::default() });
            let mut world = World { namespace: Arc::new(namespace), map: map.map(Arc::new), certificate: "x".into() };
            let planned = plan(&world);
            if ending {
                prop_assert_eq!(planned, Plan::Nothing);
                return Ok(());
            }
            let data = Some(BTreeMap::from([(ENTRY.to_owned(), "x".to_owned())]));
            match planned {
                Plan::Create(map) => {
                    prop_assert!(world.map.is_none());
                    world.map = Some(Arc::from(map));
                }
                Plan::Correct => world.map = Some(Arc::new(ConfigMap { data: data.clone(), ..ConfigMap::default() })),
                Plan::Nothing => {}
            }
            prop_assert_eq!(world.map.as_ref().and_then(|map| map.data.clone()), data);
            prop_assert_eq!(plan(&world), Plan::Nothing, "what is right stays");
        }
    }
}
