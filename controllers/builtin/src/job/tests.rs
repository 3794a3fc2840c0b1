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
            claims: Claims::default(),
        };
        let plan = plan(&world, at(self.clock));
        let busy = plan.status.is_some() || !plan.create.is_empty() || !plan.release.is_empty();
        for index in &plan.create {
            self.made += 1;
            let mut pod = pod::new(&self.job, index);
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
        claims: Claims::default(),
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

/// A pod's end by an exit code.
fn exited(code: i32) -> corral_api::k8s::api::core::v1::PodStatus {
    object_status(json!({
        "phase": "Failed", "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code}},
        }],
    }))
}

impl Simulation {
    /// Ends the active pod of an index.
    fn end_index(&mut self, index: i32, status: corral_api::k8s::api::core::v1::PodStatus) {
        let mut active = self.pods.iter_mut().filter(|pod| pods::is_active(pod));
        let pod = active.find(|pod| indexes::of(pod) == Some(index));
        let pod = pod.expect("the index has an active pod");
        pod.status = Some(status);
        pod.metadata.creation_timestamp = Some(corral_api::time::Time(at(self.clock)));
    }

    fn active_indexes(&self) -> Vec<i32> {
        let active = self.pods.iter().filter(|pod| pods::is_active(pod));
        active.filter_map(indexes::of).collect()
    }
}

fn succeeded() -> corral_api::k8s::api::core::v1::PodStatus {
    object_status(json!({"phase": "Succeeded"}))
}

proptest! {
    #[test]
    fn an_index_fails_for_good_after_its_own_limit_and_never_runs_again(
        completions in 1..5_i32, parallelism in 1..4_i32, limit in 0..3_i32, max_failed in prop::option::of(0..4_i32),
        ends in prop::collection::vec((0..4_usize, any::<bool>(), any::<bool>()), 0..40),
    ) {
        let mut sim = Simulation::new(json!({
            "completions": completions, "parallelism": parallelism, "completionMode": "Indexed",
            "backoffLimit": i32::MAX, "backoffLimitPerIndex": limit,
            "maxFailedIndexes": max_failed.map(|max| max.min(completions)),
        }));
        let mut failures = std::collections::BTreeMap::<i32, i32>::new();
        let mut good = BTreeSet::new();
        for (n, well, lost) in ends {
            sim.step(lost);
            sim.clock += 1000;
            sim.step(lost);
            let active = sim.active_indexes();
            prop_assert_eq!(active.iter().collect::<BTreeSet<_>>().len(), active.len(), "one pod per index");
            prop_assert!(active.iter().all(|index| failures.get(index).copied().unwrap_or(0) <= limit));
            if active.is_empty() || sim.condition("FailureTarget").is_some() {
                continue;
            }
            let index = active[n % active.len()];
            if well {
                good.insert(index);
                sim.end_index(index, succeeded());
            } else {
                *failures.entry(index).or_insert(0) += 1;
                sim.end_index(index, exited(1));
            }
            // A pod that was released may be removed by anyone; the count of its index must not be lost with it.
            sim.pods.retain(|pod| has_finalizer(pod) || !pods::is_terminal(pod));
        }
        let ended_by_limit = sim.condition("FailureTarget").is_some();
        sim.clock += 1000;
        sim.settle();
        let over: BTreeSet<_> = failures.iter().filter(|(_, n)| **n > limit).map(|(index, _)| *index).collect();
        let status = sim.status();
        prop_assert_eq!(Indexes::parse(&status.failed_indexes.clone().unwrap_or_default(), i32::MAX).0, over.clone());
        prop_assert_eq!(Indexes::parse(&status.completed_indexes.clone().unwrap_or_default(), i32::MAX).0, good.clone());
        let n_over = i32::try_from(over.len()).expect("few");
        let all = n_over + i32::try_from(good.len()).expect("few") >= completions;
        if max_failed.is_some_and(|max| n_over > max.min(completions)) {
            prop_assert_eq!(sim.condition("Failed"), Some("MaxFailedIndexesExceeded".to_owned()));
        } else if n_over > 0 && all {
            prop_assert_eq!(sim.condition("Failed"), Some("FailedIndexes".to_owned()));
        } else if all {
            prop_assert_eq!(sim.condition("Complete"), Some("CompletionsReached".to_owned()));
            prop_assert_eq!(status.failed.unwrap_or(0), failures.values().sum::<i32>());
        } else {
            prop_assert!(!ended_by_limit && sim.condition("Failed").is_none() && sim.condition("Complete").is_none());
        }
    }

    #[test]
    fn a_success_policy_is_met_by_enough_of_the_named_indexes(
        named in prop::collection::btree_set(0..12_i32, 0..12), done in prop::collection::btree_set(0..12_i32, 0..12),
        count in prop::option::of(1..12_i32),
    ) {
        let text = (!named.is_empty()).then(|| Indexes(named.clone()).to_string());
        prop_assume!(text.is_some() || count.is_some());
        let spec: JobSpec = serde_json::from_value(json!({
            "template": {}, "completions": 12,
            "successPolicy": {"rules": [{"succeededIndexes": text, "succeededCount": count}]},
        })).expect("a spec");
        let within = if text.is_some() { named.intersection(&done).count() } else { done.len() };
        let enough = count.is_some_and(|count| within >= usize::try_from(count).expect("positive"));
        let met = !done.is_empty() && (enough || (text.is_some() && within == named.len()));
        prop_assert_eq!(policy::succeeding(&spec, &Indexes(done)), met.then_some(0));
    }
}

#[test]
fn a_success_policy_ends_the_job_and_the_rest_counts_for_nothing() {
    let rules = json!([{"succeededIndexes": "0"}, {"succeededIndexes": "1-1999999999", "succeededCount": 1}]);
    let mut sim = Simulation::new(json!({
        "completions": 2_000_000_000, "parallelism": 3, "completionMode": "Indexed", "successPolicy": {"rules": rules},
    }));
    sim.settle();
    sim.end_index(2, succeeded());
    sim.step(false);
    assert_eq!(
        sim.condition("SuccessCriteriaMet").as_deref(),
        Some("SuccessPolicy")
    );
    sim.settle();
    assert_eq!(sim.condition("Complete").as_deref(), Some("SuccessPolicy"));
    let status = sim.status();
    let complete = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Complete");
    let message = complete.and_then(|complete| complete.message.as_deref());
    assert_eq!(message, Some("Matched rules at index 1"));
    assert_eq!((status.succeeded, status.failed), (Some(1), None));
    assert!(!sim.pods.iter().any(has_finalizer), "every pod was let go");
}

#[test]
fn the_successor_of_a_failed_pod_carries_the_failures_of_its_index() {
    let rules = json!([
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [3]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [4]}},
        {"action": "Count", "onExitCodes": {"operator": "In", "values": [5]}},
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [9]}},
    ]);
    let mut sim = Simulation::new(json!({
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": i32::MAX,
        "backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": rules},
    }));
    sim.settle();
    let annotation = |sim: &Simulation, name: &str| {
        let pod = sim.pods.iter().rfind(|pod| indexes::of(pod) == Some(0));
        let annotations = pod.and_then(|pod| pod.metadata.annotations.clone());
        annotations
            .and_then(|mut annotations| annotations.remove(&format!("batch.kubernetes.io/{name}")))
    };
    assert_eq!(
        annotation(&sim, "job-index-failure-count").as_deref(),
        Some("0")
    );
    for code in [4, 5] {
        sim.end_index(0, exited(code));
        sim.settle();
        assert!(
            has_finalizer(&sim.pods[sim.made - 1]) || sim.active() == 1,
            "kept for its successor"
        );
        sim.clock += 1000;
        sim.settle();
    }
    assert_eq!(
        annotation(&sim, "job-index-failure-count").as_deref(),
        Some("1")
    );
    assert_eq!(
        annotation(&sim, "job-index-ignored-failure-count").as_deref(),
        Some("1")
    );
    assert_eq!(
        sim.status().failed,
        Some(1),
        "an ignored failure is not counted"
    );
    sim.end_index(1, exited(3));
    sim.settle();
    assert_eq!(sim.status().failed_indexes.as_deref(), Some("1"));
    assert!(sim.condition("FailureTarget").is_none());
    sim.end_index(0, exited(5));
    sim.settle();
    assert_eq!(sim.condition("Failed").as_deref(), Some("FailedIndexes"));
    assert_eq!(sim.status().failed_indexes.as_deref(), Some("0,1"));
    assert_eq!(sim.status().failed, Some(3));
}

#[test]
fn a_pod_on_its_way_out_is_replaced_at_once_or_when_it_has_ended() {
    for (policy, replaced, failed) in [("TerminatingOrFailed", 2, Some(1)), ("Failed", 1, None)] {
        let mut sim = Simulation::new(json!({
            "completions": 1, "parallelism": 1, "podReplacementPolicy": policy,
        }));
        sim.settle();
        sim.pods[0].metadata.deletion_timestamp = Some(corral_api::time::Time(at(sim.clock)));
        sim.settle();
        assert_eq!(
            (sim.made, sim.status().terminating),
            (replaced, Some(1)),
            "{policy}"
        );
        assert_eq!(sim.status().failed, failed, "{policy}");
        sim.end_terminating();
        sim.settle();
        sim.clock += 1000;
        sim.settle();
        assert_eq!(
            (sim.made, sim.status().terminating),
            (2, Some(0)),
            "{policy}"
        );
        assert_eq!(sim.status().failed, Some(1), "{policy}");
    }
}

impl Simulation {
    fn end_terminating(&mut self) {
        let leaving = |pod: &&mut Pod| pods::is_deleted(&pod.metadata);
        for pod in self.pods.iter_mut().filter(leaving) {
            pod.status.get_or_insert_default().phase = Some("Failed".into());
        }
    }
}

#[test]
fn a_job_of_another_manager_is_only_deleted_after_its_time() {
    let mut job = job(json!({"managedBy": "example.com/queue", "ttlSecondsAfterFinished": 30}));
    let mut pod = pod::new(&job, &NewPod::default());
    pod.status.get_or_insert_default().phase = Some("Succeeded".into());
    let world = |job: &Job| World {
        job: Some(Arc::new(job.clone())),
        pods: vec![Arc::new(pod.clone())],
        claims: Claims::default(),
    };
    let nothing = |plan: &Plan| {
        plan.create.is_empty()
            && plan.release.is_empty()
            && plan.status.is_none()
            && plan.event.is_none()
    };
    let first = plan(&world(&job), at(0));
    assert!(nothing(&first) && !first.delete_job);
    let condition =
        json!({"type": "Complete", "status": "True", "lastTransitionTime": at(0).to_string()});
    job.status = serde_json::from_value(json!({"conditions": [condition]})).expect("a status");
    assert!(!plan(&world(&job), at(29)).delete_job);
    let last = plan(&world(&job), at(30));
    assert!(nothing(&last) && last.delete_job);
}

fn object_status(status: Value) -> corral_api::k8s::api::core::v1::PodStatus {
    serde_json::from_value(status).expect("a pod status")
}
