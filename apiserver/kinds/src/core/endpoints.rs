//! `Endpoints`.

use corral_api::k8s::api::core::v1::{EndpointSubset, Endpoints};
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, age};
use crate::table;

/// `v1 Endpoints`.
pub struct EndpointsKind;

impl Kind for EndpointsKind {
    type Object = Endpoints;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        categories: &[],
        namespaced: true,
    };

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
