//! Which revision the template is, and which revisions nobody needs any more. Pure.

use std::sync::Arc;

use corral_api::k8s::api::apps::v1::{ControllerRevision, DaemonSet};
use corral_api::k8s::api::core::v1::Pod;
use corral_api::selector::LabelSelector;

use super::REVISION_HASH;
use crate::history::{self, Change, History};
use crate::ownership::{self, Claims};
use crate::pods;

/// What is to be done about revisions.
#[derive(Debug, Default)]
pub struct Steps {
    pub claims: Claims<ControllerRevision>,
    pub change: Change,
    pub delete: Vec<Arc<ControllerRevision>>,
    /// What pods of the present template have in their label.
    pub hash: String,
}

pub fn plan(
    set: &DaemonSet,
    selector: &LabelSelector,
    candidates: &[Arc<ControllerRevision>],
    pods: &Claims<Pod>,
) -> Steps {
    let spec = set.spec.clone().unwrap_or_default();
    let claims = ownership::claim(&set.metadata, selector, candidates.iter().cloned());
    let history = History::of(claims.held(), &history::patch_to(&spec.template));
    let status = set.status.as_ref();
    let new = history::revision(
        &set.metadata,
        ownership::controller_reference(set),
        &spec.template,
        status.and_then(|status| status.collision_count),
        REVISION_HASH,
        history.number(),
    );
    let current = history.current.as_deref().unwrap_or(&new);
    let hash = history::label(current, REVISION_HASH).unwrap_or_default();
    let mut steps = Steps {
        hash: hash.to_owned(),
        claims,
        ..Steps::default()
    };
    if pods::is_deleted(&set.metadata) || selector.is_everything() {
        return steps;
    }
    let live = history::values(pods.held().map(|pod| &pod.metadata), REVISION_HASH);
    let is_live = |revision: &ControllerRevision| {
        history::label(revision, REVISION_HASH).is_some_and(|hash| live.contains(hash))
    };
    steps.delete = history.surplus(spec.revision_history_limit, is_live);
    // A double whose pods are still there goes when they are gone.
    let doubles = history.doubles.iter().filter(|double| !is_live(double));
    steps.delete.extend(doubles.cloned());
    steps.change = history.change(new);
    steps
}
