//! What a pod asks of the network: name servers, host names, and ports of the node.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::PodSpec;
use corral_api::names;

use super::Owner;
use crate::rules::{self, Errors, json, text};

/// What resolvers read.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LIST_LENGTH_MAX: usize = 2048;
/// Longest host name that Linux has.
const HOSTNAME_LENGTH_MAX: usize = 64;

/// In the node's network every port is a port of the node.
pub(super) fn host_ports(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, owner: Owner<'_>) {
    if spec.host_network != Some(true) {
        return;
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.child("containers").index(index).child("ports");
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if (matches!(owner, Owner::Pod(_)) || host_port != 0)
                && host_port != port.container_port
            {
                let path = path.index(index).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&path, host_port, detail));
            }
        }
    }
}

/// `dnsPolicy`.
pub(super) fn dns_policy(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let allowed = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    rules::required_in_order(errors, path, text(&spec.dns_policy), &allowed);
}

/// `dnsConfig`.
pub(super) fn dns_config(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let config = spec.dns_config.as_ref();
    let servers = config
        .and_then(|c| c.nameservers.as_deref())
        .unwrap_or_default();
    if spec.dns_policy.as_deref() == Some("None") {
        if config.is_none() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(path, detail));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(&path.child("nameservers"), detail));
            return;
        }
    }
    let Some(config) = config else { return };
    let servers_path = path.child("nameservers");
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(&servers_path, json(servers), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        rules::ip(errors, &servers_path.index(index), server);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    search_list(errors, &path.child("searches"), searches);
    for (index, option) in config.options.iter().flatten().enumerate() {
        if text(&option.name).is_empty() {
            let path = path.child("options").index(index);
            errors.push(FieldError::required(&path, "must not be empty"));
        }
    }
}

fn search_list(errors: &mut Errors, path: &FieldPath, searches: &[String]) {
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(path, json(searches), detail));
    }
    if searches.join(" ").len() > SEARCH_LIST_LENGTH_MAX {
        let detail = format!(
            "must not have more than {SEARCH_LIST_LENGTH_MAX} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(path, json(searches), detail));
    }
    for (index, search) in searches.iter().enumerate() {
        if search != "." {
            let domain = search.strip_suffix('.').unwrap_or(search);
            let complaints = names::dns1123_subdomain_with_underscore(domain);
            rules::complain(errors, &path.index(index), domain, complaints);
        }
    }
}

/// `hostAliases`.
pub(super) fn host_aliases(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.index(index);
        rules::ip(errors, &path.child("ip"), &alias.ip);
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            let path = path.child("hostnames").index(index);
            rules::complain(errors, &path, name, names::dns1123_subdomain(name));
        }
    }
}

/// `hostnameOverride`.
pub(super) fn hostname_override(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let Some(name) = &spec.hostname_override else {
        return;
    };
    for (given, field) in [
        (spec.set_hostname_as_fqdn, "setHostnameAsFQDN"),
        (spec.host_network, "hostNetwork"),
    ] {
        if given == Some(true) {
            let detail = format!("may not be specified when {field} is true");
            errors.push(FieldError::forbidden(path, detail));
        }
    }
    if name.len() > HOSTNAME_LENGTH_MAX {
        errors.push(FieldError::too_long(path, HOSTNAME_LENGTH_MAX));
    }
    rules::complain(errors, path, name, names::dns1123_subdomain(name));
}
