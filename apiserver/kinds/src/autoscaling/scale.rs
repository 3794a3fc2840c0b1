//! `Scale`.

use corral_api::k8s::api::autoscaling::v1::Scale;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Words, age};

/// `autoscaling/v1 Scale`.
pub struct ScaleKind;

impl Kind for ScaleKind {
    type Object = Scale;

    const NAMES: Names<'static> = Names {
        group: "autoscaling",
        version: "v1",
        kind: "Scale",
        plural: "scales",
        singular: "scale",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Desired", "Pods wanted."),
            Column::integer("Available", "Pods there are."),
            Column::AGE,
        ]
    }

    fn cells(scale: &Scale, now: Timestamp) -> Vec<Value> {
        vec![
            scale.metadata.name.clone().into(),
            scale
                .spec
                .as_ref()
                .and_then(|s| s.replicas)
                .unwrap_or(0)
                .into(),
            scale.status.as_ref().map_or(0, |s| s.replicas).into(),
            age(&scale.metadata, now),
        ]
    }
}
