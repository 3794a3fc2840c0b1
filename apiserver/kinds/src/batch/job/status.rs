//! What a Job's status may say, and how it may change: a Job that ended does not go on, and counts do not go back.
//!
//! Indexes are looked at only when they change: after the Job was scaled down they may exceed it for a moment.

use corral_api::field::FieldError;
use corral_api::k8s::api::batch::v1::{Job, JobStatus};

use super::{indexes, rules as job_rules};
use crate::rules::{self, Errors, at, invalid_unshown, json};

fn is(status: &JobStatus, condition: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.type_ == condition && c.status == "True")
}

fn is_finished(status: &JobStatus) -> bool {
    is(status, "Complete") || is(status, "Failed")
}

/// Rules of a changed status.
pub fn update(new: &Job, old: &Job) -> Errors {
    let mut errors = Errors::new();
    let nothing = JobStatus::default();
    let status = new.status.as_ref().unwrap_or(&nothing);
    let was = old.status.as_ref().unwrap_or(&nothing);
    counts(&mut errors, status);
    conditions(&mut errors, status, was);
    times(&mut errors, new, status, was);
    if is_finished(status) {
        finished(&mut errors, status);
    }
    changed_indexes(&mut errors, new, status, was);
    history(&mut errors, new, status, was);
    errors
}

fn counts(errors: &mut Errors, status: &JobStatus) {
    let path = at("status");
    for (field, n) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        rules::nonnegative_opt(errors, &path.child(field), n);
    }
    if let Some(ready) = status.ready.filter(|r| *r > status.active.unwrap_or(0)) {
        let detail = "cannot set more ready pods than active";
        errors.push(FieldError::invalid(&path.child("ready"), ready, detail));
    }
    if let Some(uncounted) = &status.uncounted_terminated_pods {
        let path = path.child("uncountedTerminatedPods");
        job_rules::uids(
            errors,
            &path.child("succeeded"),
            uncounted.succeeded.as_ref(),
        );
        job_rules::uids(errors, &path.child("failed"), uncounted.failed.as_ref());
    }
}

fn conditions(errors: &mut Errors, status: &JobStatus, was: &JobStatus) {
    let path = at("status.conditions");
    for (both, detail) in [
        (
            ["Complete", "Failed"],
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            ["Complete", "FailureTarget"],
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            ["SuccessCriteriaMet", "Failed"],
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            ["SuccessCriteriaMet", "FailureTarget"],
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
    ] {
        if both.iter().all(|c| is(status, c)) {
            errors.push(invalid_unshown(&path, detail));
        }
    }
    // Objects of old servers may lack the condition that comes first; only a change must have it.
    let becomes = |condition: &str| is(status, condition) && !is(was, condition);
    if becomes("Failed") && !is(status, "FailureTarget") {
        let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.push(invalid_unshown(&path, detail));
    }
    if becomes("Complete") && !is(status, "SuccessCriteriaMet") {
        let detail =
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.push(invalid_unshown(&path, detail));
    }
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if is(was, condition) && !is(status, condition) {
            let detail = format!("cannot disable the terminal {condition}=True condition");
            errors.push(invalid_unshown(&path, &detail));
        }
    }
    if is(was, "SuccessCriteriaMet") && !is(status, "SuccessCriteriaMet") {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        errors.push(invalid_unshown(&path, detail));
    }
    if is(was, "Complete") && becomes("SuccessCriteriaMet") {
        let detail =
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(invalid_unshown(&path, detail));
    }
}

fn times(errors: &mut Errors, job: &Job, status: &JobStatus, was: &JobStatus) {
    let path = at("status");
    let end_path = path.child("completionTime");
    let complete = is(status, "Complete");
    match &status.completion_time {
        Some(end) if !complete => {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.push(FieldError::invalid(&end_path, json(end), detail));
        }
        None if complete => {
            let detail = "completionTime is required for Complete jobs";
            errors.push(FieldError::required(&end_path, detail));
        }
        _ => {}
    }
    if let (Some(start), Some(end)) = (&status.start_time, &status.completion_time)
        && end.0 < start.0
    {
        let detail = "must be equal to or after `startTime`";
        errors.push(FieldError::invalid(&end_path, json(end), detail));
    }
    if let (Some(new), Some(old)) = (&status.completion_time, &was.completion_time) {
        rules::immutable(errors, &end_path, new, old);
    }
    let suspended = job.spec.as_ref().and_then(|s| s.suspend) == Some(true);
    let resuming = is(was, "Suspended") && !is(status, "Suspended");
    let changed = was.start_time.is_some() && status.start_time != was.start_time;
    if changed && !suspended && !resuming {
        let detail = "field is immutable for unsuspended job once set";
        let path = path.child("startTime");
        errors.push(FieldError::invalid(&path, json(&status.start_time), detail));
    }
    let nothing_to_do = suspended && job.spec.as_ref().and_then(|s| s.completions) == Some(0);
    if status.start_time.is_none() && is_finished(status) && !nothing_to_do {
        let detail = "startTime is required for finished job";
        errors.push(FieldError::required(&path.child("startTime"), detail));
    }
}

fn finished(errors: &mut Errors, status: &JobStatus) {
    let path = at("status");
    for (field, n) in [
        ("active", status.active),
        ("terminating", status.terminating),
    ] {
        if let Some(n) = n.filter(|n| *n > 0) {
            let detail = format!("{field}>0 is invalid for finished job");
            errors.push(FieldError::invalid(&path.child(field), n, detail));
        }
    }
    if let Some(uncounted) = &status.uncounted_terminated_pods {
        let lists = [&uncounted.failed, &uncounted.succeeded];
        if lists
            .iter()
            .any(|l| l.as_ref().is_some_and(|l| !l.is_empty()))
        {
            let path = path.child("uncountedTerminatedPods");
            let detail = "must be empty for finished job";
            errors.push(FieldError::invalid(&path, json(uncounted), detail));
        }
    }
}

fn changed_indexes(errors: &mut Errors, job: &Job, status: &JobStatus, was: &JobStatus) {
    let Some(spec) = &job.spec else { return };
    let (path, completions) = (at("status"), spec.completions);
    let (completed_path, failed_path) =
        (path.child("completedIndexes"), path.child("failedIndexes"));
    let completed = rules::text(&status.completed_indexes);
    let failed = rules::text(&status.failed_indexes);
    let completed_changed = status.completed_indexes != was.completed_indexes;
    let failed_changed = status.failed_indexes != was.failed_indexes;
    let well_formed = |errors: &mut Errors, field: &str, given: &str| {
        if let Some(Err(why)) = completions.map(|completions| indexes::parse(given, completions)) {
            let detail = format!("error parsing {field}: {why}");
            errors.push(FieldError::invalid(&path.child(field), given, detail));
        }
    };
    if completed_changed {
        well_formed(errors, "completedIndexes", completed);
        if !completed.is_empty() && spec.completion_mode.as_deref() != Some("Indexed") {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.push(FieldError::invalid(&completed_path, completed, detail));
        }
    }
    if failed_changed && spec.backoff_limit_per_index.is_some() {
        well_formed(errors, "failedIndexes", failed);
    } else if failed_changed && status.failed_indexes.is_some() {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(FieldError::invalid(&failed_path, failed, detail));
    }
    if (completed_changed || failed_changed)
        && let Some(index) = completions.and_then(|max| overlap(completed, failed, max))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(FieldError::invalid(&failed_path, failed, detail));
    }
}

/// The first index that is in both texts, if both can be read.
fn overlap(completed: &str, failed: &str, completions: i32) -> Option<i32> {
    let completed = indexes::parse(completed, completions).ok()?;
    let failed = indexes::parse(failed, completions).ok()?;
    let (mut completed, mut failed) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some((first, last)), Some((from, to))) = (completed.peek(), failed.peek()) {
        if first <= to && from <= last {
            return Some(*first.max(from));
        }
        if first <= from {
            completed.next();
        } else {
            failed.next();
        }
    }
    None
}

fn history(errors: &mut Errors, job: &Job, status: &JobStatus, was: &JobStatus) {
    let path = at("status");
    let (failed, before) = (status.failed.unwrap_or(0), was.failed.unwrap_or(0));
    if failed < before {
        let detail = "cannot decrease the failed counter";
        errors.push(FieldError::invalid(&path.child("failed"), failed, detail));
    }
    // An indexed Job that shrinks forgets the indexes that are no more.
    let shrinks = job.spec.as_ref().is_some_and(|s| {
        s.completion_mode.as_deref() == Some("Indexed") && s.completions == s.parallelism
    });
    let (succeeded, before) = (status.succeeded.unwrap_or(0), was.succeeded.unwrap_or(0));
    if succeeded < before && !shrinks {
        let detail = "cannot decrease the succeeded counter";
        errors.push(FieldError::invalid(
            &path.child("succeeded"),
            succeeded,
            detail,
        ));
    }
}
