//! The checks of the pod security standards, each with the versions since which it is as it is.

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, Lifecycle, PodSpec, Probe, SecurityContext,
};

use super::level::{Level, Standard, Version};

mod baseline;
mod restricted;

/// A pod, or the template of one.
pub struct Subject<'a> {
    spec: &'a PodSpec,
    annotations: Option<&'a BTreeMap<String, String>>,
    containers: Vec<Each<'a>>,
}

/// What a check looks at of a container of any kind.
struct Each<'a> {
    name: &'a str,
    security: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    probes: [Option<&'a Probe>; 3],
    lifecycle: Option<&'a Lifecycle>,
}

impl<'a> Subject<'a> {
    /// A pod.
    pub fn new(spec: &'a PodSpec, annotations: Option<&'a BTreeMap<String, String>>) -> Self {
        let init = spec.init_containers.iter().flatten();
        let plain = init.chain(&spec.containers).map(Each::of);
        let ephemeral = spec
            .ephemeral_containers
            .iter()
            .flatten()
            .map(Each::of_ephemeral);
        Self {
            spec,
            annotations,
            containers: plain.chain(ephemeral).collect(),
        }
    }

    /// The names of the containers of which something holds.
    fn those(&self, holds: impl Fn(&Each<'a>) -> bool) -> Vec<&'a str> {
        let found = self.containers.iter().filter(|each| holds(each));
        found.map(|each| each.name).collect()
    }

    fn is_windows(&self) -> bool {
        self.spec.os.as_ref().is_some_and(|os| os.name == "windows")
    }

    /// Whether root of the pod is nobody on the node.
    fn has_own_users(&self) -> bool {
        self.spec.host_users == Some(false)
    }
}

impl<'a> Each<'a> {
    fn of(container: &'a Container) -> Self {
        Self {
            name: &container.name,
            security: container.security_context.as_ref(),
            ports: container.ports.as_deref().unwrap_or_default(),
            probes: [
                container.liveness_probe.as_ref(),
                container.readiness_probe.as_ref(),
                container.startup_probe.as_ref(),
            ],
            lifecycle: container.lifecycle.as_ref(),
        }
    }

    fn of_ephemeral(container: &'a EphemeralContainer) -> Self {
        Self {
            name: &container.name,
            security: container.security_context.as_ref(),
            ports: container.ports.as_deref().unwrap_or_default(),
            probes: [
                container.liveness_probe.as_ref(),
                container.readiness_probe.as_ref(),
                container.startup_probe.as_ref(),
            ],
            lifecycle: container.lifecycle.as_ref(),
        }
    }
}

/// How a pod breaks a standard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong.
    pub reason: String,
    /// Where, and what it should be.
    pub detail: String,
}

impl Violation {
    fn new(reason: &str, detail: String) -> Option<Self> {
        Some(Self {
            reason: reason.to_owned(),
            detail,
        })
    }
}

type Rule = fn(&Subject<'_>) -> Option<Violation>;

/// A check.
struct Check {
    /// What Kubernetes calls it.
    id: &'static str,
    level: Level,
    /// The rule since each minor version, in order.
    since: &'static [(u32, Rule)],
    /// The check of a lower level that this one stands for.
    instead_of: Option<&'static str>,
}

/// The last minor version in which a rule changed; later ones are as this.
const NEWEST: u32 = 35;

/// In the order in which violations are told: by level, then by the name that Kubernetes gives the check.
static CHECKS: &[Check] = &[
    baseline_check("appArmorProfile", &[(0, baseline::app_armor)]),
    baseline_check("capabilities_baseline", &[(0, baseline::capabilities)]),
    baseline_check("hostNamespaces", &[(0, baseline::host_namespaces)]),
    baseline_check("hostPathVolumes", &[(0, baseline::host_paths)]),
    baseline_check("hostPorts", &[(0, baseline::host_ports)]),
    baseline_check("hostProbesAndHostLifecycle", &[(34, baseline::probe_hosts)]),
    baseline_check("privileged", &[(0, baseline::privileged)]),
    baseline_check(
        "procMount",
        &[(0, baseline::proc_mount), (35, baseline::proc_mount_1_35)],
    ),
    baseline_check(
        "seLinuxOptions",
        &[(0, baseline::se_linux), (31, baseline::se_linux_1_31)],
    ),
    baseline_check(
        "seccompProfile_baseline",
        &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)],
    ),
    baseline_check(
        "sysctls",
        &[
            (0, baseline::sysctls),
            (27, baseline::sysctls_1_27),
            (29, baseline::sysctls_1_29),
            (32, baseline::sysctls_1_32),
        ],
    ),
    baseline_check("windowsHostProcess", &[(0, baseline::host_process)]),
    restricted_check(
        "allowPrivilegeEscalation",
        &[
            (8, restricted::escalation),
            (25, restricted::escalation_1_25),
        ],
        None,
    ),
    restricted_check(
        "capabilities_restricted",
        &[
            (22, restricted::capabilities),
            (25, restricted::capabilities_1_25),
        ],
        Some("capabilities_baseline"),
    ),
    restricted_check(
        "procMount_restricted",
        &[(35, baseline::proc_mount)],
        Some("procMount"),
    ),
    restricted_check(
        "restrictedVolumes",
        &[(0, restricted::volumes)],
        Some("hostPathVolumes"),
    ),
    restricted_check(
        "runAsNonRoot",
        &[(0, restricted::non_root), (35, restricted::non_root_1_35)],
        None,
    ),
    restricted_check(
        "runAsUser",
        &[(23, restricted::user), (35, restricted::user_1_35)],
        None,
    ),
    restricted_check(
        "seccompProfile_restricted",
        &[(19, restricted::seccomp), (25, restricted::seccomp_1_25)],
        Some("seccompProfile_baseline"),
    ),
];

const fn baseline_check(id: &'static str, since: &'static [(u32, Rule)]) -> Check {
    Check {
        id,
        level: Level::Baseline,
        since,
        instead_of: None,
    }
}

const fn restricted_check(
    id: &'static str,
    since: &'static [(u32, Rule)],
    instead_of: Option<&'static str>,
) -> Check {
    Check {
        id,
        level: Level::Restricted,
        since,
        instead_of,
    }
}

impl Check {
    fn rule(&self, minor: u32) -> Option<Rule> {
        let known = self.since.iter().rev();
        known
            .into_iter()
            .find(|(since, _)| *since <= minor)
            .map(|(_, rule)| *rule)
    }
}

/// The rules of a standard.
fn rules(standard: Standard) -> Vec<Rule> {
    let minor = match standard.version {
        Version::Minor(minor) => minor.min(NEWEST),
        Version::Latest => NEWEST,
    };
    let of_level = || {
        let known = CHECKS.iter().filter(|check| check.level <= standard.level);
        known.filter_map(|check| Some((check, check.rule(minor)?)))
    };
    let replaced: Vec<&str> = of_level()
        .filter_map(|(check, _)| check.instead_of)
        .collect();
    let kept = of_level().filter(|(check, _)| !replaced.contains(&check.id));
    kept.map(|(_, rule)| rule).collect()
}

/// All ways in which a pod breaks a standard.
pub fn violations(standard: Standard, subject: &Subject<'_>) -> Vec<Violation> {
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let rules = rules(standard);
    rules.into_iter().filter_map(|rule| rule(subject)).collect()
}

/// The reasons in one text.
pub fn reasons(violations: &[Violation]) -> String {
    let reasons: Vec<&str> = violations.iter().map(|v| v.reason.as_str()).collect();
    reasons.join(", ")
}

/// The reasons with their details in one text.
pub fn details(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|v| match v.detail.as_str() {
        "" => v.reason.clone(),
        detail => format!("{} ({detail})", v.reason),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// One or more of something.
fn plural<'t>(one: &'t str, more: &'t str, n: usize) -> &'t str {
    if n == 1 { one } else { more }
}

/// Texts in quotes, as they are.
fn quoted<T: AsRef<str>>(texts: &[T]) -> String {
    let texts = texts.iter().map(|text| format!("\"{}\"", text.as_ref()));
    texts.collect::<Vec<_>>().join(", ")
}

/// Containers by their names.
fn containers(names: &[&str]) -> String {
    format!(
        "{} {}",
        plural("container", "containers", names.len()),
        quoted(names)
    )
}

/// The pod, containers, or both.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let pod = pod.then(|| "pod".to_owned());
    let names = (!names.is_empty()).then(|| containers(names));
    let all: Vec<String> = pod.into_iter().chain(names).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

#[cfg(test)]
mod tests {
    use corral_api::k8s::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    fn broken(level: Level, version: Version, pod: Value) -> String {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let spec = pod.spec.unwrap_or_default();
        let subject = Subject::new(&spec, pod.metadata.annotations.as_ref());
        details(&violations(Standard { level, version }, &subject))
    }

    #[test]
    fn a_plain_pod_is_baseline_and_not_restricted() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(broken(Level::Baseline, Version::Latest, pod.clone()), "");
        assert_eq!(
            broken(Level::Restricted, Version::Latest, pod.clone()),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must set \
             securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"a\", \"b\" must set \
             securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        // What came later does not hold before.
        assert_eq!(
            broken(Level::Restricted, Version::Minor(7), pod),
            "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)"
        );
        let careful = json!({"spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]}});
        assert_eq!(broken(Level::Restricted, Version::Latest, careful), "");
    }

    #[test]
    fn a_pod_with_everything_breaks_every_rule_of_the_baseline() {
        let pod = json!({
            "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}},
            "spec": {
                "hostNetwork": true, "hostPID": true, "hostIPC": true,
                "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
                "securityContext": {"seLinuxOptions": {"type": "t", "user": "u", "role": "r"},
                    "sysctls": [{"name": "kernel.msgmax", "value": "1"}, {"name": "net.ipv4.tcp_rmem", "value": "1"}],
                    "seccompProfile": {"type": "Unconfined"}, "windowsOptions": {"hostProcess": true}},
                "containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}],
                    "livenessProbe": {"httpGet": {"host": "h", "port": 1}},
                    "securityContext": {"privileged": true, "procMount": "Unmasked",
                        "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}}],
            },
        });
        let latest = "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
            \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\"), non-default capabilities (container \
            \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add), host namespaces (hostNetwork=true, \
            hostPID=true, hostIPC=true), hostPath volumes (volume \"v\"), hostPort (container \"a\" uses hostPort 80), \
            probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\"), privileged (container \"a\" must \
            not set securityContext.privileged=true), procMount (container \"a\" must not set securityContext.procMount to \
            \"Unmasked\"), seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"t\"; user may not be \
            set; role may not be set), seccompProfile (pod must not set securityContext.seccompProfile.type to \
            \"Unconfined\"), forbidden sysctls (kernel.msgmax), hostProcess (pod must not set \
            securityContext.windowsOptions.hostProcess=true)";
        assert_eq!(
            broken(Level::Baseline, Version::Latest, pod.clone()),
            latest
        );
        assert_eq!(
            broken(Level::Baseline, Version::Minor(99), pod.clone()),
            latest
        );
        let older = broken(Level::Baseline, Version::Minor(18), pod.clone());
        assert!(
            older.contains("forbidden sysctls (kernel.msgmax, net.ipv4.tcp_rmem)"),
            "{older}"
        );
        assert!(
            !older.contains("seccompProfile") && !older.contains("probe or lifecycle"),
            "{older}"
        );
        // The restricted level has its own rule for volumes, capabilities and profiles.
        let restricted = broken(Level::Restricted, Version::Latest, pod);
        assert!(restricted.contains(
            "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")"
        ));
        assert!(
            !restricted.contains("hostPath volumes") && !restricted.contains("non-default"),
            "{restricted}"
        );
        assert_eq!(
            restricted.matches("seccompProfile (").count(),
            1,
            "{restricted}"
        );
        assert_eq!(restricted.matches("procMount (").count(), 1, "{restricted}");
    }

    #[test]
    fn a_pod_with_users_of_its_own_may_be_root() {
        let pod = json!({"spec": {"hostUsers": false, "securityContext": {"runAsUser": 0, "runAsNonRoot": false},
            "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}});
        assert_eq!(broken(Level::Baseline, Version::Latest, pod.clone()), "");
        let older = broken(Level::Baseline, Version::Minor(34), pod.clone());
        assert!(older.starts_with("procMount"), "{older}");
        let restricted = broken(Level::Restricted, Version::Latest, pod.clone());
        assert!(
            restricted.contains("procMount (") && !restricted.contains("runAs"),
            "{restricted}"
        );
        let older = broken(Level::Restricted, Version::Minor(34), pod);
        assert!(
            older.contains("runAsUser=0 (pod must not set runAsUser=0)"),
            "{older}"
        );
    }
}
