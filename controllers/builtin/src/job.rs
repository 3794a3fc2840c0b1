//! Job: runs pods until enough have succeeded, or too much has failed.
//!
//! No ending is lost or counted twice: every pod carries a finalizer; when it has ended its uid first goes into the
//! status (`uncountedTerminatedPods`), then the finalizer comes off, and only when that is seen does the uid turn into
//! a count. A failure that the policy ignores is let go without being counted. With a limit per index the last failed
//! pod of an index keeps its finalizer until its successor is made, which takes its count of failures over.

mod indexes;
mod pod;
mod policy;
mod status;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use corral_api::k8s::api::batch::v1::{Job, JobSpec, JobStatus};
use corral_api::k8s::api::core::v1::Pod;
use corral_api::meta::controller_of;
use corral_api::selector::LabelSelector;
use corral_runtime::backoff::Backoff;
use corral_runtime::events::EventType;
use corral_runtime::key::uid_of;
use corral_runtime::objects::Deletion;
use corral_runtime::{
    Action, Change, Controller, Error, ObjectKey, Objects, Reconciler, Recorder, burst,
};
use jiff::Timestamp;
use kube::core::params::PropagationPolicy;
use serde_json::json;

use crate::context::Context;
use crate::ownership::Claims;
use crate::{ownership, pods};

pub use indexes::{Failures, Indexes};
pub use pod::NewPod;
pub(crate) use status::{is_complete, is_finished};

pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const MANAGER: &str = "kubernetes.io/job-controller";
/// Pods made or ended in one go.
const BURST_MAX: usize = 500;
/// Uids in one status, so that it stays well below the size that an object may have.
const UNCOUNTED_MAX: usize = 500;
/// The wait before a failed pod is replaced, doubled with every failure in a row.
const FAILURE_BACKOFF: Backoff = Backoff {
    base: std::time::Duration::from_secs(10),
    max: std::time::Duration::from_secs(600),
};

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    /// Nothing when the Job is gone but pods still carry its finalizer.
    pub job: Option<Arc<Job>>,
    /// The pods that are the Job's once the claims are applied.
    pub pods: Vec<Arc<Pod>>,
    /// What becomes and what ceases to be the Job's.
    pub claims: Claims<Pod>,
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods to make.
    pub create: Vec<NewPod>,
    /// Pods to end that shall count for nothing.
    pub withdraw: Vec<Arc<Pod>>,
    /// Pods to end that count as failed.
    pub kill: Vec<Arc<Pod>>,
    pub status: Option<JobStatus>,
    /// Pods whose ending is in the status: the finalizer comes off.
    pub release: Vec<Arc<Pod>>,
    /// The Job has outlived its time after finishing.
    pub delete_job: bool,
    pub event: Option<(EventType, &'static str, String)>,
    pub look_again: Option<Timestamp>,
}

pub(crate) fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == TRACKING)
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether only ended pods are replaced, and not those that are still on their way out.
fn replaces_failed_only(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether a pod counts as failed. One that is being deleted does as well: it may never get to report its end.
fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    let leaving = pods::is_deleted(&pod.metadata) && pods::phase(pod) != "Succeeded";
    pods::phase(pod) == "Failed" || (leaving && !replaces_failed_only(spec))
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let Some(job) = &world.job else {
        return Plan {
            release: finalized(&world.pods),
            ..Plan::default()
        };
    };
    let spec = job.spec.clone().unwrap_or_default();
    if spec
        .managed_by
        .as_deref()
        .is_some_and(|manager| manager != MANAGER)
    {
        // Whoever manages the Job, its time to live is ours to look after.
        return expiry(job, &spec, now);
    }
    if status::is_finished(job.status.as_ref()) || pods::is_deleted(&job.metadata) {
        return after_the_end(job, &spec, world, now);
    }
    Step::new(job, &spec, &world.pods, now).plan()
}

fn finalized(pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    pods.iter()
        .filter(|pod| has_finalizer(pod))
        .cloned()
        .collect()
}

/// A finished Job only waits for its time to be deleted; a deleted one lets its pods go.
fn after_the_end(job: &Job, spec: &JobSpec, world: &World, now: Timestamp) -> Plan {
    Plan {
        release: finalized(&world.pods),
        ..expiry(job, spec, now)
    }
}

/// Deletes a finished Job when its time is over.
fn expiry(job: &Job, spec: &JobSpec, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let deleted = pods::is_deleted(&job.metadata);
    if let Some(ttl) = spec.ttl_seconds_after_finished.filter(|_| !deleted)
        && let Some(finished) = status::finished_at(job.status.as_ref())
    {
        let wait = std::time::Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        let due = finished.checked_add(wait).unwrap_or(Timestamp::MAX);
        plan.delete_job = due <= now;
        plan.look_again = (due > now).then_some(due);
    }
    plan
}

/// One look at an unfinished Job.
struct Step<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    now: Timestamp,
    old: JobStatus,
}

impl<'a> Step<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: &'a [Arc<Pod>], now: Timestamp) -> Self {
        Self {
            job,
            spec,
            pods,
            now,
            old: job.status.clone().unwrap_or_default(),
        }
    }

    fn plan(self) -> Plan {
        let mut plan = Plan::default();
        let mut tally = status::tally(&self.old, self.spec, self.pods);
        let mut active: Vec<_> = self
            .pods
            .iter()
            .filter(|pod| pods::is_active(pod))
            .cloned()
            .collect();
        let leaving = |pod: &&Arc<Pod>| pods::is_deleted(&pod.metadata) && !pods::is_terminal(pod);
        let terminating = self.pods.iter().filter(leaving).count();
        let mut status = self.old.clone();
        let suspended = self.spec.suspend.unwrap_or(false);
        if status.start_time.is_none() && !suspended {
            status.start_time = Some(status::time(self.now));
        }
        let goal = self.goal(&mut status, &tally, &active);
        match goal {
            Some(goal) => {
                plan.kill.append(&mut active);
                tally.end(goal, self.spec, self.pods);
            }
            None if suspended => {
                plan.event = status::suspend(&mut status, self.now);
                plan.withdraw.append(&mut active);
            }
            None => {
                plan.event = status::resume(&mut status, self.now);
                self.fill(&mut plan, &tally, &mut active, terminating);
            }
        }
        tally.write(&mut status, self.spec);
        status.active =
            crate::replicaset::nonzero(crate::replicaset::number(active.len() + plan.create.len()));
        status.ready = Some(crate::replicaset::number(
            active.iter().filter(|pod| pods::is_ready(pod)).count(),
        ));
        let gone = if goal.is_some() { plan.kill.len() } else { 0 };
        status.terminating = Some(crate::replicaset::number(terminating + gone));
        if let Some(goal) = goal
            && gone + terminating == 0
            && tally.is_settled()
        {
            plan.event = Some(status::finish(&mut status, goal, self.now));
        }
        plan.release = tally.release;
        plan.look_again = [
            plan.look_again,
            self.deadline().filter(|_| !suspended && goal.is_none()),
        ]
        .into_iter()
        .flatten()
        .min();
        plan.status = (status != self.old).then_some(status);
        plan
    }

    /// Whether the end is decided; once it is, it is in the conditions and stays.
    fn goal(
        &self,
        status: &mut JobStatus,
        tally: &status::Tally,
        active: &[Arc<Pod>],
    ) -> Option<status::Goal> {
        if let Some(goal) = status::goal_of(status) {
            return Some(goal);
        }
        if let Some(text) = policy::failing(self.spec, self.pods) {
            return Some(status::fail(status, "PodFailurePolicy", text, self.now));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let restarts: i32 = active.iter().map(|pod| pods::restarts(pod)).sum();
        let on_failure = self
            .spec
            .template
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
            == Some("OnFailure");
        let restarted = on_failure && restarts > 0 && restarts >= limit;
        if tally.failed_total(self.spec) > limit || restarted {
            let text = "Job has reached the specified backoff limit".to_owned();
            return Some(status::fail(status, "BackoffLimitExceeded", text, self.now));
        }
        let suspended = self.spec.suspend.unwrap_or(false);
        if !suspended && self.deadline().is_some_and(|at| at <= self.now) {
            let text = "Job was active longer than specified deadline".to_owned();
            return Some(status::fail(status, "DeadlineExceeded", text, self.now));
        }
        if let Some((reason, text)) = tally.failed_by_index(self.spec) {
            return Some(status::fail(status, reason, text.to_owned(), self.now));
        }
        if let Some(rule) = policy::succeeding(self.spec, tally.completed()) {
            let text = format!("Matched rules at index {rule}");
            return Some(status::succeed(status, "SuccessPolicy", &text, self.now));
        }
        let succeeded = tally.succeeded_total(self.spec);
        let complete = match self.spec.completions {
            Some(completions) => succeeded >= completions,
            None => succeeded > 0 && active.is_empty(),
        };
        let text = "Reached expected number of succeeded pods";
        complete.then(|| status::succeed(status, "CompletionsReached", text, self.now))
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = u64::try_from(self.spec.active_deadline_seconds?).unwrap_or(0);
        let start = self.old.start_time.as_ref().map_or(self.now, |time| time.0);
        start
            .checked_add(std::time::Duration::from_secs(seconds))
            .ok()
    }

    /// Brings the number of active pods to what is wanted.
    fn fill(
        &self,
        plan: &mut Plan,
        tally: &status::Tally,
        active: &mut Vec<Arc<Pod>>,
        terminating: usize,
    ) {
        if is_indexed(self.spec) {
            plan.withdraw = indexes::surplus(
                active,
                tally.completed(),
                self.spec.completions.unwrap_or(0),
            );
            active.retain(|pod| !plan.withdraw.iter().any(|gone| Arc::ptr_eq(gone, pod)));
        }
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let succeeded = tally.succeeded_total(self.spec);
        let wanted = match self.spec.completions {
            Some(completions) => (completions - succeeded).clamp(0, parallelism),
            None if succeeded > 0 => parallelism.min(crate::replicaset::number(active.len())),
            None => parallelism,
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        if active.len() > wanted {
            let surplus = active.len() - wanted;
            let picked =
                crate::replicaset::least_missed(active.clone(), &Default::default(), surplus);
            active.retain(|pod| !picked.iter().any(|gone| Arc::ptr_eq(gone, pod)));
            plan.withdraw.extend(picked);
            return;
        }
        let on_their_way = if replaces_failed_only(self.spec) {
            terminating
        } else {
            0
        };
        let missing = wanted
            .saturating_sub(active.len() + on_their_way)
            .min(BURST_MAX);
        if missing == 0 {
            return;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if let Some(at) = self
            .backoff_until()
            .filter(|at| !per_index && *at > self.now)
        {
            plan.look_again = Some(at);
            return;
        }
        if !is_indexed(self.spec) {
            plan.create = vec![NewPod::default(); missing];
            return;
        }
        let blocked = if replaces_failed_only(self.spec) {
            self.pods
        } else {
            &active[..]
        };
        let completions = self.spec.completions.unwrap_or(0);
        let free = indexes::free(blocked, &tally.spent(), completions, missing);
        for index in free {
            let last = tally.waiting(index);
            match last
                .and_then(index_backoff_until)
                .filter(|at| *at > self.now)
            {
                Some(at) => plan.look_again = plan.look_again.into_iter().chain([at]).min(),
                None => plan.create.push(NewPod {
                    index: Some(index),
                    failures: per_index.then(|| policy::failures_after(self.spec, last)),
                }),
            }
        }
    }

    /// Until when no new pods are made because of failures in a row.
    fn backoff_until(&self) -> Option<Timestamp> {
        let ended = |phase: &'static str| {
            self.pods
                .iter()
                .filter(move |pod| pods::phase(pod) == phase)
                .filter_map(|pod| pod::finished_at(pod))
        };
        let last_success = ended("Succeeded").max();
        let failures: Vec<_> = ended("Failed")
            .filter(|at| last_success.is_none_or(|s| *at > s))
            .collect();
        let last = failures.iter().max()?;
        let row = u32::try_from(failures.len()).unwrap_or(u32::MAX);
        last.checked_add(FAILURE_BACKOFF.delay(row - 1, &uid_of(&self.job.metadata)))
            .ok()
    }
}

/// Until when the successor of the last failed pod of an index is not made.
fn index_backoff_until(last: &Pod) -> Option<Timestamp> {
    let before = Failures::of(last).total();
    let delay = FAILURE_BACKOFF.delay(before, &uid_of(&last.metadata));
    pod::finished_at(last)?.checked_add(delay).ok()
}

struct Jobs {
    jobs: Objects<Job>,
    /// The same Jobs in the name of the controller that may delete them.
    expired: Objects<Job>,
    pods: Objects<Pod>,
    events: Recorder,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "job-controller";
    let (jobs, pods) = (context.objects::<Job>(name), context.objects::<Pod>(name));
    ownership::index_orphans(pods.cache());
    let owners = jobs.cache().clone();
    let controller = Controller::new("job")
        .watch(jobs.cache())
        .owned(pods.cache(), "Job")
        .map(pods.cache(), move |change| adopters(&owners, change));
    let expired = context.objects::<Job>("ttl-after-finished-controller");
    let reconciler = Jobs {
        expired,
        jobs,
        pods,
        events: context.recorder(name),
    };
    controller.run_planned(
        reconciler,
        4,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

/// Nothing where the Job selects nothing: then only what it made is its own.
fn selector_of(job: &Job) -> Option<LabelSelector> {
    let selector = job.spec.as_ref()?.selector.as_ref()?;
    // Validation lets no wrong selector through.
    LabelSelector::from_object(Some(selector)).ok()
}

/// Whether pods are still made and counted here: not of a Job that has finished or that somebody else manages.
fn is_ours_to_run(job: &Job) -> bool {
    let manager = job
        .spec
        .as_ref()
        .and_then(|spec| spec.managed_by.as_deref());
    manager.is_none_or(|manager| manager == MANAGER) && !is_finished(job.status.as_ref())
}

/// The Jobs whose selector matches a pod that nobody controls.
fn adopters(jobs: &corral_runtime::Cache<Job>, change: &Change<Pod>) -> Vec<ObjectKey> {
    let meta = &change.latest().metadata;
    let orphan = controller_of(meta).is_none() && meta.labels.is_some();
    if !orphan || matches!(change, Change::Deleted(_)) {
        return Vec::new();
    }
    let in_namespace = jobs.in_namespace(meta.namespace.as_deref().unwrap_or_default());
    let matching = in_namespace.iter().filter(|job| {
        selector_of(job).is_some_and(|selector| selector.matches_opt(meta.labels.as_ref()))
    });
    matching.map(|job| ObjectKey::of(&job.metadata)).collect()
}

#[async_trait]
impl Reconciler for Jobs {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let job = self.jobs.get(key);
        let selector = job.as_ref().filter(|job| is_ours_to_run(job));
        let selector = selector.and_then(|job| selector_of(job));
        let (pods, claims) = match (&job, selector) {
            (Some(job), None) => {
                let uid = uid_of(&job.metadata);
                let mut pods = self.pods.cache().owned_by(uid);
                pods.retain(|pod| {
                    controller_of(&pod.metadata).is_some_and(|owner| owner.uid == uid)
                });
                (pods, Claims::default())
            }
            (Some(job), Some(selector)) => {
                let candidates = ownership::candidates(self.pods.cache(), &job.metadata);
                let claims = ownership::claim(&job.metadata, &selector, candidates);
                (claims.held().cloned().collect(), claims)
            }
            (None, _) => {
                let mut pods = self.pods.cache().in_namespace(&key.namespace);
                pods.retain(|pod| {
                    let owner = controller_of(&pod.metadata);
                    owner.is_some_and(|owner| owner.kind == "Job" && owner.name == key.name)
                });
                (pods, Claims::default())
            }
        };
        Some(World { job, pods, claims })
    }

    fn plan(&self, world: &World, now: Timestamp) -> Plan {
        plan(world, now)
    }

    async fn apply(&self, world: &World, plan: Plan, now: Timestamp) -> Result<Action, Error> {
        let Some(job) = &world.job else {
            return self.release(&plan.release).await.map(|()| Action::Done);
        };
        ownership::apply_claims_with(
            &self.jobs,
            &**job,
            &self.pods,
            &world.claims,
            Some(TRACKING),
        )
        .await?;
        let created = self.create(job, &plan.create).await;
        let withdrawn = burst::each(&plan.withdraw, |pod| self.withdraw(job, pod)).await;
        let killed = burst::each(&plan.kill, |pod| self.kill(job, pod)).await;
        if let Some(status) = plan.status {
            let mut status = status;
            // Only what was made counts as active.
            let failed =
                plan.create.len() - created.iter().filter(|outcome| outcome.is_ok()).count();
            status.active = status
                .active
                .map(|n| n - crate::replicaset::number(failed))
                .filter(|n| *n > 0);
            let written = Job {
                status: Some(status),
                ..(**job).clone()
            };
            self.jobs.replace_status(&written).await?;
        }
        if let Some((kind, reason, text)) = plan.event {
            self.events.note(&**job, kind, reason, text);
        }
        // Only after the status is written: what is released is in it.
        self.release(&plan.release).await?;
        if plan.delete_job {
            let propagation = Some(PropagationPolicy::Foreground);
            let how = Deletion {
                propagation,
                at_revision: true,
                ..Deletion::default()
            };
            self.expired.delete(job, how).await?;
        }
        let outcomes = created.into_iter().chain(withdrawn).chain(killed).collect();
        match Error::collect(outcomes) {
            Err(error) if error.is_namespace_terminating() => Ok(Action::Done),
            Err(error) => Err(error),
            Ok(_) => Ok(Action::at(plan.look_again, now)),
        }
    }
}

impl Jobs {
    async fn create(&self, job: &Job, planned: &[NewPod]) -> Vec<Result<(), Error>> {
        burst::slow_start(planned.len(), |n| async move {
            let new = pod::new(job, &planned[n]);
            match self.pods.create(&new).await {
                Ok(pod) => {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    self.events
                        .normal(job, "SuccessfulCreate", format!("Created pod: {name}"));
                    Ok(())
                }
                Err(error) => {
                    if !error.is_namespace_terminating() {
                        let text = format!("Error creating: {}", error.message());
                        self.events.warning(job, "FailedCreate", text);
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    /// Ends a pod that shall count for nothing: the finalizer comes off first.
    async fn withdraw(&self, job: &Job, pod: &Arc<Pod>) -> Result<(), Error> {
        self.release_one(pod).await?;
        self.kill(job, pod).await
    }

    async fn kill(&self, job: &Job, pod: &Pod) -> Result<(), Error> {
        self.pods.delete(pod, Deletion::default()).await?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.events
            .normal(job, "SuccessfulDelete", format!("Deleted pod: {name}"));
        Ok(())
    }

    async fn release(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        Error::collect(burst::each(pods, |pod| self.release_one(pod)).await).map(drop)
    }

    async fn release_one(&self, pod: &Pod) -> Result<(), Error> {
        if !has_finalizer(pod) {
            return Ok(());
        }
        let kept: BTreeSet<_> = pod
            .metadata
            .finalizers
            .iter()
            .flatten()
            .filter(|f| *f != TRACKING)
            .collect();
        let patch = json!({"metadata": {"finalizers": kept}});
        ownership::gone_is_fine(self.pods.patch(pod, patch).await.map(drop))
    }
}

#[cfg(test)]
mod tests;
