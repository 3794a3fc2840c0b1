//! `ConfigMap`.

use corral_api::k8s::api::core::v1::ConfigMap;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, age};

/// `v1 ConfigMap`.
pub struct ConfigMapKind;

impl Kind for ConfigMapKind {
    type Object = ConfigMap;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
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
}
