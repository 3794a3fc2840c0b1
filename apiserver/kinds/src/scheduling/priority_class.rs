//! `PriorityClass`.

use corral_api::field::FieldError;
use corral_api::k8s::api::scheduling::v1::PriorityClass;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, text};

/// Highest priority that users may define.
pub const USER_PRIORITY_MAX: i32 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
/// The classes that every cluster has, with their priorities.
pub const SYSTEM_CLASSES: [(&str, i32); 2] = [
    ("system-node-critical", 2 * USER_PRIORITY_MAX + 1000),
    ("system-cluster-critical", 2 * USER_PRIORITY_MAX),
];

/// `scheduling.k8s.io/v1 PriorityClass`.
pub struct PriorityClassKind;

impl Kind for PriorityClassKind {
    type Object = PriorityClass;

    const NAMES: Names<'static> = Names {
        group: "scheduling.k8s.io",
        version: "v1",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: Words::Of(&["pc"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Value", "The priority."),
            Column {
                kind: "boolean".into(),
                ..Column::text(
                    "Global-Default",
                    "Whether pods without a class get this one.",
                )
            },
            Column::AGE,
            Column::text(
                "PreemptionPolicy",
                "Whether pods of this class preempt others.",
            ),
        ]
    }

    fn cells(class: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            class.metadata.name.clone().into(),
            class.value.unwrap_or(0).into(),
            class.global_default.unwrap_or(false).into(),
            age(&class.metadata, now),
            class.preemption_policy.clone().unwrap_or_default().into(),
        ]
    }

    fn default(class: &mut PriorityClass) {
        let policy = "PreemptLowerPriority".to_owned();
        fill::absent(&mut class.preemption_policy, policy);
    }

    /// The count begins, but no update of a class goes on with it.
    fn prepare_create(class: &mut PriorityClass) {
        class.metadata.generation = Some(1);
    }

    fn validate(class: &PriorityClass) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (name, value) = (text(&class.metadata.name), class.value.unwrap_or(0));
        if name.starts_with(SYSTEM_PREFIX) {
            if let Some(why) = not_of_the_system(name, value, class.global_default) {
                let detail = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
                );
                errors.push(FieldError::forbidden(&at("metadata.name"), detail));
            }
        } else if value > USER_PRIORITY_MAX {
            let detail =
                format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
            errors.push(FieldError::forbidden(&at("value"), detail));
        }
        let path = at("preemptionPolicy");
        match text(&class.preemption_policy) {
            "" => errors.push(FieldError::required(&path, "")),
            policy => {
                let allowed = ["PreemptLowerPriority", "Never"];
                rules::supported_of(&mut errors, &path, policy, &allowed);
            }
        }
        errors
    }

    fn validate_update(new: &PriorityClass, old: &PriorityClass) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if new.value.unwrap_or(0) != old.value.unwrap_or(0) {
            let detail = "may not be changed in an update.";
            errors.push(FieldError::forbidden(&at("value"), detail));
        }
        let path = at("preemptionPolicy");
        rules::immutable(
            &mut errors,
            &path,
            &new.preemption_policy,
            &old.preemption_policy,
        );
        errors
    }
}

fn not_of_the_system(name: &str, value: i32, global_default: Option<bool>) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|(system, _)| *system == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if *wanted != value => {
            Some(format!("value of {name} PriorityClass must be {wanted}"))
        }
        Some(_) if global_default == Some(true) => Some(format!(
            "globalDefault of {name} PriorityClass must be false"
        )),
        Some(_) => None,
    }
}
