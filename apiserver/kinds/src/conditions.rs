//! Rules of the conditions that many kinds have in their status.

use std::borrow::Cow;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::Condition;
use corral_api::names;
use corral_api::time::Time;
use jiff::Timestamp;
use serde_json::Value;

use crate::rules::{self, Errors, Seen};
use crate::schema::ZERO_TIME as ZERO_TIME_TEXT;

/// Most bytes of a reason and of a message, as in Kubernetes.
const REASON_LEN_MAX: usize = 1024;
const MESSAGE_LEN_MAX: usize = 32 * 1024;
/// A time that was not given: Go's year one.
const ZERO_TIME: Timestamp = Timestamp::constant(-62_135_596_800, 0);
const REASON_RULE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
                           alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                           'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex \
                           used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// Tells the type, which takes a time that is `null` for one of 1970, that a condition of the status has none: kinds whose
/// conditions are nowhere validated are stored so.
pub(crate) fn keep_unset_times(value: &mut Cow<'_, Value>) {
    let is_unset = |condition: &Value| {
        condition.is_object()
            && condition
                .get("lastTransitionTime")
                .is_none_or(Value::is_null)
    };
    let conditions = value["status"]["conditions"].as_array();
    if !conditions.into_iter().flatten().any(is_unset) {
        return;
    }
    let conditions = value.to_mut()["status"]["conditions"].as_array_mut();
    for condition in conditions.into_iter().flatten() {
        if is_unset(condition) {
            condition["lastTransitionTime"] = ZERO_TIME_TEXT.into();
        }
    }
}

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
    fn a_time_that_is_not_set_is_the_zero_time() {
        use crate::core::service::ServiceKind;
        use crate::kind::{AnyKind, Erased, Kind};

        let stored = json!({"status": {"conditions": [{"type": "A", "lastTransitionTime": null}]}});
        let kind = Erased::<ServiceKind>::new();
        let service = kind.decode_kept(&stored).expect("a Service");
        let mut again = kind.encode(&service).expect("JSON");
        kind.schema().complete(&mut again);
        let condition = &again["status"]["conditions"][0];
        assert_eq!(condition["lastTransitionTime"], ZERO_TIME_TEXT);
        let given =
            json!({"status": {"conditions": [{"lastTransitionTime": "1970-01-01T00:00:00Z"}]}});
        let mut kept = Cow::Borrowed(&given);
        ServiceKind::before_decode(&mut kept);
        assert_eq!(*kept, given);
    }

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
