//! EndpointSlice: for every service with a selector, the pods behind it in slices of at most 100, per address family
//! and per set of ports. Slices that another controller manages are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{Node, ObjectReference, Pod, Service};
use corral_api::k8s::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_runtime::key::uid_of;
use corral_runtime::objects::Deletion;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;

use crate::context::Context;
use crate::servicepods::{self, Port};
use crate::{ownership, pods, serviceaccount};

/// Endpoints per slice: small enough that one pod's change is a small message.
pub const ENDPOINTS_MAX: usize = 100;
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The index of slices by service.
const BY_SERVICE: &str = "service";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub service: Arc<Service>,
    pub pods: Vec<Arc<Pod>>,
    /// The slices that we manage for the service.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Zones by node.
    pub zones: BTreeMap<String, String>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// What endpoints share that may be in one slice.
type Group = (String, Vec<Port>);

pub fn plan(world: &World) -> Plan {
    let mut plan = Plan::default();
    if !servicepods::is_selecting(&world.service) || pods::is_deleted(&world.service.metadata) {
        plan.delete.clone_from(&world.slices);
        return plan;
    }
    let mut wanted = wanted(world);
    let mut slices: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in &world.slices {
        let group = group_of(slice);
        if wanted.contains_key(&group) {
            slices.entry(group).or_default().push(slice);
        } else {
            plan.delete.push(Arc::clone(slice));
        }
    }
    let trigger = trigger_time(world);
    for (group, endpoints) in &mut wanted {
        let present = slices.remove(group).unwrap_or_default();
        fill(world, group, endpoints, &present, &trigger, &mut plan);
    }
    plan
}

/// The endpoints that there shall be, by group and by pod; a group without endpoints keeps an empty slice, so that the
/// service is known to have none.
fn wanted(world: &World) -> BTreeMap<Group, BTreeMap<String, Endpoint>> {
    let mut wanted: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for family in families(&world.service) {
        for pod in &world.pods {
            let Some(address) = address_of(pod, &family) else {
                continue;
            };
            let group = (family.clone(), servicepods::ports(&world.service, pod));
            wanted.entry(group).or_default().insert(
                uid_of(&pod.metadata).to_owned(),
                endpoint(world, pod, address),
            );
        }
        if !wanted.keys().any(|(known, _)| *known == family) {
            wanted.insert((family, Vec::new()), BTreeMap::new());
        }
    }
    wanted
}

fn families(service: &Service) -> Vec<String> {
    let listed = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.clone())
        .unwrap_or_default();
    if listed.is_empty() {
        vec!["IPv4".into()]
    } else {
        listed
    }
}

fn address_of(pod: &Pod, family: &str) -> Option<String> {
    servicepods::addresses(pod)
        .into_iter()
        .find(|address| match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => family == "IPv4",
            Ok(IpAddr::V6(_)) => family == "IPv6",
            Err(_) => false,
        })
}

fn endpoint(world: &World, pod: &Pod, address: String) -> Endpoint {
    let publish = world
        .service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let (serving, terminating) = (pods::is_ready(pod), pods::is_deleted(&pod.metadata));
    let node_name = pods::node_of(pod).map(Into::into);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: servicepods::hostname(&world.service, pod),
        zone: node_name
            .as_ref()
            .and_then(|node| world.zones.get(node))
            .cloned(),
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The kind of address of a slice and its ports.
pub fn group_of(slice: &EndpointSlice) -> Group {
    let mut ports: Vec<_> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            number: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    (slice.address_type.clone(), ports)
}

/// Brings a group's slices to what is wanted with as few changed slices as possible: endpoints stay where they are,
/// new ones go where there is room, first into slices that change anyway.
fn fill(
    world: &World,
    group: &Group,
    wanted: &mut BTreeMap<String, Endpoint>,
    present: &[&Arc<EndpointSlice>],
    trigger: &Option<String>,
    plan: &mut Plan,
) {
    let mut drafts: Vec<(Vec<Endpoint>, bool, &Arc<EndpointSlice>)> = Vec::new();
    for slice in present {
        let old = slice.endpoints.clone().unwrap_or_default();
        let kept: Vec<_> = old
            .iter()
            .filter_map(|endpoint| wanted.remove(&target_uid(endpoint)))
            .collect();
        let changed = kept != old;
        drafts.push((kept, changed, slice));
    }
    let mut rest: Vec<Endpoint> = std::mem::take(wanted).into_values().collect();
    drafts.sort_by_key(|(endpoints, changed, _)| (!*changed, std::cmp::Reverse(endpoints.len())));
    for (endpoints, changed, _) in &mut drafts {
        let room = ENDPOINTS_MAX
            .saturating_sub(endpoints.len())
            .min(rest.len());
        *changed |= room > 0;
        endpoints.extend(rest.drain(..room));
    }
    let all_empty = rest.is_empty() && drafts.iter().all(|(endpoints, ..)| endpoints.is_empty());
    let mut kept_one = false;
    for (endpoints, changed, slice) in drafts {
        if endpoints.is_empty() && (!all_empty || kept_one) {
            plan.delete.push(Arc::clone(slice));
            continue;
        }
        kept_one = true;
        let mut draft = new_slice(world, group, endpoints, trigger);
        let same_labels = draft.metadata.labels == slice.metadata.labels;
        if changed || !same_labels {
            let mut metadata = slice.metadata.clone();
            metadata.labels = draft.metadata.labels.take();
            metadata
                .annotations
                .get_or_insert_default()
                .extend(draft.metadata.annotations.unwrap_or_default());
            draft.metadata = metadata;
            plan.update.push(draft);
        }
    }
    while !rest.is_empty() || (all_empty && !kept_one) {
        kept_one = true;
        let endpoints: Vec<_> = rest.drain(..ENDPOINTS_MAX.min(rest.len())).collect();
        plan.create
            .push(new_slice(world, group, endpoints, trigger));
    }
}

fn target_uid(endpoint: &Endpoint) -> String {
    endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.clone())
        .unwrap_or_default()
}

fn new_slice(
    world: &World,
    group: &Group,
    endpoints: Vec<Endpoint>,
    trigger: &Option<String>,
) -> EndpointSlice {
    let meta = &world.service.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut own = vec![
        (SERVICE_NAME.into(), name.clone()),
        (MANAGED_BY.into(), MANAGER.into()),
    ];
    if servicepods::is_headless(&world.service) {
        own.push((HEADLESS.into(), String::new()));
    }
    let ports = group.1.iter().map(|port| EndpointPort {
        name: port.name.clone(),
        protocol: Some(port.protocol.clone()),
        port: Some(port.number),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        address_type: group.0.clone(),
        endpoints: Some(endpoints),
        ports: Some(ports.collect()),
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: meta.namespace.clone(),
            labels: Some(servicepods::labels(meta, own)),
            annotations: trigger
                .as_ref()
                .map(|time| BTreeMap::from([(TRIGGER_TIME.into(), time.clone())])),
            owner_references: Some(vec![ownership::controller_reference(&*world.service)]),
            ..ObjectMeta::default()
        },
    }
}

/// When the last pod became ready or not, or else the service was made: what latencies are measured from.
fn trigger_time(world: &World) -> Option<String> {
    let transition = |pod: &Arc<Pod>| pods::condition(pod, "Ready")?.last_transition_time.clone();
    let changed = world.pods.iter().filter_map(transition).max();
    let time = changed.max(world.service.metadata.creation_timestamp.clone())?;
    Some(corral_api::time::format_seconds(time.0))
}

struct EndpointSlices {
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
    pods: Objects<Pod>,
    nodes: Objects<Node>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "endpointslice-controller";
    let (services, slices) = (
        context.objects::<Service>(name),
        context.objects::<EndpointSlice>(name),
    );
    let (pods, nodes) = (context.objects::<Pod>(name), context.objects::<Node>(name));
    slices.cache().add_index(BY_SERVICE, |slice| {
        slice_key(slice)
            .map(|key| key.to_string())
            .into_iter()
            .collect()
    });
    let known = services.cache().clone();
    let controller = Controller::new("endpointslice")
        .watch(services.cache())
        .map(slices.cache(), |change| {
            slice_key(change.latest()).into_iter().collect()
        })
        .map(pods.cache(), move |change| {
            servicepods::services_of(&known, change)
        })
        .needs(nodes.cache());
    let reconciler = EndpointSlices {
        services,
        slices,
        pods,
        nodes,
    };
    controller.run_planned(
        reconciler,
        4,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

/// The service of a slice that is ours.
fn slice_key(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels
        .get(MANAGED_BY)
        .is_some_and(|manager| manager == MANAGER);
    let name = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(
        slice.metadata.namespace.clone().unwrap_or_default(),
        name,
    ))
}

#[async_trait]
impl Reconciler for EndpointSlices {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        // A service that is gone takes its slices along by their owner reference.
        let service = self.services.get(key)?;
        let slices = self.slices.cache().by_index(BY_SERVICE, &key.to_string());
        let pods = servicepods::behind(&service, self.pods.cache());
        let nodes: BTreeSet<_> = pods.iter().filter_map(|pod| pods::node_of(pod)).collect();
        let zones = nodes.into_iter().filter_map(|name| {
            let node = self.nodes.get(&ObjectKey::cluster(name))?;
            Some((
                name.to_owned(),
                node.metadata.labels.as_ref()?.get(ZONE)?.clone(),
            ))
        });
        let zones = zones.collect();
        Some(World {
            service,
            pods,
            slices,
            zones,
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, _world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        let mut outcomes = Vec::new();
        for slice in &plan.create {
            outcomes.push(serviceaccount::created(
                self.slices.create(slice).await.map(drop),
            ));
        }
        for slice in &plan.update {
            outcomes.push(self.slices.replace(slice).await.map(drop));
        }
        for slice in &plan.delete {
            outcomes.push(self.slices.delete(slice, Deletion::default()).await);
        }
        Error::collect(outcomes)?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        object(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        }))
    }

    fn pod(n: usize, ready: bool, port: i32) -> Arc<Pod> {
        Arc::new(object(json!({
            "metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}")},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {
                "podIP": format!("10.0.{}.{}", n / 250, n % 250),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        })))
    }

    fn applied(world: &World, plan: Plan, names: &mut usize) -> World {
        let mut slices: Vec<_> = world.slices.iter().map(|slice| (**slice).clone()).collect();
        let is = |slice: &EndpointSlice, other: &EndpointSlice| {
            slice.metadata.name == other.metadata.name
        };
        slices.retain(|slice| !plan.delete.iter().any(|gone| is(slice, gone)));
        for update in plan.update {
            let slice = slices
                .iter_mut()
                .find(|slice| is(slice, &update))
                .expect("only known slices change");
            *slice = update;
        }
        for mut slice in plan.create {
            *names += 1;
            slice.metadata.name = Some(format!("s{names}"));
            slices.push(slice);
        }
        World {
            service: Arc::clone(&world.service),
            pods: world.pods.clone(),
            slices: slices.into_iter().map(Arc::new).collect(),
            zones: BTreeMap::new(),
        }
    }

    proptest! {
        #[test]
        fn slices_hold_exactly_the_pods_and_settle(
            rounds in prop::collection::vec(prop::collection::vec((0..400_usize, any::<bool>(), 80..82), 0..250), 1..5),
        ) {
            let service = Arc::new(service());
            let mut world = World { service, pods: vec![], slices: vec![], zones: BTreeMap::new() };
            let mut names = 0;
            for round in rounds {
                let pods: BTreeMap<_, _> = round.into_iter().map(|(n, ready, port)| (n, (ready, port))).collect();
                world.pods = pods.into_iter().map(|(n, (ready, port))| pod(n, ready, port)).collect();
                let first = plan(&world);
                world = applied(&world, first, &mut names);
                let endpoints = world.slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
                let mut uids: Vec<_> = endpoints.map(target_uid).collect();
                uids.sort();
                let mut wanted: Vec<_> = world.pods.iter().map(|pod| uid_of(&pod.metadata).to_owned()).collect();
                wanted.sort();
                prop_assert_eq!(uids, wanted);
                let sizes = world.slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len));
                prop_assert!(sizes.max().unwrap_or(0) <= ENDPOINTS_MAX);
                let again = plan(&world);
                prop_assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
            }
        }
    }

    #[test]
    fn one_pod_changes_one_slice() {
        let pods: Vec<_> = (0..250).map(|n| pod(n, true, 80)).collect();
        let service = Arc::new(service());
        let world = World {
            service,
            pods,
            slices: vec![],
            zones: BTreeMap::new(),
        };
        let mut world = applied(&world, plan(&world), &mut 0);
        world.pods[7] = pod(7, false, 80);
        let plan = plan(&world);
        assert_eq!(
            (plan.create.len(), plan.update.len(), plan.delete.len()),
            (0, 1, 0)
        );
    }
}
