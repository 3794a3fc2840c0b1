//! Pods know where they are: the zone and the region of their node are labels of theirs.

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::Pod;
use corral_kinds::Object;
use serde_json::Value;

use crate::api::Api;

const LABELS: [&str; 2] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// A pod that comes with its node.
pub(super) fn admit(api: &Api, object: &mut Object) {
    let Some(pod) = object.get_mut::<Pod>() else {
        return;
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let labels = labels_of(api, &node.unwrap_or_default());
    if !labels.is_empty() {
        pod.metadata.labels.get_or_insert_default().extend(labels);
    }
}

/// A pod that is given to a node: its labels come with the Binding.
pub(super) fn admit_binding(api: &Api, binding: &mut Value) {
    if binding["target"]["kind"] != "Node" {
        return;
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    for (key, value) in labels_of(api, node) {
        binding["metadata"]["labels"][key] = value.into();
    }
}

/// A node that is not there has no labels.
fn labels_of(api: &Api, node: &str) -> BTreeMap<String, String> {
    let nodes = api.core("nodes");
    let Some(stored) = nodes.cacher.peek(&nodes.key("", node)) else {
        return BTreeMap::new();
    };
    let known = LABELS.into_iter().filter_map(|key| {
        let value = stored.label(key)?;
        Some((key.to_owned(), value.to_owned()))
    });
    known.collect()
}
