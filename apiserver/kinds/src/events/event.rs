//! `Event`.

use corral_api::field::FieldError;
use corral_api::k8s::api::events::v1::Event;
use jiff::Timestamp;
use serde_json::Value;

use super::convert::{from_core_json, to_core, to_core_json};
use crate::core::event::{row, rules};
use crate::kind::{Column, Kind, Names, Words};
use crate::rules::Errors;
use crate::selectable::SelectableField;

/// `events.k8s.io/v1 Event`.
pub struct EventKind;

impl Kind for EventKind {
    type Object = Event;

    const NAMES: Names<'static> = Names {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: Words::Of(&["ev"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const CONVERTS: bool = true;
    const STORAGE_VERSION: (&'static str, &'static str) = ("", "v1");
    const CHECKED_IN_GROUP: &'static str = "";
    const SELECTABLE_FIELDS: &'static [SelectableField] = &[
        SelectableField::text("regarding.kind"),
        SelectableField::text("regarding.namespace"),
        SelectableField::text("regarding.name"),
        SelectableField::text("regarding.uid"),
        SelectableField::text("regarding.apiVersion"),
        SelectableField::text("regarding.resourceVersion"),
        SelectableField::text("regarding.fieldPath"),
        SelectableField::text("reason"),
        SelectableField::text("reportingController"),
        SelectableField::text("type"),
    ];

    fn to_stored(value: Value) -> Value {
        to_core_json(value)
    }

    fn from_stored(value: Value) -> Value {
        from_core_json(value)
    }

    fn validate(event: &Event) -> Vec<FieldError> {
        let mut errors = Errors::new();
        rules::strict_create(&mut errors, &to_core(event.clone()));
        errors
    }

    fn validate_update(new: &Event, old: &Event) -> Vec<FieldError> {
        let mut errors = Errors::new();
        rules::strict_update(&mut errors, &to_core(new.clone()), &to_core(old.clone()));
        errors
    }

    fn columns() -> Vec<Column> {
        row::columns()
    }

    fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
        row::cells(&to_core(event.clone()), now)
    }
}
