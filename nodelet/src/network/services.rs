//! What the node's rules have to be, from Services and EndpointSlices. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use corral_api::k8s::api::core::v1::Service;
use corral_api::k8s::api::discovery::v1::EndpointSlice;

use super::HostPort;
use super::range::Range;

/// How long a client stays with its endpoint when the Service does not say.
const AFFINITY_SECONDS: i32 = 10_800;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Where packets end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    pub port: u16,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Namespace, name and port's name; unique.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ips: Vec<Ipv4Addr>,
    /// External addresses, those of a load balancer included.
    pub external_ips: Vec<Ipv4Addr>,
    pub node_port: Option<u16>,
    /// For how many seconds a client keeps its endpoint.
    pub affinity: Option<u32>,
    /// Where traffic from inside goes.
    pub internal: Vec<Endpoint>,
    /// Where traffic from outside goes.
    pub external: Vec<Endpoint>,
    /// Whether there are endpoints that the internal policy hides: then packets are dropped, not rejected.
    pub internal_hidden: bool,
    /// The same for the external policy.
    pub external_hidden: bool,
    /// Whether traffic from outside keeps to this node and keeps its source address.
    pub external_local: bool,
    /// Every endpoint that may be used, for what comes from pods and this node to an external address of a Service
    /// that keeps external traffic local.
    pub all: Vec<Endpoint>,
}

/// A port of the node that leads to a pod of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodPort {
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
    pub protocol: Protocol,
    pub to: Endpoint,
}

/// Everything that holds on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub services: Vec<ServicePort>,
    pub host_ports: Vec<PodPort>,
    /// This node's pods.
    pub pod_range: Range,
    /// The pods of all nodes.
    pub pod_ranges: BTreeSet<Range>,
    pub service_range: Range,
    pub bridge: String,
    /// Whether answers between pods of the bridge pass the IP layer; if not, the node must put itself between them.
    pub bridge_filters: bool,
}

/// The ports of all Services, ordered by name.
pub fn ports(services: &[Service], slices: &[EndpointSlice], node: &str) -> Vec<ServicePort> {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let service = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("kubernetes.io/service-name"));
        if let Some(service) = service {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            by_service
                .entry((namespace, service))
                .or_default()
                .push(slice);
        }
    }
    let mut ports: Vec<_> = services
        .iter()
        .flat_map(|service| {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let slices = by_service
                .get(&(namespace, name))
                .map(Vec::as_slice)
                .unwrap_or_default();
            ports_of(service, slices, node)
        })
        .collect();
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    ports
}

fn ports_of(service: &Service, slices: &[&EndpointSlice], node: &str) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let cluster_ips = addresses(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    if spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return Vec::new();
    }
    let balancer = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten();
    let ingress: Vec<_> = ingress
        .filter(|point| point.ip_mode.as_deref().unwrap_or("VIP") == "VIP")
        .filter_map(|point| point.ip.clone())
        .collect();
    let external_ips = addresses(spec.external_ips.iter().flatten().chain(&ingress));
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let client = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref());
        client
            .and_then(|client| client.timeout_seconds)
            .unwrap_or(AFFINITY_SECONDS)
            .unsigned_abs()
    });
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let unready = spec.publish_not_ready_addresses == Some(true);
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
            continue;
        };
        let Ok(number) = u16::try_from(port.port) else {
            continue;
        };
        let port_name = port.name.as_deref().unwrap_or_default();
        let all = endpoints(slices, port_name, protocol, None, unready);
        let here = endpoints(slices, port_name, protocol, Some(node), unready);
        let choose = |local: bool| if local { here.clone() } else { all.clone() };
        let (internal_local, external_local) = (
            local(&spec.internal_traffic_policy),
            local(&spec.external_traffic_policy),
        );
        let meta = &service.metadata;
        ports.push(ServicePort {
            name: format!(
                "{}/{}:{port_name}",
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default()
            ),
            protocol,
            port: number,
            cluster_ips: cluster_ips.clone(),
            external_ips: external_ips.clone(),
            node_port: port
                .node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
            affinity,
            internal: choose(internal_local),
            external: choose(external_local),
            internal_hidden: internal_local && here.is_empty() && !all.is_empty(),
            external_hidden: external_local && here.is_empty() && !all.is_empty(),
            external_local,
            all,
        });
    }
    ports
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    let found: BTreeSet<Ipv4Addr> = texts.filter_map(|text| text.parse().ok()).collect();
    found.into_iter().collect()
}

/// The ready endpoints; when there is none, those that still serve while they end.
fn endpoints(
    slices: &[&EndpointSlice],
    port_name: &str,
    protocol: Protocol,
    node: Option<&str>,
    unready: bool,
) -> Vec<Endpoint> {
    let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let fits = |port: &&corral_api::k8s::api::discovery::v1::EndpointPort| {
            port.name.as_deref().unwrap_or_default() == port_name
                && Protocol::parse(port.protocol.as_deref()) == Some(protocol)
        };
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(fits)
            .and_then(|port| port.port);
        let Some(number) = number.and_then(|port| u16::try_from(port).ok()) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            if node.is_some() && endpoint.node_name.as_deref() != node {
                continue;
            }
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let serves = conditions.and_then(|c| c.serving).unwrap_or(is_ready);
            let ends = conditions.and_then(|c| c.terminating).unwrap_or(false);
            // All addresses of an endpoint mean the same; the first one is used.
            let address = endpoint
                .addresses
                .first()
                .and_then(|text| text.parse().ok());
            let Some(address) = address else { continue };
            let found = Endpoint {
                address,
                port: number,
            };
            if is_ready || unready {
                ready.insert(found);
            } else if serves && ends {
                ending.insert(found);
            }
        }
    }
    let chosen = if ready.is_empty() { ending } else { ready };
    chosen.into_iter().collect()
}

/// The host ports of a pod; those of addresses of another family are left out.
pub fn pod_ports(ports: &[HostPort], address: Ipv4Addr) -> Vec<PodPort> {
    let convert = |port: &HostPort| {
        let host_ip = match port.host_ip {
            None => None,
            Some(IpAddr::V4(ip)) if ip.is_unspecified() => None,
            Some(IpAddr::V4(ip)) => Some(ip),
            Some(IpAddr::V6(_)) => return None,
        };
        let protocol = Protocol::parse(Some(&port.protocol))?;
        let to = Endpoint {
            address,
            port: port.container_port,
        };
        Some(PodPort {
            host_ip,
            host_port: port.host_port,
            protocol,
            to,
        })
    };
    ports.iter().filter_map(convert).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        serde_json::from_value(object).expect("a service")
    }

    fn slice(endpoints: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        }))
        .expect("a slice")
    }

    fn plain() -> serde_json::Value {
        json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [{"name": "http", "port": 80}]})
    }

    #[test]
    fn ready_endpoints_are_used_and_ending_ones_only_without_them() {
        let ready = json!({"addresses": ["10.1.0.5"], "conditions": {"ready": true}});
        let ending = json!(
            {"addresses": ["10.1.0.6"], "conditions": {"ready": false, "serving": true, "terminating": true}}
        );
        let dead = json!({"addresses": ["10.1.0.7"], "conditions": {"ready": false}});
        let of = |endpoints| {
            ports(&[service(plain())], &[slice(endpoints)], "n")[0]
                .internal
                .clone()
        };
        let at = |last| Endpoint {
            address: Ipv4Addr::new(10, 1, 0, last),
            port: 8080,
        };
        assert_eq!(of(json!([ready, ending, dead])), [at(5)]);
        assert_eq!(of(json!([ending, dead])), [at(6)]);
        assert_eq!(of(json!([dead])), []);
    }

    #[test]
    fn local_policies_hide_other_nodes() {
        let mut spec = plain();
        spec["internalTrafficPolicy"] = json!("Local");
        spec["externalTrafficPolicy"] = json!("Local");
        spec["ports"][0]["nodePort"] = json!(30080);
        let endpoints = json!([{"addresses": ["10.1.0.5"], "nodeName": "a"}]);
        let on =
            |node| ports(&[service(spec.clone())], &[slice(endpoints.clone())], node).remove(0);
        let (a, b) = (on("a"), on("b"));
        assert_eq!((a.internal.len(), a.internal_hidden), (1, false));
        assert_eq!(
            (
                b.internal.len(),
                b.internal_hidden,
                b.external_hidden,
                b.all.len()
            ),
            (0, true, true, 1)
        );
    }

    #[test]
    fn headless_and_external_name_have_no_rules() {
        let headless =
            service(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}));
        let external = service(json!({"type": "ExternalName", "externalName": "x.example"}));
        assert!(ports(&[headless, external], &[], "n").is_empty());
    }
}
