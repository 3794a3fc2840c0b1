//! What the API shows of a pod: phase, conditions and container statuses, in Kubernetes' words.

use corral_api::k8s::api::core::v1::{
    ContainerState as WireState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use corral_api::time::Time;
use jiff::Timestamp;

use super::advance::{outcome, restarts};
use super::{ContainerState, EVICTED, Ended, Phase, Role, Sandbox, State, Teardown};
use crate::runtime::spec::resources::qos;

/// The conditions that the node owns; others on the object are kept as they are.
pub const OWNED: [&str; 4] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
];

/// The status of a pod. `pod` supplies what others wrote: foreign conditions, the scheduler's above all.
pub fn status(state: &State, pod: &Pod, host_ips: &[String], now: Timestamp) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let old = pod.status.clone().unwrap_or_default();
    let phase = phase(state, &spec);
    let failure = state
        .ending
        .as_ref()
        .and_then(|ending| ending.failure.clone());
    let mut conditions: Vec<PodCondition> = owned_conditions(state, pod, &spec)
        .into_iter()
        .map(|mut condition| {
            let since = state
                .conditions
                .get(&condition.type_)
                .map_or(now, |(_, at)| *at);
            condition.last_transition_time = Some(seconds(since));
            condition.observed_generation = pod.metadata.generation;
            condition
        })
        .collect();
    conditions.extend(disruption(state, pod));
    let foreign = old.conditions.unwrap_or_default();
    let own: Vec<String> = conditions.iter().map(|own| own.type_.clone()).collect();
    conditions.extend(
        foreign
            .into_iter()
            .filter(|condition| !own.contains(&condition.type_)),
    );
    let host_network = spec.host_network.unwrap_or(false);
    let addresses = match &state.sandbox {
        _ if host_network => host_ips.to_vec(),
        Sandbox::Ready(addresses) => addresses.clone(),
        _ => old
            .pod_ips
            .iter()
            .flatten()
            .map(|ip| ip.ip.clone())
            .collect(),
    };
    let (init, main): (Vec<_>, Vec<_>) = state
        .containers
        .iter()
        .partition(|container| container.role != Role::Main);
    let statuses = |list: Vec<&ContainerState>| -> Vec<ContainerStatus> {
        list.into_iter()
            .map(|container| container_status(state, container, pod, &spec, now))
            .collect()
    };
    let rejected = state.ending.as_ref().is_some_and(|ending| ending.rejected);
    let (mut init, mut main) = (statuses(init), statuses(main));
    if matches!(phase, "Succeeded" | "Failed") {
        conclude(&mut init, &mut main);
    }
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: failure.as_ref().map(|(reason, _)| reason.clone()),
        message: failure.map(|(_, message)| message),
        conditions: Some(conditions),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(
            host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        pod_ip: addresses.first().cloned(),
        pod_ips: Some(addresses.into_iter().map(|ip| PodIP { ip }).collect())
            .filter(|ips: &Vec<_>| !ips.is_empty()),
        start_time: Some(seconds(state.start_time)),
        init_container_statuses: Some(init).filter(|list| !rejected && !list.is_empty()),
        container_statuses: Some(main).filter(|_| !rejected),
        qos_class: Some(qos(&spec).name().to_owned()),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Whether the object shows already how a pod ended of which this node has no other record.
pub fn settled(state: &State, pod: &Pod) -> bool {
    let shown = pod.status.as_ref();
    let over = matches!(
        shown.and_then(|status| status.phase.as_deref()),
        Some("Succeeded" | "Failed")
    );
    let untouched = state
        .containers
        .iter()
        .all(|container| container.attempt == 0);
    over && untouched && state.teardown != Teardown::No
}

/// Nothing of a pod that is over waits any longer: what should have run and did not, failed. Containers whose turn had
/// not come by then stay as they are.
fn conclude(init: &mut [ContainerStatus], main: &mut [ContainerStatus]) {
    let waits = |status: &ContainerStatus| {
        status
            .state
            .as_ref()
            .is_some_and(|state| state.waiting.is_some())
    };
    let ended = |state: &Option<WireState>| {
        state
            .as_ref()
            .and_then(|state| state.terminated.clone())
            .map(|terminated| terminated.exit_code)
    };
    let tried = |status: &ContainerStatus| !waits(status) || ended(&status.last_state).is_some();
    let initialized = match init.last() {
        None => true,
        Some(last) => {
            main.iter().any(tried)
                || ended(&last.state) == Some(0)
                || ended(&last.last_state) == Some(0)
        }
    };
    let reached = init
        .iter()
        .rposition(tried)
        .map_or(init.len().min(1), |last| last + 1);
    let main = main.iter_mut().filter(|_| initialized);
    for status in init[..reached].iter_mut().chain(main) {
        if waits(status) {
            status.state = Some(unknown());
        }
    }
}

fn unknown() -> WireState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..ContainerStateTerminated::default()
    };
    WireState {
        terminated: Some(terminated),
        ..WireState::default()
    }
}

/// That the node itself ends the pod. Others may say so of other reasons; then theirs is kept.
fn disruption(state: &State, pod: &Pod) -> Option<PodCondition> {
    let ending = state.ending.as_ref()?;
    let (reason, message) = ending.failure.as_ref()?;
    // Of a pod that was never taken on nothing is disrupted.
    (reason == EVICTED && !ending.rejected).then(|| PodCondition {
        last_transition_time: Some(seconds(ending.since)),
        observed_generation: pod.metadata.generation,
        ..condition(
            "DisruptionTarget",
            true,
            Some(("TerminationByKubelet", message.clone())),
        )
    })
}

/// The pod's phase.
pub fn phase(state: &State, spec: &PodSpec) -> &'static str {
    let main = || {
        state
            .containers
            .iter()
            .filter(|container| container.role == Role::Main)
    };
    let making = matches!(state.sandbox, Sandbox::Creating(_));
    if state.ending.is_some() && state.containers.iter().all(ContainerState::idle) && !making {
        let failed = state
            .ending
            .as_ref()
            .is_some_and(|ending| ending.failure.is_some());
        let good = main()
            .all(|container| matches!(&container.phase, Phase::Ended(ended) if ended.code == 0));
        return if good && !failed {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    match outcome(state, spec) {
        Some(true) => return "Succeeded",
        Some(false) => return "Failed",
        None => {}
    }
    let never_ran = |container: &ContainerState| match &container.phase {
        Phase::Waiting { .. } | Phase::Starting => container.last.is_none(),
        _ => false,
    };
    if !initialized(state) || main().any(never_ran) {
        "Pending"
    } else {
        "Running"
    }
}

fn initialized(state: &State) -> bool {
    incomplete(state).is_empty()
}

/// Init containers that hold the pod up.
fn incomplete(state: &State) -> Vec<&str> {
    if state
        .containers
        .iter()
        .any(|container| container.role == Role::Main && container.attempt > 0)
    {
        return Vec::new();
    }
    state
        .containers
        .iter()
        .filter(|container| match (container.role, &container.phase) {
            (Role::Main, _) => false,
            (Role::Init, Phase::Ended(ended)) => ended.code != 0,
            (Role::Init, _) => true,
            (Role::Sidecar, _) => !container.started,
        })
        .map(|container| container.name.as_str())
        .collect()
}

/// Remembers when conditions changed; part of every step, so that times are those of the change.
pub(super) fn note_transitions(state: &mut State, pod: &Pod, spec: &PodSpec, now: Timestamp) {
    for condition in owned_conditions(state, pod, spec) {
        let known = state
            .conditions
            .get(&condition.type_)
            .is_some_and(|(status, _)| *status == condition.status);
        if !known {
            state
                .conditions
                .insert(condition.type_, (condition.status, now));
        }
    }
}

fn condition(kind: &str, good: bool, why: Option<(&str, String)>) -> PodCondition {
    let (reason, message) = why.map_or((None, None), |(reason, message)| {
        (
            Some(reason.to_owned()),
            Some(message).filter(|message| !message.is_empty()),
        )
    });
    PodCondition {
        type_: kind.to_owned(),
        status: if good { "True" } else { "False" }.to_owned(),
        reason,
        message,
        ..PodCondition::default()
    }
}

fn owned_conditions(state: &State, pod: &Pod, spec: &PodSpec) -> Vec<PodCondition> {
    let phase = phase(state, spec);
    let sandbox = matches!(state.sandbox, Sandbox::Ready(_));
    let mut list = vec![condition("PodReadyToStartContainers", sandbox, None)];
    let incomplete = incomplete(state);
    list.push(match phase {
        "Succeeded" => condition("Initialized", true, Some(("PodCompleted", String::new()))),
        _ if incomplete.is_empty() => condition("Initialized", true, None),
        _ => {
            let message = format!(
                "containers with incomplete status: [{}]",
                incomplete.join(" ")
            );
            condition(
                "Initialized",
                false,
                Some(("ContainersNotInitialized", message)),
            )
        }
    });
    let unready: Vec<&str> = state
        .containers
        .iter()
        .filter(|container| container.role != Role::Init && !is_ready(container))
        .map(|container| container.name.as_str())
        .collect();
    let why = match phase {
        "Succeeded" => Some(("PodCompleted", String::new())),
        "Failed" => Some(("PodFailed", String::new())),
        _ if unready.is_empty() => None,
        _ => Some((
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        )),
    };
    let gates = closed_gates(pod, spec);
    let ready = match (&why, gates.is_empty()) {
        (None, false) => Some(("ReadinessGatesNotReady", gates.join(", "))),
        _ => why.clone(),
    };
    list.push(condition("Ready", ready.is_none(), ready));
    list.push(condition("ContainersReady", why.is_none(), why));
    list
}

fn closed_gates(pod: &Pod, spec: &PodSpec) -> Vec<String> {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut closed = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        match conditions
            .iter()
            .find(|condition| condition.type_ == gate.condition_type)
        {
            Some(condition) if condition.status == "True" => {}
            Some(_) => closed.push(format!(
                "the status of pod readiness gate \"{0}\" is not \"True\", but False",
                gate.condition_type
            )),
            None => closed.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
        }
    }
    closed
}

/// A pod on its way out keeps the readiness of what still runs, as probes tell it.
fn is_ready(container: &ContainerState) -> bool {
    container.ready && container.running().is_some()
}

fn container_status(
    state: &State,
    container: &ContainerState,
    pod: &Pod,
    spec: &PodSpec,
    now: Timestamp,
) -> ContainerStatus {
    let uid = pod.metadata.uid.as_deref().unwrap_or("");
    let (current, last) = wire_state(state, container, pod, spec, now);
    let shown = current
        .running
        .as_ref()
        .map(|_| container.running().unwrap_or("").to_owned());
    let ended = |ended: &Ended| Some(ended.id.clone()).filter(|id| !id.is_empty());
    let id = shown.or_else(|| match &container.phase {
        Phase::Ended(end) => ended(end),
        _ => container.last.as_ref().and_then(ended),
    });
    let completed_init = container.role == Role::Init
        && matches!(&container.phase, Phase::Ended(ended) if ended.code == 0);
    let image = match container.image.is_empty() {
        true => super::find(spec, &container.name)
            .and_then(|c| c.image.clone())
            .unwrap_or_default(),
        false => container.image.clone(),
    };
    ContainerStatus {
        name: container.name.clone(),
        state: Some(current),
        last_state: Some(last.unwrap_or_default()),
        ready: is_ready(container) || completed_init,
        started: Some(container.started && container.running().is_some()),
        restart_count: i32::try_from(container.restarts).unwrap_or(i32::MAX),
        image,
        image_id: container.image_id.clone(),
        container_id: id.map(|id| container_id(uid, &id)),
        ..ContainerStatus::default()
    }
}

/// An instance's id as the API writes it.
pub fn container_id(uid: &str, id: &str) -> String {
    format!("corral://{uid}-{id}")
}

fn wire_state(
    state: &State,
    container: &ContainerState,
    pod: &Pod,
    spec: &PodSpec,
    now: Timestamp,
) -> (WireState, Option<WireState>) {
    let last = container.last.as_ref().map(|ended| terminated(ended, pod));
    match &container.phase {
        Phase::Running { started_at, .. } => {
            let running = ContainerStateRunning {
                started_at: Some(seconds(*started_at)),
            };
            (
                WireState {
                    running: Some(running),
                    ..WireState::default()
                },
                last,
            )
        }
        Phase::Ended(ended) => {
            let shown = terminated(ended, pod);
            let over = state.ending.is_some() || outcome(state, spec).is_some();
            let until = ended.finished_at + container.crash.restart_delay();
            if over || !restarts(spec, container, ended) || until <= now {
                return (shown, last);
            }
            let name = |value: &Option<String>| value.clone().unwrap_or_default();
            let message = format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                go_duration(container.crash.restart_delay().as_secs()),
                container.name,
                name(&pod.metadata.name),
                name(&pod.metadata.namespace),
                name(&pod.metadata.uid),
            );
            (waiting("CrashLoopBackOff", Some(message)), Some(shown))
        }
        Phase::Waiting {
            problem: Some(problem),
        } => (
            waiting(&problem.reason, Some(problem.message.clone())),
            last,
        ),
        Phase::Waiting { problem: None } | Phase::Starting => {
            // With init containers in the pod, everything that has not come to its turn waits for initialisation.
            let initializing = state
                .containers
                .iter()
                .any(|other| other.role != Role::Main);
            (
                waiting(
                    if initializing {
                        "PodInitializing"
                    } else {
                        "ContainerCreating"
                    },
                    None,
                ),
                last,
            )
        }
    }
}

fn waiting(reason: &str, message: Option<String>) -> WireState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message,
    };
    WireState {
        waiting: Some(waiting),
        ..WireState::default()
    }
}

fn terminated(ended: &Ended, pod: &Pod) -> WireState {
    let uid = pod.metadata.uid.as_deref().unwrap_or("");
    let terminated = ContainerStateTerminated {
        container_id: Some(container_id(uid, &ended.id)),
        exit_code: ended.code,
        reason: Some(ended.reason.clone()),
        message: Some(ended.message.clone()).filter(|message| !message.is_empty()),
        started_at: Some(seconds(ended.started_at)),
        finished_at: Some(seconds(ended.finished_at)),
        // Kubernetes reports the signal only through the exit code.
        signal: None,
    };
    WireState {
        terminated: Some(terminated),
        ..WireState::default()
    }
}

/// `10s`, `1m20s`, `5m0s`, as Kubernetes prints durations.
fn go_duration(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// The API keeps whole seconds; finer times would look like changes after every round trip.
fn seconds(at: Timestamp) -> Time {
    Time(corral_api::time::truncate_to_seconds(at))
}
