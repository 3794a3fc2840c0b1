//! From a pod's container and its image to the OCI runtime specification. Pure: everything it needs is passed in.
//!
//! Reading order: [`build`], then [`user`] (who runs), [`capabilities`], [`resources`] (cgroup limits and sums),
//! [`cgroup`] (what is seen of them), [`hostname`], [`expand`] (`$(VAR)`).

pub mod capabilities;
pub mod cgroup;
pub mod expand;
pub mod hostname;
pub mod resources;
pub mod user;

use std::path::{Path, PathBuf};

use corral_api::k8s::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SecurityContext,
};
use serde_json::{Value, json};

use super::seccomp;
use user::{Accounts, Identity};

/// The search path of programs whose image says nothing.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Paths that tell a container about the machine, or let it change it, covered with nothing.
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// Paths that a container may read only.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What an image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Where the program starts.
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// The signal that stops it, a name or a number.
    pub stop_signal: Option<String>,
}

/// A host path that appears in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub destination: String,
    /// Not writable.
    pub read_only: bool,
    /// Not writable below either, mounts inside included.
    pub recursive_read_only: bool,
    /// What the machine mounts below `source` later appears in the container.
    pub from_host: bool,
}

/// A device node for privileged containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its path, the same inside and outside.
    pub path: String,
    /// Character (`c`) or block (`b`).
    pub kind: char,
    /// Its major number.
    pub major: i64,
    /// Its minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
}

/// Where the pod's namespaces are; `None` is the node's own.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    /// Network.
    pub network: Option<PathBuf>,
    /// IPC.
    pub ipc: Option<PathBuf>,
    /// Host name.
    pub uts: Option<PathBuf>,
    /// Processes, when the pod shares them.
    pub pid: Option<PathBuf>,
}

/// Everything that goes into a container's specification.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container in it.
    pub container: &'a Container,
    /// The pod's host name; none with the node's network.
    pub hostname: Option<&'a str>,
    /// The image's configuration.
    pub image: &'a ImageConfig,
    /// The mounted root file system.
    pub rootfs: &'a Path,
    /// The root file system cannot be written, whatever the pod says.
    pub rootfs_read_only: bool,
    /// User data base of the image.
    pub accounts: &'a Accounts,
    /// The container's environment, expanded, without the image's.
    pub env: &'a [(String, String)],
    /// Volumes and generated files.
    pub mounts: &'a [Mount],
    /// Further mounts of the runtime's own (the host image's masks), as OCI objects, before all others.
    pub base_mounts: &'a [Value],
    /// The pod's namespaces.
    pub namespaces: &'a Namespaces,
    /// The pod's shared memory directory.
    pub shm: Option<&'a Path>,
    /// The cgroup path.
    pub cgroup: String,
    /// What the container sees of it.
    pub cgroup_view: &'a cgroup::View,
    /// The node's memory, for OOM scores.
    pub node_memory: i64,
    /// Devices for privileged containers.
    pub devices: &'a [DeviceNode],
    /// The contents of a Localhost seccomp profile, if the container names one.
    pub localhost_profile: Option<&'a str>,
}

/// Why a container cannot be configured. Its text is what the pod's status shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `runAsNonRoot` and the user is root.
    #[error(
        "container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})"
    )]
    Root {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// `runAsNonRoot` and the image names its user.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    NamedUser {
        /// The image's user.
        user: String,
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// The image's user or group is not in its data base.
    #[error("unable to find {what} {name}: no matching entries in the image's data base")]
    UnknownAccount {
        /// `user` or `group`.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// Neither pod nor image says what to run.
    #[error("no command specified")]
    NoCommand,
    /// A field asks for something that this node does not do.
    #[error("{0} is not supported by this node")]
    Unsupported(&'static str),
    /// A seccomp profile cannot be read.
    #[error("cannot use seccomp profile: {0}")]
    Seccomp(String),
    /// A capability has an unknown name.
    #[error("unknown capability {0:?}")]
    Capability(String),
}

/// Builds the specification.
pub fn build(input: &Input<'_>) -> Result<Value, Error> {
    let spec = input.pod.spec.as_ref().ok_or(Error::NoCommand)?;
    let context = input.container.security_context.clone().unwrap_or_default();
    let pod_context = spec.security_context.clone().unwrap_or_default();
    refuse_unsupported(spec, input.container, &context, &pod_context)?;
    let privileged = context.privileged.unwrap_or(false);
    let identity = user::identify(input, &context, &pod_context)?;
    let filter = if privileged {
        None
    } else {
        filter(input, &context, &pod_context)?
    };
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(spec, input.namespaces, input.cgroup_view.namespaced(privileged)),
        "resources": resources::container_resources(input.container, privileged),
        "rootfsPropagation": propagation(input),
    });
    if let Some(filter) = filter {
        linux["seccomp"] = filter;
    }
    if privileged {
        linux["devices"] = input.devices.iter().map(device).collect();
    } else {
        let mut read_only = Vec::new();
        if context.proc_mount.as_deref() != Some("Unmasked") {
            linux["maskedPaths"] = json!(MASKED_PATHS);
            read_only.extend(READONLY_PATHS);
        }
        let view = Some(input.cgroup_view).filter(|_| shows_cgroup(input));
        read_only.extend(view.and_then(|view| view.sealed(privileged)));
        linux["readonlyPaths"] = json!(read_only);
    }
    let read_only = input.rootfs_read_only || context.read_only_root_filesystem.unwrap_or(false);
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process(input, spec, &context, &identity, privileged)?,
        "root": {"path": input.rootfs, "readonly": read_only},
        "mounts": mounts(input, privileged),
        "linux": linux,
    }))
}

fn refuse_unsupported(
    spec: &PodSpec,
    container: &Container,
    context: &SecurityContext,
    pod_context: &PodSecurityContext,
) -> Result<(), Error> {
    if spec.host_users == Some(false) {
        return Err(Error::Unsupported("hostUsers: false"));
    }
    if container
        .volume_devices
        .as_ref()
        .is_some_and(|devices| !devices.is_empty())
    {
        return Err(Error::Unsupported("volumeDevices"));
    }
    let mounts = container.volume_mounts.iter().flatten();
    if mounts
        .clone()
        .any(|mount| mount.mount_propagation.as_deref() == Some("Bidirectional"))
    {
        return Err(Error::Unsupported("mountPropagation: Bidirectional"));
    }
    let profile = context
        .app_armor_profile
        .as_ref()
        .or(pod_context.app_armor_profile.as_ref());
    if profile.is_some_and(|profile| profile.type_ != "Unconfined") {
        return Err(Error::Unsupported("appArmorProfile"));
    }
    Ok(())
}

fn process(
    input: &Input<'_>,
    spec: &PodSpec,
    context: &SecurityContext,
    identity: &Identity,
    privileged: bool,
) -> Result<Value, Error> {
    let working_dir = input
        .container
        .working_dir
        .clone()
        .filter(|dir| !dir.is_empty());
    let image_dir = input
        .image
        .working_dir
        .clone()
        .filter(|dir| !dir.is_empty());
    let mut process = json!({
        "terminal": input.container.tty.unwrap_or(false),
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
        "args": command(input)?,
        "env": environment(input, identity),
        "cwd": working_dir.or(image_dir).unwrap_or_else(|| "/".to_owned()),
        "oomScoreAdj": resources::oom_score(spec, input.container, input.node_memory),
    });
    let capabilities = capabilities::compute(context.capabilities.as_ref(), privileged)?;
    process["capabilities"] = json!({
        "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
    });
    // Absent rather than false: with the field present the filter would be loaded after privileges are gone.
    if context.allow_privilege_escalation == Some(false) {
        process["noNewPrivileges"] = json!(true);
    }
    Ok(process)
}

/// Kubernetes' rule: `command` replaces the entrypoint and drops the image's arguments; `args` replaces arguments.
fn command(input: &Input<'_>) -> Result<Vec<String>, Error> {
    let lookup = |name: &str| {
        input
            .env
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let given = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter()
            .flatten()
            .map(|text| expand::expand(text, lookup))
            .collect()
    };
    let (program, arguments) = (
        given(&input.container.command),
        given(&input.container.args),
    );
    let line: Vec<String> = match (program.is_empty(), arguments.is_empty()) {
        (false, _) => program.into_iter().chain(arguments).collect(),
        (true, false) => input
            .image
            .entrypoint
            .iter()
            .cloned()
            .chain(arguments)
            .collect(),
        (true, true) => input
            .image
            .entrypoint
            .iter()
            .chain(&input.image.command)
            .cloned()
            .collect(),
    };
    if line.is_empty() {
        Err(Error::NoCommand)
    } else {
        Ok(line)
    }
}

fn environment(input: &Input<'_>, identity: &Identity) -> Vec<String> {
    let mut merged: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str, replace: bool| match merged
        .iter_mut()
        .find(|(key, _)| key == name)
    {
        Some((_, old)) if replace => value.clone_into(old),
        Some(_) => {}
        None => merged.push((name.to_owned(), value.to_owned())),
    };
    for entry in &input.image.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(name, value, true);
    }
    if let Some(hostname) = input.hostname {
        set("HOSTNAME", hostname, true);
    }
    for (name, value) in input.env {
        set(name, value, true);
    }
    set("PATH", DEFAULT_PATH, false);
    set("HOME", &identity.home, false);
    if input.container.tty.unwrap_or(false) {
        set("TERM", "xterm", false);
    }
    merged
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// libcontainer knows propagation for all mounts of a container only; those that must differ from it are made private
/// before ([`crate::volumes::mounts`]).
fn propagation(input: &Input<'_>) -> &'static str {
    if input.mounts.iter().any(|mount| mount.from_host) {
        "slave"
    } else {
        "private"
    }
}

fn namespaces(spec: &PodSpec, paths: &Namespaces, cgroup: bool) -> Value {
    let mut list = vec![json!({"type": "mount"})];
    if cgroup {
        list.push(json!({"type": "cgroup"}));
    }
    if !spec.host_pid.unwrap_or(false) {
        list.push(match &paths.pid {
            Some(path) => json!({"type": "pid", "path": path}),
            None => json!({"type": "pid"}),
        });
    }
    for (kind, path) in [
        ("network", &paths.network),
        ("ipc", &paths.ipc),
        ("uts", &paths.uts),
    ] {
        if let Some(path) = path {
            list.push(json!({"type": kind, "path": path}));
        }
    }
    Value::Array(list)
}

fn filter(
    input: &Input<'_>,
    context: &SecurityContext,
    pod_context: &PodSecurityContext,
) -> Result<Option<Value>, Error> {
    let Some(profile) = context
        .seccomp_profile
        .as_ref()
        .or(pod_context.seccomp_profile.as_ref())
    else {
        return Ok(None);
    };
    match profile.type_.as_str() {
        "RuntimeDefault" => {
            let capabilities = capabilities::compute(context.capabilities.as_ref(), false)?;
            Ok(Some(seccomp::runtime_default(&capabilities)))
        }
        "Localhost" => {
            let text = input
                .localhost_profile
                .ok_or_else(|| Error::Seccomp("the file cannot be read".into()))?;
            serde_json::from_str(text)
                .map(Some)
                .map_err(|error| Error::Seccomp(error.to_string()))
        }
        _ => Ok(None),
    }
}

fn device(node: &DeviceNode) -> Value {
    json!({
        "path": node.path, "type": node.kind.to_string(), "major": node.major, "minor": node.minor,
        "fileMode": node.mode, "uid": 0, "gid": 0,
    })
}

fn taken(input: &Input<'_>, path: &str) -> bool {
    let mut mounts = input.mounts.iter();
    mounts.any(|mount| mount.destination.trim_end_matches('/') == path)
}

/// A pod that brings the file system itself (or all of `/sys`) sees its own.
fn shows_cgroup(input: &Input<'_>) -> bool {
    !["/sys", "/sys/fs", cgroup::PATH]
        .iter()
        .any(|path| taken(input, path))
}

fn mounts(input: &Input<'_>, privileged: bool) -> Vec<Value> {
    let taken = |path: &str| taken(input, path);
    let sys = if privileged { "rw" } else { "ro" };
    let mut list: Vec<Value> = input.base_mounts.to_vec();
    let kernel = [
        ("/proc", "proc", "proc", vec!["nosuid", "noexec", "nodev"]),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            vec!["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            vec![
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        (
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            vec!["nosuid", "noexec", "nodev"],
        ),
        (
            "/sys",
            "sysfs",
            "sysfs",
            vec!["nosuid", "noexec", "nodev", sys],
        ),
    ];
    for (destination, kind, source, options) in kernel {
        if !taken(destination) {
            list.push(json!({"destination": destination, "type": kind, "source": source, "options": options}));
        }
    }
    if shows_cgroup(input) {
        list.extend(input.cgroup_view.mounts(privileged));
    }
    if let (Some(shm), false) = (input.shm, taken("/dev/shm")) {
        list.push(json!({"destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind", "rw"]}));
    }
    // Parents before children, whatever the order in the pod.
    let mut binds: Vec<&Mount> = input.mounts.iter().collect();
    binds.sort_by_key(|mount| mount.destination.matches('/').count());
    for mount in binds {
        let mut options = vec!["rbind", if mount.read_only { "ro" } else { "rw" }];
        if mount.recursive_read_only {
            options.push("rro");
        }
        list.push(json!({
            "destination": mount.destination, "type": "bind", "source": mount.source, "options": options,
        }));
    }
    list
}

#[cfg(test)]
mod tests;
