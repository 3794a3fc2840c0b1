//! `ControllerRevision`: one state of a set's template, kept so that it can be told apart and gone back to.

use corral_api::field::FieldError;
use corral_api::k8s::api::apps::v1::ControllerRevision;
use corral_api::meta::controller_of;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json};

/// `apps/v1 ControllerRevision`.
pub struct ControllerRevisionKind;

impl Kind for ControllerRevisionKind {
    type Object = ControllerRevision;

    const NAMES: Names<'static> = Names {
        group: "apps",
        version: "v1",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Controller", "What the revision is of."),
            Column::text(
                "Revision",
                "Which state it is; later ones have higher numbers.",
            ),
            Column::AGE,
        ]
    }

    fn cells(revision: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        let meta = &revision.metadata;
        vec![
            meta.name.clone().into(),
            controller(revision).into(),
            revision.revision.into(),
            age(meta, now),
        ]
    }

    fn validate(revision: &ControllerRevision) -> Vec<FieldError> {
        let mut errors = lasting(revision);
        let path = at("data");
        match revision.data.as_ref().map(|data| &data.0) {
            None | Some(Value::Null) => {
                errors.push(FieldError::required(&path, "data is mandatory"));
            }
            Some(Value::Object(_)) => {}
            Some(_) => {
                let detail = "data must be a valid JSON object";
                errors.push(FieldError::required(&path, detail));
            }
        }
        errors
    }

    fn validate_update(new: &ControllerRevision, old: &ControllerRevision) -> Vec<FieldError> {
        let mut errors = lasting(new);
        if new.data != old.data {
            let value = json(&new.data);
            errors.push(FieldError::invalid(
                &at("data"),
                value,
                "field is immutable",
            ));
        }
        errors
    }
}

/// Rules that hold as long as a revision lasts.
fn lasting(revision: &ControllerRevision) -> Errors {
    let mut errors = Errors::new();
    rules::nonnegative(&mut errors, &at("revision"), revision.revision);
    errors
}

/// The controller as kubectl would be told it: `daemonset.apps/name`.
fn controller(revision: &ControllerRevision) -> String {
    let Some(owner) = controller_of(&revision.metadata) else {
        return "<none>".to_owned();
    };
    let kind = owner.kind.to_lowercase();
    match owner.api_version.split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
        None => format!("{kind}/{}", owner.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn revision(value: Value) -> ControllerRevision {
        serde_json::from_value(value).expect("a revision")
    }

    #[test]
    fn data_is_an_object_and_stays_as_it_is() {
        let good = revision(serde_json::json!({"data": {"a": 1}, "revision": 2}));
        assert!(ControllerRevisionKind::validate(&good).is_empty());
        let text = revision(serde_json::json!({"data": "a", "revision": -1}));
        assert_eq!(
            texts(&ControllerRevisionKind::validate(&text)),
            [
                "revision: Invalid value: -1: must be greater than or equal to 0",
                "data: Required value: data must be a valid JSON object",
            ]
        );
        let later = revision(serde_json::json!({"data": {"a": 1}, "revision": 3}));
        assert!(ControllerRevisionKind::validate_update(&later, &good).is_empty());
        let changed = revision(serde_json::json!({"data": {"a": 2}, "revision": 2}));
        assert_eq!(
            ControllerRevisionKind::validate_update(&changed, &good).len(),
            1
        );
    }

    #[test]
    fn the_row_names_the_controller() {
        let owned = revision(serde_json::json!({
            "metadata": {"name": "web-1", "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "u", "controller": true}]},
            "revision": 4,
        }));
        let cells = ControllerRevisionKind::cells(&owned, Timestamp::UNIX_EPOCH);
        assert_eq!(
            cells[1..3],
            [Value::from("daemonset.apps/web"), Value::from(4)]
        );
    }
}
