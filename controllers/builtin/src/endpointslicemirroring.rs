//! Mirrors the Endpoints that people write for services without a selector into EndpointSlices, which is what proxies
//! and DNS read. Slices that another controller manages are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::core::v1::{EndpointAddress, Endpoints, Service};
use corral_api::k8s::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_runtime::objects::Deletion;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler, Recorder};
use jiff::Timestamp;

use crate::context::Context;
use crate::endpointslice::{MANAGED_BY, SERVICE_NAME, group_of};
use crate::servicepods::Port;
use crate::{ownership, pods, serviceaccount};

/// Addresses of one set of ports that are mirrored, so that one slice holds them.
const ADDRESSES_MAX: usize = 1000;
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// The label that keeps Endpoints from being mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Old leader elections keep their record on Endpoints, which are no addresses of anything.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say something about the Endpoints object only.
const OWN_ANNOTATIONS: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// The index of mirrored slices by service.
const MIRRORED: &str = "mirrored";

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub endpoints: Option<Arc<Endpoints>>,
    pub service: Option<Arc<Service>>,
    /// The slices that we manage for the service.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
    /// Reasons and texts of warnings about the Endpoints.
    pub warnings: Vec<(&'static str, String)>,
}

/// What endpoints share that are in one slice: the kind of address, and the ports.
type Group = (String, Vec<Port>);
/// The endpoints of a group by their address.
type Wanted = BTreeMap<Group, BTreeMap<String, Endpoint>>;

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let meta = &endpoints.metadata;
    let skips = meta.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let annotations = meta.annotations.as_ref();
    let elects = annotations.is_some_and(|annotations| annotations.contains_key(LEADER));
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    skips.is_none_or(|skips| skips != "true") && !elects && selector.is_none_or(BTreeMap::is_empty)
}

pub fn plan(world: &World) -> Plan {
    let mut plan = Plan::default();
    let both = world.endpoints.as_ref().zip(world.service.as_ref());
    let Some((endpoints, _)) = both.filter(|(endpoints, service)| is_mirrored(endpoints, service))
    else {
        plan.delete.clone_from(&world.slices);
        return plan;
    };
    let mut wanted = wanted(endpoints, &mut plan.warnings);
    let mut spare: Vec<&Arc<EndpointSlice>> = Vec::new();
    for slice in &world.slices {
        match wanted.remove_entry(&group_of(slice)) {
            Some((group, found)) => {
                let draft = new_slice(endpoints, &group, found);
                plan.update.extend(rewritten(slice, draft));
            }
            None => spare.push(slice),
        }
    }
    for (group, found) in wanted {
        let draft = new_slice(endpoints, &group, found);
        // A slice that is no longer needed becomes the new one, if the kind of address is the same.
        match spare.iter().position(|slice| slice.address_type == group.0) {
            Some(at) => plan.update.extend(rewritten(spare.swap_remove(at), draft)),
            None if pods::is_deleted(&endpoints.metadata) => {}
            None => plan.create.push(draft),
        }
    }
    plan.delete = spare.into_iter().cloned().collect();
    plan
}

/// Addresses by their text, and whether they are ready.
type Addresses<'a> = BTreeMap<&'a str, (bool, &'a EndpointAddress)>;
/// The addresses of each port over all subsets; one that is not ready anywhere is not ready.
type ByPort<'a> = BTreeMap<Option<Port>, Addresses<'a>>;

fn by_port(endpoints: &Endpoints) -> ByPort<'_> {
    let mut by_port = ByPort::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(|port| {
            Some(Port {
                name: Some(port.name.clone().unwrap_or_default()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                number: port.port,
                app_protocol: port.app_protocol.clone(),
            })
        });
        let mut ports: Vec<_> = ports.collect();
        if ports.is_empty() {
            ports.push(None);
        }
        let ready = subset.addresses.iter().flatten().map(|a| (true, a));
        let unready = subset.not_ready_addresses.iter().flatten();
        let all: Vec<_> = ready.chain(unready.map(|a| (false, a))).collect();
        for port in ports {
            let known = by_port.entry(port).or_default();
            for (ready, address) in &all {
                let entry = known.entry(&address.ip).or_insert((*ready, *address));
                entry.0 &= *ready;
            }
        }
    }
    by_port
}

/// Ports with the same addresses share slices, whatever subsets they were written in; addresses without a port need no
/// slice of their own if there is one of the same addresses.
fn wanted(endpoints: &Endpoints, warnings: &mut Vec<(&'static str, String)>) -> Wanted {
    let mut subsets: Vec<(Addresses<'_>, Vec<Port>)> = Vec::new();
    for (port, addresses) in by_port(endpoints) {
        match subsets.iter_mut().find(|(known, _)| *known == addresses) {
            Some((_, ports)) => ports.extend(port),
            None => subsets.push((addresses, port.into_iter().collect())),
        }
    }
    let mut wanted = Wanted::new();
    let (mut invalid, mut skipped) = (0, 0);
    for (addresses, ports) in subsets {
        let mut addresses: Vec<_> = addresses.into_values().collect();
        // What is ready goes first, should there be too many.
        addresses.sort_by_key(|(ready, _)| !ready);
        let mut n_added = 0;
        for (ready, address) in addresses {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            if n_added >= ADDRESSES_MAX {
                skipped += 1;
                continue;
            }
            n_added += 1;
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = (family.to_owned(), ports.clone());
            let endpoint = endpoint(address, ip.to_string(), ready);
            wanted
                .entry(group)
                .or_default()
                .insert(ip.to_string(), endpoint);
        }
    }
    if invalid > 0 {
        let text =
            format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        warnings.push(("InvalidIPAddress", text));
    }
    if skipped > 0 {
        let text = format!(
            "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
            skipped + invalid
        );
        warnings.push(("TooManyAddressesToMirror", text));
    }
    wanted
}

fn endpoint(address: &EndpointAddress, ip: String, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn new_slice(
    endpoints: &Endpoints,
    group: &Group,
    found: BTreeMap<String, Endpoint>,
) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    let ports = group.1.iter().map(|port| EndpointPort {
        name: port.name.clone(),
        protocol: Some(port.protocol.clone()),
        port: Some(port.number),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        address_type: group.0.clone(),
        endpoints: Some(found.into_values().collect()),
        ports: Some(ports.collect()),
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![ownership::controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
    }
}

/// The slice with what the draft says; nothing if it says that already.
fn rewritten(slice: &EndpointSlice, draft: EndpointSlice) -> Option<EndpointSlice> {
    let sorted = |slice: &EndpointSlice| {
        let mut endpoints = slice.endpoints.clone().unwrap_or_default();
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        endpoints
    };
    let (is, becomes) = (&slice.metadata, &draft.metadata);
    let same = sorted(slice) == sorted(&draft)
        && group_of(slice) == group_of(&draft)
        && is.labels == becomes.labels
        && is.annotations.clone().unwrap_or_default()
            == becomes.annotations.clone().unwrap_or_default()
        && is.owner_references == becomes.owner_references;
    (!same).then(|| EndpointSlice {
        metadata: ObjectMeta {
            labels: becomes.labels.clone(),
            annotations: becomes.annotations.clone(),
            owner_references: becomes.owner_references.clone(),
            ..is.clone()
        },
        ..draft
    })
}

struct Mirroring {
    endpoints: Objects<Endpoints>,
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
    events: Recorder,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "endpointslicemirroring-controller";
    let endpoints = context.objects::<Endpoints>(name);
    let services = context.objects::<Service>(name);
    let slices = context.objects::<EndpointSlice>(name);
    slices.cache().add_index(MIRRORED, |slice| {
        let key = slice_key(slice).map(|key| key.to_string());
        key.into_iter().collect()
    });
    let controller = Controller::new("endpointslicemirroring")
        .watch(endpoints.cache())
        .watch(services.cache())
        .map(slices.cache(), |change| {
            // One that is given to another manager, or taken from one, concerns us as well.
            let keys: BTreeSet<_> = change
                .states()
                .filter_map(|slice| slice_key(slice))
                .collect();
            keys.into_iter().collect()
        });
    let reconciler = Mirroring {
        endpoints,
        services,
        slices,
        events: context.recorder(name),
    };
    controller.run_planned(
        reconciler,
        2,
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
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    Some(ObjectKey::new(namespace, name))
}

#[async_trait]
impl Reconciler for Mirroring {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        Some(World {
            endpoints: self.endpoints.get(key),
            service: self.services.get(key),
            slices: self.slices.cache().by_index(MIRRORED, &key.to_string()),
        })
    }

    fn plan(&self, world: &World, _now: Timestamp) -> Plan {
        plan(world)
    }

    async fn apply(&self, world: &World, plan: Plan, _now: Timestamp) -> Result<Action, Error> {
        if let Some(endpoints) = &world.endpoints {
            for (reason, text) in plan.warnings {
                self.events.warning(&**endpoints, reason, text);
            }
        }
        let mut outcomes = Vec::new();
        for slice in &plan.create {
            let outcome = self.slices.create(slice).await;
            outcomes.push(serviceaccount::created(outcome.map(drop)));
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
mod tests;
