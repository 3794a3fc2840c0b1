use corral_runtime::testing::object;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_040 + 60 * minute).expect("valid")
}

fn cron(spec: Value) -> CronJob {
    let mut cron = json!({
        "metadata": {"name": "report", "namespace": "ns", "uid": "c", "creationTimestamp": corral_api::time::format_seconds(at(0))},
        "spec": {"schedule": "*/10 * * * *", "jobTemplate": {"spec": {"template": {"spec": {"containers": []}}}}},
    });
    for (key, value) in spec.as_object().expect("an object") {
        cron["spec"][key] = value.clone();
    }
    object(cron)
}

fn ended(job: &mut Job, condition: &str, at: Timestamp) {
    let time = corral_api::time::format_seconds(at);
    let status = json!({
        "startTime": time, "completionTime": time,
        "conditions": [{"type": condition, "status": "True", "lastTransitionTime": time}],
    });
    job.status = Some(serde_json::from_value(status).expect("a status"));
}

struct Simulation {
    cron: CronJob,
    jobs: Vec<Job>,
    started: Vec<String>,
}

impl Simulation {
    fn new(spec: Value) -> Self {
        Self {
            cron: cron(spec),
            jobs: Vec::new(),
            started: Vec::new(),
        }
    }

    fn step(&mut self, now: Timestamp) -> Plan {
        let world = World {
            cron: Arc::new(self.cron.clone()),
            jobs: self.jobs.iter().cloned().map(Arc::new).collect(),
        };
        let mut plan = plan(&world, now);
        self.jobs.retain(|job| {
            !plan
                .delete
                .iter()
                .any(|gone| gone.metadata.name == job.metadata.name)
        });
        let mut status = plan.status.clone();
        if let Some(mut job) = plan.create.take() {
            job.metadata.uid.clone_from(&job.metadata.name);
            self.started.push(job.metadata.name.clone().expect("named"));
            status.active.get_or_insert_default().push(reference(&job));
            status.last_schedule_time = plan.scheduled.map(Time);
            self.jobs.push(job);
        }
        self.cron.status = Some(status);
        plan
    }
}

proptest! {
    #[test]
    fn no_time_is_started_twice_and_histories_stay_bounded(
        steps in prop::collection::vec((1..40_i64, any::<bool>(), any::<bool>()), 1..40),
        policy in prop_oneof![Just("Allow"), Just("Forbid"), Just("Replace")],
    ) {
        let mut sim = Simulation::new(json!({"concurrencyPolicy": policy}));
        let mut minute = 0;
        for (wait, end, good) in steps {
            minute += wait;
            sim.step(at(minute));
            sim.step(at(minute));
            let unfinished = sim.jobs.iter().filter(|job| !is_finished(job)).count();
            prop_assert!(policy == "Allow" || unfinished <= 1);
            if end && let Some(job) = sim.jobs.iter_mut().find(|job| !is_finished(job)) {
                ended(job, if good { "Complete" } else { "Failed" }, at(minute));
            }
            sim.step(at(minute));
            let count = |complete| sim.jobs.iter().filter(|job| is_finished(job) && job::is_complete(job.status.as_ref()) == complete).count();
            prop_assert!(count(true) <= 3 && count(false) <= 1);
        }
        let mut unique = sim.started.clone();
        unique.sort();
        unique.dedup();
        prop_assert_eq!(unique.len(), sim.started.len());
    }
}

#[test]
fn a_job_is_named_after_its_minute_and_started_once() {
    let mut sim = Simulation::new(json!({}));
    assert_eq!(
        sim.step(at(0)).look_again.map(|next| next > at(0)),
        Some(true)
    );
    let plan = sim.step(at(11));
    let due = plan.scheduled.expect("started");
    assert_eq!(sim.started, [format!("report-{}", due.as_second() / 60)]);
    assert!(sim.step(at(11)).scheduled.is_none());
}

#[test]
fn a_start_past_its_deadline_is_skipped() {
    let mut sim = Simulation::new(json!({"startingDeadlineSeconds": 60}));
    // The schedule's minutes end in 0; the clock starts 14 minutes past the hour.
    let due = sim.step(at(0)).look_again.expect("has a next time");
    let late = due + jiff::SignedDuration::from_secs(120);
    assert!(sim.step(late).scheduled.is_none());
    let mut sim = Simulation::new(json!({"startingDeadlineSeconds": 60}));
    assert!(
        sim.step(due + jiff::SignedDuration::from_secs(30))
            .scheduled
            .is_some()
    );
}

#[test]
fn many_missed_times_start_one_job_and_warn() {
    let mut sim = Simulation::new(json!({"schedule": "* * * * *"}));
    let plan = sim.step(at(500));
    assert_eq!(sim.started.len(), 1);
    assert!(
        plan.events
            .iter()
            .any(|(_, reason, _)| *reason == "TooManyMissedTimes")
    );
}

#[test]
fn a_suspended_cron_job_starts_nothing() {
    let mut sim = Simulation::new(json!({"suspend": true}));
    sim.step(at(100));
    assert!(sim.started.is_empty());
}
