//! What is wrong with a Pod, and what an update of one may change.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Affinity, Container, NodeAffinity, Pod, PodSpec, Toleration};
use serde::Serialize;
use serde_json::Value;

use crate::core::pod_spec::validation::{self, Owner, annotations, containers};
use crate::rules::{self, Errors, at, json};

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];
/// Longest text of a value in the list of what an update changed.
const SHOWN_LENGTH_MAX: usize = 200;

pub(super) fn spec_of(pod: &Pod) -> std::borrow::Cow<'_, PodSpec> {
    match &pod.spec {
        Some(spec) => std::borrow::Cow::Borrowed(spec),
        None => std::borrow::Cow::Owned(PodSpec::default()),
    }
}

/// Rules that hold of a Pod at any time.
pub(super) fn always(errors: &mut Errors, pod: &Pod) {
    let path = at("spec");
    let spec = spec_of(pod);
    finalizers(errors, &at("metadata.finalizers"), pod);
    let given = pod.metadata.annotations.as_ref();
    annotations::annotations(errors, &at("metadata.annotations"), given, &spec);
    validation::spec(errors, &path, &spec, Owner::Pod(&pod.metadata));
    containers::image_spaces(errors, &path.child("containers"), &spec.containers);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    containers::image_spaces(errors, &path.child("initContainers"), init);
    if rules::text(&spec.service_account_name).is_empty() {
        tokens_without_account(errors, &path.child("volumes"), &spec);
    }
}

/// Names without a domain are those that Kubernetes gave before there were others.
fn finalizers(errors: &mut Errors, path: &FieldPath, pod: &Pod) {
    for (index, name) in pod.metadata.finalizers.iter().flatten().enumerate() {
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(
                &path.index(index),
                name.as_str(),
                detail,
            ));
        }
    }
}

fn tokens_without_account(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let sources = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        for (source_index, source) in sources.enumerate() {
            if source.service_account_token.is_some() {
                let path = path
                    .index(index)
                    .child("projected.sources")
                    .index(source_index);
                errors.push(FieldError::forbidden(
                    &path.child("serviceAccountToken"),
                    "must not be specified when serviceAccountName is not set",
                ));
            }
        }
    }
}

/// Rules of a new Pod.
pub fn create(pod: &Pod) -> Errors {
    let mut errors = Errors::new();
    always(&mut errors, pod);
    let path = at("spec");
    let spec = spec_of(pod);
    if spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|c| !c.is_empty())
    {
        let path = path.child("ephemeralContainers");
        errors.push(FieldError::forbidden(&path, "cannot be set on create"));
    }
    let gated = spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|g| !g.is_empty());
    if gated && !rules::text(&spec.node_name).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
    errors
}

/// Rules of a changed Pod: almost nothing of its spec changes.
pub fn update(new: &Pod, old: &Pod) -> Errors {
    let mut errors = Errors::new();
    always(&mut errors, new);
    annotation_changes(&mut errors, new, old);
    let path = at("spec");
    let (spec, was) = (spec_of(new), spec_of(old));
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let was_init = was.init_containers.as_deref().unwrap_or_default();
    let same_containers =
        same_number(
            &mut errors,
            &path.child("containers"),
            &spec.containers,
            &was.containers,
        ) && same_number(&mut errors, &path.child("initContainers"), init, was_init);
    if !same_containers {
        return errors;
    }
    deadline(
        &mut errors,
        &path.child("activeDeadlineSeconds"),
        &spec,
        &was,
    );
    only_added_tolerations(&mut errors, &path.child("tolerations"), &spec, &was);
    only_removed_gates(&mut errors, &path.child("schedulingGates"), &spec, &was);
    let reverted = without_allowed_changes(&mut errors, &path, &spec, &was);
    if reverted != *was {
        let detail = format!("{UPDATABLE}\n{}", changes(&reverted, &was));
        errors.push(FieldError::forbidden(&path, detail));
    }
    errors
}

/// Rules of a Pod that gets ephemeral containers: those that it has stay as they are, in whatever order.
pub(super) fn ephemeral(new: &Pod, old: &Pod) -> Errors {
    if is_static(old) {
        let detail = "static pods do not support ephemeral containers";
        return vec![FieldError::forbidden(&FieldPath::root(), detail)];
    }
    let mut errors = Errors::new();
    always(&mut errors, new);
    annotation_changes(&mut errors, new, old);
    let path = at("spec.ephemeralContainers");
    let (spec, was) = (spec_of(new), spec_of(old));
    for old in was.ephemeral_containers.iter().flatten() {
        let mut given = spec.ephemeral_containers.iter().flatten();
        let name = corral_api::field::go_quote(&old.name);
        // The last one of a name counts, as Kubernetes has it.
        match given.rfind(|new| new.name == old.name) {
            None => {
                let detail = format!("existing ephemeral containers {name} may not be removed\n");
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some(new) if !rules::same_structures(new, old) => {
                let changes = changes(new, old);
                let detail =
                    format!("existing ephemeral containers {name} may not be changed\n{changes}");
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Whether a pod only shows what a node runs by itself.
pub(super) fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"))
}

/// Rules of a Pod's annotations in any update.
pub(super) fn annotation_changes(errors: &mut Errors, new: &Pod, old: &Pod) {
    annotations::changes(
        errors,
        &at("metadata.annotations"),
        new.metadata.annotations.as_ref(),
        old.metadata.annotations.as_ref(),
    );
}

fn same_number(
    errors: &mut Errors,
    path: &FieldPath,
    new: &[Container],
    old: &[Container],
) -> bool {
    if new.len() != old.len() {
        let detail = "pod updates may not add or remove containers";
        errors.push(FieldError::forbidden(path, detail));
    }
    new.len() == old.len()
}

/// A deadline can be set, and brought nearer.
fn deadline(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, was: &PodSpec) {
    match (spec.active_deadline_seconds, was.active_deadline_seconds) {
        (Some(new), Some(old)) if old < new => errors.push(FieldError::invalid(
            path,
            new,
            "must be less than or equal to previous value",
        )),
        (None, Some(_)) => errors.push(FieldError::invalid(
            path,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
}

fn only_added_tolerations(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, was: &PodSpec) {
    let new = spec.tolerations.as_deref().unwrap_or_default();
    for old in was.tolerations.iter().flatten() {
        let kept = |t: &Toleration| {
            let seconds = t.toleration_seconds;
            *t == Toleration {
                toleration_seconds: seconds,
                ..old.clone()
            }
        };
        if !new.iter().any(kept) {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            errors.push(FieldError::forbidden(path, detail));
        }
    }
}

fn only_removed_gates(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, was: &PodSpec) {
    for (index, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        if !was
            .scheduling_gates
            .iter()
            .flatten()
            .any(|g| g.name == gate.name)
        {
            let detail = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                gate.name
            );
            errors.push(FieldError::forbidden(
                &path.index(index).child("name"),
                detail,
            ));
        }
    }
}

/// The new spec with everything set back that an update may change.
fn without_allowed_changes(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &PodSpec,
    was: &PodSpec,
) -> PodSpec {
    let mut spec = spec.clone();
    let init = spec.init_containers.iter_mut().flatten();
    for (container, old) in init.zip(was.init_containers.iter().flatten()) {
        container.image.clone_from(&old.image);
    }
    for (container, old) in spec.containers.iter_mut().zip(&was.containers) {
        container.image.clone_from(&old.image);
    }
    spec.active_deadline_seconds = was.active_deadline_seconds;
    spec.scheduling_gates.clone_from(&was.scheduling_gates);
    spec.tolerations.clone_from(&was.tolerations);
    if was.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && spec.termination_grace_period_seconds == Some(1)
    {
        spec.termination_grace_period_seconds = was.termination_grace_period_seconds;
    }
    if was.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        narrowed_placement(errors, path, &mut spec, was);
    }
    spec
}

/// While a pod is gated, the nodes it may run on can be narrowed but not widened.
fn narrowed_placement(errors: &mut Errors, path: &FieldPath, spec: &mut PodSpec, was: &PodSpec) {
    let nothing = BTreeMap::new();
    let selector = spec.node_selector.as_ref().unwrap_or(&nothing);
    let lost = was
        .node_selector
        .iter()
        .flatten()
        .any(|(k, v)| selector.get(k) != Some(v));
    if lost {
        let path = path.child("nodeSelector");
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid(&path, json(selector), detail));
    }
    spec.node_selector.clone_from(&was.node_selector);
    let node_affinity =
        |s: &PodSpec| -> Option<NodeAffinity> { s.affinity.as_ref()?.node_affinity.clone() };
    let (new, old) = (node_affinity(spec), node_affinity(was));
    let required = |a: &Option<NodeAffinity>| {
        a.as_ref().and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .clone()
        })
    };
    if let Some(old) = required(&old) {
        let terms = required(&new)
            .map(|n| n.node_selector_terms)
            .unwrap_or_default();
        let path = path.child("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        if terms.len() != old.node_selector_terms.len() {
            let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
            errors.push(FieldError::invalid(&path, json(&terms), detail));
        }
        for (index, (term, old)) in terms.iter().zip(&old.node_selector_terms).enumerate() {
            let keeps = |new: &Option<Vec<_>>, old: &Option<Vec<_>>| {
                let (new, old) = (
                    new.as_deref().unwrap_or_default(),
                    old.as_deref().unwrap_or_default(),
                );
                new.starts_with(old)
            };
            let kept = keeps(&term.match_expressions, &old.match_expressions)
                && keeps(&term.match_fields, &old.match_fields);
            if !kept {
                let detail = "only additions are allowed (no mutations or deletions)";
                errors.push(FieldError::invalid(&path.index(index), json(term), detail));
            }
        }
    }
    set_node_affinity(spec, old);
    if spec.affinity == Some(Affinity::default()) && was.affinity.is_none() {
        spec.affinity = None;
    }
}

fn set_node_affinity(spec: &mut PodSpec, node_affinity: Option<NodeAffinity>) {
    match (&mut spec.affinity, node_affinity) {
        (Some(affinity), kept) => affinity.node_affinity = kept,
        (None, Some(kept)) => {
            spec.affinity = Some(Affinity {
                node_affinity: Some(kept),
                ..Affinity::default()
            });
        }
        (None, None) => {}
    }
}

/// One line for each field that differs.
fn changes<T: Serialize>(new: &T, old: &T) -> String {
    let (new, old) = (json(new), json(old));
    let nothing = serde_json::Map::new();
    let (new, old) = (
        new.as_object().unwrap_or(&nothing),
        old.as_object().unwrap_or(&nothing),
    );
    let keys: std::collections::BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let shown = |value: Option<&Value>| -> String {
        let text = value.unwrap_or(&Value::Null).to_string();
        text.chars().take(SHOWN_LENGTH_MAX).collect()
    };
    let lines: Vec<String> = keys
        .into_iter()
        .filter(|key| new.get(*key) != old.get(*key))
        .map(|key| {
            format!(
                "  {key}: {} -> {}",
                shown(old.get(key)),
                shown(new.get(key))
            )
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pod::PodKind;
    use crate::kind::Kind;
    use crate::rules::texts;
    use serde_json::json;

    fn pod(spec: Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec}))
            .expect("a pod");
        PodKind::default(&mut pod);
        pod
    }

    #[test]
    fn an_update_may_change_the_image_and_little_else() {
        let old = pod(json!({"containers": [{"name": "a", "image": "x:1"}]}));
        let none: Vec<String> = Vec::new();
        let image = pod(
            json!({"containers": [{"name": "a", "image": "x:2"}], "activeDeadlineSeconds": 5,
            "tolerations": [{"operator": "Exists"}]}),
        );
        assert_eq!(texts(&update(&image, &old)), none);
        let other = pod(json!({"containers": [{"name": "a", "image": "x:1"}], "hostname": "h"}));
        let found = texts(&update(&other, &old));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"));
        assert!(
            found[0].ends_with("hostname: null -> \"h\""),
            "{}",
            found[0]
        );
        let more = pod(
            json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}]}),
        );
        assert_eq!(
            texts(&update(&more, &old)),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
    }
}
