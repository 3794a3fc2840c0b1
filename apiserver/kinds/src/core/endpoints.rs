//! `Endpoints`.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{EndpointSubset, Endpoints};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, PROTOCOLS, at, text};
use crate::table;

/// `v1 Endpoints`.
pub struct EndpointsKind;

impl Kind for EndpointsKind {
    type Object = Endpoints;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: Words::Of(&["ep"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const DEPRECATION: Option<&'static str> =
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Endpoints", "Addresses and ports that are ready."),
            Column::AGE,
        ]
    }

    fn cells(endpoints: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![
            endpoints.metadata.name.clone().into(),
            ready_addresses(endpoints).into(),
            age(&endpoints.metadata, now),
        ]
    }

    fn default(endpoints: &mut Endpoints) {
        let subsets = endpoints.subsets.iter_mut().flatten();
        for port in subsets.flat_map(|s| s.ports.iter_mut().flatten()) {
            fill::text(&mut port.protocol, "TCP");
        }
    }

    fn validate(endpoints: &Endpoints) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
            validate_subset(&mut errors, &at("subsets").index(index), subset);
        }
        errors
    }

    fn validate_update(new: &Endpoints, old: &Endpoints) -> Vec<FieldError> {
        if new.subsets == old.subsets {
            return Vec::new();
        }
        Self::validate(new)
    }
}

fn ready_addresses(endpoints: &Endpoints) -> String {
    let Some(subsets) = endpoints.subsets.as_ref().filter(|s| !s.is_empty()) else {
        return "<none>".to_owned();
    };
    table::first_items(subsets.iter().flat_map(subset_addresses))
}

fn subset_addresses(subset: &EndpointSubset) -> Vec<String> {
    let addresses = subset.addresses.as_deref().unwrap_or_default();
    let ports = subset.ports.as_deref().unwrap_or_default();
    if ports.is_empty() {
        return addresses.iter().map(|a| a.ip.clone()).collect();
    }
    let with_port = |ip: &str, port: i32| {
        if ip.contains(':') {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        }
    };
    ports
        .iter()
        .flat_map(|p| addresses.iter().map(move |a| with_port(&a.ip, p.port)))
        .collect()
}

fn validate_subset(errors: &mut Errors, path: &FieldPath, subset: &EndpointSubset) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        let detail = "must specify `addresses` or `notReadyAddresses`";
        errors.push(FieldError::required(path, detail));
    }
    for (field, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (index, address) in list.iter().enumerate() {
            let path = path.child(field).index(index);
            let ip_path = path.child("ip");
            rules::ip(errors, &ip_path, &address.ip);
            let (hostname, node) = (text(&address.hostname), text(&address.node_name));
            if !hostname.is_empty() {
                let complaints = names::dns1123_label(hostname);
                rules::complain(errors, &path.child("hostname"), hostname, complaints);
            }
            if address.node_name.is_some() {
                let complaints = names::dns1123_subdomain(node);
                rules::complain(errors, &path.child("nodeName"), node, complaints);
            }
            rules::endpoint_ip(errors, &ip_path, &address.ip);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let path = path.child("ports").index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            rules::complain(
                errors,
                &path.child("name"),
                name,
                names::dns1123_label(name),
            );
        } else if ports.len() > 1 {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        rules::port(errors, &path.child("port"), port.port);
        let protocol = text(&port.protocol);
        rules::required_of(errors, &path.child("protocol"), protocol, PROTOCOLS);
        if let Some(protocol) = &port.app_protocol {
            let complaints = names::qualified_name(protocol);
            rules::complain(errors, &path.child("appProtocol"), protocol, complaints);
        }
    }
}
