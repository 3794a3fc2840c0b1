//! Endpoints: the older, single-object form of what endpoint slices say, for clients that still read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_runtime::objects::Deletion;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;

use crate::context::Context;
use crate::servicepods::{self, Port};
use crate::{pods, serviceaccount};

/// Addresses in one object; what is beyond is only in the slices.
const ADDRESSES_MAX: usize = 1000;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub service: Option<Arc<Service>>,
    pub pods: Vec<Arc<Pod>>,
    pub endpoints: Option<Arc<Endpoints>>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Plan {
    Nothing,
    Create(Endpoints),
    Replace(Endpoints),
    Delete,
}

pub fn plan(world: &World) -> Plan {
    let present = world.endpoints.as_deref();
    let Some(service) = &world.service else {
        return if present.is_some_and(is_ours) {
            Plan::Delete
        } else {
            Plan::Nothing
        };
    };
    if !servicepods::is_selecting(service) || pods::is_deleted(&service.metadata) {
        // Someone else may keep the endpoints of a service without a selector.
        return Plan::Nothing;
    }
    let (subsets, truncated) = subsets(service, &world.pods);
    let mut own = vec![(MANAGED_BY.to_owned(), MANAGER.to_owned())];
    if servicepods::is_headless(service) {
        own.push((HEADLESS.into(), String::new()));
    }
    let labels = servicepods::labels(&service.metadata, own);
    let subsets = (!subsets.is_empty()).then_some(subsets);
    match present {
        None => Plan::Create(Endpoints {
            metadata: ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: truncated
                    .then(|| BTreeMap::from([(OVER_CAPACITY.into(), "truncated".into())])),
                ..ObjectMeta::default()
            },
            subsets,
        }),
        Some(present) => {
            let mut metadata = present.metadata.clone();
            metadata.labels = Some(labels);
            let annotations = metadata.annotations.get_or_insert_default();
            if truncated {
                annotations.insert(OVER_CAPACITY.into(), "truncated".into());
            } else {
                annotations.remove(OVER_CAPACITY);
            }
            metadata.annotations = metadata
                .annotations
                .filter(|annotations| !annotations.is_empty());
            let replaced = Endpoints { metadata, subsets };
            if replaced == *present {
                Plan::Nothing
            } else {
                Plan::Replace(replaced)
            }
        }
    }
}

fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|manager| manager == MANAGER)
}

/// Addresses by the ports that they provide, ready ones apart; and whether there were too many.
fn subsets(service: &Service, all: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let publish = service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let no_ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_ref())
        .is_none_or(Vec::is_empty);
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    let mut leaving_out = all
        .iter()
        .filter(|pod| publish || !pods::is_deleted(&pod.metadata))
        .collect::<Vec<_>>();
    // Ready pods are the ones that must not be cut off.
    leaving_out.sort_by_key(|pod| (!pods::is_ready(pod), servicepods::addresses(pod)));
    let truncated = leaving_out.len() > ADDRESSES_MAX;
    for pod in leaving_out.into_iter().take(ADDRESSES_MAX) {
        let ports = servicepods::ports(service, pod);
        if ports.is_empty() && !(no_ports && servicepods::is_headless(service)) {
            continue;
        }
        let Some(ip) = servicepods::addresses(pod).into_iter().next() else {
            continue;
        };
        let address = EndpointAddress {
            ip,
            hostname: servicepods::hostname(service, pod),
            node_name: pods::node_of(pod).map(Into::into),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        let group = groups.entry(ports).or_default();
        if publish || pods::is_ready(pod) {
            group.0.push(address)
        } else {
            group.1.push(address)
        }
    }
    let subsets = groups
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: (!ready.is_empty()).then_some(ready),
            not_ready_addresses: (!not_ready.is_empty()).then_some(not_ready),
            ports: (!ports.is_empty()).then(|| ports.iter().map(endpoint_port).collect()),
        });
    (subsets.collect(), truncated)
}

fn endpoint_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

struct EndpointsController {
    services: Objects<Service>,
    endpoints: Objects<Endpoints>,
    pods: Objects<Pod>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "endpoint-controller";
    let (services, endpoints) = (
        context.objects::<Service>(name),
        context.objects::<Endpoints>(name),
    );
    let pods = context.objects::<Pod>(name);
    let known = services.cache().clone();
    let controller = Controller::new("endpoints")
        .watch(services.cache())
        .watch(endpoints.cache())
        .map(pods.cache(), move |change| {
            servicepods::services_of(&known, change)
        });
    let reconciler = EndpointsController {
        services,
        endpoints,
        pods,
    };
    controller.run_planned(
        reconciler,
        4,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for EndpointsController {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let service = self.services.get(key);
        let pods = service
            .as_ref()
            .map(|service| servicepods::behind(service, self.pods.cache()));
        Some(World {
            service,
            pods: pods.unwrap_or_default(),
            endpoints: self.endpoints.get(key),
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        match (plan, &world.endpoints) {
            (Plan::Create(endpoints), _) => {
                serviceaccount::created(self.endpoints.create(&endpoints).await.map(drop))?;
            }
            (Plan::Replace(endpoints), _) => drop(self.endpoints.replace(&endpoints).await?),
            (Plan::Delete, Some(present)) => {
                self.endpoints.delete(present, Deletion::default()).await?
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

    fn service(publish: bool) -> Arc<Service> {
        Arc::new(object(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"a": "b"}},
            "spec": {
                "selector": {"app": "web"}, "publishNotReadyAddresses": publish,
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "raw", "port": 90}],
            },
        })))
    }

    fn pod(n: usize, ready: bool, port: i32) -> Arc<Pod> {
        Arc::new(object(json!({
            "metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}")},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {
                "podIP": format!("10.0.{}.{}", n / 250, n % 250),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        })))
    }

    proptest! {
        #[test]
        fn every_address_is_listed_once_and_the_plan_settles(
            pods in prop::collection::btree_map(0..1200_usize, (any::<bool>(), 80..82), 0..1100), publish in any::<bool>(),
        ) {
            let pods: Vec<_> = pods.into_iter().map(|(n, (ready, port))| pod(n, ready, port)).collect();
            let mut world = World { service: Some(service(publish)), pods, endpoints: None };
            let Plan::Create(made) = plan(&world) else { panic!("nothing was there") };
            let subsets = || made.subsets.iter().flatten();
            let ready: usize = subsets().map(|subset| subset.addresses.as_ref().map_or(0, Vec::len)).sum();
            let unready: usize = subsets().map(|subset| subset.not_ready_addresses.as_ref().map_or(0, Vec::len)).sum();
            prop_assert_eq!(ready + unready, world.pods.len().min(ADDRESSES_MAX));
            prop_assert!(!publish || unready == 0);
            world.endpoints = Some(Arc::new(made));
            prop_assert_eq!(plan(&world), Plan::Nothing);
        }
    }

    #[test]
    fn endpoints_that_someone_else_keeps_are_left_alone() {
        let foreign: Endpoints = object(json!({"metadata": {"name": "web", "namespace": "ns"}}));
        let endpoints = Some(Arc::new(foreign));
        assert_eq!(
            plan(&World {
                service: None,
                pods: vec![],
                endpoints: endpoints.clone()
            }),
            Plan::Nothing
        );
        let plain: Service =
            object(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {}}));
        let world = World {
            service: Some(Arc::new(plain)),
            pods: vec![],
            endpoints,
        };
        assert_eq!(plan(&world), Plan::Nothing);
    }
}
