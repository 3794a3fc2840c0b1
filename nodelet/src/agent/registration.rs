//! The Node object: created when it is missing, its status kept true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node as NodeObject, NodeAddress, NodeCondition,
    NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo,
};
use corral_api::quantity::Quantity;
use corral_api::time::{Time, truncate_to_seconds};
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::eviction::Condition;
use crate::machine;
use crate::node::Node;

/// How often the status is looked at.
const CHECK: Duration = Duration::from_secs(10);

/// How often it is written when nothing but its heartbeat times changed; the Lease tells the rest.
const REPORT: Duration = Duration::from_secs(300);

/// How soon a failed write is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The most images that a status names, Kubernetes' default.
const IMAGES_MAX: usize = 50;

/// The version of Kubernetes that this node speaks, with ours behind.
const VERSION: &str = concat!("v1.36.0+corral-", env!("CARGO_PKG_VERSION"));

/// Tells kube-apiserver that this node takes WebSockets of `exec`, `attach` and `portforward` as they are; it would make
/// SPDY of them otherwise, which the node does not speak.
const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";

/// What a node is registered with.
pub struct Settings {
    /// The port of the node's own API.
    pub server_port: u16,
    /// Labels beyond the standard ones.
    pub labels: BTreeMap<String, String>,
}

/// Keeps the Node object until shutdown; `wakes` asks for a look at once.
pub async fn run(
    node: Arc<Node>,
    settings: Settings,
    mut wakes: watch::Receiver<()>,
    shutdown: CancellationToken,
) {
    let api: Api<NodeObject> = Api::all(node.client.clone());
    let mut written: Option<(NodeStatus, tokio::time::Instant)> = None;
    loop {
        let due = written
            .as_ref()
            .is_none_or(|(_, at)| at.elapsed() >= REPORT);
        let outcome = keep(
            &api,
            &node,
            &settings,
            written.as_ref().map(|(status, _)| status),
            due,
        )
        .await;
        let wait = match outcome {
            Ok(Some(status)) => {
                written = Some((status, tokio::time::Instant::now()));
                CHECK
            }
            Ok(None) => CHECK,
            Err(error) => {
                tracing::debug!(%error, "the node's status was not written");
                written = None;
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = wakes.changed() => {
                written = None;
                if changed.is_err() {
                    return;
                }
            }
            () = shutdown.cancelled() => return,
        }
    }
}

async fn keep(
    api: &Api<NodeObject>,
    node: &Node,
    settings: &Settings,
    before: Option<&NodeStatus>,
    due: bool,
) -> Result<Option<NodeStatus>, kube::Error> {
    let now = Timestamp::now();
    let status = status(node, settings, before, now);
    if !due && before.is_some_and(|before| same(before, &status)) {
        return Ok(None);
    }
    let found = match api.get_opt(&node.name).await? {
        Some(found) => found,
        None => {
            api.create(&PostParams::default(), &object(node, settings))
                .await?
        }
    };
    let wanted = labels(node, settings);
    let have = found.metadata.labels.clone().unwrap_or_default();
    if wanted
        .iter()
        .any(|(key, value)| have.get(key) != Some(value))
    {
        let patch = json!({"metadata": {"labels": wanted}});
        api.patch(&node.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    let mut status = status;
    if before.is_none() {
        // After a restart, conditions that have not changed keep their times.
        keep_transitions(&mut status, found.status.as_ref());
    }
    let mut body = serde_json::to_value(&status).unwrap_or_default();
    body["conditions"] = merged_conditions(&status, found.status.as_ref());
    let patch = json!({"status": body});
    api.patch_status(&node.name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(Some(status))
}

fn same(before: &NodeStatus, now: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    plain(before) == plain(now)
}

fn keep_transitions(status: &mut NodeStatus, old: Option<&NodeStatus>) {
    let old = old
        .and_then(|old| old.conditions.clone())
        .unwrap_or_default();
    for condition in status.conditions.iter_mut().flatten() {
        let earlier = old
            .iter()
            .find(|old| old.type_ == condition.type_ && old.status == condition.status);
        if let Some(earlier) = earlier {
            condition.last_transition_time = earlier.last_transition_time.clone();
        }
    }
}

/// Our conditions and those of others.
fn merged_conditions(status: &NodeStatus, old: Option<&NodeStatus>) -> serde_json::Value {
    let ours = status.conditions.clone().unwrap_or_default();
    let foreign = old
        .and_then(|old| old.conditions.clone())
        .unwrap_or_default();
    let foreign = foreign
        .into_iter()
        .filter(|old| !ours.iter().any(|our| our.type_ == old.type_));
    json!(foreign.chain(ours.clone()).collect::<Vec<_>>())
}

fn labels(node: &Node, settings: &Settings) -> BTreeMap<String, String> {
    let architecture = crate::images::pack::architecture();
    let mut labels = settings.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", node.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn object(node: &Node, settings: &Settings) -> NodeObject {
    let mut object = NodeObject {
        spec: Some(NodeSpec::default()),
        ..NodeObject::default()
    };
    object.metadata.name = Some(node.name.clone());
    object.metadata.labels = Some(labels(node, settings));
    object
}

fn status(
    node: &Node,
    settings: &Settings,
    before: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let capacity = &node.capacity;
    let resources: BTreeMap<_, _> = [
        ("cpu", Quantity::millis(capacity.milli_cpu)),
        ("memory", Quantity::bytes(capacity.memory)),
        ("ephemeral-storage", Quantity::bytes(capacity.disk)),
        ("pods", Quantity::units(capacity.pods)),
        ("hugepages-1Gi", Quantity::units(0)),
        ("hugepages-2Mi", Quantity::units(0)),
    ]
    .into_iter()
    .map(|(name, quantity)| (name.to_owned(), quantity.to_wire()))
    .collect();
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.to_owned(),
        address,
    };
    let mut addresses: Vec<NodeAddress> = node
        .addresses
        .iter()
        .map(|ip| address("InternalIP", ip.to_string()))
        .collect();
    addresses.push(address("Hostname", node.name.clone()));
    NodeStatus {
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        addresses: Some(addresses),
        conditions: Some(conditions(node, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(settings.server_port),
            }),
        }),
        node_info: Some(info()),
        images: Some(images(node)),
        declared_features: Some(vec![WEBSOCKETS.to_owned()]),
        ..NodeStatus::default()
    }
}

fn conditions(node: &Node, before: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let shown = node.pressure.borrow().clone();
    let memory = shown.contains(&Condition::Memory);
    let disk = shown.contains(&Condition::Disk);
    let list = [
        (
            "MemoryPressure",
            memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "insufficient memory available",
            "sufficient memory available",
        ),
        (
            "DiskPressure",
            disk,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            "disk pressure",
            "no disk pressure",
        ),
        (
            "PIDPressure",
            false,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "insufficient PID available",
            "sufficient PID available",
        ),
    ];
    let pressure = list.into_iter().map(
        |(kind, bad, bad_reason, good_reason, bad_text, good_text)| {
            let (reason, text) = match bad {
                true => (bad_reason, bad_text),
                false => (good_reason, good_text),
            };
            (kind, bad, reason, format!("kubelet has {text}"))
        },
    );
    let ready = (
        "Ready",
        true,
        "KubeletReady",
        "kubelet is posting ready status".to_owned(),
    );
    pressure
        .chain([ready])
        .map(|(kind, status, reason, message)| {
            let status = if status { "True" } else { "False" };
            let old = before.and_then(|before| {
                before
                    .conditions
                    .as_ref()?
                    .iter()
                    .find(|old| old.type_ == kind)
            });
            let since = old
                .filter(|old| old.status == status)
                .and_then(|old| old.last_transition_time.clone());
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(Time(truncate_to_seconds(now))),
                last_transition_time: since.or(Some(Time(truncate_to_seconds(now)))),
            }
        })
        .collect()
}

fn info() -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: crate::images::pack::architecture().to_owned(),
        boot_id: machine::line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("corral://", env!("CARGO_PKG_VERSION")).to_owned(),
        kernel_version: machine::kernel(),
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.to_owned(),
        machine_id: machine::line("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: machine::os_image(),
        system_uuid: machine::line("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

fn images(node: &Node) -> Vec<ContainerImage> {
    let mut images: Vec<ContainerImage> = node
        .images
        .store()
        .list()
        .into_iter()
        .map(|image| ContainerImage {
            names: Some(image.names),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect();
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images.truncate(IMAGES_MAX);
    images
}
