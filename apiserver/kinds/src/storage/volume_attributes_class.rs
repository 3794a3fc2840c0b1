//! `VolumeAttributesClass`.

use corral_api::field::FieldError;
use corral_api::k8s::api::storage::v1::VolumeAttributesClass;
use jiff::Timestamp;
use serde_json::Value;

use super::rules as own;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at};

/// `storage.k8s.io/v1 VolumeAttributesClass`.
pub struct VolumeAttributesClassKind;

impl Kind for VolumeAttributesClassKind {
    type Object = VolumeAttributesClass;

    const NAMES: Names<'static> = Names {
        group: "storage.k8s.io",
        version: "v1",
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        short_names: Words::Of(&["vac"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("DriverName", "Whose volumes it is about."),
            Column::AGE,
        ]
    }

    fn cells(class: &VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
        vec![
            class.metadata.name.clone().into(),
            class.driver_name.clone().into(),
            age(&class.metadata, now),
        ]
    }

    fn validate(class: &VolumeAttributesClass) -> Vec<FieldError> {
        let mut errors = Errors::new();
        own::provisioner(&mut errors, &at("driverName"), &class.driver_name);
        let (path, parameters) = (at("parameters"), class.parameters.as_ref());
        own::parameters(&mut errors, &path, parameters);
        if parameters.is_none_or(|p| p.is_empty()) {
            let detail = "must contain at least one key/value pair";
            errors.push(FieldError::required(&path, detail));
        }
        errors
    }

    fn validate_update(
        new: &VolumeAttributesClass,
        old: &VolumeAttributesClass,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for (field, changed) in [
            ("driverName", new.driver_name != old.driver_name),
            ("parameters", !rules::same(&new.parameters, &old.parameters)),
        ] {
            if changed {
                let detail = format!("updates to {field} are forbidden.");
                errors.push(FieldError::forbidden(&at(field), detail));
            }
        }
        errors.extend(Self::validate(new));
        errors
    }

    fn warnings(_class: &VolumeAttributesClass) -> Vec<String> {
        vec!["parameters: accepted, but not honoured by this server yet".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn a_class_has_parameters_and_keeps_them() {
        let class = |json: Value| -> VolumeAttributesClass {
            serde_json::from_value(json).expect("a class")
        };
        let old = class(serde_json::json!({"driverName": "d", "parameters": {"a": "b"}}));
        assert!(VolumeAttributesClassKind::validate(&old).is_empty());
        let new = class(serde_json::json!({"driverName": "d"}));
        assert_eq!(
            texts(&VolumeAttributesClassKind::validate_update(&new, &old)),
            [
                "parameters: Forbidden: updates to parameters are forbidden.",
                "parameters: Required value: must contain at least one key/value pair",
            ]
        );
    }
}
