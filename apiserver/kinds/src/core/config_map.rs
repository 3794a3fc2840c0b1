//! `ConfigMap`.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::ConfigMap;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, text};

/// Most bytes that the values of a ConfigMap or Secret have together.
pub const DATA_SIZE_MAX: usize = 1024 * 1024;
pub(crate) const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// `v1 ConfigMap`.
pub struct ConfigMapKind;

impl Kind for ConfigMapKind {
    type Object = ConfigMap;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: Words::Of(&["cm"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Data", "Number of keys."),
            Column::AGE,
        ]
    }

    fn cells(map: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let n_texts = map.data.as_ref().map_or(0, |d| d.len());
        let n_binaries = map.binary_data.as_ref().map_or(0, |d| d.len());
        vec![
            map.metadata.name.clone().into(),
            (n_texts + n_binaries).into(),
            age(&map.metadata, now),
        ]
    }

    fn validate(map: &ConfigMap) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let mut size = 0;
        for (key, value) in map.data.iter().flatten() {
            let path = at("data").key(key);
            rules::complain(&mut errors, &path, key, names::config_key(key));
            if map
                .binary_data
                .as_ref()
                .is_some_and(|b| b.contains_key(key))
            {
                let detail = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(&path, key.as_str(), detail));
            }
            size += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            let path = at("binaryData").key(key);
            rules::complain(&mut errors, &path, key, names::config_key(key));
            size += value.0.len();
        }
        if size > DATA_SIZE_MAX {
            errors.push(FieldError::too_long(&FieldPath::root(), DATA_SIZE_MAX));
        }
        errors
    }

    fn validate_update(new: &ConfigMap, old: &ConfigMap) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if old.immutable == Some(true) {
            for (field, changed) in [
                ("immutable", new.immutable != Some(true)),
                ("data", new.data != old.data),
                ("binaryData", new.binary_data != old.binary_data),
            ] {
                if changed {
                    errors.push(FieldError::forbidden(&at(field), IMMUTABLE));
                }
            }
        }
        errors.extend(Self::validate(new));
        // The prefix of a name that nobody makes any more.
        let prefix = text(&new.metadata.generate_name);
        if !prefix.is_empty() {
            let probe = format!("{}a", prefix.trim_end_matches('-'));
            let path = at("metadata.generateName");
            rules::complain(&mut errors, &path, prefix, names::dns1123_subdomain(&probe));
        }
        errors
    }
}
