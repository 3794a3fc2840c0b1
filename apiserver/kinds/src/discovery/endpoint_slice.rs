//! `EndpointSlice`.

use corral_api::k8s::api::discovery::v1::EndpointSlice;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, age};
use crate::table;

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
        let ports = slice.ports.iter().flatten().map(|p| match (p.port, &p.name) {
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
}
