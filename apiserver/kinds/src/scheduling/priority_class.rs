//! `PriorityClass`.

use corral_api::k8s::api::scheduling::v1::PriorityClass;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, age};

/// `scheduling.k8s.io/v1 PriorityClass`.
pub struct PriorityClassKind;

impl Kind for PriorityClassKind {
    type Object = PriorityClass;

    const NAMES: Names = Names {
        group: "scheduling.k8s.io",
        version: "v1",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        categories: &[],
        namespaced: false,
    };
    const GENERATION: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Value", "The priority."),
            Column {
                kind: "boolean",
                ..Column::text("Global-Default", "Whether pods without a class get this one.")
            },
            Column::AGE,
            Column::text("PreemptionPolicy", "Whether pods of this class preempt others.").wide(),
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
}
