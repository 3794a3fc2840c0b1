//! `ReplicationController`: what ReplicaSets were before selectors had expressions.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};
use corral_api::names;
use corral_api::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::Value;

use super::pod_spec::{defaults, prepare, warnings};
use crate::apps::template;
use crate::fill;
use crate::kind::{Column, Kind, Names, ScalePaths, Words, age};
use crate::rules::{self, Errors, at, json};
use crate::selectable::SelectableField;
use crate::table;

/// `v1 ReplicationController`.
pub struct ReplicationControllerKind;

impl Kind for ReplicationControllerKind {
    type Object = ReplicationController;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: Words::Of(&["rc"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const NAME_RULE: fn(&str) -> Vec<String> = name_complaints;
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const ORPHANS_BY_DEFAULT: bool = true;
    const SCALE: Option<ScalePaths<'static>> = Some(ScalePaths {
        spec_replicas: "/spec/replicas",
        status_replicas: "/status/replicas",
        selector: "/spec/selector",
    });
    const SELECTABLE_FIELDS: &'static [SelectableField] =
        &[SelectableField::number("status.replicas")];

    fn default(controller: &mut ReplicationController) {
        let spec = controller.spec.get_or_insert_default();
        fill::absent(&mut spec.replicas, 1);
        let Some(pods) = &mut spec.template else {
            return;
        };
        defaults::template(pods);
        let labels = pods.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
            for slot in [&mut spec.selector, &mut controller.metadata.labels] {
                if slot.as_ref().is_none_or(|given| given.is_empty()) {
                    *slot = Some(labels.clone());
                }
            }
        }
    }

    fn prepare_create(controller: &mut ReplicationController) {
        controller.status = Some(ReplicationControllerStatus::default());
        let spec = controller.spec.as_mut();
        if let Some(pods) = spec.and_then(|spec| spec.template.as_mut()) {
            prepare::drop_unoffered_of_template(pods, None);
        }
    }

    fn prepare_update(new: &mut ReplicationController, old: &ReplicationController) {
        let old = old.spec.as_ref().and_then(|spec| spec.template.as_ref());
        if let Some(pods) = new.spec.as_mut().and_then(|spec| spec.template.as_mut()) {
            prepare::drop_unoffered_of_template(pods, old);
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

    fn cells(controller: &ReplicationController, now: Timestamp) -> Vec<Value> {
        let spec = controller.spec.as_ref();
        let status = controller.status.as_ref();
        let pods = spec.and_then(|s| s.template.as_ref()?.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        vec![
            controller.metadata.name.clone().into(),
            spec.and_then(|s| s.replicas).unwrap_or(0).into(),
            status.map_or(0, |s| s.replicas).into(),
            status.and_then(|s| s.ready_replicas).unwrap_or(0).into(),
            age(&controller.metadata, now),
            names,
            images,
            table::labels(spec.and_then(|s| s.selector.as_ref())).into(),
        ]
    }

    fn validate(controller: &ReplicationController) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if let Some(spec) = &controller.spec {
            validate_spec(&mut errors, &at("spec"), spec);
        }
        errors
    }

    fn validate_status_update(
        new: &ReplicationController,
        _old: &ReplicationController,
    ) -> Vec<FieldError> {
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
        ];
        let within = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        template::counts(&mut errors, &at("status"), &all, &within);
        errors
    }

    fn warnings(controller: &ReplicationController) -> Vec<String> {
        let template = controller.spec.as_ref().and_then(|s| s.template.as_ref());
        warnings::of_template("spec.template", template)
    }
}

/// The rule of a subdomain; its length is told in bytes here.
fn name_complaints(name: &str) -> Vec<String> {
    let mut complaints = names::dns1123_subdomain(name);
    for complaint in &mut complaints {
        if let Some(length) = complaint.strip_suffix(" characters") {
            *complaint = format!("{length} bytes");
        }
    }
    complaints
}

fn validate_spec(errors: &mut Errors, path: &FieldPath, spec: &ReplicationControllerSpec) {
    rules::nonnegative_opt(
        errors,
        &path.child("minReadySeconds"),
        spec.min_ready_seconds,
    );
    if spec.selector.as_ref().is_none_or(|s| s.is_empty()) {
        errors.push(FieldError::required(&path.child("selector"), ""));
    }
    rules::nonnegative_opt(errors, &path.child("replicas"), spec.replicas);
    let path = path.child("template");
    match &spec.template {
        None => errors.push(FieldError::required(&path, "")),
        Some(pods) => {
            selects(errors, &path, spec, pods);
            template::lasting(errors, &path, pods, "ReplicationController");
        }
    }
}

/// The selector must select the pods that are made from the template; one that is not there selects all.
fn selects(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &ReplicationControllerSpec,
    pods: &PodTemplateSpec,
) {
    let labels = pods.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let selector = LabelSelector::from_set(spec.selector.iter().flatten());
    if !selector.matches_opt(labels) {
        let detail = "`selector` does not match template `labels`";
        let path = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, json(&labels), detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn controller(spec: Value) -> ReplicationController {
        let mut controller = serde_json::from_value(json!({"spec": spec})).expect("a controller");
        ReplicationControllerKind::default(&mut controller);
        controller
    }

    #[test]
    fn labels_of_the_template_are_the_selector_unless_one_is_given() {
        let pods = json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let made = controller(json!({"template": pods}));
        let labels = Some([("a".to_owned(), "b".to_owned())].into());
        let spec = made.spec.as_ref().expect("has one");
        assert_eq!((&spec.selector, &made.metadata.labels), (&labels, &labels));
        assert_eq!(spec.replicas, Some(1));
        assert!(texts(&ReplicationControllerKind::validate(&made)).is_empty());

        let other = controller(json!({"template": pods, "selector": {"a": "c"}}));
        assert_eq!(
            texts(&ReplicationControllerKind::validate(&other)),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
            ]
        );
    }

    #[test]
    fn selector_and_template_are_required() {
        assert_eq!(
            texts(&ReplicationControllerKind::validate(&controller(json!({})))),
            [
                "spec.selector: Required value",
                "spec.template: Required value"
            ]
        );
    }
}
