//! `DaemonSet`.

use std::borrow::Cow;

use corral_api::field::FieldError;
use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use jiff::Timestamp;
use serde_json::Value;

use super::{selector, template};
use crate::core::pod_spec::{defaults, prepare, warnings};
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json, text};
use crate::table;

/// How often the template has changed. Tools of the days before revisions read it.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(set: &DaemonSet) -> i64 {
    let annotations = set.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(TEMPLATE_GENERATION));
    text.and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

/// `apps/v1 DaemonSet`.
pub struct DaemonSetKind;

impl Kind for DaemonSetKind {
    type Object = DaemonSet;

    const NAMES: Names<'static> = Names {
        group: "apps",
        version: "v1",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: Words::Of(&["ds"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;

    fn before_decode(value: &mut Cow<'_, Value>) {
        selector::mark_given(value.to_mut());
    }

    fn default(set: &mut DaemonSet) {
        let spec = set.spec.get_or_insert_default();
        let strategy = spec.update_strategy.get_or_insert_default();
        fill::text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            fill::absent(&mut rolling.max_unavailable, IntOrString::Int(1));
            fill::absent(&mut rolling.max_surge, IntOrString::Int(0));
        }
        fill::absent(&mut spec.revision_history_limit, 10);
        defaults::template(&mut spec.template);
        // Whoever writes a DaemonSet owns the count, which is why it is there before ownership is looked at.
        let annotations = set.metadata.annotations.get_or_insert_default();
        let count = annotations.entry(TEMPLATE_GENERATION.to_owned());
        count.or_insert_with(|| "0".to_owned());
    }

    fn prepare_create(set: &mut DaemonSet) {
        set.status = Some(DaemonSetStatus::default());
        let spec = set.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut spec.template, None);
        let given = template_generation(set).max(1);
        set_template_generation(set, given);
    }

    fn prepare_update(new: &mut DaemonSet, old: &DaemonSet) {
        let old_template = old.spec.as_ref().map(|spec| &spec.template);
        let spec = new.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut spec.template, old_template);
        let template = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.template.clone());
        let changed = template(new) != template(old);
        set_template_generation(new, template_generation(old) + i64::from(changed));
    }

    fn prepare_status_update(new: &mut DaemonSet, old: &DaemonSet) {
        set_template_generation(new, template_generation(old));
    }

    fn columns() -> Vec<Column> {
        let mut columns = vec![
            Column::NAME,
            Column::integer("Desired", "Nodes that should run a pod."),
            Column::integer("Current", "Nodes that have a pod and should."),
            Column::integer("Ready", "Nodes whose pod is ready."),
            Column::integer(
                "Up-to-date",
                "Nodes whose pod is made from the newest template.",
            ),
            Column::integer(
                "Available",
                "Nodes whose pod has been ready for long enough.",
            ),
            Column::text(
                "Node Selector",
                "Labels of the nodes that should run a pod.",
            ),
            Column::AGE,
        ];
        columns.extend(table::template_columns());
        columns
    }

    fn cells(set: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let status = set.status.as_ref();
        let count = |get: fn(&DaemonSetStatus) -> Option<i32>| status.and_then(get).unwrap_or(0);
        let pods = spec.and_then(|s| s.template.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        vec![
            set.metadata.name.clone().into(),
            count(|s| Some(s.desired_number_scheduled)).into(),
            count(|s| Some(s.current_number_scheduled)).into(),
            count(|s| Some(s.number_ready)).into(),
            count(|s| s.updated_number_scheduled).into(),
            count(|s| s.number_available).into(),
            table::labels(pods.and_then(|p| p.node_selector.as_ref())).into(),
            age(&set.metadata, now),
            names,
            images,
            table::selector(spec.map(|s| &s.selector)).into(),
        ]
    }

    fn validate(set: &DaemonSet) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(spec) = &set.spec else { return errors };
        let path = at("spec");
        selector::of_daemons(&mut errors, &path, &spec.selector, &spec.template);
        let template_path = path.child("template");
        template::lasting(&mut errors, &template_path, &spec.template, "DaemonSet");
        rules::nonnegative_opt(
            &mut errors,
            &path.child("minReadySeconds"),
            spec.min_ready_seconds,
        );
        validate_strategy(&mut errors, spec);
        let history = path.child("revisionHistoryLimit");
        rules::nonnegative_opt(&mut errors, &history, spec.revision_history_limit);
        errors
    }

    fn validate_update(new: &DaemonSet, old: &DaemonSet) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            selector::immutable(&mut errors, &new.selector, &old.selector);
        }
        errors.extend(Self::validate(new));
        errors
    }

    fn validate_status_update(new: &DaemonSet, old: &DaemonSet) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(status) = &new.status else {
            return errors;
        };
        let path = at("status");
        for (field, n) in [
            (
                "currentNumberScheduled",
                Some(status.current_number_scheduled),
            ),
            ("numberMisscheduled", Some(status.number_misscheduled)),
            (
                "desiredNumberScheduled",
                Some(status.desired_number_scheduled),
            ),
            ("numberReady", Some(status.number_ready)),
        ] {
            rules::nonnegative_opt(&mut errors, &path.child(field), n);
        }
        rules::nonnegative_opt(
            &mut errors,
            &path.child("observedGeneration"),
            status.observed_generation,
        );
        for (field, n) in [
            ("updatedNumberScheduled", status.updated_number_scheduled),
            ("numberAvailable", status.number_available),
            ("numberUnavailable", status.number_unavailable),
            ("collisionCount", status.collision_count),
        ] {
            rules::nonnegative_opt(&mut errors, &path.child(field), n);
        }
        let collisions = old.status.as_ref().and_then(|s| s.collision_count);
        let path = path.child("collisionCount");
        template::not_decremented(&mut errors, &path, status.collision_count, collisions);
        errors
    }

    fn warnings(set: &DaemonSet) -> Vec<String> {
        let template = set.spec.as_ref().map(|s| &s.template);
        warnings::of_template("spec.template", template)
    }
}

fn validate_strategy(errors: &mut Errors, spec: &DaemonSetSpec) {
    let path = at("spec.updateStrategy");
    let Some(strategy) = &spec.update_strategy else {
        return;
    };
    match strategy.type_.as_deref() {
        Some("OnDelete") => {}
        Some("RollingUpdate") => {
            let path = path.child("rollingUpdate");
            let Some(rolling) = &strategy.rolling_update else {
                errors.push(FieldError::required(&path, ""));
                return;
            };
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            let (unavailable_path, surge_path) =
                (path.child("maxUnavailable"), path.child("maxSurge"));
            rules::int_or_percent(errors, &unavailable_path, unavailable);
            rules::int_or_percent(errors, &surge_path, surge);
            rules::at_most_100_percent(errors, &unavailable_path, unavailable);
            rules::at_most_100_percent(errors, &surge_path, surge);
            match (
                rules::number_of(unavailable) != 0,
                rules::number_of(surge) != 0,
            ) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.push(FieldError::invalid(&surge_path, json(surge), detail));
                }
                (false, false) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    errors.push(FieldError::required(&unavailable_path, detail));
                }
                _ => {}
            }
        }
        _ => errors.push(template::unknown_strategy(
            &path,
            text(&strategy.type_),
            strategy
                .rolling_update
                .as_ref()
                .map(|r| [&r.max_unavailable, &r.max_surge]),
            &["RollingUpdate", "OnDelete"],
        )),
    }
}
