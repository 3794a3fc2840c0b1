//! `CronJob`.

use corral_api::k8s::api::batch::v1::{CronJob, CronJobStatus};

use super::job;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, age, since};
use crate::table;

/// `batch/v1 CronJob`.
pub struct CronJobKind;

impl Kind for CronJobKind {
    type Object = CronJob;

    const NAMES: Names = Names {
        group: "batch",
        version: "v1",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
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
    }

    fn columns() -> Vec<Column> {
        let mut columns = vec![
            Column::NAME,
            Column::text("Schedule", "When jobs are made."),
            Column::text("Timezone", "The time zone of the schedule."),
            Column {
                kind: "boolean",
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
            status.and_then(|s| s.active.as_ref()).map_or(0, Vec::len).into(),
            last.map_or_else(|| "<none>".into(), |t| since(Some(t.0), now)),
            age(&cron_job.metadata, now),
            names,
            images,
            table::selector(jobs.and_then(|s| s.selector.as_ref())).into(),
        ]
    }
}
