//! `CronJob`.

use corral_api::field::FieldError;
use corral_api::k8s::api::batch::v1::{CronJob, CronJobStatus};

use super::{job, schedule};
use crate::core::pod_spec::{prepare, warnings};
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age, since};
use crate::rules::{self, Errors, at, json, text};
use crate::table;

/// `batch/v1 CronJob`.
pub struct CronJobKind;

impl Kind for CronJobKind {
    type Object = CronJob;

    const NAMES: Names<'static> = Names {
        group: "batch",
        version: "v1",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: Words::Of(&["cj"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;

    fn default(cron_job: &mut CronJob) {
        let spec = &mut cron_job.spec;
        fill::text(&mut spec.concurrency_policy, "Allow");
        fill::absent(&mut spec.suspend, false);
        fill::absent(&mut spec.successful_jobs_history_limit, 3);
        fill::absent(&mut spec.failed_jobs_history_limit, 1);
        job::default_pods(spec.job_template.spec.get_or_insert_default());
    }

    fn prepare_create(cron_job: &mut CronJob) {
        cron_job.status = Some(CronJobStatus::default());
        let jobs = cron_job.spec.job_template.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut jobs.template, None);
    }

    fn prepare_update(new: &mut CronJob, old: &CronJob) {
        let old = old.spec.job_template.spec.as_ref();
        let jobs = new.spec.job_template.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut jobs.template, old.map(|spec| &spec.template));
    }

    fn columns() -> Vec<Column> {
        let mut columns = vec![
            Column::NAME,
            Column::text("Schedule", "When jobs are made."),
            Column::text("Timezone", "The time zone of the schedule."),
            Column {
                kind: "boolean".into(),
                ..Column::text("Suspend", "Whether no more jobs are made for now.")
            },
            Column::integer("Active", "Jobs that run now."),
            Column::text("Last Schedule", "Time since a job was last made."),
            Column::AGE,
        ];
        columns.extend(table::template_columns());
        columns
    }

    fn cells(cron_job: &CronJob, now: Timestamp) -> Vec<Value> {
        let spec = &cron_job.spec;
        let status = cron_job.status.as_ref();
        let jobs = spec.job_template.spec.as_ref();
        let pods = jobs.and_then(|s| s.template.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        let suspend = match spec.suspend {
            None => "<unset>",
            Some(true) => "True",
            Some(false) => "False",
        };
        let last = status.and_then(|s| s.last_schedule_time.as_ref());
        vec![
            cron_job.metadata.name.clone().into(),
            spec.schedule.clone().into(),
            table::or_none(spec.time_zone.clone().unwrap_or_default()).into(),
            suspend.into(),
            status
                .and_then(|s| s.active.as_ref())
                .map_or(0, Vec::len)
                .into(),
            last.map_or_else(|| "<none>".into(), |t| since(Some(t.0), now)),
            age(&cron_job.metadata, now),
            names,
            images,
            table::selector(jobs.and_then(|s| s.selector.as_ref())).into(),
        ]
    }

    fn validate(cron_job: &CronJob) -> Vec<FieldError> {
        validate(cron_job, None)
    }

    fn validate_update(new: &CronJob, old: &CronJob) -> Vec<FieldError> {
        validate(new, Some(old))
    }

    fn warnings(cron_job: &CronJob) -> Vec<String> {
        let jobs = cron_job.spec.job_template.spec.as_ref();
        let template = jobs.map(|s| &s.template);
        warnings::of_template("spec.jobTemplate.spec.template", template)
    }
}

/// A job's name is this one and eleven more characters, and must still be a label.
const NAME_LENGTH_MAX: usize = 52;

fn validate(cron_job: &CronJob, old: Option<&CronJob>) -> Errors {
    let mut errors = Errors::new();
    let (spec, path) = (&cron_job.spec, at("spec"));
    let schedule_path = path.child("schedule");
    if spec.schedule.is_empty() {
        errors.push(FieldError::required(&schedule_path, ""));
    } else {
        let given = spec.schedule.as_str();
        let mut invalid =
            |detail: &str| errors.push(FieldError::invalid(&schedule_path, given, detail));
        if let Some(problem) = schedule::problem(given) {
            invalid(&problem);
        }
        // Objects of old servers may have the zone in the schedule, and keep it.
        let had_zone = old.is_some_and(|o| o.spec.schedule.contains("TZ"));
        match (given.contains("TZ"), had_zone, spec.time_zone.is_some()) {
            (true, true, true) => {
                invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule")
            }
            (true, false, _) => {
                invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
            }
            _ => {}
        }
    }
    let seconds = path.child("startingDeadlineSeconds");
    rules::nonnegative_opt(&mut errors, &seconds, spec.starting_deadline_seconds);
    if let Some(zone) = &spec.time_zone
        && old.is_none_or(|o| o.spec.time_zone != spec.time_zone)
    {
        rules::complain(
            &mut errors,
            &path.child("timeZone"),
            zone,
            schedule::zone_problems(zone),
        );
    }
    let policy = text(&spec.concurrency_policy);
    let policies = ["Allow", "Forbid", "Replace"];
    rules::required_of(
        &mut errors,
        &path.child("concurrencyPolicy"),
        policy,
        &policies,
    );
    if let Some(jobs) = &spec.job_template.spec {
        let path = path.child("jobTemplate.spec");
        job::rules::spec(&mut errors, &path, jobs);
        if let Some(selector) = &jobs.selector {
            let detail = "`selector` will be auto-generated";
            errors.push(FieldError::invalid(
                &path.child("selector"),
                json(selector),
                detail,
            ));
        }
        if jobs.manual_selector == Some(true) {
            let path = path.child("manualSelector");
            errors.push(FieldError::not_supported(&path, true, &["nil", "false"]));
        }
    }
    for (field, n) in [
        (
            "successfulJobsHistoryLimit",
            spec.successful_jobs_history_limit,
        ),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ] {
        rules::nonnegative_opt(&mut errors, &path.child(field), n);
    }
    let name = text(&cron_job.metadata.name);
    if old.is_none() && name.len() > NAME_LENGTH_MAX {
        let detail = "must be no more than 52 characters";
        errors.push(FieldError::invalid(&at("metadata.name"), name, detail));
    }
    errors
}
