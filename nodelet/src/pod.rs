//! The life of a pod on its node, as a pure machine: `(State, Event, now) -> (State, Vec<Effect>)`.
//!
//! Nothing here does I/O or reads a clock. A worker performs the effects and reports what came of them as events; the
//! state is plain data that is kept on disk, so that a restarted agent goes on exactly where it was. Every step first
//! takes the event in and then asks what is to be done now ([`advance`]), so a lost or repeated event does no harm:
//! the next tick finds what is missing.
//!
//! ```text
//!  CreateSandbox ─▶ init containers, one by one; sidecars until started ─▶ main containers, together
//!        ▲                                                                     │
//!        └── sandbox lost                    restart with back-off ◀── ended ──┤
//!                                                                              ▼
//! Release ◀── Teardown ◀── sidecars stopped, last first ◀── main containers stopped (preStop, TERM, KILL)
//! ```
//!
//! Reading order: this file (types and events), [`admission`], [`advance`], [`status`] (what the API shows), [`backoff`].

pub mod admission;
pub mod advance;
pub mod backoff;
pub mod status;

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::{Container, Pod, PodSpec};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use backoff::Backoff;

/// Everything the node knows about a pod beyond its object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// When the node took the pod on.
    pub start_time: Timestamp,
    /// The shared namespaces.
    pub sandbox: Sandbox,
    /// Init containers (sidecars among them) in order, then the main ones.
    pub containers: Vec<ContainerState>,
    /// The pod is being ended.
    pub ending: Option<Ending>,
    /// How far taking it apart has come.
    pub teardown: Teardown,
    /// When each condition last changed, and to what.
    pub conditions: BTreeMap<String, (String, Timestamp)>,
    /// When to look again without an event.
    #[serde(skip)]
    pub wake: Option<Timestamp>,
}

/// The state of the pod's namespaces and network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Sandbox {
    /// To be made.
    Absent,
    /// Being made, after so many failures.
    Creating(u32),
    /// There, with these addresses.
    Ready(Vec<String>),
    /// Could not be made; tried again later.
    Failed {
        /// Why.
        message: String,
        /// When to try again.
        retry_at: Timestamp,
        /// How often it failed.
        failures: u32,
    },
}

/// Why and how a pod is being ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Since when.
    pub since: Timestamp,
    /// When what still runs is killed.
    pub deadline: Timestamp,
    /// The pod fails for this reason and with this message (deadline exceeded); without one it was deleted.
    pub failure: Option<(String, String)>,
    /// The node never took the pod on: there is nothing to say about its containers.
    #[serde(default)]
    pub rejected: bool,
}

/// Taking the pod apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Teardown {
    /// Not yet.
    No,
    /// Under way.
    Running,
    /// Nothing of it is left but its logs.
    Done,
    /// Only the object is left: it goes as soon as it shows how the pod ended.
    #[serde(alias = "Deleted")]
    Released,
}

/// What part a container plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Must end well before the next starts.
    Init,
    /// Starts among the init containers and runs beside the main ones.
    Sidecar,
    /// What the pod is for.
    Main,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// What it does now.
    pub phase: Phase,
    /// How it ended the time before.
    pub last: Option<Ended>,
    /// How often it was started again.
    pub restarts: u32,
    /// The number of the next instance; ids are never used twice.
    pub attempt: u32,
    /// Waiting between restarts.
    pub crash: Backoff,
    /// Waiting between attempts to pull or create.
    pub create: Backoff,
    /// Its startup probe (if any) has succeeded.
    pub started: bool,
    /// Its readiness probe says so, or it has none.
    pub ready: bool,
    /// The image as it was resolved.
    pub image: String,
    /// The image's identity.
    pub image_id: String,
    /// It is being stopped.
    pub stop: Option<Stop>,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing yet, or it could not be created.
    Waiting {
        /// Why, if something went wrong.
        problem: Option<Problem>,
    },
    /// Being pulled, created and started.
    Starting,
    /// Running.
    Running {
        /// The instance.
        id: String,
        /// Since when.
        started_at: Timestamp,
    },
    /// Not any more.
    Ended(Ended),
}

/// Why a container could not be created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// In Kubernetes' words (`ErrImagePull`).
    pub reason: String,
    /// For people.
    pub message: String,
    /// When it happened.
    pub at: Timestamp,
    /// When to try again.
    pub retry_at: Timestamp,
}

/// The end of a container instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The instance; empty when it never came to be.
    pub id: String,
    /// Exit code.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// In Kubernetes' words (`Error`, `Completed`, `OOMKilled`).
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// How far stopping a container has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// When it is killed.
    pub deadline: Timestamp,
    /// What was done last.
    pub stage: StopStage,
}

/// The stages of stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopStage {
    /// Nothing yet.
    Requested,
    /// The preStop hook runs.
    PreStop,
    /// It was asked to end.
    Terminated,
    /// It was killed.
    Killed,
}

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Has it started?
    Startup,
    /// Is it alive?
    Liveness,
    /// May it be sent requests?
    Readiness,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed, or the object changed.
    Tick,
    /// The sandbox is there.
    SandboxReady(Vec<String>),
    /// The sandbox could not be made.
    SandboxFailed(String),
    /// The shim died: nothing is known of the containers but that they are gone.
    SandboxLost,
    /// A container runs.
    Started {
        /// Its name.
        name: String,
        /// The instance.
        id: String,
        /// The image as resolved.
        image: String,
        /// Its identity.
        image_id: String,
        /// Since when.
        at: Timestamp,
    },
    /// A container could not be pulled or created; it is tried again later.
    CreateFailed {
        /// Its name.
        name: String,
        /// In Kubernetes' words.
        reason: String,
        /// For people.
        message: String,
    },
    /// A container was created and could not be started; that counts as an end.
    StartFailed {
        /// Its name.
        name: String,
        /// The instance.
        id: String,
        /// For people.
        message: String,
    },
    /// A container ended.
    Ended {
        /// Its name.
        name: String,
        /// How.
        ended: Ended,
    },
    /// The postStart hook failed: the container is stopped.
    PostStartFailed {
        /// Its name.
        name: String,
        /// Why.
        message: String,
    },
    /// The preStop hook is over, well or not.
    PreStopDone {
        /// Its container.
        name: String,
    },
    /// A probe has reached its threshold.
    Probe {
        /// Its container.
        name: String,
        /// Which.
        kind: ProbeKind,
        /// The result.
        success: bool,
    },
    /// The pod uses more of the node than it may.
    Evicted {
        /// Why, in Kubernetes' words.
        message: String,
    },
    /// The node is too short of something to take the pod on.
    Refused {
        /// Why, in Kubernetes' words.
        message: String,
    },
    /// Everything was taken apart.
    TornDown,
    /// The object is gone from the API.
    ObjectGone,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make namespaces and network.
    CreateSandbox,
    /// Pull, create and start a container.
    Start {
        /// Its name.
        name: String,
        /// The instance's id.
        id: String,
    },
    /// Run the preStop hook.
    PreStop {
        /// Its container.
        name: String,
        /// The instance.
        id: String,
        /// When it no longer matters.
        deadline: Timestamp,
    },
    /// Ask a container to end, with its stop signal.
    Terminate {
        /// Its name.
        name: String,
        /// The instance.
        id: String,
    },
    /// Kill a container.
    Kill {
        /// Its name.
        name: String,
        /// The instance.
        id: String,
    },
    /// Remove containers, network, namespaces and volumes.
    Teardown,
    /// Tell people.
    Record {
        /// `Warning` instead of `Normal`.
        warning: bool,
        /// In Kubernetes' words.
        reason: &'static str,
        /// The text.
        message: String,
        /// The container it is about.
        container: Option<String>,
    },
}

impl State {
    /// A pod that the node has just taken on.
    pub fn new(pod: &Pod, now: Timestamp) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let containers = spec
            .init_containers
            .iter()
            .flatten()
            .map(|container| {
                (
                    container,
                    if is_sidecar(container) {
                        Role::Sidecar
                    } else {
                        Role::Init
                    },
                )
            })
            .chain(
                spec.containers
                    .iter()
                    .map(|container| (container, Role::Main)),
            )
            .map(|(container, role)| ContainerState::new(container, role))
            .collect();
        Self {
            start_time: now,
            sandbox: Sandbox::Absent,
            containers,
            ending: None,
            teardown: Teardown::No,
            conditions: BTreeMap::new(),
            wake: None,
        }
    }

    /// The container called `name`.
    pub fn container(&self, name: &str) -> Option<&ContainerState> {
        self.containers
            .iter()
            .find(|container| container.name == name)
    }

    fn container_mut(&mut self, name: &str) -> Option<&mut ContainerState> {
        self.containers
            .iter_mut()
            .find(|container| container.name == name)
    }

    /// Whether the pod runs or is about to.
    pub fn is_active(&self, spec: &PodSpec) -> bool {
        self.ending.is_none()
            && self.teardown == Teardown::No
            && advance::outcome(self, spec).is_none()
    }

    /// Takes an event in and says what to do about it.
    pub fn step(mut self, pod: &Pod, event: Event, now: Timestamp) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        let spec = pod.spec.clone().unwrap_or_default();
        take(&mut self, &spec, event, now, &mut effects);
        advance::advance(&mut self, pod, &spec, now, &mut effects);
        status::note_transitions(&mut self, pod, &spec, now);
        (self, effects)
    }
}

impl ContainerState {
    fn new(container: &Container, role: Role) -> Self {
        Self {
            name: container.name.clone(),
            role,
            phase: Phase::Waiting { problem: None },
            last: None,
            restarts: 0,
            attempt: 0,
            crash: Backoff::default(),
            create: Backoff::default(),
            started: false,
            ready: false,
            image: container.image.clone().unwrap_or_default(),
            image_id: String::new(),
            stop: None,
        }
    }

    /// The running instance's id.
    pub fn running(&self) -> Option<&str> {
        match &self.phase {
            Phase::Running { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Neither running nor about to.
    pub fn idle(&self) -> bool {
        !matches!(self.phase, Phase::Running { .. } | Phase::Starting)
    }

    fn end(&mut self, ended: Ended) {
        // An instance that is not the present one was reported before, or belongs to a life before this state.
        if !matches!(&self.phase, Phase::Running { id, .. } if *id == ended.id)
            && self.phase != Phase::Starting
        {
            return;
        }
        self.crash
            .ran(ended.finished_at.duration_since(ended.started_at));
        self.phase = Phase::Ended(ended);
        self.started = false;
        self.ready = false;
        self.stop = None;
    }
}

/// An init container that keeps running.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The container called `name` in a pod's specification, and whether it is an init container.
pub fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .find(|container| container.name == name)
}

fn take(
    state: &mut State,
    spec: &PodSpec,
    event: Event,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    match event {
        Event::Tick => {}
        Event::SandboxReady(addresses) => state.sandbox = Sandbox::Ready(addresses),
        Event::SandboxFailed(message) => sandbox_failed(state, message, now, effects),
        Event::SandboxLost => sandbox_lost(state, now),
        Event::Started {
            name,
            id,
            image,
            image_id,
            at,
        } => {
            let grace = container_grace(spec);
            if let Some(container) = state.container_mut(&name) {
                container.phase = Phase::Running { id, started_at: at };
                (container.image, container.image_id) = (image, image_id);
                container.create = Backoff::default();
                let probed = find(spec, &name)
                    .map(|c| (c.startup_probe.is_some(), c.readiness_probe.is_some()));
                let (startup, readiness) = probed.unwrap_or((false, false));
                container.started = !startup;
                container.ready = !startup && !readiness;
                if container.stop.is_some() {
                    container.stop = Some(Stop {
                        deadline: now + grace,
                        stage: StopStage::Requested,
                    });
                }
                effects.push(record("Started", "Container started".to_owned(), &name));
            }
        }
        Event::CreateFailed {
            name,
            reason,
            message,
        } => create_failed(state, &name, reason, message, now, effects),
        Event::StartFailed { name, id, message } => {
            if let Some(container) = state.container_mut(&name) {
                effects.push(warn("Failed", format!("Error: {message}"), &name));
                container.phase = Phase::Ended(Ended {
                    id,
                    code: 128,
                    signal: None,
                    reason: "StartError".into(),
                    message,
                    started_at: Timestamp::UNIX_EPOCH,
                    finished_at: now,
                });
                container.stop = None;
            }
        }
        Event::Ended { name, ended } => {
            if let Some(container) = state.container_mut(&name) {
                container.end(ended);
            }
        }
        Event::PostStartFailed { name, message } => {
            effects.push(warn("FailedPostStartHook", message, &name));
            stop_one(state, &name, now + container_grace(spec));
        }
        Event::PreStopDone { name } => {
            let stop = state
                .container_mut(&name)
                .and_then(|container| container.stop.as_mut());
            if let Some(stop) = stop.filter(|stop| stop.stage == StopStage::PreStop) {
                // `advance` sends the signal: the hook is what it waited for.
                stop.stage = StopStage::Requested;
                stop.deadline = stop.deadline.max(now);
                if let Some(container) = state.container_mut(&name)
                    && let Some(id) = container.running().map(str::to_owned)
                {
                    effects.push(Effect::Terminate {
                        name: name.clone(),
                        id,
                    });
                    if let Some(stop) = &mut container.stop {
                        stop.stage = StopStage::Terminated;
                    }
                }
            }
        }
        Event::Probe {
            name,
            kind,
            success,
        } => probed(state, spec, &name, kind, success, now, effects),
        Event::Evicted { message } => advance::evict(state, spec, message, now, effects),
        Event::Refused { message } => {
            advance::refuse(state, EVICTED, message, now, effects);
        }
        Event::TornDown => {
            state.sandbox = Sandbox::Absent;
            state.teardown = Teardown::Done;
        }
        Event::ObjectGone => {
            begin_ending(state, now + container_grace(spec), now, None);
            if state.teardown == Teardown::Done {
                state.teardown = Teardown::Released;
            }
        }
    }
}

fn sandbox_failed(state: &mut State, message: String, now: Timestamp, effects: &mut Vec<Effect>) {
    let failures = match &state.sandbox {
        Sandbox::Creating(failures) => failures + 1,
        _ => 1,
    };
    effects.push(Effect::Record {
        warning: true,
        reason: "FailedCreatePodSandBox",
        message: format!("Failed to create pod sandbox: {message}"),
        container: None,
    });
    let retry_at = now + backoff::sandbox_delay(failures);
    state.sandbox = Sandbox::Failed {
        message,
        retry_at,
        failures,
    };
}

fn sandbox_lost(state: &mut State, now: Timestamp) {
    if !matches!(state.sandbox, Sandbox::Ready(_)) {
        return;
    }
    state.sandbox = Sandbox::Absent;
    for container in &mut state.containers {
        if let Phase::Running { id, started_at } = &container.phase {
            let ended = Ended {
                id: id.clone(),
                code: 137,
                signal: None,
                reason: "ContainerStatusUnknown".into(),
                message: "The container could not be located when the pod's shim was lost".into(),
                started_at: *started_at,
                finished_at: now,
            };
            container.end(ended);
        } else if container.phase == Phase::Starting {
            container.phase = Phase::Waiting { problem: None };
        }
    }
}

fn create_failed(
    state: &mut State,
    name: &str,
    reason: String,
    message: String,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let Some(container) = state.container_mut(name) else {
        return;
    };
    let delay = if reason == "CreateContainerConfigError" {
        // Somebody is likely about to create the missing object; pulls, in contrast, cost others something.
        backoff::CONFIG_RETRY
    } else {
        container.create.next_delay()
    };
    effects.push(warn("Failed", format!("Error: {reason}: {message}"), name));
    let problem = Problem {
        reason,
        message,
        at: now,
        retry_at: now + delay,
    };
    container.phase = Phase::Waiting {
        problem: Some(problem),
    };
}

fn probed(
    state: &mut State,
    spec: &PodSpec,
    name: &str,
    kind: ProbeKind,
    success: bool,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let definition = find(spec, name);
    let Some(container) = state
        .container_mut(name)
        .filter(|container| container.running().is_some())
    else {
        return;
    };
    match (kind, success) {
        (ProbeKind::Readiness, success) => container.ready = success && container.started,
        (ProbeKind::Startup, true) => {
            container.started = true;
            container.ready |=
                definition.is_some_and(|definition| definition.readiness_probe.is_none());
        }
        (ProbeKind::Liveness, true) => {}
        (ProbeKind::Startup | ProbeKind::Liveness, false) => {
            let (word, probe) = match kind {
                ProbeKind::Startup => {
                    ("startup", definition.and_then(|d| d.startup_probe.as_ref()))
                }
                _ => (
                    "liveness",
                    definition.and_then(|d| d.liveness_probe.as_ref()),
                ),
            };
            let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
            let grace = own.map_or_else(|| container_grace(spec), seconds);
            let message = format!("Container {name} failed {word} probe, will be restarted");
            effects.push(Effect::Record {
                warning: false,
                reason: "Killing",
                message,
                container: Some(name.to_owned()),
            });
            stop_one(state, name, now + grace);
        }
    }
}

/// The reason of a pod that was evicted.
const EVICTED: &str = "Evicted";

fn stop_one(state: &mut State, name: &str, deadline: Timestamp) {
    if let Some(container) = state.container_mut(name)
        && container.stop.is_none()
        && container.running().is_some()
    {
        container.stop = Some(Stop {
            deadline,
            stage: StopStage::Requested,
        });
    }
}

fn begin_ending(
    state: &mut State,
    deadline: Timestamp,
    now: Timestamp,
    failure: Option<(String, String)>,
) {
    match &mut state.ending {
        // A later request may only shorten the grace.
        Some(ending) => ending.deadline = ending.deadline.min(deadline),
        None => {
            state.ending = Some(Ending {
                since: now,
                deadline,
                failure,
                rejected: false,
            })
        }
    }
}

fn seconds(seconds: i64) -> jiff::SignedDuration {
    jiff::SignedDuration::from_secs(seconds.max(0))
}

/// How long a container of this pod may take to end.
fn container_grace(spec: &PodSpec) -> jiff::SignedDuration {
    seconds(spec.termination_grace_period_seconds.unwrap_or(30))
}

fn record(reason: &'static str, message: String, container: &str) -> Effect {
    Effect::Record {
        warning: false,
        reason,
        message,
        container: Some(container.to_owned()),
    }
}

fn warn(reason: &'static str, message: String, container: &str) -> Effect {
    Effect::Record {
        warning: true,
        reason,
        message,
        container: Some(container.to_owned()),
    }
}

#[cfg(test)]
mod tests;
