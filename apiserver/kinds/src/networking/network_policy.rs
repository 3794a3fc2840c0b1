//! `NetworkPolicy`.

use corral_api::field::{FieldError, FieldPath};
use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::address;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json};
use crate::table;

const TYPES: [&str; 2] = ["Ingress", "Egress"];

/// `networking.k8s.io/v1 NetworkPolicy`.
pub struct NetworkPolicyKind;

impl Kind for NetworkPolicyKind {
    type Object = NetworkPolicy;

    const NAMES: Names<'static> = Names {
        group: "networking.k8s.io",
        version: "v1",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: Words::Of(&["netpol"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const GENERATION: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Pod-Selector", "The pods that it is about."),
            Column::AGE,
        ]
    }

    fn cells(policy: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selector = policy
            .spec
            .as_ref()
            .and_then(|spec| spec.pod_selector.as_ref());
        vec![
            policy.metadata.name.clone().into(),
            table::selector(selector).into(),
            age(&policy.metadata, now),
        ]
    }

    fn default(policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        for (_, port) in ports_mut(spec) {
            fill::absent(&mut port.protocol, "TCP".to_owned());
        }
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let sends = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            let n_types = if sends { 2 } else { 1 };
            spec.policy_types = Some(TYPES[..n_types].iter().map(|t| (*t).to_owned()).collect());
        }
    }

    fn validate(policy: &NetworkPolicy) -> Vec<FieldError> {
        validate(policy, &[])
    }

    fn validate_update(new: &NetworkPolicy, old: &NetworkPolicy) -> Vec<FieldError> {
        // Networks that an older server took may stay, wherever they are now.
        let known: Vec<String> = old
            .spec
            .iter()
            .flat_map(blocks)
            .flat_map(|(_, block)| {
                let except = block.except.clone().unwrap_or_default();
                std::iter::once(block.cidr).chain(except)
            })
            .collect();
        validate(new, &known)
    }

    fn warnings(policy: &NetworkPolicy) -> Vec<String> {
        let mut warnings = vec![
            "spec: network policies are accepted, but not honoured by this server yet".to_owned(),
        ];
        for (path, block) in policy.spec.iter().flat_map(blocks) {
            warnings.extend(address::network_warning(&path.child("cidr"), &block.cidr));
            for (index, except) in block.except.iter().flatten().enumerate() {
                let path = path.child("except").index(index);
                warnings.extend(address::network_warning(&path, except));
            }
        }
        warnings
    }
}

/// Ports of all rules, with their paths.
fn ports_mut(spec: &mut NetworkPolicySpec) -> Vec<(FieldPath, &mut NetworkPolicyPort)> {
    let inward = spec
        .ingress
        .iter_mut()
        .flatten()
        .map(|rule| &mut rule.ports);
    let outward = spec.egress.iter_mut().flatten().map(|rule| &mut rule.ports);
    let rules = inward.enumerate().map(|rule| ("ingress", rule));
    let rules = rules.chain(outward.enumerate().map(|rule| ("egress", rule)));
    let ports = rules.flat_map(|(field, (index, ports))| {
        let path = at("spec").child(field).index(index).child("ports");
        let ports = ports.iter_mut().flatten().enumerate();
        ports.map(move |(index, port)| (path.index(index), port))
    });
    ports.collect()
}

/// Peers of all rules, with their paths.
fn peers(spec: &NetworkPolicySpec) -> Vec<(FieldPath, &NetworkPolicyPeer)> {
    let inward = spec.ingress.iter().flatten().map(|rule| &rule.from);
    let outward = spec.egress.iter().flatten().map(|rule| &rule.to);
    let rules = inward.enumerate().map(|rule| ("ingress", "from", rule));
    let rules = rules.chain(outward.enumerate().map(|rule| ("egress", "to", rule)));
    let peers = rules.flat_map(|(field, side, (index, peers))| {
        let path = at("spec").child(field).index(index).child(side);
        let peers = peers.iter().flatten().enumerate();
        peers.map(move |(index, peer)| (path.index(index), peer))
    });
    peers.collect()
}

fn blocks(spec: &NetworkPolicySpec) -> Vec<(FieldPath, IPBlock)> {
    let peers = peers(spec).into_iter();
    let blocks =
        peers.filter_map(|(path, peer)| Some((path.child("ipBlock"), peer.ip_block.clone()?)));
    blocks.collect()
}

fn validate(policy: &NetworkPolicy, known: &[String]) -> Errors {
    let mut errors = Errors::new();
    let mut spec = policy.spec.clone().unwrap_or_default();
    let path = at("spec");
    if let Some(selector) = &spec.pod_selector {
        rules::label_selector(&mut errors, &path.child("podSelector"), selector);
    }
    for (path, port) in ports_mut(&mut spec) {
        validate_port(&mut errors, &path, port);
    }
    for (path, peer) in peers(&spec) {
        validate_peer(&mut errors, &path, peer, known);
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let path = path.child("policyTypes");
    if types.len() > TYPES.len() {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(&path, json(types), detail));
        return errors;
    }
    for (index, given) in types.iter().enumerate() {
        rules::supported_of(&mut errors, &path.index(index), given, &TYPES);
    }
    errors
}

fn validate_port(errors: &mut Errors, path: &FieldPath, port: &NetworkPolicyPort) {
    if let Some(protocol) = &port.protocol {
        let path = path.child("protocol");
        rules::supported_of(errors, &path, protocol, &["TCP", "UDP", "SCTP"]);
    }
    let (number_path, end_path) = (path.child("port"), path.child("endPort"));
    let mut no_end = |detail| {
        errors.extend(
            port.end_port
                .map(|end| FieldError::invalid(&end_path, end, detail)),
        );
    };
    match &port.port {
        None => no_end("may not be specified when `port` is not specified"),
        Some(IntOrString::String(name)) => {
            no_end("may not be specified when `port` is non-numeric");
            rules::complain(errors, &number_path, name, names::port_name(name));
        }
        Some(IntOrString::Int(first)) => {
            rules::port(errors, &number_path, *first);
            if let Some(end) = port.end_port {
                if end < *first {
                    let detail = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(&end_path, *first, detail));
                }
                rules::port(errors, &end_path, end);
            }
        }
    }
}

fn validate_peer(
    errors: &mut Errors,
    path: &FieldPath,
    peer: &NetworkPolicyPeer,
    known: &[String],
) {
    let selectors = [
        ("podSelector", &peer.pod_selector),
        ("namespaceSelector", &peer.namespace_selector),
    ];
    let mut n_selectors = 0;
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            n_selectors += 1;
            rules::label_selector(errors, &path.child(field), selector);
        }
    }
    match (&peer.ip_block, n_selectors) {
        (None, 0) => errors.push(FieldError::required(path, "must specify a peer")),
        (None, _) => {}
        (Some(block), n) => {
            validate_block(errors, &path.child("ipBlock"), block, known);
            if n > 0 {
                let detail = "may not specify both ipBlock and another peer";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
    }
}

fn validate_block(errors: &mut Errors, path: &FieldPath, block: &IPBlock, known: &[String]) {
    if block.cidr.is_empty() {
        errors.push(FieldError::required(&path.child("cidr"), ""));
        return;
    }
    let mut check = |path: &FieldPath, text: &String| {
        let wrong = address::network_error(text).filter(|_| !known.contains(text));
        errors.extend(wrong.map(|why| FieldError::invalid(path, text.as_str(), why)));
    };
    check(&path.child("cidr"), &block.cidr);
    if address::is_v6_network(&block.cidr).is_none() {
        return;
    }
    let except = block.except.as_deref().unwrap_or_default();
    for (index, one) in except.iter().enumerate() {
        check(&path.child("except").index(index), one);
    }
    for (index, one) in except.iter().enumerate() {
        let is_network = address::is_v6_network(one).is_some();
        if is_network && !address::is_strict_part(one, &block.cidr) {
            let detail = "must be a strict subset of `cidr`";
            let path = path.child("except").index(index);
            errors.push(FieldError::invalid(&path, one.as_str(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn policy(spec: serde_json::Value) -> NetworkPolicy {
        let mut policy = serde_json::from_value(json!({"spec": spec})).expect("a policy");
        NetworkPolicyKind::default(&mut policy);
        policy
    }

    #[test]
    fn types_follow_from_the_rules() {
        let types = |spec| {
            policy(spec)
                .spec
                .and_then(|spec| spec.policy_types)
                .unwrap_or_default()
        };
        assert_eq!(types(json!({})), ["Ingress"]);
        assert_eq!(types(json!({"egress": [{}]})), ["Ingress", "Egress"]);
        assert_eq!(types(json!({"policyTypes": ["Egress"]})), ["Egress"]);
    }

    #[test]
    fn peers_ports_and_networks_are_told_what_is_wrong() {
        let wrong = policy(json!({"ingress": [{
            "ports": [{"port": 80, "endPort": 70}, {"port": "http", "endPort": 1}],
            "from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}, "podSelector": {}}],
        }]}));
        assert_eq!(
            texts(&NetworkPolicyKind::validate(&wrong)),
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].ports[1].endPort: Invalid value: 1: may not be specified when `port` is non-numeric",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
            ]
        );
    }

    #[test]
    fn networks_that_were_there_may_stay() {
        let of = |cidr: &str| policy(json!({"egress": [{"to": [{"ipBlock": {"cidr": cidr}}]}]}));
        let old = of("10.0.0.1/8");
        assert_eq!(NetworkPolicyKind::validate(&old).len(), 1);
        assert_eq!(NetworkPolicyKind::validate_update(&old, &old), []);
        assert_eq!(NetworkPolicyKind::warnings(&old).len(), 1);
    }
}
