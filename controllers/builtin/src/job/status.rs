//! A Job's counts and conditions. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use corral_api::k8s::api::batch::v1::{JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use corral_api::k8s::api::core::v1::Pod;
use corral_api::time::{Time, truncate_to_seconds};
use corral_runtime::events::EventType;
use corral_runtime::key::uid_of;
use jiff::Timestamp;

use super::{Indexes, UNCOUNTED_MAX, has_finalizer, indexes, is_failed, is_indexed, policy};
use crate::pods;
use crate::replicaset::{nonzero, number};

/// How a Job shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Succeed,
    Fail,
}

/// A decision, as conditions and events tell it.
type Event = (EventType, &'static str, String);

pub fn time(now: Timestamp) -> Time {
    Time(truncate_to_seconds(now))
}

fn find<'a>(status: Option<&'a JobStatus>, name: &str) -> Option<&'a JobCondition> {
    status?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == name)
}

fn is_true(status: Option<&JobStatus>, name: &str) -> bool {
    find(status, name).is_some_and(|condition| condition.status == "True")
}

pub fn is_finished(status: Option<&JobStatus>) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

pub fn is_complete(status: Option<&JobStatus>) -> bool {
    is_true(status, "Complete")
}

pub fn finished_at(status: Option<&JobStatus>) -> Option<Timestamp> {
    let ended = ["Complete", "Failed"]
        .iter()
        .find_map(|name| find(status, name).filter(|c| c.status == "True"))?;
    ended.last_transition_time.as_ref().map(|time| time.0)
}

/// The end that was decided earlier.
pub fn goal_of(status: &JobStatus) -> Option<Goal> {
    if is_true(Some(status), "FailureTarget") {
        return Some(Goal::Fail);
    }
    is_true(Some(status), "SuccessCriteriaMet").then_some(Goal::Succeed)
}

fn set(
    status: &mut JobStatus,
    name: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != name);
    conditions.push(JobCondition {
        type_: name.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    });
}

pub fn fail(status: &mut JobStatus, reason: &str, message: String, now: Timestamp) -> Goal {
    set(status, "FailureTarget", "True", reason, &message, now);
    Goal::Fail
}

pub fn succeed(status: &mut JobStatus, now: Timestamp) -> Goal {
    let message = "Reached expected number of succeeded pods";
    set(
        status,
        "SuccessCriteriaMet",
        "True",
        "CompletionsReached",
        message,
        now,
    );
    Goal::Succeed
}

/// Turns the decided end into the end.
pub fn finish(status: &mut JobStatus, goal: Goal, now: Timestamp) -> Event {
    let (from, to) = match goal {
        Goal::Succeed => ("SuccessCriteriaMet", "Complete"),
        Goal::Fail => ("FailureTarget", "Failed"),
    };
    let decided = find(Some(status), from).cloned().unwrap_or_default();
    let (reason, message) = (
        decided.reason.unwrap_or_default(),
        decided.message.unwrap_or_default(),
    );
    set(status, to, "True", &reason, &message, now);
    // A Job that never started, because it was suspended, has ended all the same; the API wants a start for that.
    status.start_time.get_or_insert_with(|| time(now));
    match goal {
        Goal::Succeed => {
            status.completion_time = Some(time(now));
            (EventType::Normal, "Completed", "Job completed".into())
        }
        Goal::Fail => {
            let known = [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "PodFailurePolicy",
            ];
            let reason = known
                .into_iter()
                .find(|known| *known == reason)
                .unwrap_or("Failed");
            (EventType::Warning, reason, message)
        }
    }
}

pub fn suspend(status: &mut JobStatus, now: Timestamp) -> Option<Event> {
    status.start_time = None;
    if is_true(Some(status), "Suspended") {
        return None;
    }
    set(
        status,
        "Suspended",
        "True",
        "JobSuspended",
        "Job suspended",
        now,
    );
    Some((EventType::Normal, "Suspended", "Job suspended".into()))
}

pub fn resume(status: &mut JobStatus, now: Timestamp) -> Option<Event> {
    if !is_true(Some(status), "Suspended") {
        return None;
    }
    set(
        status,
        "Suspended",
        "False",
        "JobResumed",
        "Job resumed",
        now,
    );
    status.start_time = Some(time(now));
    Some((EventType::Normal, "Resumed", "Job resumed".into()))
}

/// Endings: those counted, those on their way to being counted, and the pods that may be released for it.
#[derive(Debug)]
pub struct Tally {
    succeeded: i32,
    failed: i32,
    completed: Indexes,
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    /// Failures that the policy ignores: they are counted, but not towards the limit.
    ignored: i32,
    pub release: Vec<Arc<Pod>>,
}

/// Takes stock. A uid in the status whose pod has lost its finalizer (or is gone) becomes a count; an ended pod with a
/// finalizer goes into the status.
pub fn tally(old: &JobStatus, spec: &JobSpec, pods: &[Arc<Pod>]) -> Tally {
    let held: BTreeSet<&str> = pods
        .iter()
        .filter(|pod| has_finalizer(pod))
        .map(|pod| uid_of(&pod.metadata))
        .collect();
    let known = old.uncounted_terminated_pods.clone().unwrap_or_default();
    let split = |uids: Option<Vec<String>>| -> (BTreeSet<String>, i32) {
        let all = uids.unwrap_or_default();
        let total = all.len();
        let kept: BTreeSet<_> = all
            .into_iter()
            .filter(|uid| held.contains(uid.as_str()))
            .collect();
        let moved = number(total - kept.len());
        (kept, moved)
    };
    let (uncounted_succeeded, more_succeeded) = split(known.succeeded);
    let (uncounted_failed, more_failed) = split(known.failed);
    let mut tally = Tally {
        succeeded: old.succeeded.unwrap_or(0) + more_succeeded,
        failed: old.failed.unwrap_or(0) + more_failed,
        completed: Indexes::parse(old.completed_indexes.as_deref().unwrap_or_default()),
        uncounted_succeeded,
        uncounted_failed,
        ignored: 0,
        release: Vec::new(),
    };
    for pod in pods {
        tally.take(spec, pod);
    }
    tally
}

impl Tally {
    fn take(&mut self, spec: &JobSpec, pod: &Arc<Pod>) {
        let failed = is_failed(pod, spec);
        if failed && !policy::counts(spec, pod) {
            self.ignored += 1;
        }
        if !has_finalizer(pod) || self.release.len() >= UNCOUNTED_MAX {
            return;
        }
        let uid = uid_of(&pod.metadata).to_owned();
        if pods::phase(pod) == "Succeeded" {
            if is_indexed(spec) {
                let valid = 0..spec.completions.unwrap_or(0);
                self.completed
                    .0
                    .extend(indexes::of(pod).filter(|index| valid.contains(index)));
            } else {
                self.uncounted_succeeded.insert(uid);
            }
        } else if failed {
            self.uncounted_failed.insert(uid);
        } else {
            return;
        }
        self.release.push(Arc::clone(pod));
    }

    pub fn completed(&self) -> &Indexes {
        &self.completed
    }

    pub fn succeeded_total(&self, spec: &JobSpec) -> i32 {
        if is_indexed(spec) {
            number(self.completed.0.len())
        } else {
            self.succeeded + number(self.uncounted_succeeded.len())
        }
    }

    /// Failures that count towards the back-off limit.
    pub fn failed_total(&self) -> i32 {
        self.failed + number(self.uncounted_failed.len()) - self.ignored
    }

    /// Whether nothing waits to be counted.
    pub fn is_settled(&self) -> bool {
        self.uncounted_succeeded.is_empty()
            && self.uncounted_failed.is_empty()
            && self.release.is_empty()
    }

    pub fn write(&self, status: &mut JobStatus, spec: &JobSpec) {
        let list = |uids: &BTreeSet<String>| {
            (!uids.is_empty()).then(|| uids.iter().cloned().collect::<Vec<_>>())
        };
        if is_indexed(spec) {
            status.succeeded = nonzero(number(self.completed.0.len()));
            let text = self.completed.to_string();
            status.completed_indexes = (!text.is_empty()).then_some(text);
        } else {
            status.succeeded = nonzero(self.succeeded);
        }
        status.failed = nonzero(self.failed);
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: list(&self.uncounted_succeeded),
            failed: list(&self.uncounted_failed),
        });
    }
}
