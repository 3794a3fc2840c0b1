//! What a pod's subresources `resize` and `ephemeralcontainers` change, and the rules of a resize: the CPU and the memory
//! of containers, in a pod that stays what it is.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;

use super::rules::{always, is_static, spec_of};
use crate::core::pod_spec::qos;
use crate::rules::{self, Errors, at, text};

/// What can be changed while containers run.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];
const ONLY: &str = "only cpu and memory resources are mutable";

type Amounts = Option<BTreeMap<String, Wire>>;

/// Metadata and status are nobody's here.
pub(super) fn keep_object(new: &mut Pod, old: &Pod) {
    new.status.clone_from(&old.status);
    let was = old.metadata.clone();
    let meta = &mut new.metadata;
    meta.labels = was.labels;
    meta.annotations = was.annotations;
    meta.finalizers = was.finalizers;
    meta.owner_references = was.owner_references;
}

/// Of the spec, ephemeral containers are what is written.
pub(super) fn keep_all_but_ephemeral(new: &mut Pod, old: &Pod) {
    let added = new.spec.take().and_then(|spec| spec.ephemeral_containers);
    let mut spec = spec_of(old).into_owned();
    spec.ephemeral_containers = added;
    new.spec = Some(spec);
}

/// Of the spec, the resources are what is written. Where containers are not those of the old pod, nothing is kept, so that
/// the rules see it.
pub(super) fn keep_all_but_resources(new: &mut Pod, old: &Pod) {
    let given = spec_of(new).into_owned();
    let mut spec = spec_of(old).into_owned();
    let init = given.init_containers.as_deref().unwrap_or_default();
    let was_init = spec.init_containers.as_deref().unwrap_or_default();
    if given.containers.len() != spec.containers.len() || init.len() != was_init.len() {
        return;
    }
    spec.containers = with_resources(&given.containers, &spec.containers);
    let init = with_resources(init, was_init);
    if spec.init_containers.is_some() {
        spec.init_containers = Some(init);
    }
    spec.resources = given.resources;
    new.spec = Some(spec);
}

fn with_resources(given: &[Container], old: &[Container]) -> Vec<Container> {
    let pairs = || given.iter().zip(old);
    if pairs().any(|(new, old)| new.name != old.name) {
        return given.to_vec();
    }
    let merged = pairs().map(|(new, old)| Container {
        resources: new.resources.clone(),
        resize_policy: new.resize_policy.clone(),
        ..old.clone()
    });
    merged.collect()
}

/// Everything wrong with a resize.
pub(super) fn rules(new: &Pod, old: &Pod) -> Errors {
    let (spec, was) = (spec_of(new), spec_of(old));
    let refuse = |detail: &str| vec![FieldError::forbidden(&FieldPath::root(), detail)];
    if is_static(old) {
        return refuse("static pods cannot be resized");
    }
    if was.os.as_ref().is_some_and(|os| os.name == "windows") {
        return refuse("windows pods cannot be resized");
    }
    let mut errors = Errors::new();
    always(&mut errors, new);
    let path = at("spec");
    let class = old.status.as_ref().and_then(|s| s.qos_class.clone());
    let class = class.unwrap_or_else(|| qos::class(&was).to_owned());
    if class != qos::class(&spec) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&path, class, detail));
    }
    if !node_can(old) {
        let detail = "Pod running on node without support for resize";
        errors.push(FieldError::forbidden(&path, detail));
    }
    let mut rest = spec.clone().into_owned();
    if has_resources(&spec) || has_resources(&was) {
        of_pod(&mut errors, &path, &mut rest, &was);
    }
    if !same_order(&mut errors, &path, &spec, &was) {
        return errors;
    }
    containers(&mut errors, &path, &mut rest, &was);
    if errors.is_empty() && !rules::same(&rest, &*was) {
        errors.push(FieldError::forbidden(&path, ONLY));
    }
    errors
}

/// Whether the node tells what its containers have; one that does not cannot change it. Where nothing runs yet, it is
/// taken to be able to.
fn node_can(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    let mut running = statuses.filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    running
        .next()
        .is_none_or(|container| container.resources.is_some())
}

fn has_resources(spec: &PodSpec) -> bool {
    let given = |amounts: &Amounts| amounts.as_ref().is_some_and(|amounts| !amounts.is_empty());
    let resources = spec.resources.as_ref();
    resources.is_some_and(|r| given(&r.requests) || given(&r.limits))
}

fn of_pod(errors: &mut Errors, path: &FieldPath, rest: &mut PodSpec, was: &PodSpec) {
    let resources_path = path.child("resources");
    if let Some(old) = &was.resources {
        let Some(new) = &rest.resources else {
            let detail = "pod-level resources cannot be removed";
            errors.push(FieldError::forbidden(&resources_path, detail));
            return;
        };
        nothing_removed(errors, &resources_path, new, old, "pod-level ");
    }
    let old = was.resources.clone().unwrap_or_default();
    if let Some(resources) = &mut rest.resources {
        set_back(resources, &old);
    }
    if !rules::same(&rest.resources, &was.resources) {
        let detail = "only cpu and memory resources are mutable at pod-level";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn same_order(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, was: &PodSpec) -> bool {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let was_init = was.init_containers.as_deref().unwrap_or_default();
    let lists = [
        (
            "containers",
            spec.containers.as_slice(),
            was.containers.as_slice(),
        ),
        ("initContainers", init, was_init),
    ];
    let n_errors = errors.len();
    for (field, new, old) in lists {
        let path = path.child(field);
        if new.len() != old.len() {
            let detail = format!("{field} may not be added or removed on resize");
            errors.push(FieldError::forbidden(&path, detail));
            continue;
        }
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            if new.name != old.name {
                let detail = format!("{field} may not be renamed or reordered on resize");
                let path = path.index(index).child("name");
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
    }
    errors.len() == n_errors
}

/// The containers, and what is left of them when what may change is as it was.
fn containers(errors: &mut Errors, path: &FieldPath, rest: &mut PodSpec, was: &PodSpec) {
    let init = rest.init_containers.iter_mut().flatten();
    let init_pairs: Vec<_> = init.zip(was.init_containers.iter().flatten()).collect();
    for (index, (new, old)) in init_pairs.iter().enumerate() {
        let path = path.child("initContainers").index(index).child("resources");
        kept(errors, &path, new, old);
    }
    for (index, (new, old)) in rest.containers.iter().zip(&was.containers).enumerate() {
        let path = path.child("containers").index(index).child("resources");
        kept(errors, &path, new, old);
    }
    for (new, old) in rest.containers.iter_mut().zip(&was.containers) {
        set_back_container(new, old);
        if !rules::same(new, old) {
            errors.push(FieldError::forbidden(path, ONLY));
        }
    }
    for (index, (new, old)) in init_pairs.into_iter().enumerate() {
        let path = path.child("initContainers").index(index);
        let changed = !rules::same(new, old);
        set_back_container(new, old);
        if !rules::same(new, old) {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(FieldError::forbidden(&path, detail));
        }
        let sidecar = text(&new.restart_policy) == "Always";
        let mut policies = new.resize_policy.iter().flatten();
        if changed && !sidecar && policies.any(|policy| policy.restart_policy == "RestartContainer")
        {
            let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
}

fn kept(errors: &mut Errors, path: &FieldPath, new: &Container, old: &Container) {
    let nothing = ResourceRequirements::default();
    let new = new.resources.as_ref().unwrap_or(&nothing);
    let old = old.resources.as_ref().unwrap_or(&nothing);
    nothing_removed(errors, path, new, old, "");
}

fn nothing_removed(
    errors: &mut Errors,
    path: &FieldPath,
    new: &ResourceRequirements,
    old: &ResourceRequirements,
    whose: &str,
) {
    let removed = |new: &Amounts, old: &Amounts| {
        let mut old = old.iter().flatten();
        old.any(|(name, _)| !new.as_ref().is_some_and(|new| new.contains_key(name)))
    };
    let lists = [
        ("requests", &new.requests, &old.requests),
        ("limits", &new.limits, &old.limits),
    ];
    for (field, new, old) in lists {
        if removed(new, old) {
            let detail = format!("{whose}resource {field} cannot be removed");
            errors.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
}

fn set_back_container(new: &mut Container, old: &Container) {
    let was = old.resources.clone().unwrap_or_default();
    let resources = new.resources.get_or_insert_default();
    set_back(resources, &was);
    // Claims of devices, if there are any, are not set back: such a container cannot be resized.
    resources.claims = None;
}

fn set_back(new: &mut ResourceRequirements, old: &ResourceRequirements) {
    let lists = [
        (&mut new.requests, &old.requests),
        (&mut new.limits, &old.limits),
    ];
    for (new, old) in lists {
        let amounts = new.get_or_insert_default();
        for name in RESIZABLE {
            amounts.remove(name);
            if let Some(amount) = old.as_ref().and_then(|old| old.get(name)) {
                amounts.insert(name.to_owned(), amount.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::pod::PodKind;
    use crate::kind::Kind;
    use crate::rules::texts;

    fn pod(resources: Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a", "image": "i", "resources": resources}]}}))
        .expect("a pod");
        PodKind::default(&mut pod);
        pod
    }

    fn resized(new: Value, old: &Pod) -> (Pod, Vec<String>) {
        let mut new = pod(new);
        PodKind::prepare_part_update("resize", &mut new, old);
        let errors = PodKind::validate_part_update("resize", &new, old);
        (new, texts(&errors))
    }

    #[test]
    fn a_resize_changes_amounts_of_cpu_and_memory_only() {
        let old = pod(
            json!({"requests": {"cpu": "1", "example.com/x": "1"}, "limits": {"example.com/x": "1"}}),
        );
        let (new, errors) = resized(
            json!({"requests": {"cpu": "2", "example.com/x": "1"}, "limits": {"example.com/x": "1"}}),
            &old,
        );
        assert_eq!(errors, [""; 0]);
        let resources = spec_of(&new).containers[0].resources.clone();
        let requests = resources.and_then(|r| r.requests).expect("requests");
        assert_eq!(requests["cpu"].0, "2");
        let (_, errors) = resized(
            json!({"requests": {"cpu": "2", "example.com/x": "2"}, "limits": {"example.com/x": "2"}}),
            &old,
        );
        assert_eq!(
            errors,
            ["spec: Forbidden: only cpu and memory resources are mutable"]
        );
        let (_, errors) = resized(json!({"requests": {"cpu": "2"}}), &old);
        assert_eq!(errors.len(), 3, "{errors:?}");
        let (_, errors) = resized(json!({}), &pod(json!({"requests": {"cpu": "1"}})));
        assert_eq!(
            errors,
            [
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ]
        );
    }

    #[test]
    fn a_node_that_does_not_tell_what_containers_have_cannot_resize_them() {
        let mut old = pod(json!({"requests": {"cpu": "1"}}));
        old.status = serde_json::from_value(json!({"containerStatuses": [
            {"name": "a", "state": {"running": {}}}]}))
        .expect("a status");
        let (_, errors) = resized(json!({"requests": {"cpu": "2"}}), &old);
        assert_eq!(
            errors,
            ["spec: Forbidden: Pod running on node without support for resize"]
        );
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let with = |list: Value| {
            let mut pod = pod(json!({}));
            pod.spec.get_or_insert_default().ephemeral_containers =
                serde_json::from_value(list).expect("containers");
            PodKind::default(&mut pod);
            pod
        };
        let old = with(json!([{"name": "d", "image": "i"}]));
        let check = |list: Value| {
            let mut new = with(list);
            new.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
            PodKind::prepare_part_update("ephemeralcontainers", &mut new, &old);
            assert_eq!(new.metadata.labels, None);
            texts(&PodKind::validate_part_update(
                "ephemeralcontainers",
                &new,
                &old,
            ))
        };
        assert_eq!(
            check(json!([{"name": "e", "image": "i"}, {"name": "d", "image": "i"}])),
            [""; 0]
        );
        assert_eq!(
            check(json!([])),
            [
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n"
            ]
        );
        let changed = check(json!([{"name": "d", "image": "j"}]));
        assert!(
            changed[0].contains("\"d\" may not be changed"),
            "{changed:?}"
        );
    }
}
