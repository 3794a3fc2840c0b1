//! PodNodeSelector: a namespace says on which nodes its pods run.

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::Pod;
use corral_api::names;
use corral_api::status::Status;
use corral_kinds::Object;

use super::{Attributes, namespace_lifecycle};
use crate::api::Api;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

/// Adds to a new pod what its namespace selects nodes by.
///
/// # Errors
/// 403 for a pod that selects others, and 500 for a selector that cannot be read.
pub(super) async fn admit(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Object,
) -> Result<(), Status> {
    let namespace = namespace_lifecycle::find(api, &attributes.cx.namespace).await?;
    let annotations = namespace.and_then(|namespace| namespace.metadata.annotations);
    let given = annotations.and_then(|mut annotations| annotations.remove(ANNOTATION));
    let wanted = parse(&given.unwrap_or_default()).map_err(Status::unexpected)?;
    let Some(pod) = object.get_mut::<Pod>().filter(|_| !wanted.is_empty()) else {
        return Ok(());
    };
    let selector = pod.spec.get_or_insert_default();
    let selector = selector.node_selector.get_or_insert_default();
    for (key, value) in wanted {
        if *selector.entry(key).or_insert_with(|| value.clone()) != value {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(attributes.forbidden(name, why));
        }
    }
    Ok(())
}

/// Labels as `key=value,key=value`.
fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    if text.is_empty() {
        return Ok(labels);
    }
    for label in text.split(',') {
        let parts: Vec<&str> = label.split('=').collect();
        let [key, value] = parts[..] else {
            return Err(format!("invalid selector: [{}]", parts.join(" ")));
        };
        let (key, value) = (key.trim(), value.trim());
        let wrong = names::qualified_name(key);
        if !wrong.is_empty() {
            let wrong = wrong.join("; ");
            return Err(format!("<nil>: Invalid value: {key:?}: {wrong}"));
        }
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            let wrong = wrong.join("; ");
            return Err(format!("[{key}]: Invalid value: {value:?}: {wrong}"));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}
