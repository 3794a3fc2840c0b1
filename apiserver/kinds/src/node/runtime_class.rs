//! `RuntimeClass`.

use corral_api::field::FieldError;
use corral_api::k8s::api::node::v1::RuntimeClass;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::core::pod_spec::validation::resources;
use crate::core::pod_spec::validation::scheduling::tolerations as tolerations_rules;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at};

/// `node.k8s.io/v1 RuntimeClass`.
pub struct RuntimeClassKind;

impl Kind for RuntimeClassKind {
    type Object = RuntimeClass;

    const NAMES: Names<'static> = Names {
        group: "node.k8s.io",
        version: "v1",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
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

    fn validate(class: &RuntimeClass) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (handler, path) = (class.handler.as_str(), at("handler"));
        if handler.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            rules::complain(&mut errors, &path, handler, names::dns1123_label(handler));
        }
        if let Some(fixed) = class.overhead.as_ref().and_then(|o| o.pod_fixed.as_ref()) {
            resources::overhead(&mut errors, &at("overhead"), fixed);
        }
        if let Some(scheduling) = &class.scheduling {
            let path = at("scheduling");
            let selector = scheduling.node_selector.as_ref();
            rules::labels(&mut errors, &path.child("nodeSelector"), selector);
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            let path = path.child("tolerations");
            tolerations_rules(&mut errors, &path, tolerations);
        }
        errors
    }

    fn validate_update(new: &RuntimeClass, old: &RuntimeClass) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        rules::immutable(&mut errors, &at("handler"), &new.handler, &old.handler);
        errors
    }
}
