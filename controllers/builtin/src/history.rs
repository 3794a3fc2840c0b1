//! Earlier states of a template, kept as ControllerRevisions.
//!
//! A revision holds a patch that brings its template back, which is what `kubectl rollout undo` sends. Two revisions
//! are the same state when their patches are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corral_api::k8s::api::apps::v1::ControllerRevision;
use corral_api::k8s::api::core::v1::PodTemplateSpec;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use corral_api::k8s::apimachinery::pkg::runtime::RawExtension;
use corral_api::meta::controller_of;
use corral_runtime::{Error, ObjectKey, Objects};
use serde_json::{Value, json};

use crate::deployment::template_hash;

/// The longest beginning of a revision's name, so that its hash fits.
const PREFIX_LENGTH_MAX: usize = 223;

/// The revisions of an owner, seen from its present template.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The state that the template is in, if it is known.
    pub current: Option<Arc<ControllerRevision>>,
    /// Others of the same state, which nobody needs.
    pub doubles: Vec<Arc<ControllerRevision>>,
    /// Other states, oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
}

/// What is to be done so that the present state has a revision with the highest number.
#[derive(Debug, Clone, Default)]
pub enum Change {
    #[default]
    None,
    Create(Box<ControllerRevision>),
    Renumber(Arc<ControllerRevision>, i64),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    Done,
    /// Another state has the name already.
    Collision,
}

/// Makes or renumbers the present revision.
pub async fn record(
    revisions: &Objects<ControllerRevision>,
    change: &Change,
) -> Result<Recorded, Error> {
    match change {
        Change::None => Ok(Recorded::Done),
        Change::Renumber(revision, number) => {
            let patch = json!({"revision": number});
            revisions.patch(revision, patch).await?;
            Ok(Recorded::Done)
        }
        Change::Create(new) => match revisions.create(new).await {
            Err(error) if error.is_already_exists() => {
                let key = ObjectKey::of(&new.metadata);
                let there = revisions.get_live(&key).await?;
                let owner = |revision: &ControllerRevision| {
                    controller_of(&revision.metadata).map(|owner| owner.uid.clone())
                };
                let ours = |there: &ControllerRevision| {
                    there.data == new.data && owner(there) == owner(new)
                };
                Ok(match there {
                    Some(there) if !ours(&there) => Recorded::Collision,
                    _ => Recorded::Done,
                })
            }
            Err(error) if error.is_namespace_terminating() => Ok(Recorded::Done),
            other => other.map(|_| Recorded::Done),
        },
    }
}

impl History {
    /// What is to be done, if this would be the new revision.
    pub fn change(&self, new: ControllerRevision) -> Change {
        match &self.current {
            None => Change::Create(Box::new(new)),
            Some(current) if current.revision < self.number() => {
                Change::Renumber(Arc::clone(current), self.number())
            }
            Some(_) => Change::None,
        }
    }

    /// Sorts an owner's revisions.
    pub fn of<'a>(
        revisions: impl IntoIterator<Item = &'a Arc<ControllerRevision>>,
        data: &Value,
    ) -> Self {
        let mut history = Self::default();
        let mut same = Vec::new();
        for revision in revisions {
            let holds = revision.data.as_ref().is_some_and(|own| own.0 == *data);
            let list = if holds { &mut same } else { &mut history.old };
            list.push(Arc::clone(revision));
        }
        let age = |revision: &Arc<ControllerRevision>| {
            let meta = &revision.metadata;
            let created = meta.creation_timestamp.clone();
            (revision.revision, created, meta.name.clone())
        };
        same.sort_by_key(age);
        history.old.sort_by_key(age);
        history.current = same.pop();
        history.doubles = same;
        history
    }

    /// The number of the present state: higher than that of every other.
    pub fn number(&self) -> i64 {
        let highest = self.old.last().map_or(0, |revision| revision.revision);
        match &self.current {
            Some(current) => current.revision.max(highest + 1),
            None => highest + 1,
        }
    }

    /// The old revisions beyond the limit that no pod is of, oldest first.
    pub fn surplus(
        &self,
        limit: Option<i32>,
        is_live: impl Fn(&ControllerRevision) -> bool,
    ) -> Vec<Arc<ControllerRevision>> {
        let limit = usize::try_from(limit.unwrap_or(0)).unwrap_or(0);
        let n_surplus = self.old.len().saturating_sub(limit);
        let unused = self.old.iter().filter(|revision| !is_live(revision));
        unused.take(n_surplus).cloned().collect()
    }
}

/// The patch that brings a template back.
pub fn patch_to(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    // Clients compare texts, and theirs always tell a container's resources.
    for list in ["containers", "initContainers"] {
        let containers = template["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if container.get("resources").is_none() {
                container["resources"] = json!({});
            }
        }
    }
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision brings back.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0["spec"]["template"].clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// A revision of an owner's present template, which carries its hash in a label.
pub fn revision(
    owner: &ObjectMeta,
    reference: OwnerReference,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    label: &str,
    number: i64,
) -> ControllerRevision {
    let hash = template_hash(template, collisions);
    let name = owner.name.as_deref().unwrap_or_default();
    let prefix: String = name.chars().take(PREFIX_LENGTH_MAX).collect();
    let meta = template.metadata.as_ref();
    let labels = meta.and_then(|meta| meta.labels.clone());
    let mut labels: BTreeMap<String, String> = labels.unwrap_or_default();
    labels.insert(label.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: owner.namespace.clone(),
            labels: Some(labels),
            annotations: owner.annotations.clone(),
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(patch_to(template))),
        revision: number,
    }
}

/// A label of a revision.
pub fn label<'a>(revision: &'a ControllerRevision, name: &str) -> Option<&'a str> {
    let labels = revision.metadata.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

/// The values that a label of some objects has.
pub fn values<'a>(
    metas: impl IntoIterator<Item = &'a ObjectMeta>,
    label: &str,
) -> BTreeSet<&'a str> {
    let labels = metas.into_iter().filter_map(|meta| meta.labels.as_ref());
    let values = labels.filter_map(|labels| labels.get(label));
    values.map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;

    use super::*;

    fn kept(number: i64, image: &str) -> Arc<ControllerRevision> {
        Arc::new(object(json!({
            "metadata": {"name": format!("r{number}")}, "revision": number, "data": {"image": image},
        })))
    }

    #[test]
    fn a_state_that_comes_back_gets_the_highest_number() {
        let all = [kept(3, "c"), kept(1, "a"), kept(2, "b")];
        let history = History::of(&all, &json!({"image": "a"}));
        assert_eq!(history.current.as_ref().map(|r| r.revision), Some(1));
        assert_eq!(history.number(), 4);
        let history = History::of(&all, &json!({"image": "c"}));
        assert_eq!(history.number(), 3);
        let history = History::of(&all, &json!({"image": "d"}));
        assert!(history.current.is_none());
        assert_eq!(history.number(), 4);
    }

    #[test]
    fn the_oldest_unused_revisions_go_first() {
        let all = [kept(1, "a"), kept(2, "b"), kept(3, "c"), kept(4, "d")];
        let history = History::of(&all, &json!({"image": "d"}));
        let numbers = |limit, live: i64| {
            let surplus = history.surplus(Some(limit), |r| r.revision == live);
            surplus.iter().map(|r| r.revision).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1, 0), [1, 2]);
        assert_eq!(numbers(1, 1), [2, 3]);
        assert_eq!(numbers(5, 0), [0_i64; 0]);
    }

    #[test]
    fn doubles_of_the_present_state_are_told_apart() {
        let all = [kept(1, "a"), kept(2, "a")];
        let history = History::of(&all, &json!({"image": "a"}));
        assert_eq!(history.current.map(|r| r.revision), Some(2));
        assert_eq!(history.doubles.len(), 1);
    }
}
