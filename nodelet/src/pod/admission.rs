//! What the node refuses to run although the API accepted it, as a kubelet's admission does.

use corral_api::k8s::api::core::v1::PodSpec;
use corral_shim::sysctl::{Scope, normalize, scope};

/// Kernel parameters that may be set without the administrator's leave: they belong to a namespace, and no value of
/// them harms another pod. The list is that of
/// [v1.36](https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/); all of them are namespaced since Linux
/// 4.15, and this program needs a newer kernel.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Why the node does not run this pod: a reason in Kubernetes' words, and a message.
pub fn refusal(spec: &PodSpec) -> Option<(&'static str, String)> {
    let context = spec.security_context.as_ref()?;
    let why = context
        .sysctls
        .iter()
        .flatten()
        .find_map(|sysctl| sysctl_refusal(&sysctl.name, spec))?;
    Some(("SysctlForbidden", format!("forbidden sysctl: {why}")))
}

fn sysctl_refusal(name: &str, spec: &PodSpec) -> Option<String> {
    let name = normalize(name);
    if !SAFE_SYSCTLS.contains(&name.as_str()) {
        return Some(format!("{name:?} not allowlisted"));
    }
    let shared = match scope(&name) {
        Some(Scope::Ipc) if spec.host_ipc.unwrap_or(false) => "IPC",
        Some(Scope::Network) if spec.host_network.unwrap_or(false) => "Net",
        Some(_) => return None,
        // Unreachable for names of the list, which the test below checks; refusing is the safe answer.
        None => return Some(format!("{name:?} not allowlisted")),
    };
    Some(format!("{name:?} not allowed with host {shared} enabled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(yaml: &str) -> Option<String> {
        let spec: PodSpec = serde_saphyr::from_str(yaml).expect("a spec");
        refusal(&spec).map(|(reason, message)| {
            assert_eq!(reason, "SysctlForbidden");
            message
        })
    }

    #[test]
    fn safe_sysctls_are_namespaced_and_pass() {
        for name in SAFE_SYSCTLS {
            assert!(scope(name).is_some(), "{name}");
            let yaml = format!(
                "{{containers: [], securityContext: {{sysctls: [{{name: {name}, value: '1'}}]}}}}"
            );
            assert_eq!(refused(&yaml), None, "{name}");
        }
        assert_eq!(
            refused(
                "{containers: [], securityContext: {sysctls: [{name: net/ipv4/tcp_syncookies, value: '1'}]}}"
            ),
            None
        );
    }

    #[test]
    fn other_sysctls_are_refused_whoever_they_belong_to() {
        for name in ["kernel.msgmax", "net.core.somaxconn", "kernel.core_pattern"] {
            let yaml = format!(
                "{{containers: [], securityContext: {{sysctls: [{{name: {name}, value: '1'}}]}}}}"
            );
            let expected = format!("forbidden sysctl: {name:?} not allowlisted");
            assert_eq!(refused(&yaml), Some(expected));
        }
    }

    #[test]
    fn a_namespace_of_the_machine_is_not_changed() {
        assert_eq!(
            refused(
                "{containers: [], hostNetwork: true, securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: '1'}]}}"
            ),
            Some(
                "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"
                    .into()
            )
        );
        assert_eq!(
            refused(
                "{containers: [], hostIPC: true, securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: '1'}]}}"
            ),
            Some(
                "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host IPC enabled"
                    .into()
            )
        );
    }
}
