//! `Event`.

pub mod row;
pub(crate) mod rules;

use corral_api::field::FieldError;
use corral_api::k8s::api::core::v1::Event;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Words};
use crate::rules::Errors;
use crate::selectable::SelectableField;

/// `v1 Event`.
pub struct EventKind;

impl Kind for EventKind {
    type Object = Event;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: Words::Of(&["ev"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    /// Old clients name Events as they like.
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;
    const SELECTABLE_FIELDS: &'static [SelectableField] = &[
        SelectableField::text("involvedObject.kind"),
        SelectableField::text("involvedObject.namespace"),
        SelectableField::text("involvedObject.name"),
        SelectableField::text("involvedObject.uid"),
        SelectableField::text("involvedObject.apiVersion"),
        SelectableField::text("involvedObject.resourceVersion"),
        SelectableField::text("involvedObject.fieldPath"),
        SelectableField::text("reason"),
        SelectableField::text("reportingComponent"),
        // Either of the two names finds the one who reports.
        SelectableField::text("source")
            .at("source.component")
            .or("reportingComponent"),
        SelectableField::text("type"),
    ];

    fn validate(event: &Event) -> Vec<FieldError> {
        let mut errors = Errors::new();
        rules::lenient(&mut errors, event, "reportingComponent");
        errors
    }

    fn columns() -> Vec<Column> {
        row::columns()
    }

    fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
        row::cells(event, now)
    }
}
