//! Rules of the conditions that many kinds have in their status.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::Condition;
use corral_api::names;
use corral_api::time::Time;
use jiff::Timestamp;

use crate::rules::{self, Errors, Seen};

/// Most bytes of a reason and of a message, as in Kubernetes.
const REASON_LEN_MAX: usize = 1024;
const MESSAGE_LEN_MAX: usize = 32 * 1024;
/// A time that was not given: Go's year one.
const ZERO_TIME: Timestamp = Timestamp::constant(-62_135_596_800, 0);
const REASON_RULE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
                           alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                           'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex \
                           used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// Everything wrong with a list of conditions.
pub(crate) fn validate(errors: &mut Errors, path: &FieldPath, conditions: &[Condition]) {
    let mut seen = Seen::default();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        seen.check(errors, &path.child("type"), &condition.type_);
        validate_one(errors, &path, condition);
    }
}

fn validate_one(errors: &mut Errors, path: &FieldPath, condition: &Condition) {
    let type_ = &condition.type_;
    rules::complain(
        errors,
        &path.child("type"),
        type_,
        names::qualified_name(type_),
    );
    let allowed = ["False", "True", "Unknown"];
    rules::supported(errors, &path.child("status"), &condition.status, &allowed);
    let observed = condition.observed_generation.unwrap_or(0);
    if observed < 0 {
        let detail = "must be greater than or equal to zero";
        let path = path.child("observedGeneration");
        errors.push(FieldError::invalid(&path, observed, detail));
    }
    if condition.last_transition_time == Time(ZERO_TIME) {
        errors.push(FieldError::required(&path.child("lastTransitionTime"), ""));
    }
    let (reason, reason_path) = (&condition.reason, path.child("reason"));
    if reason.is_empty() {
        errors.push(FieldError::required(&reason_path, ""));
    } else {
        if !is_reason(reason) {
            errors.push(FieldError::invalid(
                &reason_path,
                reason.as_str(),
                REASON_RULE,
            ));
        }
        if reason.len() > REASON_LEN_MAX {
            errors.push(FieldError::too_long(&reason_path, REASON_LEN_MAX));
        }
    }
    if condition.message.len() > MESSAGE_LEN_MAX {
        errors.push(FieldError::too_long(
            &path.child("message"),
            MESSAGE_LEN_MAX,
        ));
    }
}

fn is_reason(reason: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(word)
        && reason.chars().all(|c| word(c) || matches!(c, ',' | ':'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::{at, texts};

    #[test]
    fn conditions_are_told_what_is_wrong() {
        let conditions: Vec<Condition> = serde_json::from_value(json!([
            {"type": "A", "status": "True", "reason": "Good:1", "message": "",
             "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": -1},
            {"type": "A", "status": "Yes", "reason": "1", "message": "",
             "lastTransitionTime": "0001-01-01T00:00:00Z"},
        ]))
        .expect("conditions");
        let mut errors = Errors::new();
        validate(&mut errors, &at("c"), &conditions);
        let rule = format!("c[1].reason: Invalid value: \"1\": {REASON_RULE}");
        assert_eq!(
            texts(&errors),
            [
                "c[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
                "c[1].type: Duplicate value: \"A\"",
                "c[1].status: Unsupported value: \"Yes\": supported values: \"False\", \"True\", \"Unknown\"",
                "c[1].lastTransitionTime: Required value",
                &rule,
            ]
        );
    }
}
