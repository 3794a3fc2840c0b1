//! One task per pod: feeds the machine with events, performs its effects, keeps its state on disk.
//!
//! Effects run as tasks of their own and report back; the worker itself never waits for one, so that it always hears
//! of exits, deletions and probe verdicts. Reading order: [`Worker::run`], [`start`] (a container), [`sandbox`] (the
//! pod around it), [`publish`] (status).

mod image_volume;
pub mod publish;
mod sandbox;
mod start;

pub(crate) use sandbox::{chain, remove_files, remove_on_disk};

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Container, Pod};
use corral_shim::protocol::{ContainerState as ShimContainer, ExitRecord};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::eviction;
use crate::images::PullPolicy;
use crate::node::{Node, uid};
use crate::pod::{
    ContainerState, Effect, Ended, Event, Phase, ProbeKind, Sandbox, State, StopStage, Teardown,
    find,
};
use crate::probes::Target;
use crate::runtime::SandboxState;
use crate::volumes;

/// How many reports may wait for the worker.
const REPORTS_MAX: usize = 64;

/// How often volumes made of objects are rendered again, as kubelets do.
const VOLUME_REFRESH: Duration = Duration::from_secs(60);

/// The most that is kept of a termination message, and of the log that stands in for it.
const TERMINATION_MESSAGE_MAX: usize = 4096;

/// A pod as others of this process see it: for the node's API.
#[derive(Clone)]
pub struct PodView {
    /// The object.
    pub pod: Arc<Pod>,
    /// The machine's state.
    pub state: Arc<State>,
}

/// The agent's end of a worker.
pub struct Handle {
    /// The newest object; `None` when it is gone from the API.
    pub pod: watch::Sender<Option<Arc<Pod>>>,
    /// What the worker last decided.
    pub view: watch::Receiver<PodView>,
    /// Where the worker hears of what happens.
    pub reports: mpsc::Sender<Event>,
    /// The task.
    pub task: tokio::task::JoinHandle<()>,
}

/// Runs one pod.
pub struct Worker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    updates: watch::Receiver<Option<Arc<Pod>>>,
    state: State,
    view: watch::Sender<PodView>,
    reports: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    shim: Option<watch::Receiver<SandboxState>>,
    tasks: JoinSet<()>,
    probes: HashMap<(String, String, ProbeKind), CancellationToken>,
    gone: bool,
}

/// Starts a worker for a pod, from what an earlier process left of it or from nothing.
pub fn spawn(
    node: Arc<Node>,
    pod: Arc<Pod>,
    kept: Option<State>,
    stop: CancellationToken,
) -> Handle {
    let (pod_sender, updates) = watch::channel(Some(pod.clone()));
    let fresh = kept.is_none();
    let state = kept.unwrap_or_else(|| State::new(&pod, Timestamp::now()));
    let (view, view_receiver) = watch::channel(PodView {
        pod: pod.clone(),
        state: Arc::new(state.clone()),
    });
    let (reports, inbox) = mpsc::channel(REPORTS_MAX);
    let to_worker = reports.clone();
    let worker = Worker {
        node,
        pod,
        updates,
        state,
        view,
        reports,
        inbox,
        shim: None,
        tasks: JoinSet::new(),
        probes: HashMap::new(),
        gone: false,
    };
    let spec = worker.pod.spec.clone().unwrap_or_default();
    let refusal = eviction::refusal(&spec, &worker.node.pressure.borrow()).filter(|_| fresh);
    let task = tokio::spawn(worker.run(refusal, stop));
    Handle {
        pod: pod_sender,
        view: view_receiver,
        reports: to_worker,
        task,
    }
}

/// Where a worker keeps its state.
pub fn state_path(node: &Node, uid: &str) -> PathBuf {
    node.pod_dir(uid).join("state.json")
}

/// Where a worker keeps its pod.
pub fn pod_path(node: &Node, uid: &str) -> PathBuf {
    node.pod_dir(uid).join("pod.json")
}

impl Worker {
    async fn run(mut self, refusal: Option<String>, stop: CancellationToken) {
        let uid = uid(&self.pod);
        if let Err(error) = std::fs::create_dir_all(self.node.pod_dir(&uid)) {
            tracing::error!(pod = uid, %error, "cannot make the pod's directory");
        }
        self.keep_pod();
        let watch = crate::disk::watch(self.node.clone(), self.pod.clone(), self.reports.clone());
        self.tasks.spawn(watch);
        self.adopt().await;
        self.step(refusal.map_or(Event::Tick, |message| Event::Refused { message }));
        // Only now: before the first step a pod that is refused looks like one that waits.
        let publisher = tokio::spawn(publish::run(
            self.node.clone(),
            self.view.subscribe(),
            self.updates.clone(),
        ));
        let mut refresh = tokio::time::interval(VOLUME_REFRESH);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.finished() {
            let wake = self.state.wake.map(until);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(event) = self.inbox.recv() => self.take(event).await,
                changed = self.updates.changed() => match changed {
                    Ok(()) => self.updated(),
                    Err(_) => break,
                },
                () = changed(&mut self.shim) => self.shim_changed().await,
                () = sleep(wake), if wake.is_some() => self.step(Event::Tick),
                _ = refresh.tick() => self.refresh_volumes(),
                Some(_) = self.tasks.join_next() => {}
            }
        }
        if self.finished() {
            let _ = std::fs::remove_dir_all(self.node.pod_dir(&uid));
        }
        for cancel in self.probes.values() {
            cancel.cancel();
        }
        publisher.abort();
        // Effects under way end with the process or are found again by their traces; dropping the set stops them.
    }

    /// Nothing is left to do, here or at the API server.
    fn finished(&self) -> bool {
        self.gone && matches!(self.state.teardown, Teardown::Done | Teardown::Released)
    }

    fn updated(&mut self) {
        let newest = self.updates.borrow_and_update().clone();
        match newest {
            Some(pod) => {
                self.pod = pod;
                self.keep_pod();
                self.step(Event::Tick);
            }
            None => {
                self.gone = true;
                self.step(Event::ObjectGone);
            }
        }
    }

    fn keep_pod(&self) {
        keep(&pod_path(&self.node, &uid(&self.pod)), &*self.pod);
    }

    /// Takes up what an earlier process left running.
    async fn adopt(&mut self) {
        let uid = uid(&self.pod);
        if self.state.teardown == Teardown::Running {
            self.state.teardown = Teardown::No;
        }
        if self.state.teardown == Teardown::Released {
            self.state.teardown = Teardown::Done;
        }
        if let Sandbox::Creating(failures) = self.state.sandbox {
            let retry_at = Timestamp::now();
            self.state.sandbox = Sandbox::Failed {
                message: "interrupted".into(),
                retry_at,
                failures,
            };
        }
        for container in &mut self.state.containers {
            // Each stage is kept before it is done: whether the signal was sent is not known.
            if let Some(stop) = &mut container.stop {
                stop.stage = StopStage::Requested;
            }
        }
        let Sandbox::Ready(addresses) = self.state.sandbox.clone() else {
            for container in &mut self.state.containers {
                if container.phase == Phase::Starting {
                    container.phase = Phase::Waiting { problem: None };
                }
            }
            return;
        };
        self.watch_shim().await;
        let started = self.started_meanwhile().await;
        if let Err(error) = sandbox::adopt(&self.node, &self.pod, &addresses).await {
            tracing::warn!(pod = uid, %error, "the pod's network was not adopted");
        }
        for event in started {
            self.step(event);
        }
        self.shim_changed().await;
    }

    /// What the earlier process did not live to report: the containers that it started. Those that it was about to
    /// start wait again.
    async fn started_meanwhile(&mut self) -> Vec<Event> {
        let known = self.shim_containers();
        let mut events = Vec::new();
        for container in &mut self.state.containers {
            if container.phase != Phase::Starting {
                continue;
            }
            let id = format!("{}-{}", container.name, container.attempt.saturating_sub(1));
            let found = known
                .iter()
                .find(|found| found.id == id)
                .and_then(|found| found.started_at.clone());
            let Some(at) = found else {
                container.phase = Phase::Waiting { problem: None };
                continue;
            };
            let images = &self.node.images;
            let image = images
                .ensure(&container.image, PullPolicy::Never, &[])
                .await;
            // The container runs whatever became of its image's name.
            let (image, image_id) = match image {
                Ok(image) => (image.name, image.id),
                Err(_) => (container.image.clone(), container.image_id.clone()),
            };
            events.push(Event::Started {
                name: container.name.clone(),
                id,
                image,
                image_id,
                at: time(&at),
            });
        }
        events
    }

    async fn watch_shim(&mut self) {
        match self.node.runtime.watch(&uid(&self.pod)).await {
            Ok(receiver) => self.shim = Some(receiver),
            Err(error) => tracing::warn!(pod = uid(&self.pod), %error, "cannot watch the shim"),
        }
    }

    fn shim_containers(&self) -> Vec<ShimContainer> {
        match self.shim.as_ref().map(|shim| shim.borrow().clone()) {
            Some(SandboxState::Alive(containers)) => containers,
            _ => Vec::new(),
        }
    }

    async fn take(&mut self, event: Event) {
        let ready = matches!(event, Event::SandboxReady(_));
        let started = matches!(event, Event::Started { .. });
        self.step(event);
        if ready {
            self.watch_shim().await;
        }
        if ready || started {
            self.shim_changed().await;
        }
    }

    /// Compares what the shim says with what the machine believes.
    async fn shim_changed(&mut self) {
        let Some(shim) = &mut self.shim else { return };
        let state = shim.borrow_and_update().clone();
        match state {
            SandboxState::Lost => {
                self.shim = None;
                let torn = self.state.teardown != Teardown::No;
                if !torn {
                    // What the shim ran may still be there; it must not live on beside its successor.
                    if let Err(error) = self.node.runtime.remove_sandbox(&uid(&self.pod)).await {
                        tracing::warn!(pod = uid(&self.pod), %error, "a lost sandbox was not cleaned up");
                    }
                    self.step(Event::SandboxLost);
                }
            }
            SandboxState::Alive(containers) => {
                for found in containers {
                    let Some(exit) = &found.exit else { continue };
                    let name = self
                        .state
                        .containers
                        .iter()
                        .find(|known| known.running() == Some(found.id.as_str()));
                    if let Some(name) = name.map(|known| known.name.clone()) {
                        let ended = self.ended(&name, &found.id, exit);
                        self.step(Event::Ended { name, ended });
                    }
                }
            }
        }
    }

    fn ended(&self, name: &str, id: &str, exit: &ExitRecord) -> Ended {
        let reason = match exit {
            ExitRecord {
                oom_killed: true, ..
            } => "OOMKilled",
            ExitRecord { code: 0, .. } => "Completed",
            _ => "Error",
        };
        let spec = self.pod.spec.clone().unwrap_or_default();
        let message =
            find(&spec, name).map(|container| self.termination_message(container, id, exit.code));
        Ended {
            id: id.to_owned(),
            code: exit.code,
            signal: exit.signal,
            reason: reason.to_owned(),
            message: message.unwrap_or_default(),
            started_at: time(&exit.started_at),
            finished_at: time(&exit.finished_at),
        }
    }

    fn termination_message(&self, container: &Container, id: &str, code: i32) -> String {
        let uid = uid(&self.pod);
        let file = start::bundle(&self.node, &uid, id).join("termination-log");
        let written = std::fs::read(&file).unwrap_or_default();
        if !written.is_empty() {
            let cut = &written[..written.len().min(TERMINATION_MESSAGE_MAX)];
            return String::from_utf8_lossy(cut).into_owned();
        }
        let fall_back =
            container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let attempt = id
            .rsplit_once('-')
            .and_then(|(_, number)| number.parse().ok())
            .unwrap_or(0);
        match fall_back && code != 0 {
            true => crate::logs::tail_text(
                &self.node.log_path(&uid, &container.name, attempt),
                TERMINATION_MESSAGE_MAX,
            ),
            false => String::new(),
        }
    }

    fn step(&mut self, event: Event) {
        tracing::debug!(pod = uid(&self.pod), ?event, "event");
        let now = Timestamp::now();
        let (state, effects) = self.state.clone().step(&self.pod, event, now);
        if state != self.state {
            keep(&state_path(&self.node, &uid(&self.pod)), &state);
        }
        self.state = state;
        for effect in effects {
            self.perform(effect);
        }
        self.reconcile_probes();
        self.view.send_replace(PodView {
            pod: self.pod.clone(),
            state: Arc::new(self.state.clone()),
        });
    }

    fn perform(&mut self, effect: Effect) {
        tracing::debug!(pod = uid(&self.pod), ?effect, "effect");
        let (node, pod, reports) = (self.node.clone(), self.pod.clone(), self.reports.clone());
        let addresses = self.addresses();
        match effect {
            Effect::CreateSandbox => {
                self.report(async move { Some(sandbox::create(&node, &pod).await) })
            }
            Effect::Start { name, id } => {
                self.tasks.spawn(async move {
                    start::start(&node, &pod, &name, &id, &addresses, &reports).await
                });
            }
            Effect::PreStop { name, id, deadline } => {
                let target = self.target(&name, &id);
                self.report(async move {
                    start::pre_stop(&node, &pod, target, deadline).await;
                    Some(Event::PreStopDone { name })
                });
            }
            Effect::Terminate { name, id } => self.report(async move {
                start::signal(&node, &pod, &name, &id, false).await;
                None
            }),
            Effect::Kill { name, id } => self.report(async move {
                start::signal(&node, &pod, &name, &id, true).await;
                None
            }),
            Effect::Teardown => {
                self.shim = None;
                self.report(async move {
                    sandbox::tear_down(&node, &pod).await;
                    Some(Event::TornDown)
                });
            }
            Effect::Record {
                warning,
                reason,
                message,
                container,
            } => {
                self.node
                    .events
                    .record(&self.pod, container.as_deref(), warning, reason, &message);
            }
        }
    }

    fn report(&mut self, work: impl Future<Output = Option<Event>> + Send + 'static) {
        let reports = self.reports.clone();
        self.tasks.spawn(async move {
            if let Some(event) = work.await {
                let _ = reports.send(event).await;
            }
        });
    }

    fn addresses(&self) -> Vec<String> {
        match &self.state.sandbox {
            Sandbox::Ready(addresses) => addresses.clone(),
            _ => Vec::new(),
        }
    }

    fn target(&self, name: &str, id: &str) -> Target {
        start::target(&self.node, &self.pod, name, id, &self.addresses())
    }

    /// Probes run exactly for the containers that run, as long as they are not being stopped.
    fn reconcile_probes(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let mut wanted = Vec::new();
        for container in &self.state.containers {
            let (Some(id), Some(definition)) = (container.running(), find(&spec, &container.name))
            else {
                continue;
            };
            wanted.extend(self.wanted_probes(container, definition, id));
        }
        self.probes.retain(|key, cancel| {
            let keep = wanted.iter().any(|(wanted, _)| wanted == key);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        for (key, probe) in wanted {
            if self.probes.contains_key(&key) {
                continue;
            }
            let cancel = CancellationToken::new();
            self.probes.insert(key.clone(), cancel.clone());
            let (name, id, kind) = key;
            let target = self.target(&name, &id);
            let (reports, events, pod) = (
                self.reports.clone(),
                self.node.events.clone(),
                self.pod.clone(),
            );
            self.tasks.spawn(async move {
                let complain =
                    |message: String| events.record(&pod, Some(&name), true, "Unhealthy", &message);
                target.run(kind, probe, cancel, reports, complain).await;
            });
        }
    }

    #[allow(clippy::type_complexity)]
    fn wanted_probes(
        &self,
        container: &ContainerState,
        definition: &Container,
        id: &str,
    ) -> Vec<(
        (String, String, ProbeKind),
        corral_api::k8s::api::core::v1::Probe,
    )> {
        let mut wanted = Vec::new();
        let mut want = |kind, probe: &Option<corral_api::k8s::api::core::v1::Probe>| {
            if let Some(probe) = probe {
                wanted.push(((container.name.clone(), id.to_owned(), kind), probe.clone()));
            }
        };
        if !container.started {
            if container.stop.is_none() {
                want(ProbeKind::Startup, &definition.startup_probe);
            }
            return wanted;
        }
        want(ProbeKind::Readiness, &definition.readiness_probe);
        // Nothing is gained by restarting what is about to end.
        if container.stop.is_none() && self.state.ending.is_none() {
            want(ProbeKind::Liveness, &definition.liveness_probe);
        }
        wanted
    }

    fn refresh_volumes(&mut self) {
        let running =
            matches!(self.state.sandbox, Sandbox::Ready(_)) && self.state.teardown == Teardown::No;
        if !running || !volumes::has_rendered(&self.pod) {
            return;
        }
        let (node, pod, addresses) = (self.node.clone(), self.pod.clone(), self.addresses());
        self.report(async move {
            let directory = node.pod_dir(&uid(&pod));
            if let Err(error) = node
                .volumes
                .refresh(&directory, &pod, &node.facts(&addresses))
                .await
            {
                tracing::debug!(pod = uid(&pod), %error, "volumes were not refreshed");
            }
            None
        });
    }
}

/// Writes a file as a whole.
fn keep<T: serde::Serialize>(path: &std::path::Path, value: &T) {
    let bytes = serde_json::to_vec(value).expect("API objects and states serialise");
    let temporary = path.with_extension("tmp");
    let written =
        std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        tracing::error!(path = %path.display(), %error, "a pod's state was not kept");
    }
}

/// A time stamp of the shim.
fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| Timestamp::now())
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
}

async fn sleep(time: Option<Duration>) {
    match time {
        // A little late rather than early: a tick before its time finds nothing to do.
        Some(time) => tokio::time::sleep(time + Duration::from_millis(1)).await,
        None => std::future::pending().await,
    }
}

async fn changed(shim: &mut Option<watch::Receiver<SandboxState>>) {
    match shim {
        Some(receiver) => {
            if receiver.changed().await.is_err() {
                // The sender is gone after its last value, which has been seen: nothing more will come.
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

/// The pod's primary address.
pub(crate) fn primary(addresses: &[String]) -> Option<IpAddr> {
    addresses.first().and_then(|address| address.parse().ok())
}
