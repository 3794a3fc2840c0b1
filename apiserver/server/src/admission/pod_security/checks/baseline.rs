//! Rules of the level `baseline`.

use std::collections::BTreeSet;

use corral_api::field::go_quote;
use corral_api::k8s::api::core::v1::{LifecycleHandler, Probe, SELinuxOptions};

use super::{Each, Subject, Violation, containers, plural, quoted, setters};

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// What container runtimes give by default.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SE_LINUX_TYPES: [&str; 4] = ["", "container_t", "container_init_t", "container_kvm_t"];
const SE_LINUX_TYPE_1_31: &str = "container_engine_t";
/// Sysctls that are of a pod's own, by the minor version since which they are allowed.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

pub(super) fn app_armor(subject: &Subject<'_>) -> Option<Violation> {
    let allowed = |type_: &str| matches!(type_, "RuntimeDefault" | "Localhost");
    let mut values = BTreeSet::new();
    let of_pod = subject.spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.app_armor_profile.as_ref());
    let of_pod = of_pod
        .map(|profile| profile.type_.as_str())
        .filter(|type_| !allowed(type_));
    values.extend(of_pod);
    let mut names = Vec::new();
    for each in &subject.containers {
        let profile = each
            .security
            .and_then(|context| context.app_armor_profile.as_ref());
        if let Some(profile) = profile.filter(|profile| !allowed(&profile.type_)) {
            names.push(each.name);
            values.insert(&profile.type_);
        }
    }
    let annotations = subject
        .annotations
        .into_iter()
        .flatten()
        .filter(|(key, value)| {
            let fine =
                value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(APP_ARMOR_ANNOTATION) && !fine
        });
    let annotations: Vec<String> = annotations
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect();
    let mut values: Vec<String> = values.into_iter().map(str::to_owned).collect();
    let annotation = (!annotations.is_empty())
        .then(|| plural("annotation", "annotations", annotations.len()).to_owned());
    values.extend(annotations);
    let who: Vec<String> = setters(of_pod.is_some(), &names)
        .into_iter()
        .chain(annotation)
        .collect();
    if who.is_empty() {
        return None;
    }
    let reason = plural(
        "forbidden AppArmor profile",
        "forbidden AppArmor profiles",
        values.len(),
    );
    let detail = format!(
        "{} must not set AppArmor profile type to {}",
        who.join(" and "),
        quoted(&values)
    );
    Violation::new(reason, detail)
}

pub(super) fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let added = |each: &Each<'_>| -> Vec<String> {
        let capabilities = each
            .security
            .and_then(|context| context.capabilities.as_ref());
        let added = capabilities.and_then(|c| c.add.clone()).unwrap_or_default();
        added
            .into_iter()
            .filter(|c| !CAPABILITIES.contains(&c.as_str()))
            .collect()
    };
    let names = subject.those(|each| !added(each).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = subject.containers.iter().flat_map(added).collect();
    let all: Vec<String> = all.into_iter().collect();
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&names),
        quoted(&all)
    );
    Violation::new("non-default capabilities", detail)
}

pub(super) fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let spec = subject.spec;
    let shared = [
        ("hostNetwork=true", spec.host_network),
        ("hostPID=true", spec.host_pid),
        ("hostIPC=true", spec.host_ipc),
    ];
    let shared: Vec<&str> = shared
        .into_iter()
        .filter(|(_, given)| *given == Some(true))
        .map(|(text, _)| text)
        .collect();
    if shared.is_empty() {
        return None;
    }
    Violation::new("host namespaces", shared.join(", "))
}

pub(super) fn host_paths(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = subject.spec.volumes.iter().flatten();
    let volumes = volumes.filter(|volume| volume.host_path.is_some());
    let names: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names)
    );
    Violation::new("hostPath volumes", detail)
}

pub(super) fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let ports = |each: &Each<'_>| -> Vec<i32> {
        let ports = each.ports.iter().filter_map(|port| port.host_port);
        ports.filter(|port| *port != 0).collect()
    };
    let names = subject.those(|each| !ports(each).is_empty());
    if names.is_empty() {
        return None;
    }
    // In the order of texts, as Kubernetes tells them.
    let all: BTreeSet<String> = subject
        .containers
        .iter()
        .flat_map(ports)
        .map(|p| p.to_string())
        .collect();
    let all: Vec<String> = all.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("hostPort", "hostPorts", all.len()),
        all.join(", ")
    );
    Violation::new("hostPort", detail)
}

pub(super) fn probe_hosts(subject: &Subject<'_>) -> Option<Violation> {
    let mut names = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for each in &subject.containers {
        let probes = each.probes.into_iter().flatten().flat_map(hosts_of_probe);
        let lifecycle = each.lifecycle.into_iter();
        let handlers = lifecycle.flat_map(|l| [l.post_start.as_ref(), l.pre_stop.as_ref()]);
        let handlers = handlers.flatten().flat_map(hosts_of_handler);
        let found: Vec<&str> = probes.chain(handlers).collect();
        if !found.is_empty() {
            names.insert(each.name);
            hosts.extend(found);
        }
    }
    if names.is_empty() {
        return None;
    }
    let (names, hosts): (Vec<&str>, Vec<&str>) =
        (names.into_iter().collect(), hosts.into_iter().collect());
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural(
            "probe or lifecycle host",
            "probe or lifecycle hosts",
            hosts.len()
        ),
        quoted(&hosts)
    );
    Violation::new("probe or lifecycle host", detail)
}

fn hosts_of_probe(probe: &Probe) -> impl Iterator<Item = &str> {
    let http = probe.http_get.as_ref().and_then(|get| get.host.as_deref());
    let tcp = probe
        .tcp_socket
        .as_ref()
        .and_then(|tcp| tcp.host.as_deref());
    [http, tcp]
        .into_iter()
        .flatten()
        .filter(|host| !host.is_empty())
}

fn hosts_of_handler(handler: &LifecycleHandler) -> impl Iterator<Item = &str> {
    let http = handler
        .http_get
        .as_ref()
        .and_then(|get| get.host.as_deref());
    let tcp = handler
        .tcp_socket
        .as_ref()
        .and_then(|tcp| tcp.host.as_deref());
    [http, tcp]
        .into_iter()
        .flatten()
        .filter(|host| !host.is_empty())
}

pub(super) fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let names = subject.those(|each| each.security.is_some_and(|s| s.privileged == Some(true)));
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.privileged=true",
        containers(&names)
    );
    Violation::new("privileged", detail)
}

pub(super) fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    let mount = |each: &Each<'_>| -> Option<String> {
        let mount = each.security.and_then(|context| context.proc_mount.clone());
        mount.filter(|mount| mount != "Default")
    };
    let names = subject.those(|each| mount(each).is_some());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = subject.containers.iter().filter_map(mount).collect();
    let all: Vec<String> = all.into_iter().collect();
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        containers(&names),
        quoted(&all)
    );
    Violation::new("procMount", detail)
}

pub(super) fn proc_mount_1_35(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_own_users() {
        return None;
    }
    proc_mount(subject)
}

pub(super) fn se_linux(subject: &Subject<'_>) -> Option<Violation> {
    se_linux_beyond(subject, &SE_LINUX_TYPES)
}

pub(super) fn se_linux_1_31(subject: &Subject<'_>) -> Option<Violation> {
    let mut types = SE_LINUX_TYPES.to_vec();
    types.push(SE_LINUX_TYPE_1_31);
    se_linux_beyond(subject, &types)
}

fn se_linux_beyond(subject: &Subject<'_>, types: &[&str]) -> Option<Violation> {
    let (mut bad_types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: &SELinuxOptions| {
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let type_ = options.type_.clone().unwrap_or_default();
        let bad_type = !types.contains(&type_.as_str());
        if bad_type {
            bad_types.insert(type_);
        }
        user |= given(&options.user);
        role |= given(&options.role);
        bad_type || given(&options.user) || given(&options.role)
    };
    let of_pod = subject.spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.se_linux_options.as_ref());
    let pod = of_pod.is_some_and(&mut is_bad);
    let mut names = Vec::new();
    for each in &subject.containers {
        let options = each
            .security
            .and_then(|context| context.se_linux_options.as_ref());
        if options.is_some_and(&mut is_bad) {
            names.push(each.name);
        }
    }
    let who = setters(pod, &names)?;
    let types: Vec<String> = bad_types.into_iter().collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!(
            "{} {}",
            plural("type", "types", types.len()),
            quoted(&types)
        ));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    let detail = format!(
        "{who} set forbidden securityContext.seLinuxOptions: {}",
        what.join("; ")
    );
    Violation::new("seLinuxOptions", detail)
}

/// Before there were fields for it.
pub(super) fn seccomp_annotations(subject: &Subject<'_>) -> Option<Violation> {
    let fine = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let of_containers = subject.containers.iter();
    let of_containers = of_containers.map(|each| format!("{SECCOMP_OF_CONTAINER}{}", each.name));
    let keys = std::iter::once(SECCOMP_OF_POD.to_owned()).chain(of_containers);
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = subject
                .annotations?
                .get(&key)
                .filter(|value| !fine(value))?;
            Some(format!("{key}={}", go_quote(value)))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<String> = bad.into_iter().collect();
    let what = plural("annotation", "annotations", bad.len());
    Violation::new(
        "seccompProfile",
        format!("forbidden {what} {}", bad.join(", ")),
    )
}

pub(super) fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    let (pod, names, values) = bad_seccomp(subject);
    let who = setters(pod, &names)?;
    let detail = format!(
        "{who} must not set securityContext.seccompProfile.type to {}",
        quoted(&values)
    );
    Violation::new("seccompProfile", detail)
}

/// Whether the pod has a profile that it may not, the containers that do, and the types of these profiles.
fn bad_seccomp<'a>(subject: &Subject<'a>) -> (bool, Vec<&'a str>, Vec<String>) {
    let mut values = BTreeSet::new();
    let of_pod = subject.spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.seccomp_profile.as_ref());
    let of_pod = of_pod.filter(|profile| !is_profile(&profile.type_));
    values.extend(of_pod.map(|profile| profile.type_.clone()));
    let mut names = Vec::new();
    for each in &subject.containers {
        let profile = each
            .security
            .and_then(|context| context.seccomp_profile.as_ref());
        if let Some(profile) = profile.filter(|profile| !is_profile(&profile.type_)) {
            names.push(each.name);
            values.insert(profile.type_.clone());
        }
    }
    (of_pod.is_some(), names, values.into_iter().collect())
}

/// Whether a type of seccomp profiles confines.
pub(super) fn is_profile(type_: &str) -> bool {
    matches!(type_, "Localhost" | "RuntimeDefault")
}

pub(super) fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_since(subject, 0)
}

pub(super) fn sysctls_1_27(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_since(subject, 27)
}

pub(super) fn sysctls_1_29(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_since(subject, 29)
}

pub(super) fn sysctls_1_32(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_since(subject, 32)
}

fn sysctls_since(subject: &Subject<'_>, minor: u32) -> Option<Violation> {
    let given = subject.spec.security_context.iter();
    let given = given.flat_map(|context| context.sysctls.iter().flatten());
    let allowed = |name: &str| {
        SYSCTLS
            .iter()
            .any(|(since, known)| *since <= minor && *known == name)
    };
    let bad: Vec<&str> = given
        .map(|sysctl| sysctl.name.as_str())
        .filter(|name| !allowed(name))
        .collect();
    if bad.is_empty() {
        return None;
    }
    Violation::new("forbidden sysctls", bad.join(", "))
}

pub(super) fn host_process(subject: &Subject<'_>) -> Option<Violation> {
    let names = subject.those(|each| {
        let options = each
            .security
            .and_then(|context| context.windows_options.as_ref());
        options.is_some_and(|options| options.host_process == Some(true))
    });
    let of_pod = subject.spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.windows_options.as_ref());
    let pod = of_pod.is_some_and(|options| options.host_process == Some(true));
    let who = setters(pod, &names)?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    Violation::new("hostProcess", detail)
}
