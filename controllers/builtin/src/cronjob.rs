//! CronJob: starts Jobs at the times of its schedule, at most one per time.
//!
//! Names follow from the time, so that a start that is tried twice makes one Job.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use corral_api::k8s::api::batch::v1::{CronJob, CronJobStatus, Job};
use corral_api::k8s::api::core::v1::ObjectReference;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_api::meta::controller_of;
use corral_api::time::Time;
use corral_runtime::events::EventType;
use corral_runtime::key::uid_of;
use corral_runtime::objects::Deletion;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler, Recorder};
use jiff::Timestamp;
use kube::Resource;
use kube::core::params::PropagationPolicy;

use crate::context::Context;
use crate::{job, ownership, pods};
use schedule::Schedule;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a warning: most likely a clock is wrong.
const MISSED_MAX: usize = 100;

/// Everything that the plan may look at.
#[derive(Debug)]
pub struct World {
    pub cron: Arc<CronJob>,
    /// The Jobs that it controls.
    pub jobs: Vec<Arc<Job>>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Option<Job>,
    /// Jobs past the history limits, or replaced.
    pub delete: Vec<Arc<Job>>,
    /// The status without what `create` adds to it.
    pub status: CronJobStatus,
    /// The time that `create` is for.
    pub scheduled: Option<Timestamp>,
    pub events: Vec<(EventType, &'static str, String)>,
    pub look_again: Option<Timestamp>,
}

fn is_finished(job: &Job) -> bool {
    job::is_finished(job.status.as_ref())
}

pub fn plan(world: &World, now: Timestamp) -> Plan {
    let cron = &world.cron;
    let mut plan = Plan {
        status: cron.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    if pods::is_deleted(&cron.metadata) {
        return plan;
    }
    settle_status(world, &mut plan);
    clean_up(world, &mut plan);
    if cron.spec.suspend.unwrap_or(false) {
        return plan;
    }
    let schedule = match Schedule::parse(&cron.spec.schedule, cron.spec.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err((reason, text)) => {
            plan.events.push((EventType::Warning, reason, text));
            return plan;
        }
    };
    start_due(world, &schedule, now, &mut plan);
    plan
}

/// Brings the list of active Jobs and the time of the last success up to date.
fn settle_status(world: &World, plan: &mut Plan) {
    let listed = plan.status.active.take().unwrap_or_default();
    for reference in &listed {
        let job = world
            .jobs
            .iter()
            .find(|job| reference.uid == job.metadata.uid);
        if let Some(job) = job.filter(|job| is_finished(job)) {
            let condition = if job::is_complete(job.status.as_ref()) {
                "Complete"
            } else {
                "Failed"
            };
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let text = format!("Saw completed job: {name}, condition: {condition}");
            plan.events
                .push((EventType::Normal, "SawCompletedJob", text));
        }
    }
    let mut active: Vec<_> = world
        .jobs
        .iter()
        .filter(|job| !is_finished(job))
        .map(|job| reference(job))
        .collect();
    active.sort_by(|a, b| a.name.cmp(&b.name));
    plan.status.active = (!active.is_empty()).then_some(active);
    let ended = world
        .jobs
        .iter()
        .filter(|job| job::is_complete(job.status.as_ref()));
    let ended = ended.filter_map(|job| job.status.as_ref()?.completion_time.clone());
    plan.status.last_successful_time = ended.max().max(plan.status.last_successful_time.take());
}

fn reference(job: &Job) -> ObjectReference {
    let mut reference = job.object_ref(&());
    reference
        .resource_version
        .clone_from(&job.metadata.resource_version);
    reference
}

fn clean_up(world: &World, plan: &mut Plan) {
    let spec = &world.cron.spec;
    for (complete, limit) in [
        (true, spec.successful_jobs_history_limit.unwrap_or(3)),
        (false, spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let ended =
            |job: &&Arc<Job>| is_finished(job) && job::is_complete(job.status.as_ref()) == complete;
        let mut ended: Vec<_> = world.jobs.iter().filter(ended).collect();
        ended.sort_by_key(|job| {
            (
                job.status
                    .as_ref()
                    .and_then(|status| status.start_time.clone()),
                job.metadata.name.clone(),
            )
        });
        let surplus = ended
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        plan.delete.extend(ended.into_iter().take(surplus).cloned());
    }
}

fn start_due(world: &World, schedule: &Schedule, now: Timestamp, plan: &mut Plan) {
    let spec = &world.cron.spec;
    plan.look_again = schedule.next(now, since(world, None));
    let deadline = spec
        .starting_deadline_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = deadline.map(Duration::from_secs);
    let from = since(
        world,
        deadline.and_then(|deadline| now.checked_sub(deadline).ok()),
    );
    let Some(due) = schedule.latest(from, now) else {
        return;
    };
    if schedule.more_than(MISSED_MAX, from, now) {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events
            .push((EventType::Warning, "TooManyMissedTimes", text.into()));
    }
    if deadline
        .and_then(|deadline| due.checked_add(deadline).ok())
        .is_some_and(|latest| latest < now)
    {
        let text = format!(
            "Missed scheduled time to start a job: {}",
            due.strftime("%a, %d %b %Y %H:%M:%S +0000")
        );
        plan.events.push((EventType::Warning, "MissSchedule", text));
        return;
    }
    let name = name_for(&world.cron, due);
    if world
        .jobs
        .iter()
        .any(|job| job.metadata.name.as_ref() == Some(&name))
    {
        // Made already, and the status was not written: now it is.
        plan.status.last_schedule_time = Some(Time(due)).max(plan.status.last_schedule_time.take());
        return;
    }
    let active: Vec<_> = world
        .jobs
        .iter()
        .filter(|job| !is_finished(job))
        .cloned()
        .collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events
                .push((EventType::Normal, "JobAlreadyActive", text.into()));
            return;
        }
        Some("Replace") => plan.delete.extend(active),
        _ => {}
    }
    plan.create = Some(new_job(&world.cron, schedule, name, due));
    plan.scheduled = Some(due);
}

/// The time after which starts may be due.
fn since(world: &World, not_before: Option<Timestamp>) -> Timestamp {
    let status = world.cron.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let created = world.cron.metadata.creation_timestamp.as_ref();
    let from = last
        .or(created)
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    not_before.map_or(from, |not_before| not_before.max(from))
}

fn name_for(cron: &CronJob, due: Timestamp) -> String {
    format!(
        "{}-{}",
        cron.metadata.name.as_deref().unwrap_or_default(),
        due.as_second() / 60
    )
}

fn new_job(cron: &CronJob, schedule: &Schedule, name: String, due: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.into(), schedule.local(due));
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![ownership::controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

struct CronJobs {
    crons: Objects<CronJob>,
    jobs: Objects<Job>,
    events: Recorder,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let name = "cronjob-controller";
    let (crons, jobs) = (
        context.objects::<CronJob>(name),
        context.objects::<Job>(name),
    );
    let controller = Controller::new("cronjob")
        .watch(crons.cache())
        .owned(jobs.cache(), "CronJob");
    let reconciler = CronJobs {
        crons,
        jobs,
        events: context.recorder(name),
    };
    controller.run_planned(
        reconciler,
        2,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for CronJobs {
    type World = World;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<World> {
        let cron = self.crons.get(key)?;
        let uid = uid_of(&cron.metadata);
        let mut jobs = self.jobs.cache().owned_by(uid);
        jobs.retain(|job| controller_of(&job.metadata).is_some_and(|owner| owner.uid == uid));
        Some(World { cron, jobs })
    }

    fn plan(&self, world: &World, now: Timestamp) -> Plan {
        plan(world, now)
    }

    async fn apply(&self, world: &World, plan: Plan, now: Timestamp) -> Result<Action, Error> {
        let cron = &world.cron;
        for (kind, reason, text) in &plan.events {
            self.events.note(&**cron, *kind, reason, text.clone());
        }
        let mut outcomes = Vec::new();
        let mut status = plan.status;
        for job in &plan.delete {
            let propagation = Some(PropagationPolicy::Background);
            let outcome = self
                .jobs
                .delete(
                    job,
                    Deletion {
                        propagation,
                        ..Deletion::default()
                    },
                )
                .await;
            if outcome.is_ok() {
                let name = job.metadata.name.as_deref().unwrap_or_default();
                self.events
                    .normal(&**cron, "SuccessfulDelete", format!("Deleted job {name}"));
                if let Some(active) = &mut status.active {
                    active.retain(|reference| reference.uid != job.metadata.uid);
                }
            }
            outcomes.push(outcome);
        }
        if let Some(job) = &plan.create {
            outcomes.push(self.create(cron, job, plan.scheduled, &mut status).await);
        }
        status.active = status.active.filter(|active| !active.is_empty());
        if cron.status.as_ref() != Some(&status) {
            let written = CronJob {
                status: Some(status),
                ..(**cron).clone()
            };
            outcomes.push(ownership::gone_is_fine(
                self.crons.replace_status(&written).await.map(drop),
            ));
        }
        Error::collect(outcomes)?;
        Ok(Action::at(plan.look_again, now))
    }
}

impl CronJobs {
    async fn create(
        &self,
        cron: &CronJob,
        job: &Job,
        scheduled: Option<Timestamp>,
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        match self.jobs.create(job).await {
            Ok(created) => {
                let name = created.metadata.name.as_deref().unwrap_or_default();
                self.events
                    .normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                status
                    .active
                    .get_or_insert_default()
                    .push(reference(&created));
                status.last_schedule_time = scheduled.map(Time);
                Ok(())
            }
            // Someone else's Job has the name; this time is lost, and must not be tried for ever.
            Err(error) if error.is_already_exists() => {
                status.last_schedule_time = scheduled.map(Time);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                self.events.warning(
                    cron,
                    "FailedCreate",
                    format!("Error creating job: {}", error.message()),
                );
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
