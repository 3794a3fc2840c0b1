//! The texts of `/etc/hosts` and `/etc/resolv.conf` inside a pod.

use corral_api::k8s::api::core::v1::{Pod, PodSpec};

use crate::network::Resolver;
use crate::runtime::spec::hostname;

/// What the C library takes; more are ignored by programs.
const NAMESERVERS_MAX: usize = 3;

/// The most search domains, Kubernetes' limit.
const SEARCHES_MAX: usize = 32;

/// `/etc/hosts`: the node's own with host network, else the pod's.
pub fn hosts(pod: &Pod, addresses: &[String], resolver: &Resolver) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut text = if spec.host_network.unwrap_or(false) {
        let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        // By these first lines people and tests tell the file from one that an image brings.
        format!("# Kubernetes-managed hosts file (host network).\n{own}")
    } else {
        let mut text = String::from("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n");
        for (address, names) in [
            ("::1", "localhost ip6-localhost ip6-loopback"),
            ("fe00::0", "ip6-localnet"),
            ("fe00::0", "ip6-mcastprefix"),
            ("fe00::1", "ip6-allnodes"),
            ("fe00::2", "ip6-allrouters"),
        ] {
            text.push_str(&format!("{address}\t{names}\n"));
        }
        let host = hostname::of_pod(pod).unwrap_or_default();
        let full = hostname::domain(pod, &resolver.domain).map(|domain| format!("{host}.{domain}"));
        for address in addresses {
            match &full {
                Some(full) => text.push_str(&format!("{address}\t{full}\t{host}\n")),
                None => text.push_str(&format!("{address}\t{host}\n")),
            }
        }
        text
    };
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// `/etc/resolv.conf` by the pod's DNS policy.
pub fn resolv(pod: &Pod, spec: &PodSpec, resolver: &Resolver) -> String {
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false);
    let cluster = !resolver.nameservers.is_empty();
    let (mut servers, mut searches, mut options) = match spec.dns_policy.as_deref() {
        Some("None") => (Vec::new(), Vec::new(), Vec::new()),
        Some("ClusterFirstWithHostNet") if cluster => cluster_first(pod, resolver, &own),
        Some("ClusterFirst") | None if cluster && !host_network => {
            cluster_first(pod, resolver, &own)
        }
        _ => parse(&own),
    };
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|known: &String| known.split(':').next() != Some(name.as_str()));
            options.push(
                option
                    .value
                    .as_ref()
                    .map_or_else(|| name.clone(), |value| format!("{name}:{value}")),
            );
        }
    }
    let mut seen = std::collections::HashSet::new();
    searches.retain(|search| seen.insert(search.clone()));
    searches.truncate(SEARCHES_MAX);
    let mut text = String::new();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in servers.iter().take(NAMESERVERS_MAX) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

type Parts = (Vec<String>, Vec<String>, Vec<String>);

fn cluster_first(pod: &Pod, resolver: &Resolver, own: &str) -> Parts {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let domain = &resolver.domain;
    let mut searches = vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    searches.extend(parse(own).1);
    let servers = resolver
        .nameservers
        .iter()
        .map(ToString::to_string)
        .collect();
    (servers, searches, vec!["ndots:5".to_owned()])
}

fn parse(text: &str) -> Parts {
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => servers.extend(words.next()),
            Some("search") => searches = words.collect(),
            Some("options") => options.extend(words),
            _ => {}
        }
    }
    (servers, searches, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_first_searches_the_cluster_and_dns_config_adds() {
        let pod: Pod = serde_saphyr::from_str(
            "{metadata: {name: p, namespace: a}, spec: {containers: [], dnsConfig: {searches: [x.y], \
             options: [{name: ndots, value: '2'}]}}}",
        )
        .expect("a pod");
        let resolver = Resolver {
            nameservers: vec![[10, 0, 0, 10].into()],
            domain: "cluster.local".into(),
        };
        let text = resolv(&pod, pod.spec.as_ref().expect("spec"), &resolver);
        assert!(
            text.starts_with("search a.svc.cluster.local svc.cluster.local cluster.local"),
            "{text}"
        );
        assert!(
            text.contains("nameserver 10.0.0.10\n") && text.ends_with("options ndots:2\n"),
            "{text}"
        );
    }
}
