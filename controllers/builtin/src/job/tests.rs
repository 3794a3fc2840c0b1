use corral_runtime::testing::object;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("valid")
}

fn job(spec: Value) -> Job {
    let mut job = json!({
        "metadata": {"name": "work", "namespace": "ns", "uid": "j"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}},
    });
    for (key, value) in spec.as_object().expect("an object") {
        job["spec"][key] = value.clone();
    }
    object(job)
}

/// A Job whose pods end as the test says.
struct Simulation {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    clock: i64,
    withdrawn: usize,
}

impl Simulation {
    fn new(spec: Value) -> Self {
        Self {
            job: job(spec),
            pods: Vec::new(),
            made: 0,
            clock: 0,
            withdrawn: 0,
        }
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    /// Plans and applies. `lost` loses the writes after the status, as a crash would.
    fn step(&mut self, lost: bool) -> bool {
        self.clock += 1;
        let world = World {
            job: Some(Arc::new(self.job.clone())),
            pods: self.pods.iter().cloned().map(Arc::new).collect(),
        };
        let plan = plan(&world, at(self.clock));
        let busy = plan.status.is_some() || !plan.create.is_empty() || !plan.release.is_empty();
        for index in &plan.create {
            self.made += 1;
            let mut pod = pod::new(&self.job, *index);
            pod.metadata.uid = Some(format!("u{}", self.made));
            pod.metadata.name = Some(format!("p{}", self.made));
            self.pods.push(pod);
        }
        let is = |pod: &Pod, list: &[Arc<Pod>]| {
            list.iter()
                .any(|other| other.metadata.uid == pod.metadata.uid)
        };
        self.withdrawn += plan.withdraw.len();
        self.pods.retain(|pod| !is(pod, &plan.withdraw));
        for pod in self.pods.iter_mut().filter(|pod| is(pod, &plan.kill)) {
            pod.status.get_or_insert_default().phase = Some("Failed".into());
        }
        if let Some(status) = plan.status {
            self.job.status = Some(status);
        }
        if !lost {
            for pod in self.pods.iter_mut().filter(|pod| is(pod, &plan.release)) {
                pod.metadata.finalizers = None;
            }
        }
        busy
    }

    fn end(&mut self, n: usize, phase: &str) {
        let active: Vec<_> = self
            .pods
            .iter_mut()
            .filter(|pod| pods::is_active(pod))
            .collect();
        let n_active = active.len();
        if let Some(pod) = active.into_iter().nth(n % n_active.max(1)) {
            pod.status.get_or_insert_default().phase = Some(phase.into());
            pod.metadata.creation_timestamp = Some(corral_api::time::Time(at(self.clock)));
        }
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            if !self.step(false) {
                return;
            }
        }
        panic!("does not settle: {:?}", self.status());
    }

    fn active(&self) -> usize {
        self.pods.iter().filter(|pod| pods::is_active(pod)).count()
    }

    fn condition(&self, name: &str) -> Option<String> {
        let status = self.status();
        let mut found = status
            .conditions
            .into_iter()
            .flatten()
            .filter(|c| c.type_ == name && c.status == "True");
        found
            .next()
            .map(|condition| condition.reason.unwrap_or_default())
    }
}

proptest! {
    #[test]
    fn no_ending_is_lost_or_counted_twice(
        completions in 1..6_i32, parallelism in 1..4_i32, indexed in any::<bool>(),
        ends in prop::collection::vec((0..4_usize, any::<bool>(), any::<bool>()), 0..30),
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let mut sim = Simulation::new(json!({
            "completions": completions, "parallelism": parallelism, "backoffLimit": 100, "completionMode": mode,
        }));
        let (mut succeeded, mut failed) = (0, 0);
        for (n, good, lost) in ends {
            sim.step(lost);
            // Long enough for any back-off to be over.
            sim.clock += 1000;
            sim.step(lost);
            prop_assert!(sim.active() <= usize::try_from(parallelism).expect("positive"));
            if sim.active() > 0 {
                sim.end(n, if good { "Succeeded" } else { "Failed" });
                if good { succeeded += 1 } else { failed += 1 }
            }
            // An ended pod that is released may be removed by anyone.
            if lost {
                sim.pods.retain(|pod| has_finalizer(pod) || !pods::is_terminal(pod));
            }
        }
        sim.clock += 1000;
        sim.settle();
        prop_assert_eq!(sim.status().succeeded.unwrap_or(0), succeeded);
        if succeeded < completions {
            prop_assert_eq!(sim.status().failed.unwrap_or(0), failed);
            prop_assert!(sim.condition("Complete").is_none());
        } else {
            prop_assert_eq!(sim.condition("Complete"), Some("CompletionsReached".to_owned()));
        }
    }
}

#[test]
fn an_indexed_job_gives_each_index_once() {
    let mut sim =
        Simulation::new(json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"}));
    sim.settle();
    let indexes: Vec<_> = sim.pods.iter().filter_map(indexes::of).collect();
    assert_eq!(indexes, [0, 1]);
    assert_eq!(
        sim.pods[1]
            .spec
            .as_ref()
            .and_then(|spec| spec.hostname.as_deref()),
        Some("work-1")
    );
    sim.end(1, "Succeeded");
    sim.settle();
    assert_eq!(sim.status().completed_indexes.as_deref(), Some("1"));
    for _ in 0..3 {
        sim.end(0, "Succeeded");
        sim.settle();
    }
    assert_eq!(sim.status().completed_indexes.as_deref(), Some("0-3"));
    assert!(sim.condition("Complete").is_some());
}

#[test]
fn too_many_failures_end_the_job_after_its_pods() {
    let mut sim = Simulation::new(json!({"completions": 5, "parallelism": 2, "backoffLimit": 0}));
    sim.settle();
    sim.end(0, "Failed");
    sim.step(false);
    assert_eq!(
        sim.condition("FailureTarget").as_deref(),
        Some("BackoffLimitExceeded")
    );
    assert!(
        sim.condition("Failed").is_none(),
        "a pod has not been counted yet"
    );
    sim.settle();
    assert_eq!(
        sim.condition("Failed").as_deref(),
        Some("BackoffLimitExceeded")
    );
    assert_eq!(sim.status().failed, Some(2));
}

#[test]
fn failures_in_a_row_are_waited_out() {
    let mut sim = Simulation::new(json!({"completions": 1, "parallelism": 1}));
    sim.settle();
    sim.end(0, "Failed");
    sim.settle();
    assert_eq!(sim.active(), 0);
    sim.clock += 13;
    sim.settle();
    assert_eq!(sim.active(), 1);
}

#[test]
fn suspending_withdraws_pods_without_counting_them() {
    let mut sim = Simulation::new(json!({"completions": 3, "parallelism": 3}));
    sim.settle();
    sim.job.spec.as_mut().expect("has one").suspend = Some(true);
    sim.settle();
    assert_eq!(
        (sim.active(), sim.withdrawn, sim.status().failed),
        (0, 3, None)
    );
    assert_eq!(sim.condition("Suspended").as_deref(), Some("JobSuspended"));
    assert!(sim.status().start_time.is_none());
    sim.job.spec.as_mut().expect("has one").suspend = Some(false);
    sim.settle();
    assert_eq!(sim.active(), 3);
    assert!(sim.condition("Suspended").is_none());
}

#[test]
fn the_deadline_ends_the_job_and_its_time_to_live_deletes_it() {
    let mut sim =
        Simulation::new(json!({"activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 30}));
    sim.settle();
    sim.clock += 60;
    sim.settle();
    assert_eq!(sim.condition("Failed").as_deref(), Some("DeadlineExceeded"));
    let world = World {
        job: Some(Arc::new(sim.job.clone())),
        pods: vec![],
    };
    let due = plan(&world, at(sim.clock))
        .look_again
        .expect("waits for its time");
    assert!(plan(&world, due).delete_job);
}

#[test]
fn a_pod_failure_policy_fails_the_job_at_once_or_ignores() {
    let rules = json!([
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]);
    let mut sim = Simulation::new(json!({
        "completions": 1, "parallelism": 1, "backoffLimit": 0, "podFailurePolicy": {"rules": rules},
    }));
    sim.settle();
    sim.pods[0].status = Some(object_status(json!({
        "phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}],
    })));
    sim.settle();
    assert!(
        sim.condition("FailureTarget").is_none(),
        "an ignored failure does not count"
    );
    sim.clock += 1000;
    sim.settle();
    sim.pods.last_mut().expect("a new one").status = Some(object_status(json!({
        "phase": "Failed", "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 42}},
        }],
    })));
    sim.settle();
    assert_eq!(sim.condition("Failed").as_deref(), Some("PodFailurePolicy"));
}

fn object_status(status: Value) -> corral_api::k8s::api::core::v1::PodStatus {
    serde_json::from_value(status).expect("a pod status")
}
