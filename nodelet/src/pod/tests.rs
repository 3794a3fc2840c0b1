//! Stories of single pods, and properties over random ones.

use proptest::prelude::*;

use super::status::{phase, status};
use super::*;

fn pod(yaml: &str) -> Pod {
    serde_saphyr::from_str(yaml).expect("a pod")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("in range")
}

/// A pod and a world that does at once what it is asked to.
struct Play {
    pod: Pod,
    state: State,
    now: i64,
    starts: Vec<String>,
    log: Vec<Effect>,
}

impl Play {
    fn new(yaml: &str) -> Self {
        let pod = pod(yaml);
        let state = State::new(&pod, at(0));
        let mut play = Self {
            pod,
            state,
            now: 0,
            starts: Vec::new(),
            log: Vec::new(),
        };
        play.event(Event::Tick);
        play
    }

    fn event(&mut self, event: Event) {
        let (state, effects) = self.state.clone().step(&self.pod, event, at(self.now));
        self.state = state;
        for effect in effects {
            self.log.push(effect.clone());
            match effect {
                Effect::CreateSandbox => self.event(Event::SandboxReady(vec!["10.0.0.2".into()])),
                Effect::Start { name, id } => {
                    self.starts.push(id.clone());
                    let at = at(self.now);
                    self.event(Event::Started {
                        name,
                        id,
                        image: "i".into(),
                        image_id: "x".into(),
                        at,
                    });
                }
                Effect::Kill { name, .. } => self.end(&name, 137),
                Effect::PreStop { name, .. } => self.event(Event::PreStopDone { name }),
                Effect::Teardown => self.event(Event::TornDown),
                _ => {}
            }
        }
    }

    fn end(&mut self, name: &str, code: i32) {
        let Some(Phase::Running { id, started_at }) =
            self.state.container(name).map(|found| found.phase.clone())
        else {
            return;
        };
        let ended = Ended {
            id,
            code,
            signal: None,
            reason: "Error".into(),
            message: String::new(),
            started_at,
            finished_at: at(self.now),
        };
        self.event(Event::Ended {
            name: name.into(),
            ended,
        });
    }

    fn later(&mut self, seconds: i64) {
        self.now += seconds;
        self.event(Event::Tick);
    }

    fn phase(&self) -> &'static str {
        phase(&self.state, self.pod.spec.as_ref().expect("spec"))
    }

    fn waiting(&self, name: &str) -> Option<String> {
        let status = status(&self.state, &self.pod, &[], at(self.now));
        let all = status
            .container_statuses
            .into_iter()
            .chain(status.init_container_statuses)
            .flatten();
        let found = all.into_iter().find(|container| container.name == name)?;
        found.state?.waiting?.reason
    }

    fn delete(&mut self, grace: i64) {
        self.pod.metadata.deletion_timestamp = Some(corral_api::time::Time(at(self.now + grace)));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.event(Event::Tick);
    }

    fn terminated(&self, wanted: &str) -> bool {
        self.log
            .iter()
            .any(|effect| matches!(effect, Effect::Terminate { name, .. } if name == wanted))
    }
}

#[test]
fn init_containers_run_in_order_and_sidecars_stay() {
    let mut play = Play::new(
        "{metadata: {name: p}, spec: {restartPolicy: Never, initContainers: [{name: a}, \
         {name: s, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}}, {name: b}], containers: [{name: c}]}}",
    );
    assert_eq!(play.starts, ["a-0"]);
    assert_eq!(play.waiting("c").as_deref(), Some("PodInitializing"));
    play.end("a", 0);
    assert_eq!(play.starts, ["a-0", "s-0"]);
    play.event(Event::Probe {
        name: "s".into(),
        kind: ProbeKind::Startup,
        success: true,
    });
    assert_eq!(play.starts, ["a-0", "s-0", "b-0"]);
    assert_eq!(play.phase(), "Pending");
    play.end("b", 0);
    assert_eq!(
        (play.starts.last().map(String::as_str), play.phase()),
        (Some("c-0"), "Running")
    );
    play.end("c", 0);
    assert!(
        play.terminated("s"),
        "the sidecar is stopped when the pod is over"
    );
    play.end("s", 143);
    assert_eq!(
        (play.phase(), play.state.teardown),
        ("Succeeded", Teardown::Done)
    );
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut play = Play::new(
        "{metadata: {name: p}, spec: {restartPolicy: Never, initContainers: [{name: a}], containers: [{name: c}]}}",
    );
    play.end("a", 1);
    assert_eq!((play.phase(), play.starts.len()), ("Failed", 1));
    assert_eq!(play.state.teardown, Teardown::Done);
}

#[test]
fn crashes_back_off_and_a_long_run_forgives() {
    let mut play = Play::new("{metadata: {name: p}, spec: {containers: [{name: c}]}}");
    play.end("c", 1);
    assert_eq!(play.starts.len(), 2, "the first restart is immediate");
    play.end("c", 1);
    assert_eq!(play.waiting("c").as_deref(), Some("CrashLoopBackOff"));
    play.later(9);
    assert_eq!(play.starts.len(), 2);
    play.later(1);
    assert_eq!(play.starts.len(), 3);
    play.later(700);
    play.end("c", 1);
    assert_eq!(
        play.starts.len(),
        4,
        "after ten minutes of peace the restart is immediate again"
    );
    assert_eq!(play.state.container("c").expect("known").restarts, 3);
}

#[test]
fn deletion_runs_the_hook_then_terminates_then_kills_and_deletes_the_object() {
    let mut play = Play::new(
        "{metadata: {name: p}, spec: {initContainers: [{name: s, restartPolicy: Always}], \
         containers: [{name: c, lifecycle: {preStop: {exec: {command: [x]}}}}]}}",
    );
    play.delete(30);
    assert!(
        play.log
            .iter()
            .any(|effect| matches!(effect, Effect::PreStop { .. }))
    );
    assert!(
        play.terminated("c") && !play.terminated("s"),
        "sidecars go last"
    );
    play.later(31);
    assert!(
        play.log
            .iter()
            .any(|effect| matches!(effect, Effect::Kill { name, .. } if name == "c"))
    );
    assert_eq!(play.state.teardown, Teardown::Released);
}

#[test]
fn pull_errors_are_retried_with_growing_delays() {
    let pod = pod("{metadata: {name: p}, spec: {containers: [{name: c, image: x}]}}");
    let (state, _) = State::new(&pod, at(0)).step(&pod, Event::Tick, at(0));
    let (state, _) = state.step(&pod, Event::SandboxReady(vec![]), at(0));
    let failed = || Event::CreateFailed {
        name: "c".into(),
        reason: "ErrImagePull".into(),
        message: "no".into(),
    };
    let (state, effects) = state.step(&pod, failed(), at(0));
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Start { .. }))
    );
    let (state, _) = state.step(&pod, Event::Tick, at(3));
    let shown = status(&state, &pod, &[], at(3));
    let reason = shown.container_statuses.expect("statuses")[0]
        .state
        .clone()
        .expect("state")
        .waiting
        .expect("waiting");
    assert_eq!(reason.reason.as_deref(), Some("ImagePullBackOff"));
    let (state, effects) = state.step(&pod, Event::Tick, at(10));
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Start { .. }))
    );
    let (state, _) = state.step(&pod, failed(), at(10));
    assert_eq!(state.wake, Some(at(12)));
    let (state, _) = state.step(&pod, Event::Tick, at(12));
    assert_eq!(state.wake, Some(at(30)));
}

#[test]
fn a_failed_liveness_probe_restarts_and_a_deadline_fails() {
    let mut play = Play::new(
        "{metadata: {name: p}, spec: {terminationGracePeriodSeconds: 5, activeDeadlineSeconds: 60, \
         containers: [{name: c, livenessProbe: {tcpSocket: {port: 1}}, readinessProbe: {tcpSocket: {port: 1}}}]}}",
    );
    play.event(Event::Probe {
        name: "c".into(),
        kind: ProbeKind::Readiness,
        success: true,
    });
    assert!(play.state.container("c").expect("known").ready);
    play.event(Event::Probe {
        name: "c".into(),
        kind: ProbeKind::Liveness,
        success: false,
    });
    assert!(play.terminated("c"));
    play.later(5);
    assert_eq!(play.starts, ["c-0", "c-1"]);
    assert!(!play.state.container("c").expect("known").ready);
    play.later(60);
    play.later(5);
    let shown = status(&play.state, &play.pod, &[], at(play.now));
    assert_eq!(
        (shown.phase.as_deref(), shown.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

#[test]
fn a_lost_shim_ends_what_it_ran() {
    let mut play = Play::new("{metadata: {name: p}, spec: {containers: [{name: c}]}}");
    play.event(Event::SandboxLost);
    assert_eq!(play.starts, ["c-0", "c-1"]);
    let last = play
        .state
        .container("c")
        .expect("known")
        .last
        .clone()
        .expect("ended");
    assert_eq!(
        (last.code, last.reason.as_str()),
        (137, "ContainerStatusUnknown")
    );
}

#[derive(Debug, Clone)]
enum Move {
    End(usize, i32),
    Probe(usize, ProbeKind, bool),
    Later(i64),
    Lost,
    Delete,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let kind = prop_oneof![
        Just(ProbeKind::Startup),
        Just(ProbeKind::Liveness),
        Just(ProbeKind::Readiness)
    ];
    let one = prop_oneof![
        6 => (0..4_usize, prop_oneof![Just(0), Just(1)]).prop_map(|(index, code)| Move::End(index, code)),
        3 => (0..4_usize, kind, any::<bool>()).prop_map(|(index, kind, success)| Move::Probe(index, kind, success)),
        4 => (0..400_i64).prop_map(Move::Later),
        1 => Just(Move::Lost),
        1 => Just(Move::Delete),
    ];
    prop::collection::vec(one, 0..60)
}

fn random_pod() -> impl Strategy<Value = String> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (policy, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(policy, init, sidecar, probe)| {
            let mut list = Vec::new();
            if init {
                list.push("{name: i0}".to_owned());
            }
            if sidecar {
                let startup = if probe {
                    ", startupProbe: {tcpSocket: {port: 1}}"
                } else {
                    ""
                };
                list.push(format!("{{name: s1, restartPolicy: Always{startup}}}"));
            }
            format!(
                "{{metadata: {{name: p}}, spec: {{restartPolicy: {policy}, initContainers: [{}], \
             containers: [{{name: c2}}, {{name: c3}}]}}}}",
                list.join(", ")
            )
        },
    )
}

fn check(play: &Play, spec: &PodSpec) {
    let mut ids = play.starts.clone();
    ids.sort();
    ids.dedup();
    assert_eq!(
        ids.len(),
        play.starts.len(),
        "an instance id was used twice"
    );
    let init_open = play.state.containers.iter().any(|container| {
        container.role == Role::Init
            && !matches!(&container.phase, Phase::Ended(ended) if ended.code == 0)
    });
    let main_running = play
        .state
        .containers
        .iter()
        .any(|container| container.role == Role::Main && container.running().is_some());
    assert!(
        !(init_open && main_running),
        "a main container runs before initialisation is over"
    );
    if play.state.teardown != Teardown::No {
        assert!(
            play.state.containers.iter().all(ContainerState::idle),
            "taken apart while something runs"
        );
    }
    if play.state.teardown == Teardown::No && play.state.sandbox != Sandbox::Absent {
        let busy = play
            .state
            .containers
            .iter()
            .any(|container| !container.idle());
        assert!(
            busy || play.state.wake.is_some(),
            "nothing runs and nothing will wake the pod: {:?}",
            play.state
        );
    }
    let shown = status(&play.state, &play.pod, &[], at(play.now));
    let ready = shown
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready")
        .expect("a condition");
    let main_ready = play
        .state
        .containers
        .iter()
        .filter(|c| c.role != Role::Init)
        .all(|c| c.ready);
    assert_eq!(
        ready.status == "True",
        main_ready && !matches!(phase(&play.state, spec), "Succeeded" | "Failed")
    );
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold(yaml in random_pod(), moves in moves()) {
        let mut play = Play::new(&yaml);
        let spec = play.pod.spec.clone().expect("spec");
        let names = ["i0", "s1", "c2", "c3"];
        let mut over = None;
        for step in moves {
            match step {
                Move::End(index, code) => play.end(names[index], code),
                Move::Probe(index, kind, success) => {
                    play.event(Event::Probe { name: names[index].into(), kind, success });
                }
                Move::Later(seconds) => play.later(seconds),
                Move::Lost => play.event(Event::SandboxLost),
                Move::Delete if play.pod.metadata.deletion_timestamp.is_none() => play.delete(30),
                Move::Delete => {}
            }
            check(&play, &spec);
            let now = play.phase();
            if let Some(before) = over {
                prop_assert_eq!(before, now, "a terminal phase changed");
            }
            over = matches!(now, "Succeeded" | "Failed").then_some(now);
        }
        // However it stands, deletion ends it.
        if play.pod.metadata.deletion_timestamp.is_none() {
            play.delete(30);
        }
        for _ in 0..6 {
            play.later(40);
        }
        prop_assert_eq!(play.state.teardown, Teardown::Released);
    }

    #[test]
    fn a_step_without_news_changes_nothing(yaml in random_pod()) {
        let mut play = Play::new(&yaml);
        let effects = play.log.len();
        let before = play.state.clone();
        play.event(Event::Tick);
        prop_assert_eq!(play.log.len(), effects);
        prop_assert_eq!(&play.state, &before);
    }
}
