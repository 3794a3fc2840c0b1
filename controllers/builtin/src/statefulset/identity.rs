//! Who a pod of a StatefulSet is: its name, its labels, its host name. Pure.

use corral_api::k8s::api::apps::v1::{StatefulSet, StatefulSetSpec};
use corral_api::k8s::api::core::v1::{Pod, PodTemplateSpec};
use serde_json::{Value, json};

use crate::{ownership, pods};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// The name of the revision that a pod was made from.
pub const REVISION: &str = "controller-revision-hash";

/// The first ordinal.
pub fn start(spec: &StatefulSetSpec) -> i32 {
    let ordinals = spec.ordinals.as_ref();
    ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// The ordinal in a pod's name, if the rest is the name of the set.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    let ordinal = ordinal.parse().ok().filter(|ordinal| *ordinal >= 0);
    ordinal.filter(|_| set.metadata.name.as_deref() == Some(parent))
}

fn label<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

/// The revision that a pod was made from.
pub fn revision(pod: &Pod) -> Option<&str> {
    label(pod, REVISION)
}

/// Whether a pod says who it is.
pub fn is_labelled(set: &StatefulSet, pod: &Pod) -> bool {
    ordinal(set, pod).is_some() && label(pod, POD_NAME) == pod.metadata.name.as_deref()
}

/// A patch that makes a pod say who it is.
pub fn labels_of(pod: &Pod) -> Value {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let ordinal = name.rsplit_once('-').map_or("", |(_, ordinal)| ordinal);
    json!({"metadata": {"labels": {POD_NAME: name, POD_INDEX: ordinal}}})
}

/// The pod of an ordinal.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let parent = set.metadata.name.as_deref().unwrap_or_default();
    let name = format!("{parent}-{ordinal}");
    let owner = ownership::controller_reference(set);
    let namespace = set.metadata.namespace.as_ref();
    let mut pod = pods::from_template(template, namespace, "", owner);
    pod.metadata.generate_name = None;
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(REVISION.into(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    spec.subdomain = service.filter(|name| !name.is_empty());
    pod.metadata.name = Some(name);
    pod
}
