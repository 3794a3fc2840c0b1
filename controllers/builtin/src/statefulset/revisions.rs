//! The revision that pods have and the one that they shall have. Pure.

use std::sync::Arc;

use corral_api::k8s::api::apps::v1::{ControllerRevision, StatefulSet};
use corral_api::k8s::api::core::v1::{Pod, PodTemplateSpec};
use corral_api::selector::LabelSelector;

use super::identity::REVISION;
use crate::history::{self, Change, History};
use crate::ownership::{self, Claims};
use crate::pods;

/// The hash in a revision's label.
const HASH: &str = "controller.kubernetes.io/hash";

/// What is to be done about revisions, and which ones count.
#[derive(Debug, Default)]
pub struct Revisions {
    pub claims: Claims<ControllerRevision>,
    pub change: Change,
    pub delete: Vec<Arc<ControllerRevision>>,
    /// The name of the revision of the present template.
    pub update: String,
    /// The name of the one before, as long as not all pods have the present one.
    pub current: String,
    /// The template of the one before.
    pub kept: Option<PodTemplateSpec>,
}

pub fn plan(
    set: &StatefulSet,
    selector: &LabelSelector,
    candidates: &[Arc<ControllerRevision>],
    pods: &Claims<Pod>,
) -> Revisions {
    let spec = set.spec.clone().unwrap_or_default();
    let claims = ownership::claim(&set.metadata, selector, candidates.iter().cloned());
    let history = History::of(claims.held(), &history::patch_to(&spec.template));
    let status = set.status.clone().unwrap_or_default();
    let new = history::revision(
        &set.metadata,
        ownership::controller_reference(set),
        &spec.template,
        status.collision_count.filter(|count| *count > 0),
        HASH,
        history.number(),
    );
    let name = |revision: &ControllerRevision| revision.metadata.name.clone().unwrap_or_default();
    let update = name(history.current.as_deref().unwrap_or(&new));
    let before = status.current_revision.unwrap_or_default();
    let before = claims.held().find(|revision| name(revision) == before);
    let before = before.cloned();
    let mut revisions = Revisions {
        current: before.as_deref().map_or_else(|| update.clone(), name),
        kept: before.and_then(|revision| history::template(&revision)),
        update,
        claims,
        ..Revisions::default()
    };
    if pods::is_deleted(&set.metadata) || selector.is_everything() {
        return revisions;
    }
    let live = history::values(pods.held().map(|pod| &pod.metadata), REVISION);
    let is_live = |revision: &ControllerRevision| {
        let name = name(revision);
        name == revisions.current || live.contains(name.as_str())
    };
    let limit = spec.revision_history_limit.unwrap_or(0);
    let unused: Vec<_> = history.old.iter().filter(|old| !is_live(old)).collect();
    // Revisions in use do not count, and a negative limit keeps all.
    if let Ok(limit) = usize::try_from(limit) {
        let n_surplus = unused.len().saturating_sub(limit);
        revisions.delete = unused.into_iter().take(n_surplus).cloned().collect();
    }
    revisions.change = history.change(new);
    revisions
}
