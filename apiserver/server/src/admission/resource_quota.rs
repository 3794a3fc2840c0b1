//! ResourceQuotas: what an object uses is charged in the transaction that writes it, and given back in the one that
//! removes it or ends its pod.
//!
//! The quota is read from the store and carried into the transaction at the revision that it was read at. Of two writes
//! that race for the last of something, one finds the quota changed and is tried again. Writes of one namespace wait
//! for each other here, because their transactions would only fail; other servers on the same store need no lock.
//!
//! How much there is already, the quota controller counts; a quota that it has not counted yet limits nothing, as in
//! Kubernetes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use corral_api::amounts::{self, Amounts};
use corral_api::k8s::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use corral_api::quantity::Quantity;
use corral_api::quota::{self, Counted};
use corral_api::status::Status;
use corral_kinds::{AnyKind, Object};
use corral_storage::{Key, Operation, Revision};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::{Action, Attributes};
use crate::api::Api;
use crate::object::{Stored, canonical};

/// Keeps other writes of the namespace from changing its quotas until this one is done.
pub type Turn = OwnedMutexGuard<()>;

/// Who is charging, by namespace.
#[derive(Default)]
pub(super) struct Turns {
    /// Guards the list of locks; each is held from the reading of quotas to the end of the transaction.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    async fn wait(&self, namespace: &str) -> Turn {
        let lock = {
            let mut locks = self.locks.lock().expect("no panic under the lock");
            // Nobody waits for, or holds, a lock that only the list knows.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(namespace.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}

/// A quota as it is in the store.
struct Live {
    name: String,
    key: Key,
    revision: Revision,
    json: Value,
    quota: ResourceQuota,
}

impl Live {
    fn hard(
        &self,
    ) -> Option<&BTreeMap<String, corral_api::k8s::apimachinery::pkg::api::resource::Quantity>>
    {
        self.quota
            .status
            .as_ref()
            .and_then(|status| status.hard.as_ref())
    }

    fn used(&self) -> Amounts {
        let status = self.quota.status.as_ref();
        amounts::read(status.and_then(|status| status.used.as_ref()))
    }

    fn used_by(&self, kind: &dyn AnyKind, object: Option<&Object>, now: Timestamp) -> Amounts {
        let hard = self.hard().into_iter().flat_map(BTreeMap::keys);
        used_by(&self.quota, hard, kind, object, now)
    }

    /// The write of what is used from now on.
    fn charge(mut self, used: Amounts) -> Operation {
        self.json["status"]["used"] = serde_json::json!(amounts::write(&used));
        Operation::Update {
            key: self.key,
            value: canonical(self.json),
            expected: self.revision,
        }
    }
}

/// What an object uses of what a quota limits.
fn used_by<'a>(
    quota: &ResourceQuota,
    hard: impl Iterator<Item = &'a String>,
    kind: &dyn AnyKind,
    object: Option<&Object>,
    now: Timestamp,
) -> Amounts {
    match (object, &quota.spec) {
        (Some(object), Some(spec)) => {
            quota::used_of(spec, hard, resource(kind), counted(object), now)
        }
        _ => Amounts::new(),
    }
}

fn resource(kind: &dyn AnyKind) -> (&str, &str) {
    (kind.names().group, kind.names().plural)
}

fn counted(object: &Object) -> Counted<'_> {
    if let Some(pod) = object.get::<Pod>() {
        Counted::Pod(pod)
    } else if let Some(service) = object.get::<Service>() {
        Counted::Service(service)
    } else if let Some(claim) = object.get::<PersistentVolumeClaim>() {
        Counted::Claim(claim)
    } else {
        Counted::Other
    }
}

/// The quotas of a namespace that limit a kind, as the cache has them. A quota does not count itself: it is not there
/// yet, or goes in the same transaction.
fn limiting(api: &Api, kind: &dyn AnyKind, namespace: &str, name: &str) -> Vec<ResourceQuota> {
    if !kind.names().namespaced || namespace.is_empty() {
        return Vec::new();
    }
    let resource_of_quotas = api.core("resourcequotas");
    let snapshot = resource_of_quotas.cacher.snapshot();
    let prefix = resource_of_quotas.key(namespace, "");
    let read = |stored: &Arc<Stored>| serde_json::from_slice(&stored.json).ok();
    let is_quota = kind.names().kind == "ResourceQuota";
    snapshot
        .below(&prefix)
        .filter_map(read)
        .filter(|quota: &ResourceQuota| !is_quota || name_of(quota) != name)
        .filter(|quota| named(quota).any(|n| quota::resource_of(n) == Some(resource(kind))))
        .collect()
}

fn name_of(quota: &ResourceQuota) -> &str {
    quota.metadata.name.as_deref().unwrap_or_default()
}

/// Everything that a quota limits, whether it has been counted yet or not.
fn named(quota: &ResourceQuota) -> impl Iterator<Item = &String> {
    let spec = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota
        .status
        .as_ref()
        .and_then(|status| status.hard.as_ref());
    spec.into_iter().chain(status).flat_map(BTreeMap::keys)
}

async fn live(api: &Api, namespace: &str, name: &str) -> Result<Option<Live>, Status> {
    let quotas = api.core("resourcequotas");
    let key = quotas.key(namespace, name);
    let Some(entry) = quotas.fetch(&key).await? else {
        return Ok(None);
    };
    let json: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    let quota = serde_json::from_value(json.clone()).map_err(Status::internal)?;
    Ok(Some(Live {
        name: name.to_owned(),
        key,
        revision: entry.revision,
        json,
        quota,
    }))
}

/// Charges a write to the quotas of its namespace.
///
/// # Errors
/// 403 when there is not enough left, or when a pod does not say how much it needs.
pub(super) async fn charge(
    api: &Api,
    turns: &Turns,
    attributes: &mut Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let kind = attributes.kind;
    let varies = !matches!(counted(object), Counted::Other);
    if attributes.action == Action::Update && !attributes.removes && !varies {
        return Ok(());
    }
    let namespace = attributes.cx.namespace.clone();
    let name = kind.meta(object).name.clone().unwrap_or_default();
    let quotas = limiting(api, kind, &namespace, &name);
    let now = attributes.cx.now;
    let after = Some(object).filter(|_| !attributes.removes);
    // Most writes of a pod change nothing of what it uses; they need not wait.
    let is_moot = |quota: &ResourceQuota| {
        let used = |object| used_by(quota, named(quota), kind, object, now);
        used(old) == used(after)
    };
    let enforced = is_enforced(attributes, object, old);
    if !enforced && quotas.iter().all(is_moot) || quotas.is_empty() {
        return Ok(());
    }
    attributes.turn = Some(turns.wait(&namespace).await);
    for name in quotas.iter().map(name_of) {
        let Some(quota) = live(api, &namespace, name).await? else {
            continue;
        };
        if enforced {
            complete(attributes, &quota, object)?;
        }
        let before = quota.used_by(kind, old, now);
        let used = quota.used();
        let delta = difference(&quota.used_by(kind, after, now), &before);
        if attributes.subresource != "status" {
            within(attributes, &quota, object, &used, &delta)?;
        }
        let charged = applied(&used, &delta);
        if charged != used {
            attributes.claims.push(quota.charge(charged));
        }
    }
    Ok(())
}

/// Gives back what a removed object used.
///
/// # Errors
/// When the store does not answer.
pub(super) async fn discharge(
    api: &Api,
    turns: &Turns,
    kind: &dyn AnyKind,
    (namespace, name): (&str, &str),
    json: &[u8],
    now: Timestamp,
) -> Result<(Vec<Operation>, Option<Turn>), Status> {
    let quotas = limiting(api, kind, namespace, name);
    if quotas.is_empty() {
        return Ok((Vec::new(), None));
    }
    let turn = turns.wait(namespace).await;
    let object = kind.decode_slice(json).map_err(Status::internal)?;
    let mut operations = Vec::new();
    for name in quotas.iter().map(name_of) {
        let Some(quota) = live(api, namespace, name).await? else {
            continue;
        };
        let used = quota.used();
        let before = quota.used_by(kind, Some(&object), now);
        let left = applied(&used, &difference(&Amounts::new(), &before));
        if left != used {
            operations.push(quota.charge(left));
        }
    }
    Ok((operations, Some(turn)))
}

/// Whether Kubernetes would look at the write at all. A pod's status, for one, is charged but never refused.
fn is_enforced(attributes: &Attributes<'_>, object: &Object, old: Option<&Object>) -> bool {
    let deadline = |object: &Object| {
        let spec = object.get::<Pod>().and_then(|pod| pod.spec.as_ref());
        spec.and_then(|spec| spec.active_deadline_seconds).is_some()
    };
    match (attributes.action, attributes.subresource) {
        _ if attributes.removes => false,
        (Action::Create, "") => true,
        (Action::Update, "") if object.get::<Pod>().is_some() => {
            old.is_some_and(|old| deadline(old) != deadline(object))
        }
        (Action::Update, "") => true,
        (Action::Update, "resize") => true,
        _ => false,
    }
}

/// What a quota limits has been said by the object and counted by the controller.
fn complete(attributes: &Attributes<'_>, quota: &Live, object: &Object) -> Result<(), Status> {
    let Some(spec) = &quota.quota.spec else {
        return Ok(());
    };
    let limited: Vec<&String> = quota
        .hard()
        .into_iter()
        .flat_map(BTreeMap::keys)
        .filter(|name| quota::resource_of(name) == Some(resource(attributes.kind)))
        .collect();
    if limited.is_empty() || !quota::is_in_scopes(spec, counted(object)) {
        return Ok(());
    }
    let refuse = |why: String| {
        let name = attributes
            .kind
            .meta(object)
            .name
            .clone()
            .unwrap_or_default();
        Err(attributes.forbidden(&name, &why))
    };
    let pod = object.get::<Pod>();
    if let Some(unsaid) = pod.and_then(|pod| quota::unsaid(pod, limited.iter().copied())) {
        return refuse(format!("failed quota: {}: {unsaid}", quota.name));
    }
    let used = quota.used();
    if limited.iter().any(|name| !used.contains_key(*name)) {
        let names: Vec<&str> = limited.iter().map(|name| name.as_str()).collect();
        return refuse(format!(
            "status unknown for quota: {}, resources: {}",
            quota.name,
            names.join(",")
        ));
    }
    Ok(())
}

/// Nothing that a write takes more of goes beyond the quota.
fn within(
    attributes: &Attributes<'_>,
    quota: &Live,
    object: &Object,
    used: &Amounts,
    delta: &Amounts,
) -> Result<(), Status> {
    let hard = amounts::read(quota.hard());
    let taken = delta
        .iter()
        .filter(|(_, more)| **more > Quantity::default());
    let exceeded: Vec<&String> = taken
        .filter(|(name, more)| {
            let used = used.get(*name).copied().unwrap_or_default();
            hard.get(*name).is_some_and(|hard| used + **more > *hard)
        })
        .map(|(name, _)| name)
        .collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let of = |all: &Amounts| {
        let some = exceeded
            .iter()
            .filter_map(|name| Some(((*name).clone(), *all.get(*name)?)));
        amounts::words(&some.collect())
    };
    let why = format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name,
        of(delta),
        of(used),
        of(&hard)
    );
    let name = attributes
        .kind
        .meta(object)
        .name
        .clone()
        .unwrap_or_default();
    Err(attributes.forbidden(&name, &why))
}

fn difference(after: &Amounts, before: &Amounts) -> Amounts {
    let amount = |of: &Amounts, name: &String| of.get(name).copied().unwrap_or_default();
    let names = after.keys().chain(before.keys());
    names
        .map(|name| (name.clone(), amount(after, name) - amount(before, name)))
        .filter(|(_, amount)| !amount.is_zero())
        .collect()
}

/// What is used after a change. What has not been counted yet stays so, and nothing is used less than not at all.
fn applied(used: &Amounts, delta: &Amounts) -> Amounts {
    let of = |name: &String, used: &Quantity| match delta.get(name) {
        Some(delta) => (*used + *delta).max(Quantity::default()),
        None => *used,
    };
    used.iter()
        .map(|(name, used)| (name.clone(), of(name, used)))
        .collect()
}
