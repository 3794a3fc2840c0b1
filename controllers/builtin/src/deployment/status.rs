//! The status of a Deployment, in Kubernetes' words.

use std::time::Duration;

use corral_api::k8s::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSetCondition};
use corral_api::time::{Time, truncate_to_seconds};
use jiff::Timestamp;

use super::rollout::{Rollout, max_unavailable};
use super::spec_replicas;
use crate::replicaset::nonzero;

/// The deadline's largest value stands for "none".
const NO_DEADLINE: i32 = i32::MAX;

fn condition<'a>(status: &'a DeploymentStatus, name: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == name)
}

fn remove(status: &mut DeploymentStatus, name: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != name);
    }
}

/// Sets a condition; one that says the same already stays as it is, and the time of transition only moves with the
/// status.
fn set(
    status: &mut DeploymentStatus,
    name: &str,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let now = Time(truncate_to_seconds(now));
    let known = condition(status, name).cloned();
    if known
        .as_ref()
        .is_some_and(|k| k.status == value && k.reason.as_deref() == Some(reason))
    {
        return;
    }
    let since = known
        .filter(|k| k.status == value)
        .and_then(|k| k.last_transition_time);
    remove(status, name);
    status
        .conditions
        .get_or_insert_default()
        .push(DeploymentCondition {
            type_: name.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(since.unwrap_or(now)),
        });
}

/// Sets the Progressing condition.
pub fn progressing(
    status: &mut DeploymentStatus,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    set(status, "Progressing", value, reason, message, now);
}

/// The counts that the sets report, before the step that is being planned takes effect.
fn counts(rollout: &Rollout<'_>) -> DeploymentStatus {
    let old = rollout.deployment.status.clone().unwrap_or_default();
    let statuses = || rollout.all().filter_map(|set| set.set.status.as_ref());
    let available: i32 = statuses()
        .filter_map(|status| status.available_replicas)
        .sum();
    let asked: i32 = rollout.all().map(|set| spec_replicas(&set.set)).sum();
    let updated = rollout
        .new
        .as_ref()
        .and_then(|new| new.set.status.as_ref())
        .map_or(0, |s| s.replicas);
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: nonzero(statuses().map(|status| status.replicas).sum()),
        updated_replicas: nonzero(updated),
        ready_replicas: nonzero(statuses().filter_map(|status| status.ready_replicas).sum()),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((asked - available).max(0)),
        terminating_replicas: Some(
            statuses()
                .filter_map(|status| status.terminating_replicas)
                .sum(),
        ),
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

/// Whether the newest template is all that runs, and all of it is available.
pub fn is_complete(rollout: &Rollout<'_>) -> bool {
    let status = counts(rollout);
    let wanted = rollout.spec.replicas.unwrap_or(1);
    [
        status.updated_replicas,
        status.replicas,
        status.available_replicas,
    ]
    .iter()
    .all(|n| n.unwrap_or(0) == wanted)
}

/// The new status, and when the progress deadline has to be looked at again.
pub fn of(rollout: &Rollout<'_>, now: Timestamp) -> (DeploymentStatus, Option<Timestamp>) {
    let mut status = counts(rollout);
    let wanted = rollout.spec.replicas.unwrap_or(1);
    let (value, reason, message) =
        if status.available_replicas.unwrap_or(0) >= wanted - max_unavailable(rollout.spec) {
            (
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            )
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
    set(&mut status, "Available", value, reason, message.into(), now);
    let deadline = rollout.spec.progress_deadline_seconds.unwrap_or(600);
    let mut look_again = None;
    if deadline == NO_DEADLINE {
        remove(&mut status, "Progressing");
    } else if is_paused_or_resumed(rollout, &mut status, now) {
        // A paused Deployment makes no progress by definition.
    } else {
        progress(rollout, &mut status, deadline, now);
        look_again = deadline_of(&status, deadline);
    }
    note_failure(rollout, &mut status);
    (status, look_again)
}

/// Notes pausing and resuming; true while paused.
fn is_paused_or_resumed(
    rollout: &Rollout<'_>,
    status: &mut DeploymentStatus,
    now: Timestamp,
) -> bool {
    let paused = rollout.spec.paused.unwrap_or(false);
    let reason = condition(status, "Progressing").and_then(|known| known.reason.clone());
    let reason = reason.as_deref();
    if reason == Some("ProgressDeadlineExceeded") && paused {
        return true;
    }
    if paused && reason != Some("DeploymentPaused") {
        progressing(
            status,
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused".into(),
            now,
        );
    } else if !paused && reason == Some("DeploymentPaused") {
        progressing(
            status,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed".into(),
            now,
        );
    }
    paused
}

fn progress(rollout: &Rollout<'_>, status: &mut DeploymentStatus, deadline: i32, now: Timestamp) {
    let old = rollout.deployment.status.clone().unwrap_or_default();
    if let Some(created) = &rollout.create {
        let name = created.metadata.name.clone().unwrap_or_default();
        let message = format!("Created new replica set {name:?}");
        progressing(status, "True", "NewReplicaSetCreated", message, now);
        return;
    }
    let new_name = rollout
        .new
        .as_ref()
        .and_then(|new| new.set.metadata.name.clone());
    if condition(status, "Progressing").is_none()
        && let Some(name) = &new_name
    {
        progressing(
            status,
            "True",
            "FoundNewReplicaSet",
            format!("Found new replica set {name:?}"),
            now,
        );
    }
    let subject = match &new_name {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => format!(
            "Deployment {:?}",
            rollout.deployment.metadata.name.clone().unwrap_or_default()
        ),
    };
    let known = condition(status, "Progressing").and_then(|known| known.reason.clone());
    let settled = status.replicas == status.updated_replicas
        && known.as_deref() == Some("NewReplicaSetAvailable");
    if settled && old.updated_replicas == status.updated_replicas && is_complete(rollout) {
        return;
    }
    if is_complete(rollout) {
        let message = format!("{subject} has successfully progressed.");
        progressing(status, "True", "NewReplicaSetAvailable", message, now);
    } else if has_progressed(&old, status) {
        let message = format!("{subject} is progressing.");
        // The time of the last progress is what the deadline counts from, so it moves even if the words stay.
        let since = condition(status, "Progressing").filter(|known| known.status == "True");
        let since = since.and_then(|known| known.last_transition_time.clone());
        remove(status, "Progressing");
        progressing(status, "True", "ReplicaSetUpdated", message, now);
        let written = status.conditions.get_or_insert_default().last_mut();
        if let (Some(written), Some(since)) = (written, since) {
            written.last_transition_time = Some(since);
        }
    } else if known.as_deref() != Some("NewReplicaSetAvailable")
        && deadline_of(status, deadline).is_some_and(|at| at <= now)
    {
        let message = format!("{subject} has timed out progressing.");
        progressing(status, "False", "ProgressDeadlineExceeded", message, now);
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// When a rollout that makes no progress counts as failed; nothing once it is complete or has failed.
fn deadline_of(status: &DeploymentStatus, deadline: i32) -> Option<Timestamp> {
    let known = condition(status, "Progressing")?;
    if matches!(
        known.reason.as_deref(),
        Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded")
    ) {
        return None;
    }
    let updated = known.last_update_time.as_ref()?.0;
    updated
        .checked_add(Duration::from_secs(u64::try_from(deadline).unwrap_or(0)))
        .ok()
}

/// Passes the sets' failures on: the new set's first.
fn note_failure(rollout: &Rollout<'_>, status: &mut DeploymentStatus) {
    let failure = |set: &super::Set| -> Option<ReplicaSetCondition> {
        let conditions = set.set.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|condition| condition.type_ == "ReplicaFailure")
            .cloned()
    };
    let found = rollout
        .new
        .as_ref()
        .and_then(failure)
        .or_else(|| rollout.old.iter().find_map(failure));
    let Some(found) = found else {
        remove(status, "ReplicaFailure");
        return;
    };
    let known = condition(status, "ReplicaFailure");
    if known.is_some_and(|known| known.status == found.status && known.reason == found.reason) {
        return;
    }
    remove(status, "ReplicaFailure");
    status
        .conditions
        .get_or_insert_default()
        .push(DeploymentCondition {
            type_: "ReplicaFailure".into(),
            status: found.status,
            reason: found.reason,
            message: found.message,
            last_update_time: found.last_transition_time.clone(),
            last_transition_time: found.last_transition_time,
        });
}
