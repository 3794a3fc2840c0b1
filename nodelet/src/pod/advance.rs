//! What is to be done for a pod now, given its state. Called after every event.

use corral_api::k8s::api::core::v1::{Pod, PodSpec};
use jiff::Timestamp;

use super::{
    ContainerState, EVICTED, Effect, Ended, Phase, Role, Sandbox, State, Stop, StopStage, Teardown,
    admission, begin_ending, find, record, seconds,
};

/// After this time a pull that failed is shown as waiting for its next attempt.
const SHOW_BACKOFF_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);

/// Decides the next effects and when to look again.
pub fn advance(
    state: &mut State,
    pod: &Pod,
    spec: &PodSpec,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    state.wake = None;
    notice_deletion(state, pod, spec, now);
    notice_refusal(state, spec, now, effects);
    notice_deadline(state, spec, now);
    if state.teardown != Teardown::No {
        return finish(state, pod);
    }
    if state.ending.is_some() || outcome(state, spec).is_some() {
        return wind_down(state, spec, now, effects);
    }
    match &state.sandbox {
        Sandbox::Absent => {
            state.sandbox = Sandbox::Creating(0);
            effects.push(Effect::CreateSandbox);
        }
        Sandbox::Failed {
            retry_at, failures, ..
        } if *retry_at <= now => {
            state.sandbox = Sandbox::Creating(*failures);
            effects.push(Effect::CreateSandbox);
        }
        Sandbox::Failed { retry_at, .. } => {
            let at = *retry_at;
            wake(state, at);
        }
        Sandbox::Creating(_) => {}
        Sandbox::Ready(_) => run(state, spec, now, effects),
    }
}

fn notice_deletion(state: &mut State, pod: &Pod, spec: &PodSpec, now: Timestamp) {
    let Some(deletion) = &pod.metadata.deletion_timestamp else {
        return;
    };
    let grace = pod
        .metadata
        .deletion_grace_period_seconds
        .or(spec.termination_grace_period_seconds)
        .unwrap_or(30);
    // The API's deletion timestamp already contains the grace period. Where clocks differ, or the agent was away, the
    // containers still get no more than the grace from now.
    let deadline = (now + seconds(grace)).min(deletion.0.max(now));
    begin_ending(state, deadline, now, None);
}

/// A pod that the node must not run fails before anything of it is made. One that runs already (an earlier version of
/// this program took it on) goes on.
fn notice_refusal(state: &mut State, spec: &PodSpec, now: Timestamp, effects: &mut Vec<Effect>) {
    let fresh = state.sandbox == Sandbox::Absent
        && state
            .containers
            .iter()
            .all(|container| container.attempt == 0);
    if !fresh || state.ending.is_some() || state.teardown != Teardown::No {
        return;
    }
    let Some((reason, message)) = admission::refusal(spec) else {
        return;
    };
    refuse(state, reason, message, now, effects);
}

/// What was evicted does not linger: the disk may be full.
const EVICTION_GRACE: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

/// Ends a pod that takes what the node needs.
pub(super) fn evict(
    state: &mut State,
    spec: &PodSpec,
    message: String,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    if state.ending.is_some() || outcome(state, spec).is_some() {
        return;
    }
    effects.push(Effect::Record {
        warning: true,
        reason: EVICTED,
        message: message.clone(),
        container: None,
    });
    let failure = (EVICTED.to_owned(), message);
    begin_ending(state, now + EVICTION_GRACE, now, Some(failure));
}

/// Fails a pod of which nothing was made.
pub(super) fn refuse(
    state: &mut State,
    reason: &'static str,
    message: String,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    effects.push(Effect::Record {
        warning: true,
        reason,
        message: message.clone(),
        container: None,
    });
    let message = format!("Pod was rejected: {message}");
    begin_ending(state, now, now, Some((reason.to_owned(), message)));
    if let Some(ending) = &mut state.ending {
        ending.rejected = true;
    }
}

fn notice_deadline(state: &mut State, spec: &PodSpec, now: Timestamp) {
    let Some(limit) = spec.active_deadline_seconds else {
        return;
    };
    if state.ending.is_some() || outcome(state, spec).is_some() {
        return;
    }
    let at = state.start_time + seconds(limit);
    if at > now {
        return wake(state, at);
    }
    let message = "Pod was active on the node longer than the specified deadline";
    let grace = seconds(spec.termination_grace_period_seconds.unwrap_or(30));
    begin_ending(
        state,
        now + grace,
        now,
        Some(("DeadlineExceeded".into(), message.into())),
    );
}

fn wake(state: &mut State, at: Timestamp) {
    state.wake = Some(state.wake.map_or(at, |earlier| earlier.min(at)));
}

/// Whether a container that ended in this way is started again.
pub fn restarts(spec: &PodSpec, container: &ContainerState, ended: &Ended) -> bool {
    if container.role == Role::Sidecar {
        return true;
    }
    let own =
        find(spec, &container.name).and_then(|definition| definition.restart_policy.as_deref());
    match (container.role, own.or(spec.restart_policy.as_deref())) {
        (Role::Init, Some("Never")) => false,
        (Role::Init, _) => ended.code != 0,
        (_, Some("Never")) => false,
        (_, Some("OnFailure")) => ended.code != 0,
        _ => true,
    }
}

/// Whether the pod is over by itself: true when it succeeded.
pub fn outcome(state: &State, spec: &PodSpec) -> Option<bool> {
    let finished = |container: &ContainerState| match &container.phase {
        Phase::Ended(ended) if !restarts(spec, container, ended) => Some(ended.code == 0),
        _ => None,
    };
    let mut init = state
        .containers
        .iter()
        .filter(|container| container.role == Role::Init);
    if init.any(|container| finished(container) == Some(false)) {
        return Some(false);
    }
    let main = state
        .containers
        .iter()
        .filter(|container| container.role == Role::Main);
    main.map(finished)
        .try_fold(true, |good, result| result.map(|this| good && this))
}

/// Starts what should run; stops what was asked to stop.
fn run(state: &mut State, spec: &PodSpec, now: Timestamp, effects: &mut Vec<Effect>) {
    proceed_stops(state, spec, now, effects);
    for index in 0..state.containers.len() {
        let role = state.containers[index].role;
        consider_start(state, spec, index, now, effects);
        let container = &state.containers[index];
        let passed = match (role, &container.phase) {
            (Role::Init, Phase::Ended(ended)) => ended.code == 0,
            (Role::Init, _) => false,
            (Role::Sidecar, Phase::Running { .. }) => container.started,
            // A sidecar that has to be restarted holds up only what has not started yet.
            (Role::Sidecar, _) => state.containers[index + 1..]
                .iter()
                .any(|later| later.attempt > 0),
            (Role::Main, _) => true,
        };
        if !passed {
            return;
        }
    }
}

fn consider_start(
    state: &mut State,
    spec: &PodSpec,
    index: usize,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let container = &mut state.containers[index];
    let at = match &mut container.phase {
        Phase::Waiting { problem: None } => now,
        Phase::Waiting {
            problem: Some(problem),
        } => {
            let shown_at = problem.at + SHOW_BACKOFF_AFTER;
            if problem.reason == "ErrImagePull" && problem.retry_at > now {
                if shown_at <= now {
                    problem.reason = "ImagePullBackOff".into();
                    problem.message = format!(
                        "Back-off pulling image {:?}: {}",
                        container.image, problem.message
                    );
                } else {
                    return wake(state, shown_at);
                }
            }
            problem.retry_at
        }
        Phase::Ended(ended) => {
            let ended = ended.clone();
            if !restarts(spec, container, &ended) {
                return;
            }
            ended.finished_at + container.crash.restart_delay()
        }
        Phase::Starting | Phase::Running { .. } => return,
    };
    if at > now {
        return wake(state, at);
    }
    if let Phase::Ended(ended) = &container.phase {
        container.last = Some(ended.clone());
        container.restarts += 1;
        container.crash.restarted();
    }
    let id = format!("{}-{}", container.name, container.attempt);
    container.attempt += 1;
    container.phase = Phase::Starting;
    effects.push(Effect::Start {
        name: container.name.clone(),
        id,
    });
}

/// Drives every container that is being stopped through hook, signal and kill.
fn proceed_stops(state: &mut State, spec: &PodSpec, now: Timestamp, effects: &mut Vec<Effect>) {
    let mut wakes = Vec::new();
    for container in &mut state.containers {
        let Some(id) = container.running().map(str::to_owned) else {
            continue;
        };
        let Some(stop) = &mut container.stop else {
            continue;
        };
        let name = container.name.clone();
        if stop.deadline <= now {
            if stop.stage < StopStage::Killed {
                stop.stage = StopStage::Killed;
                effects.push(Effect::Kill { name, id });
            }
            continue;
        }
        wakes.push(stop.deadline);
        if stop.stage == StopStage::Requested {
            let hook = find(spec, &name).and_then(|c| c.lifecycle.as_ref()?.pre_stop.as_ref());
            if hook.is_some() {
                stop.stage = StopStage::PreStop;
                effects.push(Effect::PreStop {
                    name,
                    id,
                    deadline: stop.deadline,
                });
            } else {
                stop.stage = StopStage::Terminated;
                effects.push(Effect::Terminate { name, id });
            }
        }
    }
    for at in wakes {
        wake(state, at);
    }
}

/// Stops what still runs (main containers first, then sidecars from the last to the first), then takes the pod apart.
fn wind_down(state: &mut State, spec: &PodSpec, now: Timestamp, effects: &mut Vec<Effect>) {
    let deadline = match &state.ending {
        Some(ending) => ending.deadline,
        // The pod is over by itself and only sidecars are left.
        None => now + seconds(spec.termination_grace_period_seconds.unwrap_or(30)),
    };
    let first_ones_idle = state
        .containers
        .iter()
        .filter(|container| container.role != Role::Sidecar)
        .all(ContainerState::idle);
    let mut may_stop = true;
    for container in state.containers.iter_mut().rev() {
        match container.role {
            Role::Sidecar if !first_ones_idle || !may_stop => continue,
            Role::Sidecar => may_stop = container.idle(),
            _ => {}
        }
        if container.running().is_none() {
            continue;
        }
        match &mut container.stop {
            Some(stop) => stop.deadline = stop.deadline.min(deadline),
            None => {
                container.stop = Some(Stop {
                    deadline,
                    stage: StopStage::Requested,
                });
                effects.push(record(
                    "Killing",
                    format!("Stopping container {}", container.name),
                    &container.name,
                ));
            }
        }
    }
    proceed_stops(state, spec, now, effects);
    let busy = matches!(state.sandbox, Sandbox::Creating(_))
        || !state.containers.iter().all(ContainerState::idle);
    if !busy {
        state.teardown = Teardown::Running;
        effects.push(Effect::Teardown);
    }
}

fn finish(state: &mut State, pod: &Pod) {
    if state.teardown == Teardown::Done && pod.metadata.deletion_timestamp.is_some() {
        state.teardown = Teardown::Released;
    }
}
