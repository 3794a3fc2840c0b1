//! What the server does to a spec before it looks at it: fields of features that this version of Kubernetes has but does
//! not offer are dropped, and selectors take up labels of the pod.

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::{
    Lifecycle, PodAffinityTerm, PodSpec, PodTemplateSpec, VolumeProjection, WeightedPodAffinityTerm,
};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Drops the fields that are not offered, unless the spec had them before.
pub fn drop_unoffered(spec: &mut PodSpec, old: Option<&PodSpec>) {
    if old.is_none_or(|old| old.scheduling_group.is_none()) {
        spec.scheduling_group = None;
    }
    let had = |test: fn(&VolumeProjection) -> bool| {
        let volumes = old.into_iter().flat_map(|old| old.volumes.iter().flatten());
        let mut sources = volumes
            .filter_map(|v| v.projected.as_ref())
            .flat_map(|p| p.sources.iter().flatten());
        sources.any(test)
    };
    let had_bundles = had(|source| source.cluster_trust_bundle.is_some());
    let had_certificates = had(|source| source.pod_certificate.is_some());
    let volumes = spec.volumes.iter_mut().flatten();
    let projected = volumes.filter_map(|v| v.projected.as_mut());
    for source in projected.flat_map(|p| p.sources.iter_mut().flatten()) {
        if !had_bundles {
            source.cluster_trust_bundle = None;
        }
        if !had_certificates {
            source.pod_certificate = None;
        }
    }
    drop_stop_signals(spec, old);
}

fn drop_stop_signals(spec: &mut PodSpec, old: Option<&PodSpec>) {
    let had_signals = old.is_some_and(|old| {
        // Looking is done by taking from a copy: every lifecycle is visited in one place only.
        let mut found = false;
        each_lifecycle(&mut old.clone(), |lifecycle| {
            found |= lifecycle.as_ref().is_some_and(|l| l.stop_signal.is_some());
        });
        found
    });
    if had_signals {
        return;
    }
    each_lifecycle(spec, |lifecycle| {
        let signal = lifecycle.as_mut().and_then(|l| l.stop_signal.take());
        if signal.is_some() && *lifecycle == Some(Lifecycle::default()) {
            *lifecycle = None;
        }
    });
}

/// The same of a template.
pub fn drop_unoffered_of_template(template: &mut PodTemplateSpec, old: Option<&PodTemplateSpec>) {
    if let Some(spec) = &mut template.spec {
        drop_unoffered(spec, old.and_then(|old| old.spec.as_ref()));
    }
}

fn each_lifecycle(spec: &mut PodSpec, mut visit: impl FnMut(&mut Option<Lifecycle>)) {
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        visit(&mut container.lifecycle);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        visit(&mut container.lifecycle);
    }
}

/// Selectors of other pods get the pod's own values of the keys in `matchLabelKeys` and `mismatchLabelKeys`.
pub fn select_by_own_labels(spec: &mut PodSpec, labels: Option<&BTreeMap<String, String>>) {
    let Some(labels) = labels else { return };
    if let Some(affinity) = &mut spec.affinity {
        if let Some(pods) = &mut affinity.pod_affinity {
            let preferred = &mut pods.preferred_during_scheduling_ignored_during_execution;
            let required = &mut pods.required_during_scheduling_ignored_during_execution;
            terms(preferred, required, labels);
        }
        if let Some(pods) = &mut affinity.pod_anti_affinity {
            let preferred = &mut pods.preferred_during_scheduling_ignored_during_execution;
            let required = &mut pods.required_during_scheduling_ignored_during_execution;
            terms(preferred, required, labels);
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        add(constraint.label_selector.as_mut(), keys, "In", labels);
    }
}

fn terms(
    preferred: &mut Option<Vec<WeightedPodAffinityTerm>>,
    required: &mut Option<Vec<PodAffinityTerm>>,
    labels: &BTreeMap<String, String>,
) {
    let preferred = preferred.iter_mut().flatten();
    let preferred = preferred.map(|term| &mut term.pod_affinity_term);
    for term in preferred.chain(required.iter_mut().flatten()) {
        for (keys, operator) in [
            (&term.match_label_keys, "In"),
            (&term.mismatch_label_keys, "NotIn"),
        ] {
            let keys = keys.as_deref().unwrap_or_default();
            add(term.label_selector.as_mut(), keys, operator, labels);
        }
    }
}

fn add(
    selector: Option<&mut LabelSelector>,
    keys: &[String],
    operator: &str,
    labels: &BTreeMap<String, String>,
) {
    // Without a selector no pod is meant, whatever its labels.
    let Some(selector) = selector else { return };
    let own = keys.iter().filter_map(|key| labels.get_key_value(key));
    let requirements: Vec<_> = own
        .map(|(key, value)| LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        })
        .collect();
    if !requirements.is_empty() {
        let expressions = selector.match_expressions.get_or_insert_default();
        expressions.extend(requirements);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn stop_signals_stay_only_where_they_were() {
        let with =
            spec(json!({"containers": [{"name": "a", "lifecycle": {"stopSignal": "SIGINT"}}]}));
        let mut new = with.clone();
        drop_unoffered(&mut new, None);
        assert_eq!(new, spec(json!({"containers": [{"name": "a"}]})));
        let mut kept = with.clone();
        drop_unoffered(&mut kept, Some(&with));
        assert_eq!(kept, with);
    }

    #[test]
    fn selectors_take_up_labels() {
        let mut pod = spec(json!({"containers": [], "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {},
                "matchLabelKeys": ["app", "none"]}]}));
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        select_by_own_labels(&mut pod, Some(&labels));
        let pod = serde_json::to_value(pod).expect("JSON");
        assert_eq!(
            pod["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]})
        );
    }
}
