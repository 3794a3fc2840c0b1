//! Cluster addresses and node ports of Services.
//!
//! An address is an IPAddress object and a port a key of its own in the store, created in the same transaction as the
//! Service that has it: two Services can never get the same one, however many servers write.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bytes::Bytes;
use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::Service;
use corral_api::status::Status;
use corral_kinds::Object;
use corral_storage::{self as storage, Key, ListOptions, Operation};

use super::{Action, AdmissionConfig, Attributes};
use crate::api::Api;
use crate::cacher::storage_status;
use crate::metrics::allocations::Scope;
use crate::service_ranges::{address_key, is_of, taken};

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The network's address.
    pub base: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl std::str::FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an IPv4 network such as 10.96.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|p| (8..=29).contains(p))
            .ok_or_else(wrong)?;
        let mask = u32::MAX << (32 - prefix);
        Ok(Self {
            base: Ipv4Addr::from(u32::from(address) & mask),
            prefix,
        })
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl AddressRange {
    /// Number of addresses.
    pub fn size(&self) -> u32 {
        1 << (32 - self.prefix)
    }

    /// The address at an offset.
    pub fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + offset % self.size())
    }

    /// Whether an address may be somebody's: those of the network and for everybody may not.
    pub fn can_give(&self, address: Ipv4Addr) -> bool {
        self.contains(address) && ![self.at(0), self.at(self.size() - 1)].contains(&address)
    }

    /// Whether an address is in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.base));
        offset < self.size()
    }
}

/// Numbers of ports.
pub type NodePorts = std::ops::RangeInclusive<u16>;

/// Where node ports are claimed.
const NODE_PORTS: &str = "/registry/claims/nodeports/";

/// What is in the JSON of a Service that has one: `nodePort`, `healthCheckNodePort`.
const NODE_PORT: &[u8] = b"odePort\":";

fn port_key(protocol: &str, port: i32) -> Key {
    Key::new(format!("{NODE_PORTS}{}/{port}", protocol.to_lowercase()))
}

/// What a Service has: addresses, and node ports by protocol.
fn held(service: &Service) -> (HashSet<String>, HashSet<(String, i32)>) {
    let Some(spec) = &service.spec else {
        return Default::default();
    };
    let addresses = spec
        .cluster_ip
        .iter()
        .filter(|ip| !ip.is_empty() && *ip != "None");
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let number = port.node_port.filter(|n| *n != 0)?;
        Some((
            port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number,
        ))
    });
    let mut ports: HashSet<(String, i32)> = ports.collect();
    if let Some(number) = spec.health_check_node_port.filter(|n| *n != 0) {
        ports.insert(("TCP".to_owned(), number));
    }
    (addresses.cloned().collect(), ports)
}

pub(super) async fn admit(
    api: &Api,
    config: &AdmissionConfig,
    attributes: &mut Attributes<'_>,
    object: &mut Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let before = old
        .and_then(|o| o.get::<Service>())
        .map(held)
        .unwrap_or_default();
    let Some(service) = object.get_mut::<Service>() else {
        return Ok(());
    };
    if attributes.action == Action::Update {
        carry_over(service, old.and_then(|o| o.get::<Service>()));
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    let owner = Bytes::from(format!("{}/{name}", attributes.cx.namespace));
    // What it has already is not looked at again: kube-apiserver may have given it out of a range that we do not know.
    let old = old.and_then(|o| o.get::<Service>());
    if has_no_addresses_to_give(service) {
        if let Some(spec) = &mut service.spec
            && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty)
        {
            spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
        }
        // The kind's rules refuse it in a moment, and tell everything else that is wrong with it.
        return Ok(());
    }
    let families = |service: &Service| {
        let spec = service.spec.as_ref()?;
        Some((spec.ip_families.clone(), spec.ip_family_policy.clone()))
    };
    // Another server may have given it addresses of both.
    if old.is_none_or(|old| families(old) != families(service)) {
        check_families(service, &name)?;
    }
    let (chosen, chosen_ports) = held(service);
    let address_scope = match chosen.is_empty() {
        true => Scope::Dynamic,
        false => Scope::Static,
    };
    let began = Instant::now();
    if keeps_addresses(service, old) {
        keep_families(service, old);
    } else {
        give_address(api, config, service, &name).await?;
    }
    if !attributes.cx.dry_run && held(service).0 != before.0 {
        config.allocations.took(began.elapsed());
    }
    give_node_ports(api, config, service, &name, &before.1).await?;
    let after = held(service);
    let measured = (!attributes.cx.dry_run).then_some(&*config.allocations);
    for address in after.0.difference(&before.0) {
        let value = taken(address, &attributes.cx.namespace, &name, attributes.cx.now);
        let is_given = claim(api, attributes, address_key(address), value).await?;
        if let Some(measured) = measured {
            measured.addresses.tried(address_scope, is_given);
        }
        if !is_given {
            let error = not_given(address, "provided IP is already allocated");
            return Err(Status::invalid("", "Service", &name, &[error]));
        }
    }
    let scope = |port: &(String, i32)| match chosen_ports.contains(port) {
        true => Scope::Static,
        false => Scope::Dynamic,
    };
    let mut new_ports = Vec::new();
    for port in after.1.difference(&before.1) {
        new_ports.push((scope(port), port));
    }
    // What somebody chose may be taken, and nothing else is given then.
    new_ports.sort();
    for (scope, (protocol, port)) in new_ports {
        let key = port_key(protocol, *port);
        let is_given = claim(api, attributes, key, owner.clone()).await?;
        if let Some(measured) = measured {
            measured.ports.tried(scope, is_given);
        }
        if !is_given {
            let error = port_taken(object.get::<Service>(), protocol, *port);
            return Err(Status::invalid("", "Service", &name, &[error]));
        }
    }
    for address in before.0.difference(&after.0) {
        attributes
            .claims
            .extend(release_address(api, address, &attributes.cx.namespace, &name).await?);
    }
    for (protocol, port) in before.1.difference(&after.1) {
        attributes
            .claims
            .extend(release(api, port_key(protocol, *port)).await?);
    }
    Ok(())
}

/// Why a Service does not get an address.
fn not_given(address: &str, why: &str) -> FieldError {
    let path = FieldPath::new("spec.clusterIPs");
    let why = format!("failed to allocate IP {address}: {why}");
    FieldError::invalid(&path, serde_json::json!([address]), why)
}

/// A node port is somebody else's: which of a Service's it is.
fn port_taken(service: Option<&Service>, protocol: &str, number: i32) -> FieldError {
    let spec = service.and_then(|service| service.spec.as_ref());
    let ports = spec.and_then(|spec| spec.ports.as_deref());
    let index = ports.unwrap_or_default().iter().position(|port| {
        port.node_port == Some(number) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    let path = match index {
        Some(index) => FieldPath::new("spec.ports").index(index).child("nodePort"),
        None => FieldPath::new("spec.healthCheckNodePort"),
    };
    FieldError::invalid(&path, number, "provided port is already allocated")
}

/// An update that leaves addresses and node ports out keeps them.
fn carry_over(service: &mut Service, old: Option<&Service>) {
    let Some((spec, old)) = service.spec.as_mut().zip(old.and_then(|o| o.spec.as_ref())) else {
        return;
    };
    let external = |kind: &Option<String>| kind.as_deref() == Some("ExternalName");
    if external(&spec.type_) {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
        return;
    }
    if !external(&old.type_) {
        if spec.cluster_ip.as_deref().unwrap_or("").is_empty() {
            spec.cluster_ip.clone_from(&old.cluster_ip);
        }
        if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
            spec.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if spec.cluster_ips == old.cluster_ips && spec.cluster_ip != old.cluster_ip {
        // The first of the list is the same thing by another name.
        spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
    }
    for port in spec.ports.iter_mut().flatten() {
        if port.node_port.is_none_or(|n| n == 0) && wants_node_ports(spec.type_.as_deref()) {
            let same = old
                .ports
                .iter()
                .flatten()
                .find(|o| o.port == port.port && o.protocol == port.protocol);
            port.node_port = same.and_then(|o| o.node_port);
        }
    }
}

fn keeps_addresses(service: &Service, old: Option<&Service>) -> bool {
    let addresses = |service: &Service| {
        let spec = service.spec.as_ref()?;
        let first = spec.cluster_ip.clone().filter(|ip| !ip.is_empty())?;
        Some((first, spec.cluster_ips.clone()?))
    };
    let now = addresses(service);
    now.is_some() && now == old.and_then(addresses)
}

/// Whether the addresses that were sent are none, or contradict each other: what the rules of Services refuse.
fn has_no_addresses_to_give(service: &Service) -> bool {
    let Some(spec) = &service.spec else {
        return true;
    };
    let first = spec.cluster_ip.as_deref().unwrap_or("");
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    let is_none = |ip: &str| ip != "None" && ip.parse::<IpAddr>().is_err();
    spec.type_.as_deref() != Some("ExternalName")
        && (!first.is_empty() && is_none(first)
            || all.iter().any(|ip| is_none(ip))
            || all.first().is_some_and(|ip| ip != first))
}

/// There are addresses of one family.
fn check_families(service: &Service, name: &str) -> Result<(), Status> {
    let Some(spec) = &service.spec else {
        return Ok(());
    };
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    let has_selector = spec.selector.as_ref().is_some_and(|s| !s.is_empty());
    let is_external = spec.type_.as_deref() == Some("ExternalName");
    if is_external || is_headless && !has_selector {
        return Ok(());
    }
    let mut errors = Vec::new();
    if let Some(policy @ "RequireDualStack") = spec.ip_family_policy.as_deref() {
        let why = "this cluster is not configured for dual-stack services";
        let path = FieldPath::new("spec.ipFamilyPolicy");
        errors.push(FieldError::invalid(&path, policy, why));
    }
    let has_address = spec.cluster_ip.as_ref().is_some_and(|ip| !ip.is_empty());
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        // Of an address of the other family the rules say more.
        if family == "IPv6" && !has_address {
            let path = FieldPath::new("spec.ipFamilies").index(index);
            let why = "not configured on this cluster";
            errors.push(FieldError::invalid(&path, family.as_str(), why));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("", "Service", name, &errors)),
    }
}

/// The families go with the addresses.
fn keep_families(service: &mut Service, old: Option<&Service>) {
    let Some((spec, old)) = service.spec.as_mut().zip(old.and_then(|o| o.spec.as_ref())) else {
        return;
    };
    let (families, policy) = (&mut spec.ip_families, &mut spec.ip_family_policy);
    *families = families.take().or_else(|| old.ip_families.clone());
    *policy = policy.take().or_else(|| old.ip_family_policy.clone());
}

fn wants_node_ports(kind: Option<&str>) -> bool {
    matches!(kind, Some("NodePort" | "LoadBalancer"))
}

async fn give_address(
    api: &Api,
    config: &AdmissionConfig,
    service: &mut Service,
    name: &str,
) -> Result<(), Status> {
    let Some(spec) = service.spec.as_mut() else {
        return Ok(());
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(());
    }
    let refused = |error: FieldError| Status::invalid("", "Service", name, &[error]);
    match spec.cluster_ip.as_deref() {
        Some("None") => {}
        None | Some("") => {
            let free = free_address(api, config).await?;
            spec.cluster_ip = Some(free.to_string());
        }
        Some(given) => {
            let Ok(address) = given.parse::<Ipv4Addr>() else {
                let path = FieldPath::new("spec.clusterIPs").index(0);
                let why = "IPv6 is not configured on this cluster";
                let error = FieldError::invalid(&path, serde_json::json!([given]), why);
                return Err(refused(error));
            };
            if !config.service_range.can_give(address) {
                let why = "the provided network does not match the current range";
                return Err(refused(not_given(given, why)));
            }
        }
    }
    spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
    spec.ip_families
        .get_or_insert_with(|| vec!["IPv4".to_owned()]);
    spec.ip_family_policy
        .get_or_insert_with(|| "SingleStack".to_owned());
    Ok(())
}

async fn is_free(api: &Api, key: &Key) -> Result<bool, Status> {
    let entry = api.storage.get(key).await.map_err(|e| storage_status(&e))?;
    Ok(entry.is_none())
}

async fn free_address(api: &Api, config: &AdmissionConfig) -> Result<Ipv4Addr, Status> {
    let size = config.service_range.size();
    // The network, its first address (the API's), the cluster DNS at 10, and broadcast are never given out; the
    // first sixteenth is left for addresses that people choose.
    let reserved = (size / 16).clamp(16.min(size / 2), 256);
    let span = size - reserved - 1;
    let start = rand::random::<u32>() % span;
    for step in 0..span {
        let address = config.service_range.at(reserved + (start + step) % span);
        if is_free(api, &address_key(&address.to_string())).await? {
            return Ok(address);
        }
    }
    Err(Status::internal(format!(
        "failed to allocate a serviceIP: range {} is full",
        config.service_range
    )))
}

async fn give_node_ports(
    api: &Api,
    config: &AdmissionConfig,
    service: &mut Service,
    name: &str,
    kept: &HashSet<(String, i32)>,
) -> Result<(), Status> {
    let Some(spec) = service.spec.as_mut() else {
        return Ok(());
    };
    let has_ports = wants_node_ports(spec.type_.as_deref());
    let wanted = has_ports && spec.allocate_load_balancer_node_ports.unwrap_or(true);
    let (low, high) = (
        i32::from(*config.node_ports.start()),
        i32::from(*config.node_ports.end()),
    );
    let mut taken: HashSet<i32> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|p| p.node_port)
        .collect();
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        match port.node_port.filter(|n| *n != 0) {
            // The rules refuse one that the type has no use for.
            Some(given)
                if has_ports
                    && !(low..=high).contains(&given)
                    && !kept.iter().any(|(_, number)| *number == given) =>
            {
                let path = FieldPath::new("spec.ports").index(index).child("nodePort");
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {low}-{high}"
                );
                return Err(Status::invalid(
                    "",
                    "Service",
                    name,
                    &[FieldError::invalid(&path, given, why)],
                ));
            }
            Some(_) => {}
            None if wanted => {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let free = free_port(api, low, high, &protocol, &taken).await?;
                taken.insert(free);
                port.node_port = Some(free);
            }
            None => port.node_port = None,
        }
    }
    Ok(())
}

async fn free_port(
    api: &Api,
    low: i32,
    high: i32,
    protocol: &str,
    taken: &HashSet<i32>,
) -> Result<i32, Status> {
    let span = high - low + 1;
    let start = i32::from(rand::random::<u16>()) % span;
    for step in 0..span {
        let port = low + (start + step) % span;
        if !taken.contains(&port) && is_free(api, &port_key(protocol, port)).await? {
            return Ok(port);
        }
    }
    Err(Status::internal(
        "failed to allocate a nodePort: range is full",
    ))
}

/// Takes a key with the object, if it is free.
async fn claim(
    api: &Api,
    attributes: &mut Attributes<'_>,
    key: Key,
    value: Bytes,
) -> Result<bool, Status> {
    let is_free = is_free(api, &key).await?;
    if is_free {
        attributes.claims.push(Operation::Create { key, value });
    }
    Ok(is_free)
}

/// The node ports of a Service, as it is stored.
pub(crate) fn node_ports(json: &[u8]) -> Vec<u16> {
    // Most Services have none, and need not be read.
    let may_have = memchr::memmem::find(json, NODE_PORT).is_some();
    let service = may_have.then(|| serde_json::from_slice::<Service>(json).ok());
    let service = service.flatten().unwrap_or_default();
    let ports = held(&service).1.into_iter();
    ports
        .filter_map(|(_, number)| u16::try_from(number).ok())
        .collect()
}

/// Claims the node ports of Services whose ports nobody has claimed: those that kube-apiserver has made, which notes the
/// ports of all in one object.
///
/// # Errors
/// When the store does not take it.
pub(crate) async fn adopt_node_ports(api: &Api) -> Result<(), Status> {
    let mut claimed = HashSet::new();
    let mut options = ListOptions::default();
    loop {
        let page = api.storage.list(NODE_PORTS, options.clone()).await;
        let page = page.map_err(|error| storage_status(&error))?;
        options.revision = Some(page.revision);
        options.after = page.entries.last().map(|entry| entry.key.clone());
        claimed.extend(page.entries.into_iter().map(|entry| entry.key));
        if !page.more {
            break;
        }
    }
    let services = api.core("services");
    let snapshot = services.cacher.snapshot();
    for stored in snapshot.objects.values() {
        let service: Service = serde_json::from_slice(&stored.json).map_err(Status::internal)?;
        let (namespace, name) = stored.namespace_and_name(services.cacher.prefix());
        let ports = held(&service).1;
        for key in ports
            .iter()
            .map(|(protocol, port)| port_key(protocol, *port))
        {
            if claimed.contains(&key) {
                continue;
            }
            // The Service is still there as this is made: it would otherwise stay for ever.
            let holder = Operation::Check {
                key: stored.key.clone(),
                expected: stored.revision,
            };
            let value = Bytes::from(format!("{namespace}/{name}"));
            let claim = Operation::Create { key, value };
            match api.storage.commit(vec![holder, claim]).await {
                Ok(_)
                | Err(
                    storage::Error::Exists { .. }
                    | storage::Error::Conflict { .. }
                    | storage::Error::NotFound { .. },
                ) => {}
                Err(error) => return Err(storage_status(&error)),
            }
        }
    }
    Ok(())
}

async fn release(api: &Api, key: Key) -> Result<Option<Operation>, Status> {
    let entry = api
        .storage
        .get(&key)
        .await
        .map_err(|e| storage_status(&e))?;
    Ok(entry.map(|entry| Operation::Delete {
        key,
        expected: entry.revision,
    }))
}

/// An address that is somebody else's by now stays.
async fn release_address(
    api: &Api,
    address: &str,
    namespace: &str,
    service: &str,
) -> Result<Option<Operation>, Status> {
    let key = address_key(address);
    let entry = api.storage.get(&key).await;
    let entry = entry.map_err(|e| storage_status(&e))?;
    let entry = entry.filter(|entry| is_of(&entry.value, namespace, service));
    Ok(entry.map(|entry| Operation::Delete {
        key,
        expected: entry.revision,
    }))
}

pub(super) async fn releases(api: &Api, json: &[u8]) -> Result<Vec<Operation>, Status> {
    let service: Service = serde_json::from_slice(json).map_err(Status::internal)?;
    let (addresses, ports) = held(&service);
    let meta = &service.metadata;
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (of(&meta.namespace), of(&meta.name));
    let mut out = Vec::new();
    for address in &addresses {
        out.extend(release_address(api, address, &namespace, &name).await?);
    }
    for (protocol, port) in &ports {
        out.extend(release(api, port_key(protocol, *port)).await?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_and_contain() {
        let range: AddressRange = "10.96.0.7/16".parse().expect("valid");
        assert_eq!(range.to_string(), "10.96.0.0/16");
        assert!(range.contains(Ipv4Addr::new(10, 96, 255, 255)));
        assert!(!range.contains(Ipv4Addr::new(10, 97, 0, 0)));
        assert_eq!(range.at(1), Ipv4Addr::new(10, 96, 0, 1));
        for text in ["10.0.0.0", "x/8", "10.0.0.0/33"] {
            assert!(text.parse::<AddressRange>().is_err());
        }
    }
}
