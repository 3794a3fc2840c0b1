//! The node daemon: registers the node, keeps it alive in the cluster's eyes, and runs its pods.
//!
//! Workers are started from what is on disk before the API server is asked for anything, so a node that comes up
//! without a server keeps its pods. The list of pods from the API then starts what is new and ends what is gone.
//!
//! Reading order: [`Agent::run`], [`registration`] (the Node object), [`heartbeat`] (its Lease), [`follow`] (watches),
//! [`housekeeping`] (its images), [`pressure`] (what is done when it runs short).

pub mod follow;
pub mod heartbeat;
pub mod housekeeping;
pub mod pressure;
pub mod registration;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use corral_api::k8s::api::core::v1::{Node as NodeObject, Pod, Service};
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroups;
use crate::events::Events;
use crate::images::Images;
use crate::machine;
use crate::network::PodNetwork;
use crate::node::{Node, uid};
use crate::objects::Objects;
use crate::pod::{Event, State, Teardown};
use crate::runtime::ContainerRuntime;
use crate::runtime::shim::{ShimConfig, ShimRuntime};
use crate::volumes::Volumes;
use crate::worker::{self, Handle, PodView};

use follow::Change;
use housekeeping::Housekeeping;

/// How a node is set up.
pub struct AgentConfig {
    /// The node's name.
    pub node_name: String,
    /// Where pods, images and logs live; different nodes on one machine need different ones.
    pub data_dir: PathBuf,
    /// A short name for this cluster on this machine: cgroups of different clusters do not meet.
    pub cluster_id: String,
    /// The API.
    pub client: Client,
    /// The program and arguments that run a shim.
    pub shim_command: Vec<String>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// The node's addresses.
    pub addresses: Vec<IpAddr>,
    /// The port of the node's own API.
    pub server_port: u16,
    /// Registries to speak to without TLS.
    pub insecure_registries: Vec<String>,
    /// Labels beyond the standard ones.
    pub labels: std::collections::BTreeMap<String, String>,
    /// How the disk is kept in order.
    pub housekeeping: Housekeeping,
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used.
    #[error("cannot use the data directory")]
    Data(#[source] std::io::Error),
    /// The image store cannot be opened.
    #[error("cannot open the image store")]
    Images(#[source] crate::images::Error),
}

/// The pods of this node as its API shows them.
#[derive(Clone, Default)]
pub struct Views {
    /// Guards the map from uid to what the worker decided; held only to look up or replace.
    map: Arc<RwLock<HashMap<String, Shown>>>,
}

/// A pod as others see it, and where they may tell its worker something.
struct Shown {
    view: watch::Receiver<PodView>,
    reports: mpsc::Sender<Event>,
}

impl Views {
    /// All pods.
    pub fn all(&self) -> Vec<PodView> {
        let map = self
            .map
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        map.values()
            .map(|shown| shown.view.borrow().clone())
            .collect()
    }

    /// The pod of that name; a changing view.
    pub fn find(
        &self,
        namespace: &str,
        name: &str,
        wanted_uid: Option<&str>,
    ) -> Option<watch::Receiver<PodView>> {
        let map = self
            .map
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let fits = |view: &&watch::Receiver<PodView>| {
            let pod = view.borrow().pod.clone();
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.metadata.name.as_deref() == Some(name)
                && wanted_uid.is_none_or(|wanted| pod.metadata.uid.as_deref() == Some(wanted))
        };
        map.values().map(|shown| &shown.view).find(fits).cloned()
    }

    /// Whether a pod is there that was not yet taken apart.
    fn holds(&self, uid: &str) -> bool {
        let map = self
            .map
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        map.get(uid).is_some_and(|shown| {
            let teardown = shown.view.borrow().state.teardown;
            matches!(teardown, Teardown::No | Teardown::Running)
        })
    }

    /// Tells a pod's worker what happened; false if there is none.
    async fn tell(&self, uid: &str, event: Event) -> bool {
        let reports = {
            let map = self
                .map
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            map.get(uid).map(|shown| shown.reports.clone())
        };
        match reports {
            Some(reports) => reports.send(event).await.is_ok(),
            None => false,
        }
    }

    fn insert(&self, uid: String, shown: Shown) {
        self.map
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(uid, shown);
    }

    fn remove(&self, uid: &str) {
        self.map
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(uid);
    }
}

/// A node daemon.
pub struct Agent {
    node: Arc<Node>,
    views: Views,
    workers: HashMap<String, Handle>,
    services: watch::Sender<Arc<Vec<Service>>>,
    sender: tokio::task::JoinHandle<()>,
    server_port: u16,
    labels: std::collections::BTreeMap<String, String>,
}

impl Agent {
    /// Opens the node's data. Must be called inside a tokio runtime.
    pub fn new(config: AgentConfig) -> Result<Self, Error> {
        let AgentConfig {
            node_name,
            data_dir,
            cluster_id,
            client,
            shim_command,
            network,
            addresses,
            server_port,
            insecure_registries,
            labels,
            housekeeping,
        } = config;
        std::fs::create_dir_all(&data_dir).map_err(Error::Data)?;
        let data_dir = data_dir.canonicalize().map_err(Error::Data)?;
        let pods_dir = data_dir.join("pods");
        std::fs::create_dir_all(&pods_dir).map_err(Error::Data)?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        // Pods' directories hold secrets; nobody but root has business there.
        std::fs::set_permissions(&pods_dir, private).map_err(Error::Data)?;
        let images =
            Images::open(&data_dir.join("images"), insecure_registries).map_err(Error::Images)?;
        let cgroups = Cgroups::new(&cluster_id);
        let runtime: Arc<dyn ContainerRuntime> = Arc::new(ShimRuntime::new(ShimConfig {
            command: shim_command,
            pods_dir: pods_dir.clone(),
            cgroups: cgroups.clone(),
        }));
        let (events, sending) = Events::new(client.clone(), &node_name);
        let sender = tokio::spawn(sending);
        let (services, services_receiver) = watch::channel(Arc::new(Vec::new()));
        let objects = Objects::new(client.clone());
        let node = Arc::new(Node {
            name: node_name,
            capacity: machine::capacity(&data_dir),
            data_dir,
            pods_dir,
            volumes: Volumes::new(objects.clone()),
            objects,
            client,
            runtime,
            network,
            images,
            cgroups,
            events,
            addresses,
            housekeeping,
            pressure: watch::channel(Vec::new()).0,
            measuring: tokio::sync::Semaphore::new(1),
            services: services_receiver,
        });
        Ok(Self {
            node,
            views: Views::default(),
            workers: HashMap::new(),
            services,
            sender,
            server_port,
            labels,
        })
    }

    /// What the node's API serves from.
    pub fn shared(&self) -> (Arc<Node>, Views) {
        (self.node.clone(), self.views.clone())
    }

    /// Runs until `shutdown`. Containers go on running; the next agent on this data directory takes them up.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.start_kept(&shutdown);
        let node = self.node.clone();
        let selector = format!("spec.nodeName={}", node.name);
        let mut pods = follow::follow::<Pod>(node.client.clone(), Some(selector), shutdown.clone());
        let mut services = follow::follow::<Service>(node.client.clone(), None, shutdown.clone());
        let own = format!("metadata.name={}", node.name);
        let mut objects =
            follow::follow::<NodeObject>(node.client.clone(), Some(own), shutdown.clone());
        let (wake_status, status_wakes) = watch::channel(());
        let registration = tokio::spawn(registration::run(
            node.clone(),
            registration::Settings {
                server_port: self.server_port,
                labels: self.labels.clone(),
            },
            status_wakes,
            shutdown.clone(),
        ));
        let heartbeat = tokio::spawn(heartbeat::run(node.clone(), shutdown.clone()));
        let images = housekeeping::run(node.clone(), self.views.clone(), shutdown.clone());
        let images = tokio::spawn(images);
        let pressure = pressure::run(
            node.clone(),
            self.views.clone(),
            wake_status.clone(),
            shutdown.clone(),
        );
        let pressure = tokio::spawn(pressure);
        let mut known_services = HashMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(change) = pods.recv() => self.pods_changed(change, &shutdown),
                Some(change) = services.recv() => {
                    follow::take(&mut known_services, change);
                    self.services.send_replace(Arc::new(known_services.values().cloned().collect()));
                }
                Some(change) = objects.recv() => {
                    // Somebody deleted the node: it comes back as long as its daemon runs.
                    if matches!(change, Change::Deleted(_)) {
                        wake_status.send_replace(());
                    }
                }
            }
            self.forget_finished();
        }
        let workers: Vec<Handle> = self.workers.drain().map(|(_, handle)| handle).collect();
        for handle in workers {
            let _ = handle.task.await;
        }
        let _ = registration.await;
        let _ = heartbeat.await;
        let _ = images.await;
        let _ = pressure.await;
        self.sender.abort();
    }

    /// Starts a worker for every pod that is on disk.
    fn start_kept(&mut self, shutdown: &CancellationToken) {
        for entry in std::fs::read_dir(&self.node.pods_dir)
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let pod: Option<Pod> = read(&worker::pod_path(&self.node, &name));
            let state: Option<State> = read(&worker::state_path(&self.node, &name));
            match (pod, state) {
                (Some(pod), Some(state)) => self.start(Arc::new(pod), Some(state), shutdown),
                _ => self.discard(name),
            }
        }
    }

    /// Cleans up a directory that says too little to be run.
    fn discard(&self, uid: String) {
        let node = self.node.clone();
        tokio::spawn(async move {
            tracing::warn!(pod = uid, "a pod's directory is incomplete and is removed");
            if let Err(error) = node.runtime.remove_sandbox(&uid).await {
                tracing::warn!(pod = uid, %error, "a sandbox was not removed");
            }
            worker::remove_files(&node, &uid);
            let _ = std::fs::remove_dir_all(node.pod_dir(&uid));
        });
    }

    fn start(&mut self, pod: Arc<Pod>, state: Option<State>, shutdown: &CancellationToken) {
        let uid = uid(&pod);
        let handle = worker::spawn(self.node.clone(), pod, state, shutdown.clone());
        let shown = Shown {
            view: handle.view.clone(),
            reports: handle.reports.clone(),
        };
        self.views.insert(uid.clone(), shown);
        self.workers.insert(uid, handle);
    }

    fn pods_changed(&mut self, change: Change<Pod>, shutdown: &CancellationToken) {
        match change {
            Change::Listed(pods) => {
                let present: BTreeSet<String> = pods.iter().map(uid).collect();
                for pod in pods {
                    self.update(pod, shutdown);
                }
                for (uid, handle) in &self.workers {
                    if !present.contains(uid) {
                        handle.pod.send_replace(None);
                    }
                }
            }
            Change::Applied(pod) => self.update(pod, shutdown),
            Change::Deleted(pod) => {
                if let Some(handle) = self.workers.get(&uid(&pod)) {
                    handle.pod.send_replace(None);
                }
            }
        }
    }

    fn update(&mut self, pod: Pod, shutdown: &CancellationToken) {
        let pod = Arc::new(pod);
        if let Some(handle) = self.workers.get(&uid(&pod)) {
            handle.pod.send_replace(Some(pod));
            return;
        }
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        if over && pod.metadata.deletion_timestamp.is_none() {
            // It ran and ended here before this data directory existed; running it again would be wrong.
            return;
        }
        let state = over.then(|| {
            let mut state = State::new(&pod, jiff::Timestamp::now());
            state.teardown = Teardown::Done;
            state
        });
        self.start(pod, state, shutdown);
    }

    fn forget_finished(&mut self) {
        let views = &self.views;
        self.workers.retain(|uid, handle| {
            let running = !handle.task.is_finished();
            if !running {
                views.remove(uid);
            }
            running
        });
    }
}

/// How long killed processes may take to leave their cgroups.
const CGROUPS_EMPTY_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// How often it is tried again.
const CGROUPS_LOOK_PERIOD: std::time::Duration = std::time::Duration::from_millis(50);

/// Ends every pod of a data directory and removes what the node left on the machine, for `corral down`.
///
/// No agent may run on the directory. Logs and images stay.
pub async fn stop_all(
    data_dir: &std::path::Path,
    cluster_id: &str,
    shim_command: Vec<String>,
) -> Result<usize, Error> {
    let data_dir = data_dir.canonicalize().map_err(Error::Data)?;
    let pods_dir = data_dir.join("pods");
    let cgroups = Cgroups::new(cluster_id);
    let config = ShimConfig {
        command: shim_command,
        pods_dir: pods_dir.clone(),
        cgroups: cgroups.clone(),
    };
    let runtime = ShimRuntime::new(config);
    let mut count = 0;
    for entry in std::fs::read_dir(&pods_dir).into_iter().flatten().flatten() {
        let Ok(uid) = entry.file_name().into_string() else {
            continue;
        };
        if let Err(error) = runtime.remove_sandbox(&uid).await {
            tracing::warn!(pod = uid, %error, "a sandbox was not removed");
        }
        worker::remove_on_disk(&entry.path(), &cgroups, &uid);
        // The pods are the API's to remember: the next start makes them anew.
        for name in ["state.json", "pod.json"] {
            let _ = std::fs::remove_file(entry.path().join(name));
        }
        count += 1;
    }
    // Killed processes leave their cgroups a moment later, and a cgroup with processes cannot be removed.
    let deadline = tokio::time::Instant::now() + CGROUPS_EMPTY_MAX;
    while let Err(error) = cgroups.remove_all() {
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::Data(error));
        }
        tokio::time::sleep(CGROUPS_LOOK_PERIOD).await;
    }
    Ok(count)
}

fn read<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
