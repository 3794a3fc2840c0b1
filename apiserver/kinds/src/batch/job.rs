//! `Job`.

pub mod indexes;
pub mod rules;
pub mod status;

use corral_api::field::FieldError;
use corral_api::k8s::api::batch::v1::{Job, JobSpec, JobStatus};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::core::pod_spec::{defaults, prepare, warnings};
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::selectable::SelectableField;
use crate::table;

/// `batch/v1 Job`.
pub struct JobKind;

impl Kind for JobKind {
    type Object = Job;

    const NAMES: Names<'static> = Names {
        group: "batch",
        version: "v1",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        short_names: Words::Of(&[]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const ORPHANS_BY_DEFAULT: bool = true;
    const SELECTABLE_FIELDS: &'static [SelectableField] =
        &[SelectableField::number("status.successful").at("status.succeeded")];

    fn default(job: &mut Job) {
        labels_of_pods(job);
        default_spec(job.spec.get_or_insert_default());
    }

    fn prepare_create(job: &mut Job) {
        let name = job.metadata.name.clone().unwrap_or_default();
        let uid = job.metadata.uid.clone();
        let spec = job.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut spec.template, None);
        if spec.manual_selector != Some(true) {
            own_selector(spec, &name, &uid.unwrap_or_default());
        }
        // In Kubernetes it gets them when it is read, after its rules were held against it.
        if names::label_value(&name).is_empty() {
            labels_of_pods(job);
        }
        job.status = Some(JobStatus::default());
    }

    fn prepare_update(new: &mut Job, old: &Job) {
        let old = old.spec.as_ref().map(|spec| &spec.template);
        let spec = new.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut spec.template, old);
    }

    fn columns() -> Vec<Column> {
        let mut columns = vec![
            Column::NAME,
            Column::text("Status", "What the job has come to."),
            Column::text("Completions", "Pods that succeeded, of how many."),
            Column::text("Duration", "How long it took, or has taken so far."),
            Column::AGE,
        ];
        columns.extend(table::template_columns());
        columns
    }

    fn cells(job: &Job, now: Timestamp) -> Vec<Value> {
        let spec = job.spec.as_ref();
        let pods = spec.and_then(|s| s.template.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        vec![
            job.metadata.name.clone().into(),
            status_word(job).into(),
            completions(job).into(),
            duration(job, now).into(),
            age(&job.metadata, now),
            names,
            images,
            table::selector(spec.and_then(|s| s.selector.as_ref())).into(),
        ]
    }

    fn validate(job: &Job) -> Vec<FieldError> {
        rules::job(job)
    }

    fn validate_update(new: &Job, old: &Job) -> Vec<FieldError> {
        rules::update(new, old)
    }

    fn validate_status_update(new: &Job, old: &Job) -> Vec<FieldError> {
        status::update(new, old)
    }

    fn warnings(job: &Job) -> Vec<String> {
        let mut found = rules::warnings(job);
        let template = job.spec.as_ref().map(|s| &s.template);
        found.extend(warnings::of_template("spec.template", template));
        found
    }
}

/// The label that selects a Job's pods.
pub const CONTROLLER_UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
/// The label with the Job's name.
pub const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const LEGACY_CONTROLLER_UID_LABEL: &str = "controller-uid";
const LEGACY_JOB_NAME_LABEL: &str = "job-name";

/// A Job without labels has those of its pods.
fn labels_of_pods(job: &mut Job) {
    let template = job.spec.as_ref().map(|spec| &spec.template);
    let labels = template.and_then(|template| template.metadata.as_ref()?.labels.clone());
    let own = job.metadata.labels.as_ref().is_none_or(|l| l.is_empty());
    if own && labels.is_some() {
        job.metadata.labels = labels;
    }
}

/// Defaults of a Job. The template of a CronJob gets only those of its pods: a Job made from it gets the rest.
fn default_spec(spec: &mut JobSpec) {
    if spec.parallelism.is_none() {
        fill::absent(&mut spec.completions, 1);
        spec.parallelism = Some(1);
    }
    let per_index = spec.backoff_limit_per_index.is_some();
    fill::absent(
        &mut spec.backoff_limit,
        if per_index { i32::MAX } else { 6 },
    );
    fill::absent(&mut spec.completion_mode, "NonIndexed".to_owned());
    fill::absent(&mut spec.suspend, false);
    let replacement = if spec.pod_failure_policy.is_some() {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    fill::absent(&mut spec.pod_replacement_policy, replacement.to_owned());
    fill::absent(&mut spec.manual_selector, false);
    default_pods(spec);
}

/// Defaults of a Job's pods and of the conditions in its failure policy.
pub(crate) fn default_pods(spec: &mut JobSpec) {
    let rules = spec
        .pod_failure_policy
        .iter_mut()
        .flat_map(|p| &mut p.rules);
    for pattern in rules.flat_map(|r| r.on_pod_conditions.iter_mut().flatten()) {
        fill::text(&mut pattern.status, "True");
    }
    defaults::template(&mut spec.template);
}

/// Labels that no other Job's pods have, and the selector on them. Labels that the client gave stay: if they are
/// wrong, validation says so.
fn own_selector(spec: &mut JobSpec, name: &str, uid: &str) {
    let metadata = spec.template.metadata.get_or_insert_default();
    let labels = metadata.labels.get_or_insert_default();
    for (label, value) in [
        (LEGACY_JOB_NAME_LABEL, name),
        (JOB_NAME_LABEL, name),
        (LEGACY_CONTROLLER_UID_LABEL, uid),
        (CONTROLLER_UID_LABEL, uid),
    ] {
        labels
            .entry(label.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    let selector = spec.selector.get_or_insert_default();
    selector
        .match_labels
        .get_or_insert_default()
        .entry(CONTROLLER_UID_LABEL.to_owned())
        .or_insert_with(|| uid.to_owned());
}

/// The condition that tells most, or what the Job is doing without one.
fn status_word(job: &Job) -> &'static str {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let has = |type_: &str| {
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c.type_ == type_ && c.status == "True")
    };
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if job.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|type_| has(type_))
            .unwrap_or("Running")
    }
}

fn completions(job: &Job) -> String {
    let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
    let spec = job.spec.as_ref();
    let parallelism = spec.and_then(|s| s.parallelism).unwrap_or(0);
    match spec.and_then(|s| s.completions) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn duration(job: &Job, now: Timestamp) -> String {
    let status = job.status.as_ref();
    let Some(start) = status.and_then(|s| s.start_time.as_ref()) else {
        return String::new();
    };
    let end = status
        .and_then(|s| s.completion_time.as_ref())
        .map_or(now, |t| t.0);
    corral_api::time::human_duration(end.as_second() - start.0.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;
    use serde_json::json;

    fn job(spec: Value) -> Job {
        let mut job =
            serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec}))
                .expect("a job");
        JobKind::default(&mut job);
        JobKind::prepare_create(&mut job);
        job
    }

    fn pods() -> Value {
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}})
    }

    #[test]
    fn a_job_gets_a_selector_of_its_own_and_is_right() {
        let made = job(json!({"template": pods()}));
        assert_eq!(texts(&JobKind::validate(&made)), Vec::<String>::new());
        let spec = serde_json::to_value(&made.spec).expect("JSON");
        assert_eq!(
            spec["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        assert_eq!(spec["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!(
            (&spec["completions"], &spec["backoffLimit"]),
            (&json!(1), &json!(6))
        );
    }

    #[test]
    fn a_job_says_what_is_wrong_and_what_may_not_change() {
        let always = job(
            json!({"completionMode": "Indexed", "template": {"spec": {"containers": [{"name": "a", "image": "x"}]}},
            "parallelism": 2, "maxFailedIndexes": 1}),
        );
        assert_eq!(
            texts(&JobKind::validate(&always)),
            [
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.completions: Required value: when completion mode is Indexed",
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ]
        );
        let (old, new) = (
            job(json!({"template": pods()})),
            job(json!({"template": pods(), "completions": 2})),
        );
        assert_eq!(
            texts(&JobKind::validate_update(&new, &old)),
            ["spec.completions: Invalid value: 2: field is immutable"]
        );
    }

    #[test]
    fn indexes_are_looked_at_when_they_change() {
        let with = |status: Value| {
            let mut job = job(json!({
                "template": pods(), "completionMode": "Indexed", "completions": 4, "backoffLimitPerIndex": 1,
            }));
            job.status = serde_json::from_value(status).expect("a status");
            job
        };
        let says = |new: &Job, old: &Job| texts(&JobKind::validate_status_update(new, old));
        let old = with(json!({"completedIndexes": "7"}));
        assert_eq!(
            says(&old, &old),
            Vec::<String>::new(),
            "scaled down from more"
        );
        let both = with(json!({"completedIndexes": "0,2", "failedIndexes": "1-3"}));
        assert_eq!(
            says(&both, &old),
            [
                "status.failedIndexes: Invalid value: \"1-3\": failedIndexes and completedIndexes overlap at index: 2"
            ]
        );
        let beyond = with(json!({"completedIndexes": "0", "failedIndexes": "4"}));
        assert_eq!(
            says(&beyond, &old),
            [
                "status.failedIndexes: Invalid value: \"4\": error parsing failedIndexes: too large index: \"4\""
            ]
        );
    }

    #[test]
    fn a_job_that_is_hard_to_track_is_warned_of() {
        let indexed = |parallelism: i32| {
            let mut job = job(json!({
                "template": pods(), "completionMode": "Indexed", "completions": 100_001, "parallelism": parallelism,
            }));
            job.metadata.name = Some("a.b".into());
            JobKind::warnings(&job)
        };
        assert_eq!(indexed(10_000).len(), 1);
        let warnings = indexed(10_001);
        assert!(warnings[0].starts_with("metadata.name: this is used in Pod names and hostnames"));
        assert!(
            warnings[1].starts_with("spec: In Indexed Jobs with a number of completions higher")
        );
    }

    #[test]
    fn a_finished_job_stays_finished() {
        let with = |status: Value| {
            let mut job = job(json!({"template": pods()}));
            job.status = serde_json::from_value(status).expect("a status");
            job
        };
        let running = with(json!({"startTime": "2026-01-01T00:00:00Z", "active": 1}));
        let bad = with(
            json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Failed", "status": "True"}]}),
        );
        assert_eq!(
            texts(&JobKind::validate_status_update(&bad, &running)),
            [
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"
            ]
        );
        assert_eq!(
            texts(&JobKind::validate_status_update(&running, &bad)),
            ["status.conditions: Invalid value: cannot disable the terminal Failed=True condition"]
        );
    }
}
