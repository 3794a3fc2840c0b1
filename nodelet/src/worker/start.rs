//! Starting one container: image, environment, mounts, specification, process, postStart hook; and stopping it.

use std::path::{Path, PathBuf};

use corral_api::k8s::api::core::v1::{Container, Pod, PodSpec};
use corral_shim::protocol::ErrorKind;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use super::image_volume;
use super::sandbox::{chain, shm};
use super::{primary, time, until};
use crate::env;
use crate::images::rootfs::{host_mounts, mount_root, unmount_root};
use crate::images::{Image, PullPolicy};
use crate::node::{Node, uid};
use crate::pod::{Event, find};
use crate::probes::Target;
use crate::runtime::spec::hostname;
use crate::runtime::spec::user::Accounts;
use crate::runtime::spec::{self, Input, Mount, Namespaces};
use crate::runtime::{ContainerSpec, Error as RuntimeError};
use crate::volumes::mounts;

/// The largest user data base or seccomp profile that is read.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The signal that stops a container when neither pod nor image says otherwise.
const STOP: Signal = Signal::SIGTERM;

/// Why a container does not start, in Kubernetes' words.
pub(super) enum Failure {
    /// It was not created.
    Create(&'static str, String),
    /// It was created and would not run.
    Start(String),
}

/// Where a container instance's bundle is.
pub(super) fn bundle(node: &Node, uid: &str, id: &str) -> PathBuf {
    node.pod_dir(uid).join("containers").join(id)
}

/// The number at the end of an instance's id.
fn attempt(id: &str) -> u32 {
    id.rsplit_once('-')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

/// Starts a container and reports what came of it.
pub(super) async fn start(
    node: &Node,
    pod: &Pod,
    name: &str,
    id: &str,
    addresses: &[String],
    reports: &mpsc::Sender<Event>,
) {
    let spec = pod.spec.clone().unwrap_or_default();
    let Some(container) = find(&spec, name) else {
        return;
    };
    remove_earlier(node, pod, name, id).await;
    let (image, started_at) = match try_start(node, pod, &spec, container, id, addresses).await {
        Ok(started) => started,
        Err(failure) => {
            unmount_root(&bundle(node, &uid(pod), id));
            let (name, id) = (name.to_owned(), id.to_owned());
            let event = match failure {
                Failure::Create(reason, message) => Event::CreateFailed {
                    name,
                    reason: reason.to_owned(),
                    message,
                },
                Failure::Start(message) => Event::StartFailed { name, id, message },
            };
            let _ = reports.send(event).await;
            return;
        }
    };
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.post_start.as_ref());
    let failed = match hook {
        Some(hook) => target(node, pod, name, id, addresses)
            .hook(hook)
            .await
            .err(),
        None => None,
    };
    let started = Event::Started {
        name: name.to_owned(),
        id: id.to_owned(),
        image: image.name,
        image_id: image.id,
        at: time(&started_at),
    };
    let _ = reports.send(started).await;
    if let Some(message) = failed {
        let message = format!("PostStartHook failed: {message}");
        let _ = reports
            .send(Event::PostStartFailed {
                name: name.to_owned(),
                message,
            })
            .await;
    }
}

/// Frees what earlier instances of this container hold; the log of the last one stays for `--previous`.
async fn remove_earlier(node: &Node, pod: &Pod, name: &str, id: &str) {
    let uid = uid(pod);
    for entry in std::fs::read_dir(node.pod_dir(&uid).join("containers"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(old) = entry.file_name().into_string() else {
            continue;
        };
        let same = old
            .rsplit_once('-')
            .is_some_and(|(container, _)| container == name);
        if !same || old == id {
            continue;
        }
        if let Err(error) = node.runtime.remove(&uid, &old).await {
            tracing::debug!(pod = uid, id = old, %error, "an earlier instance was not removed");
        }
        unmount_root(&entry.path());
        let _ = node.cgroups.remove_container(&uid, &old);
        let _ = std::fs::remove_dir_all(entry.path());
    }
    let logs = node.log_path(&uid, name, 0);
    for entry in std::fs::read_dir(logs.parent().unwrap_or(&logs))
        .into_iter()
        .flatten()
        .flatten()
    {
        let file = entry.file_name().to_string_lossy().into_owned();
        let number = file
            .split('.')
            .next()
            .and_then(|number| number.parse::<u32>().ok());
        if number.is_some_and(|number| number + 1 < attempt(id)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

async fn try_start(
    node: &Node,
    pod: &Pod,
    pod_spec: &PodSpec,
    container: &Container,
    id: &str,
    addresses: &[String],
) -> Result<(Image, String), Failure> {
    let uid = uid(pod);
    let config =
        |error: &dyn std::error::Error| Failure::Create("CreateContainerConfigError", chain(error));
    let create = |message: String| Failure::Create("CreateContainerError", message);
    let image = pull(node, pod, container).await?;
    let services = node.services.borrow().clone();
    let facts = node.facts(addresses);
    let directory = node.pod_dir(&uid);
    let environment = env::resolve(&node.objects, pod, container, &services, &facts, &directory)
        .await
        .map_err(|error| config(&error))?;
    image_volume::prepare(node, pod, container, &directory).await?;
    let volumes = node
        .volumes
        .prepare(&directory, pod, &facts)
        .await
        .map_err(|error| config(&error))?;
    let bundle = bundle(node, &uid, id);
    std::fs::create_dir_all(&bundle).map_err(|error| create(error.to_string()))?;
    let mut binds = mounts::resolve(&directory, container, &volumes, &environment)
        .map_err(|error| config(&error))?;
    let generated = files(node, pod, pod_spec, container, &bundle, addresses, &binds);
    binds.extend(generated.map_err(|error| create(error.to_string()))?);
    let rootfs = mount_root(&node.images.store().layers_dir(), &image, &bundle)
        .map_err(|error| create(chain(&error)))?;
    let native = image.layers.is_none();
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let base_mounts = if native {
        host_mounts(&info, &node.data_dir)
    } else {
        Vec::new()
    };
    let namespaces = namespaces(node, pod_spec, &uid);
    let shm = shm(node, &uid);
    let profile = localhost_profile(node, pod_spec, container);
    let privileged = container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged)
        .unwrap_or(false);
    let cgroup = node.cgroups.container(&uid, id);
    let view = node
        .cgroups
        .prepare_container(&uid, id)
        .map_err(|error| create(error.to_string()))?;
    let resolver = node.network.resolver();
    let hostname = hostname::of_kernel(pod, &resolver.domain).map_err(|error| config(&error))?;
    let oci = spec::build(&Input {
        pod,
        container,
        hostname: hostname.as_deref(),
        image: &image.config,
        rootfs: &rootfs,
        rootfs_read_only: native,
        accounts: &accounts(&rootfs),
        env: &environment,
        mounts: &binds,
        base_mounts: &base_mounts,
        namespaces: &namespaces,
        shm: Some(shm.as_path()).filter(|_| namespaces.ipc.is_some()),
        cgroup: cgroup.clone(),
        cgroup_view: &view,
        node_memory: node.capacity.memory,
        devices: &if privileged {
            crate::machine::devices()
        } else {
            Vec::new()
        },
        localhost_profile: profile.as_deref(),
    })
    .map_err(|error| config(&error))?;
    node.events.record(
        pod,
        Some(&container.name),
        false,
        "Created",
        "Container created",
    );
    let ready = ContainerSpec {
        id: id.to_owned(),
        oci,
        cgroup,
        log_path: node.log_path(&uid, &container.name, attempt(id)),
        terminal: container.tty.unwrap_or(false),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
    };
    match node.runtime.start(&uid, &ready).await {
        Ok(started_at) => Ok((image, started_at)),
        Err(RuntimeError::Refused {
            kind: ErrorKind::NotExecutable,
            message,
        }) => Err(Failure::Start(format!(
            "failed to start container: {message}"
        ))),
        Err(RuntimeError::Refused { message, .. }) => Err(Failure::Start(message)),
        Err(error) => Err(create(chain(&error))),
    }
}

async fn pull(node: &Node, pod: &Pod, container: &Container) -> Result<Image, Failure> {
    let name = container.image.clone().unwrap_or_default();
    let policy = PullPolicy::of(container.image_pull_policy.as_deref(), &name);
    let credentials = node.objects.pull_credentials(pod).await;
    let began = std::time::Instant::now();
    let image = node
        .images
        .ensure(&name, policy, &credentials)
        .await
        .map_err(|error| Failure::Create(error.reason(), chain(&error)))?;
    let message = match policy {
        PullPolicy::Always if image.layers.is_some() => {
            format!(
                "Successfully pulled image {name:?} in {}ms",
                began.elapsed().as_millis()
            )
        }
        _ => format!("Container image {name:?} already present on machine"),
    };
    node.events
        .record(pod, Some(&container.name), false, "Pulled", &message);
    Ok(image)
}

fn namespaces(node: &Node, spec: &PodSpec, uid: &str) -> Namespaces {
    let at = |name: &str, shared: Option<bool>| {
        (!shared.unwrap_or(false)).then(|| node.runtime.namespace(uid, name))
    };
    Namespaces {
        network: at("net", spec.host_network),
        ipc: at("ipc", spec.host_ipc),
        uts: at("uts", spec.host_network),
        pid: spec
            .share_process_namespace
            .unwrap_or(false)
            .then(|| node.runtime.namespace(uid, "pid")),
    }
}

fn accounts(rootfs: &Path) -> Accounts {
    let read = |name: &str| {
        let path = rootfs.join("etc").join(name);
        // A link could lead out of the image and to the machine's own accounts.
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= FILE_LEN_MAX => {
                std::fs::read(&path)
                    .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                    .unwrap_or_default()
            }
            _ => String::new(),
        }
    };
    Accounts {
        passwd: read("passwd"),
        group: read("group"),
    }
}

/// The text of a Localhost seccomp profile, from below the data directory only.
fn localhost_profile(node: &Node, spec: &PodSpec, container: &Container) -> Option<String> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|context| context.seccomp_profile.as_ref());
    let pods = spec
        .security_context
        .as_ref()
        .and_then(|context| context.seccomp_profile.as_ref());
    let name = own.or(pods)?.localhost_profile.clone()?;
    let directory = node.data_dir.join("seccomp").canonicalize().ok()?;
    let path = directory.join(name).canonicalize().ok()?;
    let small = std::fs::metadata(&path).ok()?.len() <= FILE_LEN_MAX;
    if path.starts_with(directory) && small {
        std::fs::read_to_string(path).ok()
    } else {
        None
    }
}

/// The files that every container gets: hosts, host name, resolver configuration, termination message.
fn files(
    node: &Node,
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    bundle: &Path,
    addresses: &[String],
    taken: &[Mount],
) -> std::io::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    let mut add = |name: &str, destination: &str, text: String, mode: u32| -> std::io::Result<()> {
        if taken.iter().any(|mount| mount.destination == destination) {
            return Ok(());
        }
        let path = bundle.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        mounts.push(Mount {
            source: path,
            destination: destination.to_owned(),
            read_only: false,
            recursive_read_only: false,
            from_host: false,
        });
        Ok(())
    };
    let resolver = node.network.resolver();
    add(
        "hosts",
        "/etc/hosts",
        crate::files::hosts(pod, addresses, &resolver),
        0o644,
    )?;
    let hostname = hostname::of_kernel(pod, &resolver.domain)
        .map_err(std::io::Error::other)?
        .unwrap_or_else(|| node.name.clone());
    add("hostname", "/etc/hostname", format!("{hostname}\n"), 0o644)?;
    add(
        "resolv.conf",
        "/etc/resolv.conf",
        crate::files::resolv(pod, spec, &resolver),
        0o644,
    )?;
    let message_path = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty());
    // Any user of the container may write its last words.
    add(
        "termination-log",
        message_path.unwrap_or("/dev/termination-log"),
        String::new(),
        0o666,
    )?;
    Ok(mounts)
}

/// What hooks and probes of a container are aimed at.
pub(super) fn target(node: &Node, pod: &Pod, name: &str, id: &str, addresses: &[String]) -> Target {
    let container = pod
        .spec
        .as_ref()
        .and_then(|spec| find(spec, name).cloned())
        .unwrap_or_default();
    Target {
        runtime: node.runtime.clone(),
        uid: uid(pod),
        id: id.to_owned(),
        address: primary(addresses),
        container,
    }
}

/// Runs a preStop hook until it is done or no longer matters.
pub(super) async fn pre_stop(node: &Node, pod: &Pod, target: Target, deadline: Timestamp) {
    let hook = target
        .container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.clone());
    let Some(hook) = hook else { return };
    let name = &target.container.name;
    let complain = |message: &str| {
        node.events
            .record(pod, Some(name), true, "FailedPreStopHook", message)
    };
    match tokio::time::timeout(until(deadline), target.hook(&hook)).await {
        Ok(Ok(())) => {}
        Ok(Err(message)) => complain(&format!("PreStopHook failed: {message}")),
        Err(_) => complain("PreStopHook did not end in time"),
    }
}

/// Asks a container to end, or kills it.
pub(super) async fn signal(node: &Node, pod: &Pod, name: &str, id: &str, kill: bool) {
    let uid = uid(pod);
    let signal = if kill {
        Signal::SIGKILL as i32
    } else {
        stop_signal(node, pod, name)
    };
    if let Err(error) = node.runtime.signal(&uid, id, signal, kill).await {
        tracing::warn!(pod = uid, id, %error, "a container was not signalled");
    }
}

fn stop_signal(node: &Node, pod: &Pod, name: &str) -> i32 {
    let container = pod.spec.as_ref().and_then(|spec| find(spec, name));
    let own = container.and_then(|container| container.lifecycle.as_ref()?.stop_signal.clone());
    let image = container.and_then(|container| {
        let reference =
            crate::images::reference::Reference::parse(container.image.as_deref()?).ok()?;
        node.images.store().find(&reference)?.config.stop_signal
    });
    own.or(image)
        .and_then(|text| parse_signal(&text))
        .unwrap_or(STOP as i32)
}

/// `SIGTERM`, `TERM` or `15`.
fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return Some(number);
    }
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}
