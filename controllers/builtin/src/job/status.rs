//! A Job's counts and conditions. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corral_api::k8s::api::batch::v1::{JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use corral_api::k8s::api::core::v1::Pod;
use corral_api::time::{Time, truncate_to_seconds};
use corral_runtime::events::EventType;
use corral_runtime::key::uid_of;
use jiff::Timestamp;

use super::{
    Failures, Indexes, UNCOUNTED_MAX, has_finalizer, indexes, is_failed, is_indexed, pod, policy,
};
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
    if is_true(Some(status), "SuccessCriteriaMet") {
        return Some(Goal::Succeed);
    }
    is_true(Some(status), "FailureTarget").then_some(Goal::Fail)
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

pub fn succeed(status: &mut JobStatus, reason: &str, message: &str, now: Timestamp) -> Goal {
    set(status, "SuccessCriteriaMet", "True", reason, message, now);
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
                "MaxFailedIndexesExceeded",
                "FailedIndexes",
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
    /// The indexes that failed for good; only with a limit per index.
    failed_indexes: Option<Indexes>,
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    /// The last failed pod of each index that will be tried again, kept until its successor is made.
    waiting: BTreeMap<i32, Arc<Pod>>,
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
    let completions = spec.completions.unwrap_or(0);
    let read = |text: Option<&str>| Indexes::parse(text.unwrap_or_default(), completions);
    let per_index = is_indexed(spec) && spec.backoff_limit_per_index.is_some();
    let mut tally = Tally {
        succeeded: old.succeeded.unwrap_or(0) + more_succeeded,
        failed: old.failed.unwrap_or(0) + more_failed,
        completed: read(old.completed_indexes.as_deref()),
        failed_indexes: per_index.then(|| read(old.failed_indexes.as_deref())),
        uncounted_succeeded,
        uncounted_failed,
        waiting: BTreeMap::new(),
        release: Vec::new(),
    };
    tally.settle_indexes(spec, pods, goal_of(old).is_some());
    for pod in pods.iter().filter(|pod| has_finalizer(pod)) {
        tally.take(spec, pod);
    }
    tally
}

impl Tally {
    /// Which indexes are done, which have failed for good, and which wait for another try. Once the end is decided,
    /// pods fail because they are ended, and no index for that.
    fn settle_indexes(&mut self, spec: &JobSpec, pods: &[Arc<Pod>], decided: bool) {
        if !is_indexed(spec) {
            return;
        }
        let held = || pods.iter().filter(|pod| has_finalizer(pod));
        let done = held().filter(|pod| self.has_succeeded(pod));
        let done: Vec<_> = done.filter_map(|pod| valid_index(spec, pod)).collect();
        self.completed.0.extend(done);
        let Some(failed) = self.failed_indexes.as_mut().filter(|_| !decided) else {
            return;
        };
        let lost = held().filter(|pod| is_failed(pod, spec));
        let lost = lost.filter_map(|pod| policy::failed_index(spec, pod));
        let valid = 0..spec.completions.unwrap_or(0);
        failed.0.extend(lost.filter(|index| valid.contains(index)));
        // One that succeeded after all, by a pod that was made twice, has not failed.
        failed.0.retain(|index| !self.completed.0.contains(index));
        let running = pods.iter().filter(|pod| pods::is_active(pod));
        let running: BTreeSet<_> = running.filter_map(|pod| indexes::of(pod)).collect();
        for pod in held().filter(|pod| is_failed(pod, spec)) {
            let Some(index) = valid_index(spec, pod) else {
                continue;
            };
            let over = self.completed.0.contains(&index) || failed.0.contains(&index);
            if over || running.contains(&index) {
                continue;
            }
            let age = |pod: &Pod| (Failures::of(pod).total(), pod::finished_at(pod));
            match self.waiting.get(&index) {
                Some(known) if age(known) > age(pod) => {}
                _ => drop(self.waiting.insert(index, Arc::clone(pod))),
            }
        }
    }

    fn has_succeeded(&self, pod: &Pod) -> bool {
        // What was counted as failed when the Job ended stays so.
        pods::phase(pod) == "Succeeded" && !self.uncounted_failed.contains(uid_of(&pod.metadata))
    }

    fn take(&mut self, spec: &JobSpec, pod: &Arc<Pod>) {
        if self.release.len() >= UNCOUNTED_MAX {
            return;
        }
        if self.has_succeeded(pod) {
            // The index is enough to know an indexed success by.
            if !is_indexed(spec) {
                self.uncounted_succeeded
                    .insert(uid_of(&pod.metadata).to_owned());
            }
        } else if is_failed(pod, spec) {
            if self.waits(pod) {
                return;
            }
            self.count_failure(spec, pod);
        } else if !self.uncounted_failed.contains(uid_of(&pod.metadata)) {
            return;
        }
        self.release.push(Arc::clone(pod));
    }

    fn count_failure(&mut self, spec: &JobSpec, pod: &Pod) {
        let in_range = !is_indexed(spec) || valid_index(spec, pod).is_some();
        if in_range && policy::counts(spec, pod) {
            self.uncounted_failed
                .insert(uid_of(&pod.metadata).to_owned());
        }
    }

    fn waits(&self, pod: &Pod) -> bool {
        let mut waiting = self.waiting.values();
        waiting.any(|other| other.metadata.uid == pod.metadata.uid)
    }

    /// The end is decided: whatever has not ended counts as failed if the Job has failed, and for nothing otherwise.
    pub fn end(&mut self, goal: Goal, spec: &JobSpec, pods: &[Arc<Pod>]) {
        self.waiting.clear();
        let taken: BTreeSet<_> = self
            .release
            .iter()
            .map(|pod| pod.metadata.uid.clone())
            .collect();
        let left = pods
            .iter()
            .filter(|pod| has_finalizer(pod) && !taken.contains(&pod.metadata.uid));
        for pod in left {
            if self.release.len() >= UNCOUNTED_MAX {
                return;
            }
            if goal == Goal::Fail || is_failed(pod, spec) {
                self.count_failure(spec, pod);
            }
            self.release.push(Arc::clone(pod));
        }
    }

    pub fn completed(&self) -> &Indexes {
        &self.completed
    }

    /// The indexes that no further pod is made for.
    pub fn spent(&self) -> BTreeSet<i32> {
        let failed = self.failed_indexes.iter().flat_map(|failed| &failed.0);
        self.completed.0.iter().chain(failed).copied().collect()
    }

    /// The last failed pod of an index that is to be tried again.
    pub fn waiting(&self, index: i32) -> Option<&Pod> {
        self.waiting.get(&index).map(|pod| &**pod)
    }

    pub fn succeeded_total(&self, spec: &JobSpec) -> i32 {
        if is_indexed(spec) {
            number(self.completed.0.len())
        } else {
            self.succeeded + number(self.uncounted_succeeded.len())
        }
    }

    /// Failures that count towards the back-off limit.
    pub fn failed_total(&self, spec: &JobSpec) -> i32 {
        let noted = |pod: &Pod| self.uncounted_failed.contains(uid_of(&pod.metadata));
        let waiting = self.waiting.values();
        let waiting = waiting
            .filter(|pod| policy::counts(spec, pod) && !noted(pod))
            .count();
        self.failed + number(self.uncounted_failed.len() + waiting)
    }

    /// Why failed indexes end the Job, if they do.
    pub fn failed_by_index(&self, spec: &JobSpec) -> Option<(&'static str, &'static str)> {
        let failed = self.failed_indexes.as_ref()?.0.len();
        let max = spec
            .max_failed_indexes
            .map(|max| usize::try_from(max).unwrap_or(0));
        if max.is_some_and(|max| failed > max) {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", text));
        }
        let all = usize::try_from(spec.completions.unwrap_or(0)).unwrap_or(0);
        (failed > 0 && failed + self.completed.0.len() >= all)
            .then_some(("FailedIndexes", "Job has failed indexes"))
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
            status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
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

fn valid_index(spec: &JobSpec, pod: &Pod) -> Option<i32> {
    let valid = 0..spec.completions.unwrap_or(0);
    indexes::of(pod).filter(|index| valid.contains(index))
}
