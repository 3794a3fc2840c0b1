//! The pod around its containers: cgroup, volumes, namespaces, network; and taking all of it apart.

use std::path::{Path, PathBuf};

use corral_api::k8s::api::core::v1::{Pod, PodSpec};
use nix::mount::{MsFlags, mount};

use crate::cgroup::Cgroups;
use crate::images::rootfs::unmount_root;
use crate::network::{HostPort, PodAddresses, PodIdentity};
use crate::node::{Node, uid};
use crate::pod::Event;
use crate::runtime::SandboxSpec;
use crate::runtime::spec::hostname;
use crate::runtime::spec::resources::pod_limits;
use crate::volumes;

/// The size of a pod's shared memory, as container runtimes have it.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// Makes everything that containers share.
pub(super) async fn create(node: &Node, pod: &Pod) -> Event {
    match try_create(node, pod).await {
        Ok(addresses) => Event::SandboxReady(addresses),
        Err(message) => Event::SandboxFailed(message),
    }
}

async fn try_create(node: &Node, pod: &Pod) -> Result<Vec<String>, String> {
    let uid = uid(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    // What an attempt before this left half made.
    node.runtime
        .remove_sandbox(&uid)
        .await
        .map_err(|error| chain(&error))?;
    let limits = pod_limits(&spec);
    node.cgroups
        .prepare_pod(&uid, &limits)
        .map_err(|error| format!("cannot make the pod's cgroup: {error}"))?;
    let directory = node.pod_dir(&uid);
    std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    make_volumes(node, pod, &directory).await.map_err(|error| {
        let message = chain(&error);
        node.events.record(
            pod,
            None,
            true,
            "FailedMount",
            &format!("MountVolume.SetUp failed: {message}"),
        );
        message
    })?;
    let host_network = spec.host_network.unwrap_or(false);
    let hostname = hostname::of_kernel(pod, &node.network.resolver().domain)
        .map_err(|error| error.to_string())?;
    let sandbox = SandboxSpec {
        uid: uid.clone(),
        hostname: hostname.unwrap_or_default(),
        host_network,
        host_ipc: spec.host_ipc.unwrap_or(false),
        share_pids: spec.share_process_namespace.unwrap_or(false),
        sysctls: sysctls(&spec),
    };
    node.runtime
        .create_sandbox(&sandbox)
        .await
        .map_err(|error| chain(&error))?;
    if !sandbox.host_ipc {
        make_shm(node, &uid)?;
    }
    if host_network {
        return Ok(node.host_ips());
    }
    let netns = node.runtime.namespace(&uid, "net");
    let addresses = node
        .network
        .attach(&identity(pod), &netns)
        .await
        .map_err(|error| chain(&error))?;
    let addresses: Vec<String> = addresses.0.iter().map(ToString::to_string).collect();
    // Volumes that tell the address can do so only now.
    if volumes::has_rendered(pod) {
        let facts = node.facts(&addresses);
        node.volumes
            .refresh(&directory, pod, &facts)
            .await
            .map_err(|error| chain(&error))?;
    }
    Ok(addresses)
}

async fn make_volumes(
    node: &Node,
    pod: &Pod,
    directory: &Path,
) -> Result<(), crate::objects::Error> {
    let facts = node.facts(&[]);
    node.volumes.prepare(directory, pod, &facts).await?;
    node.volumes.own(directory, pod).await
}

fn sysctls(spec: &PodSpec) -> std::collections::BTreeMap<String, String> {
    let list = spec
        .security_context
        .as_ref()
        .and_then(|context| context.sysctls.clone())
        .unwrap_or_default();
    list.into_iter()
        .map(|sysctl| (sysctl.name, sysctl.value))
        .collect()
}

/// Where a pod's shared memory is mounted.
pub(super) fn shm(node: &Node, uid: &str) -> PathBuf {
    node.pod_dir(uid).join("shm")
}

fn make_shm(node: &Node, uid: &str) -> Result<(), String> {
    let path = shm(node, uid);
    volumes::unmount_below(&path).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), &path, Some("tmpfs"), flags, Some(SHM_OPTIONS))
        .map_err(|error| error.to_string())
}

/// Tells the network of a pod that an earlier process attached.
pub(super) async fn adopt(
    node: &Node,
    pod: &Pod,
    addresses: &[String],
) -> Result<(), crate::network::Error> {
    if pod
        .spec
        .as_ref()
        .and_then(|spec| spec.host_network)
        .unwrap_or(false)
    {
        return Ok(());
    }
    let addresses = PodAddresses(
        addresses
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect(),
    );
    node.network
        .adopt(
            &identity(pod),
            &node.runtime.namespace(&uid(pod), "net"),
            &addresses,
        )
        .await
}

/// Removes everything but the logs.
pub(super) async fn tear_down(node: &Node, pod: &Pod) {
    let uid = uid(pod);
    let complain = |what: &str, error: &dyn std::error::Error| {
        tracing::warn!(pod = uid, error = chain(error), "{what} was not removed");
    };
    if let Err(error) = node.network.detach(&identity(pod)).await {
        complain("the pod's network", &error);
    }
    if let Err(error) = node.runtime.remove_sandbox(&uid).await {
        complain("the pod's sandbox", &error);
    }
    remove_files(node, &uid);
}

/// Removes a pod's files, also of a pod that nobody remembers.
pub(crate) fn remove_files(node: &Node, uid: &str) {
    remove_on_disk(&node.pod_dir(uid), &node.cgroups, uid);
}

/// Unmounts and removes what a pod has on disk, except its logs, state and object.
pub(crate) fn remove_on_disk(directory: &Path, cgroups: &Cgroups, uid: &str) {
    for entry in std::fs::read_dir(directory.join("containers"))
        .into_iter()
        .flatten()
        .flatten()
    {
        unmount_root(&entry.path());
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(pod = uid, %error, "a container's directory was not removed");
        }
    }
    let results = [
        volumes::remove(directory),
        volumes::unmount_below(&directory.join("shm")),
        cgroups.remove_pod(uid),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::warn!(pod = uid, %error, "part of a pod was not removed");
    }
}

fn identity(pod: &Pod) -> PodIdentity {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let host_ports = ports.filter_map(|port| {
        Some(HostPort {
            host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
            host_port: u16::try_from(port.host_port?)
                .ok()
                .filter(|port| *port > 0)?,
            container_port: u16::try_from(port.container_port).ok()?,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        })
    });
    PodIdentity {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: uid(pod),
        host_ports: host_ports.collect(),
    }
}

/// An error with its sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
