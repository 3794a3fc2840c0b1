//! `RuntimeClass`.

use corral_api::k8s::api::node::v1::RuntimeClass;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, age};

/// `node.k8s.io/v1 RuntimeClass`.
pub struct RuntimeClassKind;

impl Kind for RuntimeClassKind {
    type Object = RuntimeClass;

    const NAMES: Names = Names {
        group: "node.k8s.io",
        version: "v1",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        short_names: &[],
        categories: &[],
        namespaced: false,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Handler", "What runs containers of this class."),
            Column::AGE,
        ]
    }

    fn cells(class: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![
            class.metadata.name.clone().into(),
            class.handler.clone().into(),
            age(&class.metadata, now),
        ]
    }
}
