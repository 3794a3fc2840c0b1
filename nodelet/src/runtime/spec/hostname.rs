//! What a pod is called: to others ([`of_pod`], [`domain`]) and by its own kernel ([`of_kernel`]).

use corral_api::k8s::api::core::v1::Pod;

/// A label of a domain name: what is longer is cut.
const LABEL_LEN_MAX: usize = 63;

/// What the kernel takes as a host name.
const KERNEL_LEN_MAX: usize = 64;

/// A full name that is longer than the kernel takes; unlike a short one it is not cut, for it would be another's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to construct FQDN from pod hostname and cluster domain, FQDN {0} is too long ({KERNEL_LEN_MAX} characters is the max, {len} characters requested)",
    len = .0.len()
)]
pub struct TooLong(String);

/// The pod's own host name, without a domain; none with the node's network.
pub fn of_pod(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.host_network.unwrap_or(false) {
        return None;
    }
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let name = given(&spec.hostname_override)
        .or_else(|| given(&spec.hostname))
        .or_else(|| pod.metadata.name.clone())?;
    if name.len() <= LABEL_LEN_MAX {
        return Some(name);
    }
    let cut = &name[..name.floor_char_boundary(LABEL_LEN_MAX)];
    Some(cut.trim_end_matches(['-', '.']).to_owned())
}

/// The domain of a pod with a subdomain. A name that was set by `hostnameOverride` stands for itself.
pub fn domain(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_ref().filter(|name| !name.is_empty())?;
    if spec.hostname_override.is_some() {
        return None;
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    Some(format!("{subdomain}.{namespace}.svc.{cluster_domain}"))
}

/// What `hostname` says in the pod; none with the node's network.
pub fn of_kernel(pod: &Pod, cluster_domain: &str) -> Result<Option<String>, TooLong> {
    let Some(short) = of_pod(pod) else {
        return Ok(None);
    };
    let full = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.set_hostname_as_fqdn)
        .unwrap_or(false);
    match domain(pod, cluster_domain).filter(|_| full) {
        None => Ok(Some(short)),
        Some(domain) => {
            let name = format!("{short}.{domain}");
            if name.len() > KERNEL_LEN_MAX {
                return Err(TooLong(name));
            }
            Ok(Some(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, spec: &str) -> Pod {
        let yaml = format!("{{metadata: {{name: {name}, namespace: ns}}, spec: {spec}}}");
        serde_saphyr::from_str(&yaml).expect("a pod")
    }

    fn kernel(name: &str, spec: &str) -> Option<String> {
        of_kernel(&pod(name, spec), "cluster.local").expect("short enough")
    }

    #[test]
    fn the_full_name_needs_a_subdomain_and_room() {
        let spec = "{containers: [], setHostnameAsFQDN: true, subdomain: sub}";
        assert_eq!(
            kernel("web-0", spec),
            Some("web-0.sub.ns.svc.cluster.local".into())
        );
        let alone = "{containers: [], setHostnameAsFQDN: true}";
        assert_eq!(kernel("web-0", alone), Some("web-0".into()));
        let quiet = "{containers: [], subdomain: sub, hostname: h}";
        assert_eq!(kernel("web-0", quiet), Some("h".into()));
        let long = pod(&"x".repeat(40), spec);
        let error = of_kernel(&long, "cluster.local").expect_err("too long");
        assert!(
            error
                .to_string()
                .ends_with("is too long (64 characters is the max, 65 characters requested)"),
            "{error}"
        );
    }

    #[test]
    fn an_override_stands_for_itself() {
        let spec =
            "{containers: [], hostname: h, subdomain: sub, hostnameOverride: db.example.com}";
        assert_eq!(kernel("web-0", spec), Some("db.example.com".into()));
        assert_eq!(domain(&pod("web-0", spec), "cluster.local"), None);
    }

    #[test]
    fn long_names_are_cut_where_a_label_may_end() {
        let name = format!("{}-tail", "x".repeat(62));
        assert_eq!(
            kernel(&name, "{containers: []}"),
            Some("x".repeat(62)),
            "the hyphen at the cut goes too"
        );
        assert_eq!(kernel("p", "{containers: [], hostNetwork: true}"), None);
    }
}
