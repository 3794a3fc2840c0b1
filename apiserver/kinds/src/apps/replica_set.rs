//! `ReplicaSet`.

use std::borrow::Cow;

use corral_api::field::FieldError;
use corral_api::k8s::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use jiff::Timestamp;
use serde_json::Value;

use super::{selector, template};
use crate::core::pod_spec::{defaults, prepare, warnings};
use crate::fill;
use crate::kind::{Column, Kind, Names, ScalePaths, Words, age};
use crate::rules::{self, Errors, at};
use crate::selectable::SelectableField;
use crate::table;

/// `apps/v1 ReplicaSet`.
pub struct ReplicaSetKind;

impl Kind for ReplicaSetKind {
    type Object = ReplicaSet;

    const NAMES: Names<'static> = Names {
        group: "apps",
        version: "v1",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: Words::Of(&["rs"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const SCALE: Option<ScalePaths<'static>> = Some(ScalePaths {
        spec_replicas: "/spec/replicas",
        status_replicas: "/status/replicas",
        selector: "/spec/selector",
    });
    const SELECTABLE_FIELDS: &'static [SelectableField] =
        &[SelectableField::number("status.replicas")];

    fn before_decode(value: &mut Cow<'_, Value>) {
        selector::mark_given(value.to_mut());
    }

    fn default(set: &mut ReplicaSet) {
        let spec = set.spec.get_or_insert_default();
        fill::absent(&mut spec.replicas, 1);
        defaults::template(spec.template.get_or_insert_default());
    }

    fn prepare_create(set: &mut ReplicaSet) {
        set.status = Some(ReplicaSetStatus::default());
        if let Some(template) = set.spec.as_mut().and_then(|s| s.template.as_mut()) {
            prepare::drop_unoffered_of_template(template, None);
        }
    }

    fn prepare_update(new: &mut ReplicaSet, old: &ReplicaSet) {
        let old = old.spec.as_ref().and_then(|s| s.template.as_ref());
        if let Some(template) = new.spec.as_mut().and_then(|s| s.template.as_mut()) {
            prepare::drop_unoffered_of_template(template, old);
        }
    }

    fn columns() -> Vec<Column> {
        let mut columns = vec![
            Column::NAME,
            Column::integer("Desired", "Pods wanted."),
            Column::integer("Current", "Pods there are."),
            Column::integer("Ready", "Pods that are ready."),
            Column::AGE,
        ];
        columns.extend(table::template_columns());
        columns
    }

    fn cells(set: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let status = set.status.as_ref();
        let pods = spec.and_then(|s| s.template.as_ref()?.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        vec![
            set.metadata.name.clone().into(),
            spec.and_then(|s| s.replicas).unwrap_or(0).into(),
            status.map_or(0, |s| s.replicas).into(),
            status.and_then(|s| s.ready_replicas).unwrap_or(0).into(),
            age(&set.metadata, now),
            names,
            images,
            table::selector(spec.map(|s| &s.selector)).into(),
        ]
    }

    fn validate(set: &ReplicaSet) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(spec) = &set.spec else { return errors };
        let path = at("spec");
        rules::nonnegative_opt(&mut errors, &path.child("replicas"), spec.replicas);
        rules::nonnegative_opt(
            &mut errors,
            &path.child("minReadySeconds"),
            spec.min_ready_seconds,
        );
        let comparable = selector::required(&mut errors, &path.child("selector"), &spec.selector);
        if let Some(pods) = spec.template.as_ref().filter(|_| comparable) {
            let path = path.child("template");
            selector::selects(&mut errors, &path, &spec.selector, pods);
            template::lasting(&mut errors, &path, pods, "ReplicaSet");
        }
        errors
    }

    fn validate_update(new: &ReplicaSet, old: &ReplicaSet) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            selector::immutable(&mut errors, &new.selector, &old.selector);
        }
        errors
    }

    fn validate_status_update(new: &ReplicaSet, _old: &ReplicaSet) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(status) = &new.status else {
            return errors;
        };
        let n = |n: Option<i32>| i64::from(n.unwrap_or(0));
        let all = [
            ("replicas", i64::from(status.replicas)),
            ("fullyLabeledReplicas", n(status.fully_labeled_replicas)),
            ("readyReplicas", n(status.ready_replicas)),
            ("availableReplicas", n(status.available_replicas)),
            (
                "observedGeneration",
                status.observed_generation.unwrap_or(0),
            ),
            ("terminatingReplicas", n(status.terminating_replicas)),
        ];
        let within = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        template::counts(&mut errors, &at("status"), &all, &within);
        errors
    }

    fn warnings(set: &ReplicaSet) -> Vec<String> {
        let template = set.spec.as_ref().and_then(|s| s.template.as_ref());
        warnings::of_template("spec.template", template)
    }
}
