//! `Deployment`.

use std::borrow::Cow;

use corral_api::field::{FieldError, FieldPath};
use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy,
};
use jiff::Timestamp;
use serde_json::Value;

use super::{selector, template};
use crate::core::pod_spec::{defaults, prepare, warnings};
use crate::fill;
use crate::kind::{Column, Kind, Names, ScalePaths, Words, age};
use crate::rules::{self, Errors, at, json, text};
use crate::table;

/// `apps/v1 Deployment`.
pub struct DeploymentKind;

impl Kind for DeploymentKind {
    type Object = Deployment;

    const NAMES: Names<'static> = Names {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: Words::Of(&["deploy"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const GENERATION_METADATA: Option<&'static str> = Some("annotations");
    const SCALE: Option<ScalePaths<'static>> = Some(ScalePaths {
        spec_replicas: "/spec/replicas",
        status_replicas: "/status/replicas",
        selector: "/spec/selector",
    });

    fn before_decode(value: &mut Cow<'_, Value>) {
        selector::mark_given(value.to_mut());
    }

    fn default(deployment: &mut Deployment) {
        let spec = deployment.spec.get_or_insert_default();
        fill::absent(&mut spec.replicas, 1);
        let strategy = spec.strategy.get_or_insert_default();
        fill::text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            let quarter = || IntOrString::String("25%".to_owned());
            fill::absent(&mut rolling.max_unavailable, quarter());
            fill::absent(&mut rolling.max_surge, quarter());
        }
        fill::absent(&mut spec.revision_history_limit, 10);
        fill::absent(&mut spec.progress_deadline_seconds, 600);
        defaults::template(&mut spec.template);
    }

    fn prepare_create(deployment: &mut Deployment) {
        deployment.status = Some(DeploymentStatus::default());
        let spec = deployment.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut spec.template, None);
    }

    fn prepare_update(new: &mut Deployment, old: &Deployment) {
        let old = old.spec.as_ref().map(|spec| &spec.template);
        let spec = new.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut spec.template, old);
    }

    fn columns() -> Vec<Column> {
        let mut columns = vec![
            Column::NAME,
            Column::text("Ready", "Pods that are ready, of how many."),
            Column::text("Up-to-date", "Pods made from the newest template."),
            Column::text("Available", "Pods that have been ready for long enough."),
            Column::AGE,
        ];
        columns.extend(table::template_columns());
        columns
    }

    fn cells(deployment: &Deployment, now: Timestamp) -> Vec<Value> {
        let spec = deployment.spec.as_ref();
        let status = deployment.status.as_ref();
        let count = |get: fn(&DeploymentStatus) -> Option<i32>| status.and_then(get).unwrap_or(0);
        let wanted = spec.and_then(|s| s.replicas).unwrap_or(0);
        let pods = spec.and_then(|s| s.template.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        vec![
            deployment.metadata.name.clone().into(),
            format!("{}/{wanted}", count(|s| s.ready_replicas)).into(),
            count(|s| s.updated_replicas).into(),
            count(|s| s.available_replicas).into(),
            age(&deployment.metadata, now),
            names,
            images,
            table::selector_text(spec.map(|s| &s.selector)).into(),
        ]
    }

    fn keep_for_status(new: &mut Deployment, old: &Deployment) {
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate(deployment: &Deployment) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if let Some(spec) = &deployment.spec {
            validate_spec(&mut errors, spec);
        }
        errors
    }

    fn validate_update(new: &Deployment, old: &Deployment) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            selector::immutable(&mut errors, &new.selector, &old.selector);
        }
        errors
    }

    fn validate_status_update(new: &Deployment, old: &Deployment) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(status) = &new.status else {
            return errors;
        };
        let path = at("status");
        let n = |n: Option<i32>| i64::from(n.unwrap_or(0));
        let all = [
            (
                "observedGeneration",
                status.observed_generation.unwrap_or(0),
            ),
            ("replicas", n(status.replicas)),
            ("updatedReplicas", n(status.updated_replicas)),
            ("readyReplicas", n(status.ready_replicas)),
            ("availableReplicas", n(status.available_replicas)),
            ("unavailableReplicas", n(status.unavailable_replicas)),
            ("terminatingReplicas", n(status.terminating_replicas)),
            ("collisionCount", n(status.collision_count)),
        ];
        let within = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        template::counts(&mut errors, &path, &all, &within);
        let collisions = old.status.as_ref().and_then(|s| s.collision_count);
        let path = path.child("collisionCount");
        template::not_decremented(&mut errors, &path, status.collision_count, collisions);
        errors
    }

    fn warnings(deployment: &Deployment) -> Vec<String> {
        let template = deployment.spec.as_ref().map(|s| &s.template);
        warnings::of_template("spec.template", template)
    }
}

fn validate_spec(errors: &mut Errors, spec: &DeploymentSpec) {
    let path = at("spec");
    rules::nonnegative_opt(errors, &path.child("replicas"), spec.replicas);
    if selector::required(errors, &path.child("selector"), &spec.selector) {
        let path = path.child("template");
        selector::selects(errors, &path, &spec.selector, &spec.template);
        template::lasting(errors, &path, &spec.template, "ReplicaSet");
    }
    let nothing = DeploymentStrategy::default();
    let strategy = spec.strategy.as_ref().unwrap_or(&nothing);
    validate_strategy(errors, &path.child("strategy"), strategy);
    rules::nonnegative_opt(
        errors,
        &path.child("minReadySeconds"),
        spec.min_ready_seconds,
    );
    let history = path.child("revisionHistoryLimit");
    rules::nonnegative_opt(errors, &history, spec.revision_history_limit);
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        rules::nonnegative(errors, &path, deadline);
        if deadline <= spec.min_ready_seconds.unwrap_or(0) {
            let detail = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid(&path, deadline, detail));
        }
    }
}

fn validate_strategy(errors: &mut Errors, path: &FieldPath, strategy: &DeploymentStrategy) {
    let rolling_path = path.child("rollingUpdate");
    match (strategy.type_.as_deref(), &strategy.rolling_update) {
        (Some("Recreate"), Some(_)) => errors.push(FieldError::forbidden(
            &rolling_path,
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        (Some("Recreate"), None) => {}
        (Some("RollingUpdate"), Some(rolling)) => {
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            let unavailable_path = rolling_path.child("maxUnavailable");
            rules::int_or_percent(errors, &unavailable_path, unavailable);
            rules::int_or_percent(errors, &rolling_path.child("maxSurge"), surge);
            if rules::number_of(unavailable) == 0 && rules::number_of(surge) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(
                    &unavailable_path,
                    json(unavailable),
                    detail,
                ));
            }
            rules::at_most_100_percent(errors, &unavailable_path, unavailable);
        }
        (Some("RollingUpdate"), None) => errors.push(FieldError::required(
            &rolling_path,
            "this should be defaulted and never be nil",
        )),
        _ => errors.push(template::unknown_strategy(
            path,
            text(&strategy.type_),
            strategy
                .rolling_update
                .as_ref()
                .map(|r| [&r.max_unavailable, &r.max_surge]),
            &["Recreate", "RollingUpdate"],
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;
    use serde_json::json;

    fn deployment(spec: Value) -> Deployment {
        let mut deployment = serde_json::from_value(json!({"spec": spec})).expect("a deployment");
        DeploymentKind::default(&mut deployment);
        deployment
    }

    #[test]
    fn the_selector_must_be_there_and_select_the_template() {
        let pods = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let wrong = deployment(json!({"selector": {"matchLabels": {"a": "2"}}, "template": pods}));
        assert_eq!(
            texts(&DeploymentKind::validate(&wrong)),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"1\"}: `selector` does not match template `labels`"
            ]
        );
        let right = deployment(json!({"selector": {"matchLabels": {"a": "1"}}, "template": pods}));
        assert_eq!(
            texts(&DeploymentKind::validate(&right)),
            Vec::<String>::new()
        );
        assert_eq!(
            texts(&DeploymentKind::validate_update(&wrong, &right))[1],
            "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"2\"}}: field is immutable"
        );
    }

    #[test]
    fn a_rolling_update_must_be_able_to_move() {
        let stuck = deployment(
            json!({"replicas": -1, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}},
            "selector": {"matchLabels": {"a": "1"}},
            "template": {"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}),
        );
        assert_eq!(
            texts(&DeploymentKind::validate(&stuck)),
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ]
        );
    }
}
