//! Who owns what: an owner holds what points at it and matches its selector, lets go of what no longer matches, and
//! takes in orphans that match.

use std::sync::Arc;

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use corral_api::meta::controller_of;
use corral_api::selector::LabelSelector;
use corral_runtime::key::{Object, ObjectKey, uid_of};
use corral_runtime::{Cache, Error, Objects, burst};
use kube::Resource;
use serde::Serialize;
use serde_json::json;

/// The index by namespace of objects that nobody controls.
pub const ORPHANS: &str = "orphans";

/// Adds the index that [`candidates`] needs.
pub fn index_orphans<K: Object>(cache: &Cache<K>) {
    cache.add_index(ORPHANS, |object| {
        let meta = object.meta();
        if controller_of(meta).is_some() {
            Vec::new()
        } else {
            meta.namespace.iter().cloned().collect()
        }
    });
}

/// What an owner may have to do with: what points at it, and the orphans of its namespace.
pub fn candidates<K: Object>(cache: &Cache<K>, owner: &ObjectMeta) -> Vec<Arc<K>> {
    let mut found = cache.owned_by(uid_of(owner));
    let namespace = owner.namespace.as_deref().unwrap_or_default();
    found.extend(cache.by_index(ORPHANS, namespace));
    found
}

/// The outcome of looking at the candidates.
#[derive(Debug, Clone)]
pub struct Claims<K> {
    /// Held already, and rightly.
    pub owned: Vec<Arc<K>>,
    /// Orphans to take in.
    pub adopt: Vec<Arc<K>>,
    /// Held, but to be let go.
    pub release: Vec<Arc<K>>,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self {
            owned: Vec::new(),
            adopt: Vec::new(),
            release: Vec::new(),
        }
    }
}

impl<K: Object> Claims<K> {
    /// Everything that is the owner's once the claims are applied.
    pub fn held(&self) -> impl Iterator<Item = &Arc<K>> {
        self.owned.iter().chain(&self.adopt)
    }

    pub fn is_settled(&self) -> bool {
        self.adopt.is_empty() && self.release.is_empty()
    }
}

/// Sorts candidates. An owner that is being deleted neither takes in nor lets go.
pub fn claim<K: Object>(
    owner: &ObjectMeta,
    selector: &LabelSelector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    let mut claims = Claims::default();
    let leaving = owner.deletion_timestamp.is_some();
    for candidate in candidates {
        let meta = candidate.meta();
        let matches = selector.matches_opt(meta.labels.as_ref());
        match controller_of(meta) {
            Some(controller) if controller.uid != uid_of(owner) => {}
            Some(_) if matches || leaving => claims.owned.push(candidate),
            Some(_) => claims.release.push(candidate),
            None if matches && !leaving && meta.deletion_timestamp.is_none() => {
                claims.adopt.push(candidate)
            }
            None => {}
        }
    }
    claims
}

/// The reference that makes `owner` the controller of what carries it.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: uid_of(meta).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Writes the claims. Before anything is taken in, the owner is read live: a cache may still show an owner that is
/// gone, and its orphans would be lost to whoever comes next.
pub async fn apply_claims<O, K>(
    owners: &Objects<O>,
    owner: &O,
    objects: &Objects<K>,
    claims: &Claims<K>,
) -> Result<(), Error>
where
    O: Object<DynamicType = ()> + Serialize,
    K: Object<DynamicType = ()> + Serialize,
{
    apply_claims_with(owners, owner, objects, claims, None).await
}

/// The same; what is held carries a finalizer besides, and loses it when it is let go.
pub async fn apply_claims_with<O, K>(
    owners: &Objects<O>,
    owner: &O,
    objects: &Objects<K>,
    claims: &Claims<K>,
    finalizer: Option<&str>,
) -> Result<(), Error>
where
    O: Object<DynamicType = ()> + Serialize,
    K: Object<DynamicType = ()> + Serialize,
{
    if claims.is_settled() {
        return Ok(());
    }
    let uid = uid_of(owner.meta());
    let released = burst::each(&claims.release, |object| async move {
        let kept = references(object.meta())
            .filter(|reference| reference.uid != uid)
            .collect::<Vec<_>>();
        let mut patch = json!({"metadata": {"ownerReferences": kept}});
        if let Some(finalizer) = finalizer {
            let mut all = finalizers(object.meta());
            all.retain(|one| one != finalizer);
            patch["metadata"]["finalizers"] = all.into();
        }
        gone_is_fine(objects.patch(object, patch).await.map(drop))
    });
    Error::collect(released.await)?;
    if claims.adopt.is_empty() {
        return Ok(());
    }
    let live = owners.get_live(&ObjectKey::of(owner.meta())).await?;
    let still_there = live
        .is_some_and(|live| uid_of(live.meta()) == uid && live.meta().deletion_timestamp.is_none());
    if !still_there {
        return Err(Error::Invalid(
            "the owner is gone; nothing is adopted".into(),
        ));
    }
    let adopted = burst::each(&claims.adopt, |object| async move {
        let others = references(object.meta()).cloned();
        let all: Vec<_> = others.chain([controller_reference(owner)]).collect();
        let mut patch = json!({"metadata": {"ownerReferences": all}});
        if let Some(finalizer) = finalizer {
            let mut all = finalizers(object.meta());
            if all.iter().all(|one| one != finalizer) {
                all.push(finalizer.to_owned());
            }
            patch["metadata"]["finalizers"] = all.into();
        }
        gone_is_fine(objects.patch(object, patch).await.map(drop))
    });
    Error::collect(adopted.await).map(drop)
}

fn finalizers(meta: &ObjectMeta) -> Vec<String> {
    meta.finalizers.clone().unwrap_or_default()
}

fn references(meta: &ObjectMeta) -> impl Iterator<Item = &OwnerReference> {
    meta.owner_references.iter().flatten()
}

/// What has disappeared needs nothing done to it.
pub fn gone_is_fine(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
