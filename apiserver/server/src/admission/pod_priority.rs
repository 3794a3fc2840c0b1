//! The priority of a pod follows from its PriorityClass; only one class may be the default.

use std::sync::Arc;

use corral_api::k8s::api::core::v1::Pod;
use corral_api::k8s::api::scheduling::v1::PriorityClass;
use corral_api::status::Status;
use corral_kinds::{AnyKind, Object};
use serde::Deserialize;

use super::{Action, Attributes};
use crate::api::Api;
use crate::object::Stored;
use crate::registry::Resource;

/// What admission asks of a class. Every new pod reads them, so that the rest is passed by.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Class {
    metadata: Named,
    #[serde(default)]
    value: i32,
    #[serde(default)]
    global_default: bool,
    preemption_policy: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

fn classes(api: &Api) -> Option<&Arc<Resource>> {
    api.resource("scheduling.k8s.io", "priorityclasses")
}

fn read(stored: &Stored) -> Option<Class> {
    serde_json::from_slice(&stored.json).ok()
}

/// The classes that are for every pod that names none.
fn defaults(resource: &Resource) -> Vec<Class> {
    let snapshot = resource.cacher.snapshot();
    let classes = snapshot.objects.values().filter_map(|stored| read(stored));
    classes.filter(|class| class.global_default).collect()
}

pub(super) fn admit(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Object,
) -> Result<(), Status> {
    let Some(pod) = object.get_mut::<Pod>() else {
        return Ok(());
    };
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let Some(spec) = pod.spec.as_mut() else {
        return Ok(());
    };
    let classes = classes(api);
    let wanted = spec.priority_class_name.clone().unwrap_or_default();
    let class = if wanted.is_empty() {
        let defaults = classes.map(|classes| defaults(classes)).unwrap_or_default();
        defaults.into_iter().min_by_key(|class| class.value)
    } else {
        let found = classes.and_then(|classes| {
            let key = classes.key("", &wanted);
            classes.cacher.peek(&key).and_then(|stored| read(&stored))
        });
        if found.is_none() {
            let why = format!("no PriorityClass with name {wanted} was found");
            return Err(attributes.forbidden(&pod_name, &why));
        }
        found
    };
    let (priority, policy) = match class {
        Some(class) => {
            spec.priority_class_name = Some(class.metadata.name);
            (class.value, class.preemption_policy)
        }
        None => (0, None),
    };
    if spec.priority.is_some_and(|given| given != priority) {
        let why = format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name",
            spec.priority.unwrap_or_default()
        );
        return Err(attributes.forbidden(&pod_name, &why));
    }
    spec.priority = Some(priority);
    let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".to_owned());
    if let Some(given) = spec
        .preemption_policy
        .as_ref()
        .filter(|given| **given != policy)
    {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(attributes.forbidden(&pod_name, &why));
    }
    spec.preemption_policy = Some(policy);
    Ok(())
}

/// A pod keeps the priority that it was given when an update leaves it out.
/// The classes that the system's own pods have stay, though a whole collection may go.
pub(super) fn check_delete(kind: &dyn AnyKind, name: &str) -> Result<(), Status> {
    const SYSTEM: [&str; 2] = ["system-cluster-critical", "system-node-critical"];
    let names = kind.names();
    if names.kind == "PriorityClass" && !kind.is_custom() && SYSTEM.contains(&name) {
        let why = "this is a system priority class and cannot be deleted";
        return Err(Status::forbidden(names.group, names.plural, name, why));
    }
    Ok(())
}

pub(super) fn keep(object: &mut Object, old: Option<&Object>) {
    let old = old.and_then(Object::get::<Pod>);
    let Some(old) = old.and_then(|old| old.spec.as_ref()) else {
        return;
    };
    if let Some(spec) = object.get_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) {
        spec.priority = spec.priority.or(old.priority);
        if spec.preemption_policy.is_none() {
            spec.preemption_policy.clone_from(&old.preemption_policy);
        }
    }
}

/// Refuses a second default class.
pub(super) fn check_classes(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Object,
) -> Result<(), Status> {
    let Some(class) = object.get::<PriorityClass>() else {
        return Ok(());
    };
    if class.global_default != Some(true)
        || !matches!(attributes.action, Action::Create | Action::Update)
    {
        return Ok(());
    }
    let defaults = classes(api).map(|classes| defaults(classes));
    let name = class.metadata.name.as_deref().unwrap_or_default();
    let other = defaults
        .into_iter()
        .flatten()
        .find(|other| other.metadata.name != name);
    match other {
        Some(other) => {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.metadata.name
            );
            Err(attributes.forbidden(name, &why))
        }
        None => Ok(()),
    }
}
