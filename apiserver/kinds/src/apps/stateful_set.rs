//! `StatefulSet`.

use std::borrow::Cow;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::apps::v1::{
    StatefulSet, StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy,
};
use corral_api::k8s::api::core::v1::{
    PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Volume,
};
use corral_api::names;
use corral_api::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::Value;

use super::{selector, template};
use crate::core::pod_spec::{defaults, prepare, validation, warnings};
use crate::fill;
use crate::kind::{Column, Kind, Names, ScalePaths, Words, age};
use crate::rules::{self, Errors, at, json, text};
use crate::table;

const CLAIMS_ARE_IGNORED: &str =
    "spec.volumeClaimTemplates: accepted, but not honoured by this server yet";
const ENDLESS_HISTORY: &str = "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 \
                               is recommended";
const ONLY_THESE_CHANGE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                                 'minReadySeconds' are forbidden";

/// `apps/v1 StatefulSet`.
pub struct StatefulSetKind;

impl Kind for StatefulSetKind {
    type Object = StatefulSet;

    const NAMES: Names<'static> = Names {
        group: "apps",
        version: "v1",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: Words::Of(&["sts"]),
        categories: Words::Of(&["all"]),
        namespaced: true,
    };
    // The names of pods begin with it.
    const NAME_RULE: fn(&str) -> Vec<String> = names::dns1123_label;
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const SCALE: Option<ScalePaths<'static>> = Some(ScalePaths {
        spec_replicas: "/spec/replicas",
        status_replicas: "/status/replicas",
        selector: "/spec/selector",
    });

    fn before_decode(value: &mut Cow<'_, Value>) {
        selector::mark_given(value.to_mut());
        // Whatever a claim calls itself, it is one.
        let claims = value.to_mut().pointer_mut("/spec/volumeClaimTemplates");
        for claim in claims.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(claim) = claim {
                claim.insert("apiVersion".to_owned(), "v1".into());
                claim.insert("kind".to_owned(), "PersistentVolumeClaim".into());
            }
        }
    }

    fn default(set: &mut StatefulSet) {
        let spec = set.spec.get_or_insert_default();
        fill::text(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        if text(&strategy.type_).is_empty() {
            strategy.type_ = Some("RollingUpdate".to_owned());
            strategy.rolling_update.get_or_insert_default();
        }
        if text(&strategy.type_) == "RollingUpdate"
            && let Some(rolling) = &mut strategy.rolling_update
        {
            fill::absent(&mut rolling.partition, 0);
        }
        let policy = spec
            .persistent_volume_claim_retention_policy
            .get_or_insert_default();
        fill::text(&mut policy.when_deleted, "Retain");
        fill::text(&mut policy.when_scaled, "Retain");
        fill::absent(&mut spec.replicas, 1);
        fill::absent(&mut spec.revision_history_limit, 10);
        defaults::template(&mut spec.template);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            let spec = claim.spec.get_or_insert_default();
            fill::absent(&mut spec.volume_mode, "Filesystem".to_owned());
            let status = claim.status.get_or_insert_default();
            fill::text(&mut status.phase, "Pending");
        }
    }

    fn prepare_create(set: &mut StatefulSet) {
        set.status = Some(StatefulSetStatus::default());
        let spec = set.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut spec.template, None);
        drop_max_unavailable(spec, None);
    }

    fn prepare_update(new: &mut StatefulSet, old: &StatefulSet) {
        let old = old.spec.as_ref();
        let spec = new.spec.get_or_insert_default();
        prepare::drop_unoffered_of_template(&mut spec.template, old.map(|old| &old.template));
        drop_max_unavailable(spec, old);
    }

    fn columns() -> Vec<Column> {
        let [names, images, _] = table::template_columns();
        vec![
            Column::NAME,
            Column::text("Ready", "Pods that are ready, of how many."),
            Column::AGE,
            names,
            images,
        ]
    }

    fn cells(set: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let wanted = spec.and_then(|s| s.replicas).unwrap_or(0);
        let ready = set.status.as_ref().and_then(|s| s.ready_replicas);
        let pods = spec.and_then(|s| s.template.spec.as_ref());
        let [names, images] = table::containers(pods.map(|p| &p.containers));
        vec![
            set.metadata.name.clone().into(),
            format!("{}/{wanted}", ready.unwrap_or(0)).into(),
            age(&set.metadata, now),
            names,
            images,
        ]
    }

    fn validate(set: &StatefulSet) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(spec) = &set.spec else { return errors };
        validate_spec(&mut errors, &at("spec"), spec, true);
        errors
    }

    fn validate_update(new: &StatefulSet, old: &StatefulSet) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else {
            return errors;
        };
        validate_spec(&mut errors, &at("spec"), new, false);
        let fixed = StatefulSetSpec {
            replicas: old.replicas,
            template: old.template.clone(),
            update_strategy: old.update_strategy.clone(),
            min_ready_seconds: old.min_ready_seconds,
            ordinals: old.ordinals.clone(),
            revision_history_limit: old.revision_history_limit,
            persistent_volume_claim_retention_policy: old
                .persistent_volume_claim_retention_policy
                .clone(),
            ..new.clone()
        };
        if !rules::same_structures(&fixed, old) {
            errors.push(FieldError::forbidden(&at("spec"), ONLY_THESE_CHANGE));
        }
        errors
    }

    fn validate_status_update(new: &StatefulSet, old: &StatefulSet) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(status) = &new.status else {
            return errors;
        };
        let path = at("status");
        let n = |n: Option<i32>| n.unwrap_or(0);
        let within = [
            ("readyReplicas", n(status.ready_replicas)),
            ("currentReplicas", n(status.current_replicas)),
            ("updatedReplicas", n(status.updated_replicas)),
            ("availableReplicas", n(status.available_replicas)),
        ];
        rules::nonnegative(&mut errors, &path.child("replicas"), status.replicas);
        for (field, count) in within {
            rules::nonnegative(&mut errors, &path.child(field), count);
        }
        let observed = status.observed_generation;
        rules::nonnegative_opt(&mut errors, &path.child("observedGeneration"), observed);
        let collisions_path = path.child("collisionCount");
        rules::nonnegative_opt(&mut errors, &collisions_path, status.collision_count);
        for (field, count) in within {
            if count > status.replicas {
                let detail = "cannot be greater than status.replicas";
                errors.push(FieldError::invalid(&path.child(field), count, detail));
            }
        }
        let available = n(status.available_replicas);
        if available > n(status.ready_replicas) {
            let detail = "cannot be greater than status.readyReplicas";
            let path = path.child("availableReplicas");
            errors.push(FieldError::invalid(&path, available, detail));
        }
        let before = old.status.as_ref().and_then(|s| s.collision_count);
        template::not_decremented(
            &mut errors,
            &collisions_path,
            status.collision_count,
            before,
        );
        errors
    }

    fn warnings(set: &StatefulSet) -> Vec<String> {
        let spec = set.spec.as_ref();
        let mut warnings = warnings::of_template("spec.template", spec.map(|s| &s.template));
        let claims = spec.and_then(|s| s.volume_claim_templates.as_ref());
        if claims.is_some_and(|claims| !claims.is_empty()) {
            warnings.push(CLAIMS_ARE_IGNORED.to_owned());
        }
        let limit = spec.and_then(|s| s.revision_history_limit);
        if limit.is_some_and(|limit| limit < 0) {
            warnings.push(ENDLESS_HISTORY.to_owned());
        }
        warnings
    }
}

/// The field is not offered while its feature is off, as in v1.36, unless it is there already.
fn drop_max_unavailable(spec: &mut StatefulSetSpec, old: Option<&StatefulSetSpec>) {
    let rolling = |spec: &StatefulSetSpec| {
        let strategy = spec.update_strategy.as_ref();
        strategy.and_then(|s| s.rolling_update.clone())
    };
    let in_use = old
        .and_then(rolling)
        .is_some_and(|r| r.max_unavailable.is_some());
    let strategy = spec.update_strategy.as_mut();
    if let Some(rolling) = strategy.and_then(|s| s.rolling_update.as_mut())
        && !in_use
    {
        rolling.max_unavailable = None;
    }
}

/// Rules of the spec. Names of services and claims cannot change, so that they are looked at once.
fn validate_spec(errors: &mut Errors, path: &FieldPath, spec: &StatefulSetSpec, is_new: bool) {
    let policy = text(&spec.pod_management_policy);
    if !["OrderedReady", "Parallel"].contains(&policy) {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        let path = path.child("podManagementPolicy");
        errors.push(FieldError::invalid(&path, policy, detail));
    }
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    validate_strategy(errors, &path.child("updateStrategy"), &strategy);
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let policy_path = path.child("persistentVolumeClaimRetentionPolicy");
    for (field, value) in [
        ("whenDeleted", policy.map(|p| &p.when_deleted)),
        ("whenScaled", policy.map(|p| &p.when_scaled)),
    ] {
        if let Some(value) = value {
            let allowed = ["Retain", "Delete"];
            rules::supported_of(errors, &policy_path.child(field), text(value), &allowed);
        }
    }
    let claims = spec.volume_claim_templates.iter().flatten();
    for (index, claim) in claims.enumerate().filter(|_| is_new) {
        let path = path.child("volumeClaimTemplates").index(index);
        let spec = claim.spec.clone().unwrap_or_default();
        validation::claim_spec(errors, &path.child("spec"), &spec);
    }
    rules::nonnegative_opt(errors, &path.child("replicas"), spec.replicas);
    let min_ready = spec.min_ready_seconds;
    rules::nonnegative_opt(errors, &path.child("minReadySeconds"), min_ready);
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
    rules::nonnegative_opt(errors, &path.child("ordinals.start"), start);
    let service = text(&spec.service_name);
    if is_new && !service.is_empty() {
        let complaints = names::dns1123_label(service);
        rules::complain(errors, &path.child("serviceName"), service, complaints);
    }
    let is_usable = selector::of_set(errors, &path.child("selector"), &spec.selector);
    let template_path = path.child("template");
    if is_usable {
        validate_template(errors, &template_path, spec);
    }
    template::runs_for_ever(errors, &template_path, &spec.template, "StatefulSet");
}

fn validate_strategy(errors: &mut Errors, path: &FieldPath, strategy: &StatefulSetUpdateStrategy) {
    let rolling_path = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("OnDelete", Some(rolling)) => {
            let shown = serde_json::json!({
                "Partition": rolling.partition.unwrap_or(0), "MaxUnavailable": rolling.max_unavailable,
            });
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(&rolling_path, shown, detail));
        }
        ("RollingUpdate", Some(rolling)) => {
            rules::nonnegative_opt(errors, &rolling_path.child("partition"), rolling.partition);
            if let Some(value) = &rolling.max_unavailable {
                let path = rolling_path.child("maxUnavailable");
                rules::int_or_percent(errors, &path, value);
                if rules::number_of(value) == 0 {
                    errors.push(FieldError::invalid(&path, json(value), "cannot be 0"));
                }
                rules::at_most_100_percent(errors, &path, value);
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        (other, rolling) => {
            let rolling = rolling.as_ref().map_or("null".to_owned(), |rolling| {
                format!(
                    "{{\"Partition\":{},\"MaxUnavailable\":{}}}",
                    rolling.partition.unwrap_or(0),
                    json(&rolling.max_unavailable)
                )
            });
            let shown = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", json(other));
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError {
                value: Some(shown),
                ..rules::invalid_unshown(path, detail)
            });
        }
    }
}

/// The template as the pods will have it: with the volumes of the claims, and names that the set gives.
fn validate_template(errors: &mut Errors, path: &FieldPath, spec: &StatefulSetSpec) {
    let chosen = LabelSelector::from_object(Some(&spec.selector));
    if !chosen.is_ok_and(|selector| selector.is_everything()) || spec.selector == Default::default()
    {
        selector::selects(errors, path, &spec.selector, &spec.template);
    }
    let pods = as_made(spec);
    validation::template(errors, path, &pods);
    // Kubernetes looks at these twice.
    let meta = pods.metadata.as_ref();
    let labels = meta.and_then(|meta| meta.labels.as_ref());
    let annotations = meta.and_then(|meta| meta.annotations.as_ref());
    rules::labels(errors, &path.child("labels"), labels);
    let (path, nothing) = (path.child("annotations"), PodSpec::default());
    rules::annotations(errors, &path, annotations);
    let pod_spec = pods.spec.as_ref().unwrap_or(&nothing);
    validation::annotations::annotations(errors, &path, annotations, pod_spec);
}

fn as_made(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut pods = spec.template.clone();
    let Some(pod_spec) = &mut pods.spec else {
        return pods;
    };
    pod_spec.hostname = None;
    pod_spec.subdomain = None;
    let claims = spec.volume_claim_templates.as_deref().unwrap_or_default();
    let mut volumes: Vec<Volume> = Vec::new();
    for claim in claims {
        let name = claim.metadata.name.clone().unwrap_or_default();
        volumes.retain(|volume| volume.name != name);
        volumes.push(Volume {
            name: name.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name,
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    if !volumes.is_empty() {
        let own = pod_spec.volumes.take().unwrap_or_default();
        let names: Vec<String> = volumes.iter().map(|v| v.name.clone()).collect();
        volumes.extend(own.into_iter().filter(|v| !names.contains(&v.name)));
        pod_spec.volumes = Some(volumes);
    }
    pods
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn set(change: impl Fn(&mut Value)) -> StatefulSet {
        let mut value = json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }});
        change(&mut value);
        let mut value = Cow::Owned(value);
        StatefulSetKind::before_decode(&mut value);
        let mut set = serde_json::from_value(value.into_owned()).expect("a set");
        StatefulSetKind::default(&mut set);
        StatefulSetKind::prepare_create(&mut set);
        set
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let set = set(|_| ());
        let spec = set.spec.as_ref().expect("has one");
        assert_eq!(spec.pod_management_policy.as_deref(), Some("OrderedReady"));
        assert_eq!(
            (spec.replicas, spec.revision_history_limit),
            (Some(1), Some(10))
        );
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        let rolling = strategy.rolling_update.expect("is the default");
        assert_eq!(
            (rolling.partition, rolling.max_unavailable),
            (Some(0), None)
        );
        assert!(texts(&StatefulSetKind::validate(&set)).is_empty());
    }

    #[test]
    fn claims_are_volumes_of_the_pods() {
        let mounted = |name: &str| {
            set(|value| {
                value["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                    json!([{"name": name, "mountPath": "/data"}]);
                value["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
                    "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
            })
        };
        let right = mounted("data");
        assert!(texts(&StatefulSetKind::validate(&right)).is_empty());
        assert_eq!(StatefulSetKind::warnings(&right), [CLAIMS_ARE_IGNORED]);
        assert_eq!(StatefulSetKind::validate(&mounted("other")).len(), 1);
    }

    #[test]
    fn only_some_fields_change() {
        let old = set(|_| ());
        let scaled = set(|value| value["spec"]["replicas"] = json!(5));
        assert!(texts(&StatefulSetKind::validate_update(&scaled, &old)).is_empty());
        let renamed = set(|value| value["spec"]["serviceName"] = json!("other"));
        let errors = texts(&StatefulSetKind::validate_update(&renamed, &old));
        assert_eq!(errors, [format!("spec: Forbidden: {ONLY_THESE_CHANGE}")]);
    }
}
