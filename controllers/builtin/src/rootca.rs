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
