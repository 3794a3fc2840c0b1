//! Warnings of Kubernetes itself: what is accepted, and seldom meant.

use std::collections::{BTreeMap, BTreeSet};

use corral_api::field::{FieldPath, go_quote};
use corral_api::k8s::api::core::v1::{
    Container, EnvVar, PodAffinityTerm, PodSpec, Volume, WeightedPodAffinityTerm,
};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::quantity::Quantity;

use crate::core::pod_spec::validation::every_container;
use crate::rules::{at, text};

const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Warnings about a spec at a path.
pub(super) fn of_spec(path: &str, spec: &PodSpec) -> Vec<String> {
    let path = at(path);
    let mut found = Vec::new();
    let constraints = spec.topology_spread_constraints.iter().flatten();
    for (index, constraint) in constraints.enumerate() {
        if constraint.label_selector.is_none() {
            let path = path.child("topologySpreadConstraints").index(index);
            found.push(format!("{}: {NO_SELECTOR}", path.child("labelSelector")));
        }
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        found.extend(retired(&path.child("volumes").index(index), volume));
    }
    lists(&mut found, &path, spec);
    if let Some(overhead) = &spec.overhead {
        fractions(&mut found, &path.child("overhead"), overhead);
    }
    let containers = every_container(&path, spec);
    for (path, container) in &containers {
        let resources = container.resources.clone().unwrap_or_default();
        let path_of = path.child("resources");
        if let Some(limits) = &resources.limits {
            fractions(&mut found, &path_of.child("limits"), limits);
        }
        if let Some(requests) = &resources.requests {
            fractions(&mut found, &path_of.child("requests"), requests);
        }
        let variables = container.env.as_deref().unwrap_or_default();
        hidden(&mut found, &path.child("env"), variables);
    }
    port_names(&mut found, &containers);
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        let path = path.child("terminationGracePeriodSeconds");
        found.push(format!(
            "{path}: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    affinity(&mut found, &path.child("affinity"), spec);
    found
}

/// Volumes whose drivers are gone from Kubernetes.
fn retired(path: &FieldPath, volume: &Volume) -> Vec<String> {
    let fields = [
        (
            "photonPersistentDisk",
            volume.photon_persistent_disk.is_some(),
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        (
            "gitRepo",
            volume.git_repo.is_some(),
            "deprecated in v1.11, and disabled by default in v1.33+",
        ),
        (
            "scaleIO",
            volume.scale_io.is_some(),
            "deprecated in v1.16, non-functional in v1.22+",
        ),
        (
            "flocker",
            volume.flocker.is_some(),
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "storageOS",
            volume.storageos.is_some(),
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "quobyte",
            volume.quobyte.is_some(),
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "glusterfs",
            volume.glusterfs.is_some(),
            "deprecated in v1.25, non-functional in v1.26+",
        ),
        (
            "cephfs",
            volume.cephfs.is_some(),
            "deprecated in v1.28, non-functional in v1.31+",
        ),
        (
            "rbd",
            volume.rbd.is_some(),
            "deprecated in v1.28, non-functional in v1.31+",
        ),
    ];
    let given = fields.into_iter().filter(|(_, given, _)| *given);
    given
        .map(|(field, _, since)| format!("{}: {since}", path.child(field)))
        .collect()
}

fn lists(found: &mut Vec<String>, path: &FieldPath, spec: &PodSpec) {
    let mut seen = BTreeSet::new();
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if !seen.insert(&alias.ip) {
            let path = path.child("hostAliases").index(index).child("ip");
            found.push(format!("{path}: duplicate ip {}", go_quote(&alias.ip)));
        }
    }
    let list = path.child("imagePullSecrets");
    let secrets = spec.image_pull_secrets.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (index, secret) in secrets.iter().enumerate() {
        if !seen.insert(&secret.name) {
            let (path, name) = (list.index(index).child("name"), go_quote(&secret.name));
            found.push(format!("{path}: duplicate name {name}"));
        }
    }
    for (index, _) in secrets
        .iter()
        .enumerate()
        .filter(|(_, s)| s.name.is_empty())
    {
        let path = list.index(index).child("name");
        found.push(format!("{path}: invalid empty name \"\""));
    }
}

/// There are no parts of bytes.
fn fractions(found: &mut Vec<String>, path: &FieldPath, amounts: &BTreeMap<String, Wire>) {
    for name in ["memory", "ephemeral-storage"] {
        let amount = amounts.get(name).map(Quantity::from_wire);
        let Some(Ok(amount)) = amount else { continue };
        if amount.milli_value() % 1000 != 0 {
            let (path, amount) = (path.key(name), go_quote(&amount.to_string()));
            found.push(format!(
                "{path}: fractional byte value {amount} is invalid, must be an integer"
            ));
        }
    }
}

/// A variable that is defined again, and not from what it was.
fn hidden(found: &mut Vec<String>, path: &FieldPath, variables: &[EnvVar]) {
    let mut seen = BTreeSet::new();
    for (index, variable) in variables.iter().enumerate() {
        if seen.insert(&variable.name) {
            continue;
        }
        let (value, reference) = (text(&variable.value), format!("$({})", variable.name));
        let keeps = value != reference && value.contains(&reference);
        if variable.value_from.is_some() || !keeps {
            let (path, name) = (path.index(index), go_quote(&variable.name));
            found.push(format!(
                "{path}: hides previous definition of {name}, which may be dropped when using apply"
            ));
        }
    }
}

fn port_names(found: &mut Vec<String>, containers: &[(FieldPath, Container)]) {
    let mut seen: BTreeMap<&str, FieldPath> = BTreeMap::new();
    for (path, container) in containers {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let path = path.child("ports").index(index);
            let name = text(&port.name);
            if name.is_empty() {
                continue;
            }
            if let Some(other) = seen.get(name) {
                found.push(format!(
                    "{path}: duplicate port name {} with {other}, services and probes that select ports by name will use {other}",
                    go_quote(name)
                ));
            } else {
                seen.insert(name, path);
            }
        }
    }
}

fn affinity(found: &mut Vec<String>, path: &FieldPath, spec: &PodSpec) {
    let Some(affinity) = &spec.affinity else {
        return;
    };
    if let Some(pods) = &affinity.pod_affinity {
        terms(
            found,
            &path.child("podAffinity"),
            &pods.required_during_scheduling_ignored_during_execution,
            &pods.preferred_during_scheduling_ignored_during_execution,
        );
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        terms(
            found,
            &path.child("podAntiAffinity"),
            &pods.required_during_scheduling_ignored_during_execution,
            &pods.preferred_during_scheduling_ignored_during_execution,
        );
    }
}

fn terms(
    found: &mut Vec<String>,
    path: &FieldPath,
    required: &Option<Vec<PodAffinityTerm>>,
    preferred: &Option<Vec<WeightedPodAffinityTerm>>,
) {
    let mut check = |path: FieldPath, term: &PodAffinityTerm| {
        if term.label_selector.is_none() {
            found.push(format!("{}: {NO_SELECTOR}", path.child("labelSelector")));
        }
    };
    let list = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in required.iter().flatten().enumerate() {
        check(list.index(index), term);
    }
    let list = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in preferred.iter().flatten().enumerate() {
        let path = list.index(index).child("podAffinityTerm");
        check(path, &term.pod_affinity_term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mistakes_are_told_one_by_one() {
        let spec = serde_json::from_value(json!({
            "containers": [
                {"name": "a", "ports": [{"name": "http", "containerPort": 1}],
                    "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}],
                    "resources": {"limits": {"memory": "1m"}}},
                {"name": "b", "ports": [{"name": "http", "containerPort": 2}]},
            ],
            "imagePullSecrets": [{"name": "s"}, {"name": "s"}, {"name": ""}],
            "volumes": [{"name": "v", "rbd": {"image": "i", "monitors": ["m"]}}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}},
        }))
        .expect("a spec");
        assert_eq!(
            of_spec("spec", &spec),
            [
                "spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+",
                "spec.imagePullSecrets[1].name: duplicate name \"s\"",
                "spec.imagePullSecrets[2].name: invalid empty name \"\"",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1m\" is invalid, must be an integer",
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[1].ports[0]: duplicate port name \"http\" with spec.containers[0].ports[0], services and probes \
                 that select ports by name will use spec.containers[0].ports[0]",
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null \
                 labelSelector results in matching no pod",
            ]
        );
    }
}
