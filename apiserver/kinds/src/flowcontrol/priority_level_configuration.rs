//! `PriorityLevelConfiguration`: how many requests of a level are served at once, and what becomes of more.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, LimitResponse, LimitedPriorityLevelConfiguration,
    PriorityLevelConfiguration, PriorityLevelConfigurationSpec, QueuingConfiguration,
};
use jiff::Timestamp;
use serde_json::Value;

use super::mandatory;
use super::rules::condition_types;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age, keep_metadata};
use crate::rules::{self, Errors, at, json, text};

const SHARES: i32 = 30;
const HAND_SIZE: i32 = 8;
const QUEUES: i32 = 64;
const QUEUE_LENGTH: i32 = 50;
const QUEUES_MAX: i32 = 10_000_000;
/// Bits of the hash by which a flow chooses its queues.
const HASH_BITS: i32 = 60;
/// The annotation of an old version, which has no meaning here.
const PRESERVE_ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
const PERCENT_RANGE: &str = "must be between 0 and 100, inclusive";

/// `flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration`.
pub struct PriorityLevelConfigurationKind;

impl Kind for PriorityLevelConfigurationKind {
    type Object = PriorityLevelConfiguration;

    const NAMES: Names<'static> = Names {
        group: "flowcontrol.apiserver.k8s.io",
        version: "v1",
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        singular: "prioritylevelconfiguration",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Type", "Whether there is a limit."),
            Column::text("NominalConcurrencyShares", "The share of the level."),
            Column::text("Queues", "How many queues there are."),
            Column::text("HandSize", "How many queues a flow has."),
            Column::text("QueueLengthLimit", "How long a queue may be."),
            Column::AGE,
        ]
    }

    fn cells(level: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
        let spec = level.spec.clone().unwrap_or_default();
        let limited = spec.limited.as_ref();
        let response = limited.and_then(|l| l.limit_response.as_ref());
        let queuing = response.and_then(|r| r.queuing.as_ref());
        let or_none = |n: Option<i32>| n.map_or_else(|| "<none>".into(), Value::from);
        vec![
            level.metadata.name.clone().into(),
            spec.type_.clone().into(),
            or_none(limited.map(|l| l.nominal_concurrency_shares.unwrap_or(0))),
            or_none(queuing.map(|q| q.queues.unwrap_or(0))),
            or_none(queuing.map(|q| q.hand_size.unwrap_or(0))),
            or_none(queuing.map(|q| q.queue_length_limit.unwrap_or(0))),
            age(&level.metadata, now),
        ]
    }

    fn default(level: &mut PriorityLevelConfiguration) {
        let spec = level.spec.get_or_insert_default();
        if let Some(exempt) = &mut spec.exempt {
            fill::absent(&mut exempt.nominal_concurrency_shares, 0);
            fill::absent(&mut exempt.lendable_percent, 0);
        }
        if let Some(limited) = &mut spec.limited {
            fill::absent(&mut limited.nominal_concurrency_shares, SHARES);
            fill::absent(&mut limited.lendable_percent, 0);
            let response = limited.limit_response.iter_mut();
            for queuing in response.flat_map(|r| &mut r.queuing) {
                fill::zero(&mut queuing.hand_size, HAND_SIZE);
                fill::zero(&mut queuing.queues, QUEUES);
                fill::zero(&mut queuing.queue_length_limit, QUEUE_LENGTH);
            }
        }
    }

    fn keep_for_status(new: &mut PriorityLevelConfiguration, old: &PriorityLevelConfiguration) {
        keep_metadata(&mut new.metadata, &old.metadata);
    }

    fn validate(level: &PriorityLevelConfiguration) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let annotations = level.metadata.annotations.as_ref();
        if annotations.is_some_and(|a| a.contains_key(PRESERVE_ZERO)) {
            let detail = format!("annotation '{PRESERVE_ZERO}' is forbidden");
            errors.push(FieldError::forbidden(&at("metadata.annotations"), detail));
        }
        let nothing = PriorityLevelConfigurationSpec::default();
        let spec = level.spec.as_ref().unwrap_or(&nothing);
        let name = text(&level.metadata.name);
        spec_rules(&mut errors, &at("spec"), spec, name);
        unchanged(&mut errors, &at("spec"), spec, name);
        status(&mut errors, level);
        errors
    }

    fn validate_status_update(
        new: &PriorityLevelConfiguration,
        _old: &PriorityLevelConfiguration,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        status(&mut errors, new);
        errors
    }
}

fn status(errors: &mut Errors, level: &PriorityLevelConfiguration) {
    let conditions = level
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let types = conditions.map(|c| c.type_.as_deref());
    condition_types(errors, &at("status.conditions"), types);
}

/// Mandatory levels are as they are, but for the shares of the exempt one.
fn unchanged(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &PriorityLevelConfigurationSpec,
    name: &str,
) {
    let Some(mut fixed) = mandatory::fixed(mandatory::levels(), name) else {
        return;
    };
    let mut given = json(spec);
    let mut but = "";
    if name == mandatory::EXEMPT {
        but = " except the 'spec.exempt' field";
        for spec in [&mut fixed, &mut given] {
            spec["exempt"] = Value::Null;
        }
    }
    if !rules::same(&fixed, &given) {
        let detail = format!("spec of '{name}'{but} must equal the fixed value");
        errors.push(FieldError::invalid(path, json(spec), detail));
    }
}

fn spec_rules(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &PriorityLevelConfigurationSpec,
    name: &str,
) {
    let (type_, type_path) = (spec.type_.as_str(), path.child("type"));
    if (name == mandatory::EXEMPT) != (type_ == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(FieldError::invalid(&type_path, type_, detail));
    }
    let (limited_path, exempt_path) = (path.child("limited"), path.child("exempt"));
    match (type_, &spec.limited) {
        ("Exempt", limited) => {
            if limited.is_some() {
                let detail = "must be nil if the type is not Limited";
                errors.push(FieldError::forbidden(&limited_path, detail));
            }
            if let Some(settings) = &spec.exempt {
                exempt(errors, &exempt_path, settings);
            }
        }
        ("Limited", settings) => {
            if spec.exempt.is_some() {
                let detail = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden(&exempt_path, detail));
            }
            match settings {
                Some(settings) => limited(errors, &limited_path, settings),
                None => {
                    let detail = "must not be empty when type is Limited";
                    errors.push(FieldError::required(&limited_path, detail));
                }
            }
        }
        _ => rules::required_of(errors, &type_path, type_, &["Exempt", "Limited"]),
    }
}

fn shares(errors: &mut Errors, path: &FieldPath, shares: Option<i32>) {
    if let Some(shares) = shares.filter(|n| *n < 0) {
        let path = path.child("nominalConcurrencyShares");
        let detail = "must be a non-negative integer";
        errors.push(FieldError::invalid(&path, shares, detail));
    }
}

fn lends(errors: &mut Errors, path: &FieldPath, percent: Option<i32>) {
    if let Some(percent) = percent.filter(|n| !(0..=100).contains(n)) {
        let path = path.child("lendablePercent");
        errors.push(FieldError::invalid(&path, percent, PERCENT_RANGE));
    }
}

fn exempt(errors: &mut Errors, path: &FieldPath, settings: &ExemptPriorityLevelConfiguration) {
    shares(errors, path, settings.nominal_concurrency_shares);
    lends(errors, path, settings.lendable_percent);
}

fn limited(errors: &mut Errors, path: &FieldPath, settings: &LimitedPriorityLevelConfiguration) {
    shares(errors, path, settings.nominal_concurrency_shares);
    let nothing = LimitResponse::default();
    let response = settings.limit_response.as_ref().unwrap_or(&nothing);
    limit_response(errors, &path.child("limitResponse"), response);
    lends(errors, path, settings.lendable_percent);
    if let Some(percent) = settings.borrowing_limit_percent.filter(|n| *n < 0) {
        let path = path.child("borrowingLimitPercent");
        let detail = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(&path, percent, detail));
    }
}

fn limit_response(errors: &mut Errors, path: &FieldPath, response: &LimitResponse) {
    let queuing_path = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(&queuing_path, detail));
        }
        ("Reject", None) => {}
        ("Queue", None) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(&queuing_path, detail));
        }
        ("Queue", Some(queuing)) => queues(errors, &queuing_path, queuing),
        (other, _) => {
            let path = path.child("type");
            rules::required_of(errors, &path, other, &["Queue", "Reject"]);
        }
    }
}

fn queues(errors: &mut Errors, path: &FieldPath, queuing: &QueuingConfiguration) {
    const POSITIVE: &str = "must be positive";
    let number = |n: Option<i32>| n.unwrap_or(0);
    let (length, queues, hand) = (
        number(queuing.queue_length_limit),
        number(queuing.queues),
        number(queuing.hand_size),
    );
    let mut wrong = |field: &str, n: i32, detail: String| {
        errors.push(FieldError::invalid(&path.child(field), n, detail));
    };
    if length <= 0 {
        wrong("queueLengthLimit", length, POSITIVE.to_owned());
    }
    if queues <= 0 {
        wrong("queues", queues, POSITIVE.to_owned());
    } else if queues > QUEUES_MAX {
        let detail = format!("must not be greater than {QUEUES_MAX}");
        wrong("queues", queues, detail);
    }
    let bits = entropy(queues, hand);
    if hand <= 0 {
        wrong("handSize", hand, POSITIVE.to_owned());
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        wrong("handSize", hand, detail);
    } else if bits > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        wrong("handSize", hand, detail);
    }
}

/// Bits that it takes to deal a hand of queues.
fn entropy(queues: i32, hand: i32) -> i32 {
    if queues <= 0 || hand <= 0 {
        return 0;
    }
    let bits = f64::from(queues).log2() * f64::from(hand);
    // Far below what a number of 32 bits holds.
    bits.ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn the_levels_of_every_cluster_are_right_and_the_mandatory_ones_fixed() {
        for (name, spec) in mandatory::levels() {
            let json = serde_json::json!({"metadata": {"name": name}, "spec": spec});
            let mut level: PriorityLevelConfiguration = serde_json::from_value(json).expect(name);
            let given = level.clone();
            PriorityLevelConfigurationKind::default(&mut level);
            assert_eq!(level, given, "{name} needs no defaults");
            let errors = PriorityLevelConfigurationKind::validate(&level);
            assert!(errors.is_empty(), "{name}: {errors:?}");
            if let Some(limited) = level.spec.as_mut().and_then(|s| s.limited.as_mut()) {
                limited.nominal_concurrency_shares = Some(77);
                let errors = PriorityLevelConfigurationKind::validate(&level);
                assert_eq!(errors.len() == 1, name == mandatory::CATCH_ALL, "{name}");
            }
        }
    }

    #[test]
    fn a_hand_is_no_bigger_than_the_deck_and_the_hash() {
        let level = |queues, hand| -> PriorityLevelConfiguration {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "spec": {
                "type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {
                    "queues": queues, "handSize": hand, "queueLengthLimit": 1,
                }}},
            }}))
            .expect("a level")
        };
        let validate = |queues, hand| {
            texts(&PriorityLevelConfigurationKind::validate(&level(
                queues, hand,
            )))
        };
        let path = "spec.limited.limitResponse.queuing.handSize: Invalid value";
        assert_eq!(
            validate(4, 5),
            [format!("{path}: 5: should not be greater than queues (4)")]
        );
        assert_eq!(
            validate(128, 9),
            [format!(
                "{path}: 9: required entropy bits of deckSize 128 and handSize 9 should not be greater than 60"
            )]
        );
        assert!(validate(128, 8).is_empty());
    }
}
