//! `EndpointSlice`.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::discovery::v1::EndpointSlice;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, age};
use crate::rules::{self, Errors, PROTOCOLS, Seen, at, text};
use crate::table;

/// Endpoints of one slice: what an update sends stays small.
pub const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

/// `discovery.k8s.io/v1 EndpointSlice`.
pub struct EndpointSliceKind;

impl Kind for EndpointSliceKind {
    type Object = EndpointSlice;

    const NAMES: Names = Names {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
    const GENERATION: bool = true;

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

    fn validate(slice: &EndpointSlice) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let types = ["FQDN", "IPv4", "IPv6"];
        rules::required_of(&mut errors, &at("addressType"), &slice.address_type, &types);
        validate_ports(&mut errors, slice);
        validate_endpoints(&mut errors, slice);
        errors
    }

    fn validate_update(new: &EndpointSlice, old: &EndpointSlice) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        let path = at("addressType");
        rules::immutable(&mut errors, &path, &new.address_type, &old.address_type);
        errors
    }
}

fn validate_ports(errors: &mut Errors, slice: &EndpointSlice) {
    let (ports, path) = (slice.ports.as_deref().unwrap_or_default(), at("ports"));
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(&path, ports.len(), PORTS_MAX));
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
        rules::required_of(errors, &path.child("protocol"), protocol, PROTOCOLS);
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
        let hints = endpoint.hints.as_ref();
        let zones = hints
            .and_then(|h| h.for_zones.as_deref())
            .unwrap_or_default();
        if zones.len() > HINTS_MAX {
            let path = path.child("hints.forZones");
            errors.push(FieldError::too_many(&path, zones.len(), HINTS_MAX));
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
}
