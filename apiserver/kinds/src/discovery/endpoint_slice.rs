//! `EndpointSlice`.

use std::collections::{BTreeMap, BTreeSet};

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::discovery::v1::{EndpointHints, EndpointSlice};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, PROTOCOLS, Seen, at, text};
use crate::table;

/// Endpoints of one slice: what an update sends stays small.
pub const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
/// Where the name of an endpoint's node was before it had a field.
const HOST_LABEL: &str = "kubernetes.io/hostname";

/// `discovery.k8s.io/v1 EndpointSlice`.
pub struct EndpointSliceKind;

impl Kind for EndpointSliceKind {
    type Object = EndpointSlice;

    const NAMES: Names<'static> = Names {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const GENERATION: bool = true;
    const GENERATION_METADATA: Option<&'static str> = Some("labels");

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("AddressType", "Kind of the addresses."),
            Column::text("Ports", "Ports."),
            Column::text("Endpoints", "Addresses."),
            Column::AGE,
        ]
    }

    fn cells(slice: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        let ports = slice
            .ports
            .iter()
            .flatten()
            .map(|p| match (p.port, &p.name) {
                (Some(port), _) => port.to_string(),
                (None, Some(name)) => name.clone(),
                (None, None) => "*".to_owned(),
            });
        let endpoints = slice.endpoints.iter().flatten();
        let addresses = endpoints.flat_map(|e| e.addresses.iter().cloned());
        vec![
            slice.metadata.name.clone().into(),
            slice.address_type.clone().into(),
            table::or(table::first_items(ports), "<unset>").into(),
            table::or(table::first_items(addresses), "<unset>").into(),
            age(&slice.metadata, now),
        ]
    }

    fn default(slice: &mut EndpointSlice) {
        for port in slice.ports.iter_mut().flatten() {
            fill::absent(&mut port.name, String::new());
            fill::absent(&mut port.protocol, "TCP".to_owned());
        }
    }

    fn prepare_create(slice: &mut EndpointSlice) {
        drop_empty(slice);
        drop_topology(slice, None);
    }

    fn prepare_update(new: &mut EndpointSlice, old: &EndpointSlice) {
        drop_empty(new);
        if !rules::same(&new.endpoints, &old.endpoints) {
            drop_topology(new, Some(old));
        }
    }

    fn validate(slice: &EndpointSlice) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_type_and_ports(&mut errors, slice);
        validate_endpoints(&mut errors, slice);
        errors
    }

    fn validate_update(new: &EndpointSlice, old: &EndpointSlice) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_type_and_ports(&mut errors, new);
        // Endpoints that an older server took may stay.
        if !rules::same(&new.endpoints, &old.endpoints) {
            validate_endpoints(&mut errors, new);
        }
        let path = at("addressType");
        rules::immutable(&mut errors, &path, &new.address_type, &old.address_type);
        errors
    }

    fn warnings(slice: &EndpointSlice) -> Vec<String> {
        match slice.address_type.as_str() {
            "FQDN" => vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()],
            _ => Vec::new(),
        }
    }
}

fn drop_empty(slice: &mut EndpointSlice) {
    fill::none_if_empty(&mut slice.ports);
    fill::none_if_empty(&mut slice.endpoints);
}

/// The field is of an older version of the group. A name of a node that it held before moves to the field of today.
fn drop_topology(slice: &mut EndpointSlice, old: Option<&EndpointSlice>) {
    let host = |topology: &Option<BTreeMap<String, String>>| {
        let host = topology.as_ref().and_then(|t| t.get(HOST_LABEL));
        host.filter(|host| !host.is_empty()).cloned()
    };
    let before: BTreeSet<String> = old
        .iter()
        .flat_map(|old| old.endpoints.iter().flatten())
        .filter_map(|endpoint| host(&endpoint.deprecated_topology))
        .collect();
    for endpoint in slice.endpoints.iter_mut().flatten() {
        let host = host(&endpoint.deprecated_topology).filter(|host| before.contains(host));
        if endpoint.node_name.is_none() {
            endpoint.node_name = host.filter(|host| names::dns1123_subdomain(host).is_empty());
        }
        endpoint.deprecated_topology = None;
    }
}

fn validate_type_and_ports(errors: &mut Errors, slice: &EndpointSlice) {
    let types = ["FQDN", "IPv4", "IPv6"];
    rules::required_of(errors, &at("addressType"), &slice.address_type, &types);
    validate_ports(errors, slice);
}

fn validate_ports(errors: &mut Errors, slice: &EndpointSlice) {
    let (ports, path) = (slice.ports.as_deref().unwrap_or_default(), at("ports"));
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(&path, ports.len(), PORTS_MAX));
        return;
    }
    let mut seen = Seen::default();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            rules::complain(
                errors,
                &path.child("name"),
                name,
                names::dns1123_label(name),
            );
        }
        seen.check(errors, &path.child("name"), name);
        let protocol = text(&port.protocol);
        rules::supported(errors, &path.child("protocol"), protocol, PROTOCOLS);
        if let Some(protocol) = &port.app_protocol {
            let complaints = names::qualified_name(protocol);
            rules::complain(errors, &path.child("appProtocol"), protocol, complaints);
        }
    }
}

fn validate_endpoints(errors: &mut Errors, slice: &EndpointSlice) {
    let (endpoints, path) = (
        slice.endpoints.as_deref().unwrap_or_default(),
        at("endpoints"),
    );
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&path, endpoints.len(), ENDPOINTS_MAX));
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        let (addresses, list) = (&endpoint.addresses, path.child("addresses"));
        if addresses.is_empty() {
            errors.push(FieldError::required(
                &list,
                "must contain at least 1 address",
            ));
        } else if addresses.len() > ADDRESSES_MAX {
            errors.push(FieldError::too_many(&list, addresses.len(), ADDRESSES_MAX));
        }
        for (index, address) in addresses.iter().enumerate() {
            validate_address(errors, &list, index, address, &slice.address_type);
        }
        if let Some(node) = &endpoint.node_name {
            let complaints = names::dns1123_subdomain(node);
            rules::complain(errors, &path.child("nodeName"), node, complaints);
        }
        if let Some(hostname) = &endpoint.hostname {
            let complaints = names::dns1123_label(hostname);
            rules::complain(errors, &path.child("hostname"), hostname, complaints);
        }
        if let Some(hints) = &endpoint.hints {
            validate_hints(errors, &path.child("hints"), hints);
        }
    }
}

fn validate_hints(errors: &mut Errors, path: &FieldPath, hints: &EndpointHints) {
    let zones = hints.for_zones.as_deref().unwrap_or_default();
    let zones: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
    let nodes = hints.for_nodes.as_deref().unwrap_or_default();
    let nodes: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let rule_of_zones: fn(&str) -> Vec<String> = names::label_value;
    let rule_of_nodes: fn(&str) -> Vec<String> = names::dns1123_subdomain;
    for (field, given, rule) in [
        ("forZones", zones, rule_of_zones),
        ("forNodes", nodes, rule_of_nodes),
    ] {
        let path = path.child(field);
        if given.len() > HINTS_MAX {
            errors.push(FieldError::too_many(&path, given.len(), HINTS_MAX));
            return;
        }
        let mut seen = Seen::default();
        for (index, name) in given.into_iter().enumerate() {
            let path = path.index(index).child("name");
            seen.check(errors, &path, name);
            rules::complain(errors, &path, name, rule(name));
        }
    }
}

fn validate_address(
    errors: &mut Errors,
    list: &FieldPath,
    index: usize,
    address: &str,
    address_type: &str,
) {
    let path = list.index(index);
    if address_type == "FQDN" {
        rules::complain(errors, &path, address, names::dns1123_subdomain(address));
        return;
    }
    if !["IPv4", "IPv6"].contains(&address_type) {
        return; // An unknown type says nothing of the addresses.
    }
    let Some(ip) = rules::ip(errors, &path, address) else {
        return;
    };
    if (address_type == "IPv4") != ip.is_ipv4() {
        let detail = format!("must be an {address_type} address");
        errors.push(FieldError::invalid(list, address, detail));
    }
    rules::endpoint_ip(errors, &path, address);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn endpoints_are_bounded_and_have_addresses_of_the_type() {
        let slice = |endpoints: Value| {
            let json = serde_json::json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}]});
            let mut slice = serde_json::from_value(json).expect("a slice");
            EndpointSliceKind::default(&mut slice);
            texts(&EndpointSliceKind::validate(&slice))
        };
        let one = serde_json::json!({"addresses": ["10.0.0.1"]});
        assert_eq!(slice(serde_json::json!([one])), Vec::<String>::new());
        assert_eq!(
            slice(serde_json::json!(vec![one; 1001])),
            ["endpoints: Too many: 1001: must have at most 1000 items"]
        );
        assert_eq!(
            slice(serde_json::json!([{"addresses": ["fd00::1", "127.0.0.1"]}])),
            [
                "endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
                "endpoints[0].addresses[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ]
        );
    }

    #[test]
    fn a_node_that_was_in_the_topology_moves_to_its_field() {
        let slice = |endpoint: Value| -> EndpointSlice {
            let json = serde_json::json!({"addressType": "IPv4", "endpoints": [endpoint]});
            serde_json::from_value(json).expect("a slice")
        };
        let topology = |node: &str, address: &str| {
            slice(serde_json::json!({
                "addresses": [address], "deprecatedTopology": {"kubernetes.io/hostname": node},
            }))
        };
        let node_after = |new: &str, old: &str| {
            let mut new = topology(new, "10.0.0.2");
            EndpointSliceKind::prepare_update(&mut new, &topology(old, "10.0.0.1"));
            let endpoint = new.endpoints.and_then(|mut all| all.pop());
            let endpoint = endpoint.expect("an endpoint");
            assert_eq!(endpoint.deprecated_topology, None);
            endpoint.node_name
        };
        assert_eq!(node_after("n", "n").as_deref(), Some("n"));
        assert_eq!(node_after("n", "other"), None);
    }
}
