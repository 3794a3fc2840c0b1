//! `Event`.

pub mod row;
pub(crate) mod rules;

use corral_api::field::FieldError;
use corral_api::k8s::api::core::v1::Event;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Words};
use crate::rules::{Errors, text};

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

    fn validate(event: &Event) -> Vec<FieldError> {
        let mut errors = Errors::new();
        rules::lenient(&mut errors, event, "reportingComponent");
        errors
    }

    fn selectable_fields(event: &Event) -> Vec<(&'static str, String)> {
        let object = &event.involved_object;
        let source = event.source.as_ref().map_or("", |s| text(&s.component));
        let component = text(&event.reporting_component);
        // Either of the two names finds the one who reports.
        let source = if source.is_empty() { component } else { source };
        [
            ("involvedObject.kind", text(&object.kind)),
            ("involvedObject.namespace", text(&object.namespace)),
            ("involvedObject.name", text(&object.name)),
            ("involvedObject.uid", text(&object.uid)),
            ("involvedObject.apiVersion", text(&object.api_version)),
            (
                "involvedObject.resourceVersion",
                text(&object.resource_version),
            ),
            ("involvedObject.fieldPath", text(&object.field_path)),
            ("reason", text(&event.reason)),
            ("reportingComponent", component),
            ("source", source),
            ("type", text(&event.type_)),
        ]
        .map(|(field, value)| (field, value.to_owned()))
        .into()
    }

    fn columns() -> Vec<Column> {
        row::columns()
    }

    fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
        row::cells(event, now)
    }
}
