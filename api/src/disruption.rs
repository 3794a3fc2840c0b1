//! What the eviction of pods and the controller of PodDisruptionBudgets must agree on.

use std::time::Duration;

use jiff::Timestamp;

use crate::k8s::api::policy::v1::PodDisruptionBudgetStatus;
use crate::k8s::apimachinery::pkg::apis::meta::v1::Condition;
use crate::time::{Time, truncate_to_seconds};

/// The condition of a budget that tells whether a pod may be evicted.
pub const ALLOWED: &str = "DisruptionAllowed";
/// The reason when that is not known.
pub const SYNC_FAILED: &str = "SyncFailed";
/// The condition of a pod that somebody means to remove.
pub const TARGET: &str = "DisruptionTarget";
/// How long an evicted pod may take to be seen as being deleted, until the eviction counts as failed.
pub const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

/// Sets the condition to what `disruptionsAllowed` says.
pub fn set_allowed(status: &mut PodDisruptionBudgetStatus, now: Timestamp) {
    let (value, reason) = if status.disruptions_allowed.unwrap_or(0) > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    set_condition(status, value, reason, String::new(), now);
}

/// Sets the condition; its time stays unless its value changes.
pub fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let observed_generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter_mut().find(|c| c.type_ == ALLOWED);
    let since = match &known {
        Some(known) if known.status == value => known.last_transition_time.clone(),
        _ => Time(truncate_to_seconds(now)),
    };
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation,
        last_transition_time: since,
    };
    match known {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_condition_stays_until_its_value_changes() {
        let at = |second| Timestamp::from_second(second).expect("valid");
        let mut status = PodDisruptionBudgetStatus::default();
        set_allowed(&mut status, at(1));
        set_allowed(&mut status, at(2));
        let time = |status: &PodDisruptionBudgetStatus| {
            let conditions = status.conditions.as_ref().expect("set");
            (conditions.len(), conditions[0].last_transition_time.0)
        };
        assert_eq!(time(&status), (1, at(1)));
        status.disruptions_allowed = Some(1);
        set_allowed(&mut status, at(3));
        assert_eq!(time(&status), (1, at(3)));
    }
}
