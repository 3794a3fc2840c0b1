//! What every pod's worker shares: the runtime, the network, images, and facts about the machine.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use corral_api::k8s::api::core::v1::{Pod, Service};
use kube::Client;
use tokio::sync::watch;

use crate::agent::housekeeping::Housekeeping;
use crate::cgroup::Cgroups;
use crate::env::Facts;
use crate::events::Events;
use crate::eviction::Condition;
use crate::images::Images;
use crate::network::PodNetwork;
use crate::objects::Objects;
use crate::runtime::ContainerRuntime;
use crate::volumes::Volumes;

/// Shared by all workers of a node.
pub struct Node {
    /// The node's name.
    pub name: String,
    /// The data directory, hidden from containers on the machine's own root.
    pub data_dir: PathBuf,
    /// The directory of all pods.
    pub pods_dir: PathBuf,
    /// The API.
    pub client: Client,
    /// Objects that pods refer to.
    pub objects: Objects,
    /// Volumes.
    pub volumes: Volumes,
    /// Containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// Images.
    pub images: Images,
    /// Cgroups.
    pub cgroups: Cgroups,
    /// Event recorder.
    pub events: Events,
    /// The node's addresses.
    pub addresses: Vec<IpAddr>,
    /// CPUs and memory for pods.
    pub capacity: Capacity,
    /// How the node keeps its disk in order.
    pub housekeeping: Housekeeping,
    /// What the machine is short of; the node shows it and takes fewer pods on.
    pub pressure: watch::Sender<Vec<Condition>>,
    /// Whose turn it is to measure a pod's disk usage.
    pub measuring: tokio::sync::Semaphore,
    /// Services, for environment variables.
    pub services: watch::Receiver<Arc<Vec<Service>>>,
}

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of disk where pods live.
    pub disk: i64,
    /// Number of pods.
    pub pods: i64,
}

impl Node {
    /// The directory of a pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir.join(uid)
    }

    /// The node's addresses as the API writes them.
    pub fn host_ips(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    /// What a pod may ask about its surroundings.
    pub fn facts(&self, pod_ips: &[String]) -> Facts {
        Facts {
            node_name: self.name.clone(),
            host_ips: self.host_ips(),
            pod_ips: pod_ips.to_vec(),
            allocatable_milli_cpu: self.capacity.milli_cpu,
            allocatable_memory: self.capacity.memory,
            allocatable_disk: self.capacity.disk,
        }
    }

    /// Where a container instance writes its log.
    pub fn log_path(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(uid)
            .join("logs")
            .join(container)
            .join(format!("{attempt}.log"))
    }
}

/// A pod's uid; every pod of the API has one.
pub fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}
