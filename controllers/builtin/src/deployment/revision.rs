//! Which set belongs to a template, and which revision it is.

use std::collections::BTreeMap;

use corral_api::k8s::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use corral_api::k8s::api::core::v1::PodTemplateSpec;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use super::Set;
use crate::ownership::controller_reference;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Tells the pods of one set from those of the next.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// Annotations of a Deployment that say nothing about its sets.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];
/// A history longer than this loses its oldest entries.
const HISTORY_LENGTH_MAX: usize = 2000;
/// Letters of a hash: no vowels, so that no words come out, and nothing that is easily misread.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const HASH_LENGTH: usize = 10;

/// A short name for a template, safe in names and labels. A collision count makes it come out differently.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(serde_json::to_vec(template).expect("a pod template is plain data"));
    if let Some(collisions) = collisions {
        hasher.update(collisions.to_le_bytes());
    }
    let digest = hasher.finalize();
    digest
        .iter()
        .take(HASH_LENGTH)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// Whether a set was made from this template; the hash label that the set's copy carries does not count.
pub fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    own.is_some_and(|own| without_hash(own) == without_hash(template))
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(TEMPLATE_HASH);
    }
    // Empty and absent mean the same, and clients write either.
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta
        .annotations
        .take()
        .filter(|annotations| !annotations.is_empty());
    template
}

/// The revision of a set; 0 when it has none.
pub fn of(set: &ReplicaSet) -> i64 {
    let annotations = set.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get(REVISION))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The annotations of a Deployment that its sets carry, too.
fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    let all = deployment.metadata.annotations.iter().flatten();
    let kept = all.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    kept.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Gives the new set its revision and the Deployment's annotations; returns the revision.
pub fn stamp(deployment: &Deployment, new: &mut Set, old: &[Set]) -> String {
    let next = old.iter().map(|set| of(&set.set)).max().unwrap_or(0) + 1;
    let present = of(&new.set);
    new.annotations.extend(copied(deployment));
    if present >= next {
        return present.to_string();
    }
    new.annotations.insert(REVISION.into(), next.to_string());
    if present > 0 {
        new.annotations
            .insert(REVISION_HISTORY.into(), history(&new.set, present));
    }
    next.to_string()
}

/// The revisions that a set has had, with one more.
fn history(set: &ReplicaSet, past: i64) -> String {
    let known = set
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(REVISION_HISTORY));
    let mut all: Vec<String> = known
        .iter()
        .flat_map(|text| text.split(','))
        .map(Into::into)
        .collect();
    all.retain(|entry| !entry.is_empty());
    all.push(past.to_string());
    while all.len() > 1
        && all.iter().map(|entry| entry.len() + 1).sum::<usize>() > HISTORY_LENGTH_MAX
    {
        all.remove(0);
    }
    all.join(",")
}

/// The set for the present template, as the next revision.
pub fn new_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    old: &[Set],
    max_replicas: i32,
) -> ReplicaSet {
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let template_meta = template.metadata.get_or_insert_default();
    template_meta
        .labels
        .get_or_insert_default()
        .insert(TEMPLATE_HASH.into(), hash.clone());
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(TEMPLATE_HASH.into(), hash.clone());
    let revision = old.iter().map(|set| of(&set.set)).max().unwrap_or(0) + 1;
    let mut annotations = copied(deployment);
    annotations.insert(REVISION.into(), revision.to_string());
    annotations.extend(size_annotations(spec.replicas.unwrap_or(1), max_replicas));
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: template
                .metadata
                .as_ref()
                .and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(0),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// What a set remembers of the Deployment's size, so that a later change of size is told from a rollout.
pub fn size_annotations(desired: i32, max: i32) -> [(String, String); 2] {
    [
        (DESIRED_REPLICAS.into(), desired.to_string()),
        (MAX_REPLICAS.into(), max.to_string()),
    ]
}
