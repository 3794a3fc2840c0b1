//! What is wrong with a Service, and what an update of one may change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use corral_api::field::{FieldError, FieldPath};
use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};
use corral_api::names;

use super::{externally_accessible, is, needs_cluster_ip, needs_health_check_port};
use crate::rules::{self, Errors, PROTOCOLS, Seen, at, json, text};

/// One day.
const AFFINITY_SECONDS_MAX: i32 = 86_400;
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const ONLY_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

fn cluster_ips(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(cluster_ips(spec), [only] if only == "None")
}

/// Rules of a Service.
pub fn service(service: &Service) -> Errors {
    let mut errors = Errors::new();
    let nothing = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&nothing);
    let path = at("spec");
    of_type(&mut errors, &path, spec);
    ports(&mut errors, &path.child("ports"), spec);
    rules::labels(&mut errors, &path.child("selector"), spec.selector.as_ref());
    affinity(&mut errors, &path, spec);
    addresses(&mut errors, &path, spec);
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        let path = path.child("externalIPs").index(index);
        if rules::ip(&mut errors, &path, ip).is_some() {
            rules::endpoint_ip(&mut errors, &path, ip);
        }
    }
    rules::required_of(&mut errors, &path.child("type"), text(&spec.type_), TYPES);
    ports_taken(&mut errors, &path.child("ports"), spec);
    load_balancer(&mut errors, &path, spec);
    traffic(&mut errors, &path, spec);
    errors
}

fn of_type(errors: &mut Errors, path: &FieldPath, spec: &ServiceSpec) {
    let external = is(spec, "ExternalName");
    let no_ports = spec.ports.as_ref().is_none_or(Vec::is_empty);
    if no_ports && !is_headless(spec) && !external {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    if is_headless(spec) && (is(spec, "LoadBalancer") || is(spec, "NodePort")) {
        let path = path.child("clusterIPs").index(0);
        let detail = format!(
            "may not be set to 'None' for {} services",
            text(&spec.type_)
        );
        errors.push(FieldError::invalid(&path, "None", detail));
    }
    if !external {
        return;
    }
    for (field, given) in [
        ("clusterIPs", !cluster_ips(spec).is_empty()),
        (
            "ipFamilies",
            spec.ip_families.as_ref().is_some_and(|f| !f.is_empty()),
        ),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if given {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
    let name = text(&spec.external_name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let path = path.child("externalName");
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        rules::complain(errors, &path, name, names::dns1123_subdomain(name));
    }
}

fn ports(errors: &mut Errors, list: &FieldPath, spec: &ServiceSpec) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut seen = Seen::default();
    for (index, port) in ports.iter().enumerate() {
        let path = list.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            rules::complain(
                errors,
                &path.child("name"),
                name,
                names::dns1123_label(name),
            );
            seen.check(errors, &path.child("name"), name);
        } else if ports.len() > 1 {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        one_port(errors, &path, port);
    }
}

fn ports_taken(errors: &mut Errors, list: &FieldPath, spec: &ServiceSpec) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let node_ports = || {
        let all = ports.iter().enumerate();
        let given = all.map(|(index, port)| (index, port, port.node_port.unwrap_or(0)));
        given.filter(|(_, _, node_port)| *node_port != 0)
    };
    for (index, _, _) in node_ports().filter(|_| is(spec, "ClusterIP")) {
        let detail = "may not be used when `type` is 'ClusterIP'";
        let path = list.index(index).child("nodePort");
        errors.push(FieldError::forbidden(&path, detail));
    }
    let mut taken = BTreeSet::new();
    for (index, port, node_port) in node_ports() {
        if !taken.insert((text(&port.protocol), node_port)) {
            let path = list.index(index).child("nodePort");
            errors.push(FieldError::duplicate(&path, node_port));
        }
    }
    let mut taken = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        if !taken.insert((text(&port.protocol), port.port)) {
            let same = serde_json::json!({"protocol": port.protocol, "port": port.port});
            errors.push(FieldError::duplicate(&list.index(index), same));
        }
    }
}

fn one_port(errors: &mut Errors, path: &FieldPath, port: &ServicePort) {
    rules::port(errors, &path.child("port"), port.port);
    rules::required_of(
        errors,
        &path.child("protocol"),
        text(&port.protocol),
        PROTOCOLS,
    );
    let target = port.target_port.clone().unwrap_or(IntOrString::Int(0));
    rules::port_or_name(errors, &path.child("targetPort"), &target);
    if let Some(protocol) = &port.app_protocol {
        let complaints = names::qualified_name(protocol);
        rules::complain(errors, &path.child("appProtocol"), protocol, complaints);
    }
}

fn affinity(errors: &mut Errors, path: &FieldPath, spec: &ServiceSpec) {
    let affinity = text(&spec.session_affinity);
    let allowed = ["ClientIP", "None"];
    rules::required_of(errors, &path.child("sessionAffinity"), affinity, &allowed);
    let config = spec.session_affinity_config.as_ref();
    let path = path.child("sessionAffinityConfig");
    if affinity == "None" && config.is_some() {
        let detail = "must not be set when session affinity is None";
        errors.push(FieldError::forbidden(&path, detail));
    }
    let seconds = config.and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    if let Some(seconds) =
        seconds.filter(|s| affinity == "ClientIP" && !(1..=AFFINITY_SECONDS_MAX).contains(s))
    {
        let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
        errors.push(FieldError::invalid(
            &path.child("clientIP.timeoutSeconds"),
            seconds,
            detail,
        ));
    }
}

fn addresses(errors: &mut Errors, path: &FieldPath, spec: &ServiceSpec) {
    if is(spec, "ExternalName") {
        return;
    }
    let (ips, ips_path) = (cluster_ips(spec), path.child("clusterIPs"));
    let first = text(&spec.cluster_ip);
    if first.is_empty() && !ips.is_empty() {
        let detail = "must be empty when `clusterIP` is not specified";
        errors.push(FieldError::invalid(&ips_path, json(ips), detail));
    } else if !first.is_empty() && ips.is_empty() {
        errors.push(FieldError::required(&ips_path, ""));
    } else if ips.first().is_some_and(|ip| ip != first) {
        let detail = "first value must match `clusterIP`";
        errors.push(FieldError::invalid(&ips_path, json(ips), detail));
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut seen = Seen::default();
    for (index, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(index);
        rules::supported(errors, &path, family, FAMILIES);
        seen.check(errors, &path, family);
    }
    if let Some(policy) = &spec.ip_family_policy {
        let allowed = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        rules::supported(errors, &path.child("ipFamilyPolicy"), policy, &allowed);
    }
    if ips.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(&ips_path, json(ips), detail));
    }
    if ips.first().is_some_and(|ip| ip == "None") {
        if ips.len() > 1 {
            let detail = "'None' must be the first and only value";
            errors.push(FieldError::invalid(&ips_path, json(ips), detail));
        }
        return;
    }
    for (index, ip) in ips.iter().enumerate() {
        let path = ips_path.index(index);
        let Some(address) = rules::ip(errors, &path, ip) else {
            continue;
        };
        let family = if matches!(address, IpAddr::V4(_)) {
            "IPv4"
        } else {
            "IPv6"
        };
        let wanted = families.get(index).filter(|wanted| *wanted != family);
        if let Some(wanted) = wanted.filter(|wanted| FAMILIES.contains(&wanted.as_str())) {
            let detail =
                format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
            errors.push(FieldError::invalid(&path, ip.as_str(), detail));
        }
    }
}

fn load_balancer(errors: &mut Errors, path: &FieldPath, spec: &ServiceSpec) {
    let ranges = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    let ranges_path = path.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !is(spec, "LoadBalancer") {
        errors.push(FieldError::forbidden(&ranges_path, ONLY_BALANCER));
    }
    for (index, range) in ranges.iter().enumerate() {
        rules::cidr(errors, &ranges_path.index(index), range.trim());
    }
    if let Some(class) = spec
        .load_balancer_class
        .as_ref()
        .filter(|_| is(spec, "LoadBalancer"))
    {
        let complaints = names::qualified_name(class);
        rules::complain(errors, &path.child("loadBalancerClass"), class, complaints);
    }
    if is(spec, "LoadBalancer") {
        return;
    }
    for (path, given) in [
        (
            path.child("allocateLoadBalancerNodePorts"),
            spec.allocate_load_balancer_node_ports.is_some(),
        ),
        (
            path.child("loadBalancerClass"),
            spec.load_balancer_class.is_some(),
        ),
    ] {
        if given {
            errors.push(FieldError::forbidden(&path, ONLY_BALANCER));
        }
    }
}

fn traffic(errors: &mut Errors, path: &FieldPath, spec: &ServiceSpec) {
    let (external, external_path) = (
        text(&spec.external_traffic_policy),
        path.child("externalTrafficPolicy"),
    );
    if externally_accessible(spec) {
        rules::required_of(errors, &external_path, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&external_path, external, detail));
    }
    let (health, health_path) = (
        spec.health_check_node_port.unwrap_or(0),
        path.child("healthCheckNodePort"),
    );
    if health != 0 && needs_health_check_port(spec) {
        rules::port(errors, &health_path, health);
    } else if health != 0 {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(&health_path, health, detail));
    }
    let internal_path = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        Some(policy) => rules::supported(errors, &internal_path, policy, &["Cluster", "Local"]),
        None if needs_cluster_ip(spec) => errors.push(FieldError::required(&internal_path, "")),
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        let allowed = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        rules::supported_of(
            errors,
            &path.child("trafficDistribution"),
            distribution,
            &allowed,
        );
    }
}

/// Rules of a changed Service: its first address stays as long as it has one.
pub fn update(new: &Service, old: &Service) -> Errors {
    let mut errors = Errors::new();
    if let (Some(spec), Some(was)) = (&new.spec, &old.spec) {
        let path = at("spec");
        let (ips, before) = (cluster_ips(spec), cluster_ips(was));
        // What contradicts itself, or is no address, is refused for that alone.
        let is_address = |ip: &String| ip == "None" || ip.parse::<IpAddr>().is_ok();
        let is_clear = ips.first().is_none_or(is_address)
            && ips.first().is_none_or(|ip| *ip == text(&spec.cluster_ip));
        if needs_cluster_ip(spec)
            && needs_cluster_ip(was)
            && is_clear
            && ips.first() != before.first()
            && !before.is_empty()
        {
            let detail = match ips.is_empty() {
                true => "primary clusterIP can not be unset",
                false => "may not change once set",
            };
            let path = path.child("clusterIPs").index(0);
            errors.push(FieldError::invalid(&path, json(ips), detail));
        }
        if is(spec, "LoadBalancer")
            && is(was, "LoadBalancer")
            && spec.load_balancer_class != was.load_balancer_class
        {
            let path = path.child("loadBalancerClass");
            let value = json(&spec.load_balancer_class);
            errors.push(FieldError::invalid(&path, value, "may not change once set"));
        }
        let checked = needs_health_check_port(spec) && needs_health_check_port(was);
        if checked && spec.health_check_node_port != was.health_check_node_port {
            let path = path.child("healthCheckNodePort");
            errors.push(FieldError::forbidden(&path, "field is immutable"));
        }
    }
    errors.extend(service(new));
    errors
}

/// Rules of a changed status: only a load balancer tells where it takes traffic.
pub fn status(service: &Service) -> Errors {
    let mut errors = Errors::new();
    let path = at("status.loadBalancer.ingress");
    let balancer = service.status.as_ref().map(|s| s.load_balancer.as_ref());
    let ingress = balancer.flatten().and_then(|b| b.ingress.as_deref());
    let ingress = ingress.unwrap_or_default();
    let is_balancer = service
        .spec
        .as_ref()
        .is_some_and(|spec| is(spec, "LoadBalancer"));
    if !is_balancer && !ingress.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(&path, detail));
        return errors;
    }
    for (index, one) in ingress.iter().enumerate() {
        ingress_point(&mut errors, &path.index(index), one);
    }
    errors
}

fn ingress_point(errors: &mut Errors, path: &FieldPath, one: &LoadBalancerIngress) {
    let (ip, hostname) = (text(&one.ip), text(&one.hostname));
    if !ip.is_empty() {
        rules::ip(errors, &path.child("ip"), ip);
    }
    let mode_path = path.child("ipMode");
    match &one.ip_mode {
        None if ip.is_empty() => {}
        None => {
            let detail = "must be specified when `ip` is set";
            errors.push(FieldError::required(&mode_path, detail));
        }
        Some(_) if ip.is_empty() => {
            let detail = "may not be specified when `ip` is not set";
            errors.push(FieldError::forbidden(&mode_path, detail));
        }
        Some(mode) => rules::supported(errors, &mode_path, mode, &["Proxy", "VIP"]),
    }
    if !hostname.is_empty() {
        let path = path.child("hostname");
        rules::complain(errors, &path, hostname, names::dns1123_subdomain(hostname));
        if hostname.parse::<IpAddr>().is_ok() {
            let detail = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid(&path, hostname, detail));
        }
    }
}

/// What is not done yet.
pub fn warnings(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    let dual = spec
        .ip_family_policy
        .as_deref()
        .is_some_and(|p| p != "SingleStack");
    let v6 = spec.ip_families.iter().flatten().any(|f| f == "IPv6");
    for (field, given) in [
        ("spec.ipFamilyPolicy", dual),
        ("spec.ipFamilies", v6),
        ("spec.type=LoadBalancer", is(spec, "LoadBalancer")),
        (
            "spec.trafficDistribution",
            spec.traffic_distribution.is_some(),
        ),
    ] {
        if given {
            warnings.push(format!(
                "{field}: accepted, but not honoured by this server yet"
            ));
        }
    }
    if spec
        .external_ips
        .as_ref()
        .is_some_and(|ips| !ips.is_empty())
    {
        warnings.push(about_external_ips(spec));
    }
    if !is(spec, "ExternalName") && !text(&spec.external_name).is_empty() {
        let text = "spec.externalName is ignored when spec.type is not \"ExternalName\"";
        warnings.push(text.to_owned());
    }
    warnings
}

/// Nodes serve these addresses; the warnings are Kubernetes' own.
fn about_external_ips(spec: &ServiceSpec) -> String {
    if is(spec, "ExternalName") {
        "spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned()
    } else if is_headless(spec) {
        "spec.externalIPs is ignored for headless services".to_owned()
    } else {
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::service::ServiceKind;
    use crate::kind::Kind;
    use crate::rules::texts;

    fn made(spec: serde_json::Value) -> Service {
        let mut service =
            serde_json::from_value(serde_json::json!({"spec": spec})).expect("a service");
        ServiceKind::default(&mut service);
        service
    }

    #[test]
    fn a_service_needs_ports_with_names() {
        assert_eq!(
            texts(&service(&made(serde_json::json!({})))),
            ["spec.ports: Required value"]
        );
        let two = made(
            serde_json::json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "name": "a"}, {"port": 0, "nodePort": 30000}]}),
        );
        assert_eq!(
            texts(&service(&two)),
            [
                "spec.ports[1].name: Required value",
                "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[1].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ]
        );
    }

    #[test]
    fn external_addresses_bring_the_warning_of_kubernetes() {
        let of = |cluster_ip: &str| {
            warnings(&made(
                serde_json::json!({"clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
                "externalIPs": ["192.0.2.1"], "ports": [{"port": 80}]}),
            ))
        };
        assert_eq!(
            of("10.0.0.1"),
            ["spec.externalIPs is deprecated and may no longer be implemented in some clusters"]
        );
        assert_eq!(
            of("None"),
            ["spec.externalIPs is ignored for headless services"]
        );
    }

    #[test]
    fn the_first_address_stays() {
        let with = |ip: &str| {
            made(serde_json::json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]}))
        };
        assert_eq!(
            texts(&update(&with("10.0.0.1"), &with("10.0.0.1"))),
            Vec::<String>::new()
        );
        assert_eq!(
            texts(&update(&with("10.0.0.2"), &with("10.0.0.1"))),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
    }

    #[test]
    fn an_external_name_has_no_address() {
        let service_of =
            |name: &str| made(serde_json::json!({"type": "ExternalName", "externalName": name}));
        assert_eq!(
            texts(&service(&service_of("db.example.com."))),
            Vec::<String>::new()
        );
        assert_eq!(
            texts(&service(&service_of(""))),
            ["spec.externalName: Required value"]
        );
    }
}
