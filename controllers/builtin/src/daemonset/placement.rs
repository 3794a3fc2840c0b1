//! Where a daemon's pods belong, and how a pod is tied to its node. Pure.

use corral_api::k8s::api::apps::v1::DaemonSet;
use corral_api::k8s::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec,
    Toleration,
};
use corral_runtime::placement::{first_untolerated, matches_affinity};

use super::REVISION_HASH;
use crate::{ownership, pods};

/// Taints that no daemon minds, with their effect.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// What a daemon on the machine's own network does not mind either.
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = spec
        .host_network
        .unwrap_or(false)
        .then_some(&NETWORK_UNAVAILABLE);
    for (key, effect) in TOLERATED.iter().chain(network) {
        let toleration = Toleration {
            key: Some((*key).into()),
            operator: Some("Exists".into()),
            effect: Some((*effect).into()),
            ..Toleration::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// Whether a pod should be started on a node, and whether one that is there may stay.
pub fn fits(template: &PodTemplateSpec, node: &Node) -> (bool, bool) {
    let spec = template.spec.clone().unwrap_or_default();
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    let matches = named.is_none_or(|name| node.metadata.name.as_deref() == Some(name))
        && matches_affinity(&spec, node);
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let tolerations = tolerations(&spec);
    let free = |effects: &[&str]| first_untolerated(taints, &tolerations, effects).is_none();
    (
        matches && free(&["NoSchedule", "NoExecute"]),
        matches && free(&["NoExecute"]),
    )
}

/// The node that a pod is on or meant for.
pub fn target(pod: &Pod) -> Option<&str> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref();
    let required = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let fields = required
        .into_iter()
        .flat_map(|required| &required.node_selector_terms);
    let mut fields = fields.flat_map(|term| term.match_fields.iter().flatten());
    let named = || {
        fields
            .find(|field| field.key == "metadata.name")?
            .values
            .as_ref()?
            .first()
            .map(String::as_str)
    };
    pods::node_of(pod).or_else(named)
}

/// The pod for a node.
pub fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set
        .spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default();
    let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
    let owner = ownership::controller_reference(set);
    let mut pod = pods::from_template(&template, set.metadata.namespace.as_ref(), &prefix, owner);
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(REVISION_HASH.into(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let affinity = spec
        .affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default();
    let requirement = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    // What the template requires of nodes has been decided already; the name says it all.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![requirement]),
            match_expressions: None,
        }],
    });
    pod
}
