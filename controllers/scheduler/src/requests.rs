//! What a pod asks of a node, computed once per pod.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use corral_api::k8s::api::core::v1::{Container, Pod, PodSpec};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use corral_api::quantity::Quantity;
use corral_runtime::ObjectKey;
use jiff::Timestamp;

/// What a container without requests counts as in scores, so that such pods spread, too.
const CPU_DEFAULT_MILLIS: i64 = 100;
const MEMORY_DEFAULT_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of resources; the frequent ones in fields of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Requests {
    /// CPU in thousandths.
    pub cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Local disk in bytes.
    pub ephemeral: i64,
    /// Everything else by name.
    pub extended: BTreeMap<String, i64>,
}

impl Requests {
    /// Reads a resource list.
    pub fn read(list: Option<&BTreeMap<String, WireQuantity>>) -> Self {
        let mut requests = Self::default();
        for (name, amount) in list.into_iter().flatten() {
            // The API has validated the quantity; one that cannot be read counts as nothing.
            let Ok(amount) = Quantity::from_wire(amount) else {
                continue;
            };
            match name.as_str() {
                "cpu" => requests.cpu = amount.milli_value(),
                "memory" => requests.memory = amount.value(),
                "ephemeral-storage" => requests.ephemeral = amount.value(),
                "pods" => {}
                _ => drop(requests.extended.insert(name.clone(), amount.value())),
            }
        }
        requests
    }

    /// Adds, or with `sign` −1 takes away.
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.cpu = self.cpu.saturating_add(sign * other.cpu);
        self.memory = self.memory.saturating_add(sign * other.memory);
        self.ephemeral = self.ephemeral.saturating_add(sign * other.ephemeral);
        for (name, amount) in &other.extended {
            let known = self.extended.entry(name.clone()).or_insert(0);
            *known = known.saturating_add(sign * amount);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.extended {
            let known = self.extended.entry(name.clone()).or_insert(0);
            *known = (*known).max(*amount);
        }
    }
}

fn of_container(container: &Container, with_defaults: bool) -> Requests {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let mut read = Requests::read(requests);
    if with_defaults {
        let names = |name: &str| requests.is_some_and(|requests| requests.contains_key(name));
        if !names("cpu") {
            read.cpu = CPU_DEFAULT_MILLIS;
        }
        if !names("memory") {
            read.memory = MEMORY_DEFAULT_BYTES;
        }
    }
    read
}

/// The most that a pod needs at any time: the sum of its containers and sidecars, or an init container beside the
/// sidecars started before it, whichever is more; pod-level requests stand instead; overhead on top.
fn of_pod(spec: &PodSpec, with_defaults: bool) -> Requests {
    let mut total = Requests::default();
    for container in &spec.containers {
        total.add(&of_container(container, with_defaults), 1);
    }
    let (mut sidecars, mut init_peak) = (Requests::default(), Requests::default());
    for container in spec.init_containers.iter().flatten() {
        let requests = of_container(container, with_defaults);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&requests, 1);
            init_peak.raise_to(&sidecars);
        } else {
            let mut together = sidecars.clone();
            together.add(&requests, 1);
            init_peak.raise_to(&together);
        }
    }
    total.add(&sidecars, 1);
    total.raise_to(&init_peak);
    if let Some(requests) = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
    {
        let whole = Requests::read(Some(requests));
        if requests.contains_key("cpu") {
            total.cpu = whole.cpu;
        }
        if requests.contains_key("memory") {
            total.memory = whole.memory;
        }
        total.extended.extend(whole.extended);
    }
    total.add(&Requests::read(spec.overhead.as_ref()), 1);
    total
}

/// A port of the machine that a pod occupies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The address, `0.0.0.0` for all.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be on one machine.
    pub fn conflicts(&self, other: &Self) -> bool {
        let overlap = self.address == other.address
            || self.address == "0.0.0.0"
            || other.address == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && overlap
    }
}

fn ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let held = all.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.clone().filter(|address| !address.is_empty());
        Some(HostPort {
            address: address.unwrap_or_else(|| "0.0.0.0".into()),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port: number,
        })
    });
    held.collect()
}

/// A pod with everything that scheduling asks about it.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The uid.
    pub uid: String,
    /// The object.
    pub pod: Arc<Pod>,
    /// What it needs.
    pub requests: Requests,
    /// What it counts as in scores.
    pub scored: Requests,
    /// The machine's ports that it occupies.
    pub ports: Vec<HostPort>,
    /// Higher goes first.
    pub priority: i32,
    /// Older goes first.
    pub created: Timestamp,
    /// Pods of one class fit on the same nodes equally well.
    pub class: u64,
}

impl PodInfo {
    /// Computes what there is to know.
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let (requests, ports) = (of_pod(&spec, false), ports(&spec));
        let scored = of_pod(&spec, true);
        let class = class_of(&spec, &requests, &scored, &ports);
        let created = pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        Self {
            key: ObjectKey::of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            requests,
            scored,
            ports,
            priority: spec.priority.unwrap_or(0),
            created,
            class,
            pod,
        }
    }

    /// The spec.
    pub fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }
}

/// Everything that filters and scores look at, and nothing else.
fn class_of(spec: &PodSpec, requests: &Requests, scored: &Requests, ports: &[HostPort]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let node_affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let described = serde_json::to_string(&(
        &spec.node_name,
        &spec.node_selector,
        node_affinity,
        &spec.tolerations,
    ));
    described.expect("plain data").hash(&mut hasher);
    (requests, scored, ports).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_count_beside_the_sidecars_before_them() {
        let cpu = |n: &str| json!({"requests": {"cpu": n}});
        let pod: Pod = object(json!({"spec": {
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": cpu("100m")},
                {"name": "init", "resources": cpu("2")},
            ],
            "containers": [{"name": "a", "resources": cpu("500m")}, {"name": "b", "resources": cpu("250m")}],
            "overhead": {"cpu": "10m"},
        }}));
        let info = PodInfo::new(Arc::new(pod));
        assert_eq!(info.requests.cpu, 2110);
        assert_eq!(
            info.scored.memory,
            4 * MEMORY_DEFAULT_BYTES - MEMORY_DEFAULT_BYTES
        );
    }

    #[test]
    fn ports_conflict_on_the_same_or_any_address() {
        let port = |address: &str| HostPort {
            address: address.into(),
            protocol: "TCP".into(),
            port: 80,
        };
        assert!(port("0.0.0.0").conflicts(&port("10.0.0.1")));
        assert!(!port("10.0.0.2").conflicts(&port("10.0.0.1")));
    }
}
