//! A data directory, an agent on it, and the fake API server; with questions and commands for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use corral_nodelet::agent::housekeeping::Housekeeping;
use corral_nodelet::eviction::Readings;
use corral_nodelet::network::{Error, NoNetwork, PodAddresses, PodIdentity, PodNetwork, Resolver};
use corral_nodelet::node::Node;
use corral_nodelet::{Agent, AgentConfig, Views};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fake_api::FakeApi;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// No network, in a cluster that has a domain.
struct NamedNetwork;

#[async_trait::async_trait]
impl PodNetwork for NamedNetwork {
    async fn attach(&self, pod: &PodIdentity, netns: &Path) -> Result<PodAddresses, Error> {
        NoNetwork.attach(pod, netns).await
    }

    async fn adopt(
        &self,
        pod: &PodIdentity,
        netns: &Path,
        addresses: &PodAddresses,
    ) -> Result<(), Error> {
        NoNetwork.adopt(pod, netns, addresses).await
    }

    async fn detach(&self, pod: &PodIdentity) -> Result<(), Error> {
        NoNetwork.detach(pod).await
    }

    fn resolver(&self) -> Resolver {
        Resolver {
            domain: "cluster.test".into(),
            ..Resolver::default()
        }
    }
}

/// A machine that has enough of everything, whatever the real one has.
pub fn plenty() -> Housekeeping {
    Housekeeping {
        readings: Arc::new(|_, _| Readings::default()),
        ..Housekeeping::default()
    }
}

pub struct Scenario {
    pub api: FakeApi,
    directory: tempfile::TempDir,
    cluster: String,
    agent: Option<(JoinHandle<()>, CancellationToken)>,
    shared: Option<(Arc<Node>, Views)>,
    housekeeping: Housekeeping,
}

impl Scenario {
    pub async fn new(name: &str) -> Self {
        Self::with(name, plenty()).await
    }

    pub async fn with(name: &str, housekeeping: Housekeeping) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .try_init();
        let directory = tempfile::tempdir().expect("temporary directory");
        let cluster = format!("nodetest-{}-{name}", std::process::id());
        let mut scenario = Self {
            api: FakeApi::new(),
            directory,
            cluster,
            agent: None,
            shared: None,
            housekeeping,
        };
        scenario.start_agent().await;
        scenario
    }

    fn shim() -> Vec<String> {
        vec![env!("CARGO_BIN_EXE_corral-nodelet-shim").to_owned()]
    }

    pub async fn start_agent(&mut self) {
        let shutdown = CancellationToken::new();
        let agent = Agent::new(AgentConfig {
            node_name: "n1".into(),
            data_dir: self.directory.path().to_owned(),
            cluster_id: self.cluster.clone(),
            client: self.api.client(),
            shim_command: Self::shim(),
            network: Arc::new(NamedNetwork),
            addresses: vec![[127, 0, 0, 1].into()],
            server_port: 10250,
            insecure_registries: vec![],
            labels: Default::default(),
            housekeeping: self.housekeeping.clone(),
        })
        .expect("an agent");
        self.shared = Some(agent.shared());
        let task = tokio::spawn(agent.run(shutdown.clone()));
        self.agent = Some((task, shutdown));
    }

    pub fn shared(&self) -> (Arc<Node>, Views) {
        self.shared.clone().expect("an agent was started")
    }

    pub async fn stop_agent(&mut self) {
        if let Some((task, shutdown)) = self.agent.take() {
            shutdown.cancel();
            tokio::time::timeout(PATIENCE, task)
                .await
                .expect("the agent stops")
                .expect("without a panic");
        }
    }

    pub async fn finish(mut self) {
        self.stop_agent().await;
        corral_nodelet::agent::stop_all(self.directory.path(), &self.cluster, Self::shim())
            .await
            .expect("cleaned up");
        let info = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let mine = self.directory.path().to_string_lossy().into_owned();
        assert!(!info.contains(&mine), "mounts are left behind: {info}");
    }

    pub fn create(&self, mut pod: Value) {
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        pod["spec"]["nodeName"] = json!("n1");
        pod["status"] = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        self.api.put("pods", &name, pod);
    }

    pub fn put(&self, resource: &str, name: &str, object: Value) {
        self.api.put(resource, name, object);
    }

    pub fn get(&self, name: &str) -> Option<Value> {
        self.api.get("pods", name)
    }

    pub fn delete(&self, name: &str, grace: i64) {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
        let marked = self.api.change("pods", name, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(at.to_string());
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            true
        });
        assert!(marked.is_some(), "{name} is there");
    }

    pub async fn wait_for(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let pod = self.get(name).unwrap_or(Value::Null);
            if wanted(&pod) {
                return pod;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{name} is not what it should be: {pod:#}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait_until(&self, what: &str, wanted: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !wanted() {
            assert!(tokio::time::Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait_gone(&self, name: &str) {
        self.wait_for(name, Value::is_null).await;
    }

    pub fn pod_dir(&self, name: &str) -> PathBuf {
        let uid = self.get(name).expect("there")["metadata"]["uid"]
            .as_str()
            .expect("a uid")
            .to_owned();
        self.directory.path().join("pods").join(uid)
    }

    pub fn log_path(&self, name: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(name)
            .join("logs")
            .join(container)
            .join(format!("{attempt}.log"))
    }

    pub fn log(&self, name: &str, container: &str, attempt: u32) -> String {
        std::fs::read_to_string(self.log_path(name, container, attempt)).unwrap_or_default()
    }

    pub async fn wait_for_log(
        &self,
        name: &str,
        container: &str,
        attempt: u32,
        text: &str,
    ) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let log = self.log(name, container, attempt);
            if log.contains(text) {
                return log;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{text:?} never appears: {log} {:#?}",
                self.get(name)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The process ids of this scenario's shims.
    fn shims(&self) -> Vec<i32> {
        let mine = self.directory.path().to_string_lossy().into_owned();
        let entries = std::fs::read_dir("/proc").expect("processes").flatten();
        let all: Vec<i32> = entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                line.contains("corral-nodelet-shim") && line.contains(&mine)
            })
            .filter(|pid| std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok())
            .collect();
        // A shim forks for each operation; such a child looks the same but is none.
        let parent = |pid: i32| -> Option<i32> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(')')
                .next()?
                .split_whitespace()
                .nth(1)?
                .parse()
                .ok()
        };
        let is_child = |pid: &i32| parent(*pid).is_some_and(|parent| all.contains(&parent));
        all.iter().copied().filter(|pid| !is_child(pid)).collect()
    }

    pub fn running_shims(&self) -> usize {
        self.shims().len()
    }

    pub fn kill_shims(&self) {
        for pid in self.shims() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

impl Drop for Scenario {
    /// After a failed test: nothing of it may live on.
    fn drop(&mut self) {
        use corral_shim::cgroup::{hierarchy, signal_all};
        if !std::thread::panicking() {
            return;
        }
        self.kill_shims();
        let (hierarchy, root) = (hierarchy(), format!("/corral-{}", self.cluster));
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while std::time::Instant::now() < deadline {
            match signal_all(hierarchy, &root, nix::sys::signal::Signal::SIGKILL) {
                Ok(0) | Err(_) => break,
                Ok(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        let _ = corral_nodelet::volumes::unmount_below(self.directory.path());
        let _ = corral_nodelet::cgroup::Cgroups::new(&self.cluster).remove_all();
    }
}
