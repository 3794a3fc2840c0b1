//! What endpoints and endpoint slices have in common: which pods stand behind a service, and on which ports. Pure,
//! except for the wiring of watches.

use std::sync::Arc;

use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::core::v1::{Pod, Service, ServicePort};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_api::selector::LabelSelector;
use corral_runtime::{Cache, Change, ObjectKey};

use crate::pods;

/// A port of the service as a pod provides it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: Option<String>,
    pub protocol: String,
    pub number: i32,
    pub app_protocol: Option<String>,
}

pub fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

/// Whether we make endpoints for a service: it has a selector and is not a mere alias.
pub fn is_selecting(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let alias = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    !alias
        && spec
            .and_then(|spec| spec.selector.as_ref())
            .is_some_and(|selector| !selector.is_empty())
}

pub fn selector_of(service: &Service) -> LabelSelector {
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    match selector.filter(|selector| !selector.is_empty()) {
        Some(selector) => LabelSelector::from_set(selector),
        None => LabelSelector::nothing(),
    }
}

/// The pods behind a service that have an address and have not ended.
pub fn behind(service: &Service, pods: &Cache<Pod>) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let selector = selector_of(service);
    let mut found = pods.in_namespace(namespace);
    found.retain(|pod| {
        selector.matches_opt(pod.metadata.labels.as_ref())
            && !pods::is_terminal(pod)
            && !addresses(pod).is_empty()
    });
    found
}

/// All addresses of a pod.
pub fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed: Vec<_> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|ip| ip.ip.clone())
        .collect();
    if listed.is_empty() {
        status.pod_ip.iter().cloned().collect()
    } else {
        listed
    }
}

/// The ports that a pod provides for a service; named ones that it does not have are left out.
pub fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let mut found: Vec<_> = ports.filter_map(|port| resolved(port, pod)).collect();
    found.sort();
    found
}

fn resolved(port: &ServicePort, pod: &Pod) -> Option<Port> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named(pod, name, &protocol)?,
    };
    let name = Some(port.name.clone().unwrap_or_default());
    Some(Port {
        name,
        protocol,
        number,
        app_protocol: port.app_protocol.clone(),
    })
}

fn named(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let mut matching = ports.filter(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    matching.next().map(|port| port.container_port)
}

/// The host name that a pod has below a service.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let below = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname
        .clone()
        .filter(|name| below && !name.is_empty())
}

/// The services to look at when a pod changes in a way that endpoints show.
pub fn services_of(services: &Cache<Service>, change: &Change<Pod>) -> Vec<ObjectKey> {
    if let Change::Applied {
        old: Some(old),
        new,
    } = change
        && shown(old) == shown(new)
    {
        return Vec::new();
    }
    let namespace = change
        .latest()
        .metadata
        .namespace
        .clone()
        .unwrap_or_default();
    let labels: Vec<_> = change
        .states()
        .map(|pod| pod.metadata.labels.clone())
        .collect();
    let mut found = services.in_namespace(&namespace);
    found.retain(|service| {
        let selector = selector_of(service);
        labels
            .iter()
            .any(|labels| selector.matches_opt(labels.as_ref()))
    });
    found
        .iter()
        .map(|service| ObjectKey::of(&service.metadata))
        .collect()
}

/// Everything about a pod that endpoints show.
fn shown(pod: &Pod) -> impl PartialEq + '_ {
    let spec = pod.spec.as_ref();
    (
        (
            &pod.metadata.labels,
            &pod.metadata.uid,
            pod.metadata.deletion_timestamp.is_some(),
        ),
        (addresses(pod), pods::is_ready(pod), pods::is_terminal(pod)),
        spec.map(|spec| (&spec.node_name, &spec.hostname, &spec.subdomain)),
    )
}

/// The service's labels with some of our own; the names of topology that only nodes have are left out.
pub fn labels(
    service: &ObjectMeta,
    own: impl IntoIterator<Item = (String, String)>,
) -> std::collections::BTreeMap<String, String> {
    let mut labels = service.labels.clone().unwrap_or_default();
    labels.extend(own);
    labels
}
