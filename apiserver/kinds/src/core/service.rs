//! `Service`.

pub mod rules;

use std::borrow::Cow;

use corral_api::field::FieldError;
use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
    SessionAffinityConfig,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::conditions;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::selectable::SelectableField;
use crate::table;

/// How long a client stays with its pod, unless the Service says otherwise: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// `v1 Service`.
pub struct ServiceKind;

impl Kind for ServiceKind {
    type Object = Service;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: Words::Of(&["svc"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const STATUS: bool = true;
    const NAME_RULE: fn(&str) -> Vec<String> = corral_api::names::dns1123_label;
    const SELECTABLE_FIELDS: &'static [SelectableField] = &[
        SelectableField::text("spec.clusterIP"),
        SelectableField::text("spec.type"),
    ];

    fn before_decode(value: &mut Cow<'_, Value>) {
        conditions::keep_unset_times(value);
    }

    fn default(service: &mut Service) {
        let spec = service.spec.get_or_insert_default();
        default_affinity(spec);
        fill::text(&mut spec.type_, "ClusterIP");
        for port in spec.ports.iter_mut().flatten() {
            fill::text(&mut port.protocol, "TCP");
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::String(name)) => name.is_empty(),
                Some(IntOrString::Int(_)) => false,
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if externally_accessible(spec) {
            fill::text(&mut spec.external_traffic_policy, "Cluster");
        }
        if needs_cluster_ip(spec) {
            fill::absent(&mut spec.internal_traffic_policy, "Cluster".to_owned());
        }
        if is(spec, "LoadBalancer") {
            fill::absent(&mut spec.allocate_load_balancer_node_ports, true);
            let balancer = service.status.iter_mut().flat_map(|s| &mut s.load_balancer);
            for ingress in balancer.flat_map(|b| b.ingress.iter_mut().flatten()) {
                if ingress.ip.as_ref().is_some_and(|ip| !ip.is_empty()) {
                    fill::absent(&mut ingress.ip_mode, "VIP".to_owned());
                }
            }
        }
    }

    fn prepare_create(service: &mut Service) {
        service.status = Some(no_load_balancer());
    }

    fn prepare_update(new: &mut Service, old: &Service) {
        drop_what_the_type_lost(new, old);
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Type", "How the service can be reached."),
            Column::text("Cluster-IP", "Its address inside the cluster."),
            Column::text("External-IP", "Its addresses outside the cluster."),
            Column::text("Port(s)", "Ports, with node ports and protocols."),
            Column::AGE,
            Column::text("Selector", "Labels of the pods behind it.").wide(),
        ]
    }

    fn cells(service: &Service, now: Timestamp) -> Vec<Value> {
        let nothing = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&nothing);
        let cluster_ip = spec.cluster_ips.as_ref().and_then(|ips| ips.first());
        let cluster_ip = cluster_ip.or(spec.cluster_ip.as_ref()).cloned();
        let ports: Vec<String> = spec.ports.iter().flatten().map(port_text).collect();
        vec![
            service.metadata.name.clone().into(),
            spec.type_.clone().unwrap_or_default().into(),
            table::or_none(cluster_ip.unwrap_or_default()).into(),
            external_addresses(spec, service.status.as_ref()).into(),
            table::or_none(ports.join(",")).into(),
            age(&service.metadata, now),
            table::labels(spec.selector.as_ref()).into(),
        ]
    }

    fn validate(service: &Service) -> Vec<FieldError> {
        rules::service(service)
    }

    fn validate_update(new: &Service, old: &Service) -> Vec<FieldError> {
        rules::update(new, old)
    }

    fn validate_status_update(new: &Service, _old: &Service) -> Vec<FieldError> {
        rules::status(new)
    }

    fn warnings(service: &Service) -> Vec<String> {
        rules::warnings(service)
    }
}

fn is(spec: &ServiceSpec, service_type: &str) -> bool {
    spec.type_.as_deref() == Some(service_type)
}

fn needs_cluster_ip(spec: &ServiceSpec) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"]
        .iter()
        .any(|t| is(spec, t))
}

fn needs_node_port(spec: &ServiceSpec) -> bool {
    is(spec, "NodePort")
        || (is(spec, "LoadBalancer") && spec.allocate_load_balancer_node_ports != Some(false))
}

fn needs_health_check_port(spec: &ServiceSpec) -> bool {
    is(spec, "LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Whether traffic from outside the cluster can be meant for the Service.
fn externally_accessible(spec: &ServiceSpec) -> bool {
    let external_ips = spec
        .external_ips
        .as_ref()
        .is_some_and(|ips| !ips.is_empty());
    is(spec, "LoadBalancer") || is(spec, "NodePort") || (is(spec, "ClusterIP") && external_ips)
}

fn default_affinity(spec: &mut ServiceSpec) {
    fill::text(&mut spec.session_affinity, "None");
    match spec.session_affinity.as_deref() {
        Some("None") => spec.session_affinity_config = None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref();
            let timeout = config.and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
            spec.session_affinity_config = Some(SessionAffinityConfig {
                client_ip: Some(ClientIPConfig {
                    timeout_seconds: Some(timeout.unwrap_or(AFFINITY_SECONDS)),
                }),
            });
        }
        _ => {}
    }
}

fn no_load_balancer() -> ServiceStatus {
    ServiceStatus {
        load_balancer: Some(LoadBalancerStatus::default()),
        ..ServiceStatus::default()
    }
}

/// The fields of a Service depend on its type. When an update changes the type, fields that the new type has no use
/// for are dropped if the client left them as they were; if it changed them too, validation will say so.
fn drop_what_the_type_lost(new: &mut Service, old: &Service) {
    let Some(was) = &old.spec else { return };
    let spec = new.spec.get_or_insert_default();
    if needs_cluster_ip(was) && is(spec, "ExternalName") {
        if spec.cluster_ip == was.cluster_ip && spec.cluster_ips == was.cluster_ips {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
        }
        if spec.ip_families == was.ip_families {
            spec.ip_families = None;
        }
        if spec.ip_family_policy == was.ip_family_policy {
            spec.ip_family_policy = None;
        }
    }
    let node_ports = |s: &ServiceSpec| -> Vec<i32> {
        let ports = s.ports.iter().flatten();
        ports.map(|p| p.node_port.unwrap_or(0)).collect()
    };
    if needs_node_port(was) && !needs_node_port(spec) && node_ports(was) == node_ports(spec) {
        spec.ports
            .iter_mut()
            .flatten()
            .for_each(|p| p.node_port = None);
    }
    if needs_health_check_port(was)
        && !needs_health_check_port(spec)
        && spec.health_check_node_port == was.health_check_node_port
    {
        spec.health_check_node_port = None;
    }
    if is(was, "LoadBalancer") && !is(spec, "LoadBalancer") {
        if spec.allocate_load_balancer_node_ports == was.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if spec.load_balancer_class == was.load_balancer_class {
            spec.load_balancer_class = None;
        }
    }
    if externally_accessible(was)
        && !externally_accessible(spec)
        && spec.external_traffic_policy == was.external_traffic_policy
    {
        spec.external_traffic_policy = None;
    }
    if !is(spec, "LoadBalancer")
        && let Some(status) = &mut new.status
    {
        status.load_balancer = Some(LoadBalancerStatus::default());
    }
}

fn port_text(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or_default();
    match port.node_port {
        Some(node_port) if node_port > 0 => format!("{}:{node_port}/{protocol}", port.port),
        _ => format!("{}/{protocol}", port.port),
    }
}

fn external_addresses(spec: &ServiceSpec, status: Option<&ServiceStatus>) -> String {
    let external = spec.external_ips.clone().unwrap_or_default();
    match spec.type_.as_deref() {
        Some("ClusterIP" | "NodePort") => table::or_none(external.join(",")),
        Some("LoadBalancer") => {
            let balancer = status.and_then(|s| s.load_balancer.as_ref());
            let ingress = balancer
                .and_then(|b| b.ingress.as_ref())
                .into_iter()
                .flatten();
            let mut addresses: Vec<String> = ingress
                .filter_map(|i| {
                    let ip = i.ip.as_ref().filter(|ip| !ip.is_empty());
                    ip.or(i.hostname.as_ref()).cloned()
                })
                .collect();
            addresses.sort();
            addresses.dedup();
            addresses.extend(external);
            table::or(addresses.join(","), "<pending>")
        }
        Some("ExternalName") => spec.external_name.clone().unwrap_or_default(),
        _ => "<unknown>".to_owned(),
    }
}
