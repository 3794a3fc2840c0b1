//! A pod that names a RuntimeClass gets its overhead and its scheduling rules.

use corral_api::k8s::api::core::v1::Pod;
use corral_api::k8s::api::node::v1::RuntimeClass;
use corral_api::status::Status;
use corral_kinds::Object;

use super::Attributes;
use crate::api::Api;

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
    let Some(name) = spec.runtime_class_name.clone() else {
        return Ok(());
    };
    if name.is_empty() {
        return Err(Status::unexpected("resource name may not be empty"));
    }
    let Some(class) = find(api, &name) else {
        let why = format!("pod rejected: RuntimeClass {name:?} not found");
        return Err(attributes.forbidden(&pod_name, &why));
    };
    let overhead = class.overhead.and_then(|o| o.pod_fixed);
    if overhead.is_some() && spec.overhead.is_some() && spec.overhead != overhead {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(attributes.forbidden(&pod_name, why));
    }
    spec.overhead = overhead.or(spec.overhead.take());
    let Some(scheduling) = class.scheduling else {
        return Ok(());
    };
    for (key, value) in scheduling.node_selector.into_iter().flatten() {
        let selector = spec.node_selector.get_or_insert_default();
        if let Some(given) = selector.get(&key).filter(|given| **given != value) {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {given}"
            );
            return Err(attributes.forbidden(&pod_name, &why));
        }
        selector.insert(key, value);
    }
    for toleration in scheduling.tolerations.into_iter().flatten() {
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    Ok(())
}

/// That a pod says what it takes besides its containers only with a class that does.
pub(super) fn check(api: &Api, attributes: &Attributes<'_>, object: &Object) -> Result<(), Status> {
    let pod = object.get::<Pod>();
    let Some((pod, spec)) = pod.and_then(|pod| Some((pod, pod.spec.as_ref()?))) else {
        return Ok(());
    };
    let class = spec.runtime_class_name.as_deref();
    let class = class.and_then(|name| find(api, name));
    if spec.overhead.is_none() || class.is_some_and(|class| class.overhead.is_some()) {
        return Ok(());
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
    Err(attributes.forbidden(name, why))
}

fn find(api: &Api, name: &str) -> Option<RuntimeClass> {
    let classes = api.resource("node.k8s.io", "runtimeclasses")?;
    let stored = classes.cacher.peek(&classes.key("", name))?;
    serde_json::from_slice(&stored.json).ok()
}
