//! Garbage collector: what is owned goes when its last owner has gone, whatever the kinds.
//!
//! The graph of all objects is kept from metadata watches. A change of the graph wakes the objects that it concerns;
//! what is then done to one is decided by [`decide`] from the object and the state of its owners, and an owner that is
//! not in the graph is looked for on the server before it counts as absent.

mod decide;
mod graph;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use corral_runtime::controller::handler_fn;
use corral_runtime::factory::{Metadata, MetadataChange};
use corral_runtime::key::uid_of;
use corral_runtime::objects::guarded;
use corral_runtime::{Action, CacheFactory, Controller, Error, ObjectKey, WorkQueue};
use kube::core::params::{
    DeleteParams, GetParams, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::{ApiResource, DynamicObject, Request};
use kube::{Client, Resource};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::context::Context;
use crate::discovery;
use decide::{Decision, OwnerState, decide};
use graph::{Graph, Identity};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// How often the server is asked for new kinds.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(60);
/// How often at most, when owners are met whose kind is not known: it may never be.
const DISCOVERY_PAUSE: Duration = Duration::from_secs(5);
/// How soon to look again while the watches are not complete yet.
const NOT_SYNCED_RETRY: Duration = Duration::from_millis(200);
/// Owners known to be absent, so that their many dependents cost one request.
const ABSENT_MAX: usize = 500;
/// Kinds whose objects are too many and own nothing.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

/// Owners that the server has said are gone, oldest first.
#[derive(Default)]
struct Absent {
    uids: HashSet<String>,
    order: VecDeque<String>,
}

impl Absent {
    fn add(&mut self, uid: &str) {
        if self.uids.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
        }
        if self.order.len() > ABSENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

struct Collector {
    client: Client,
    caches: CacheFactory,
    queue: Arc<WorkQueue<ObjectKey>>,
    /// Guards the graph; listeners and workers hold it for single operations.
    graph: Mutex<Graph>,
    /// Guards the kinds being watched, by (apiVersion, kind).
    kinds: Mutex<HashMap<(String, String), discovery::Kind>>,
    /// Told when an owner is met whose kind is not among them.
    unknown: Notify,
    /// Guards the memory of absent owners.
    absent: Mutex<Absent>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let controller = Controller::new("garbagecollector");
    let collector = Arc::new(Collector {
        client: (context.clients)("generic-garbage-collector"),
        caches: context.caches.clone(),
        queue: controller.queue(),
        graph: Mutex::default(),
        kinds: Mutex::default(),
        unknown: Notify::new(),
        absent: Mutex::default(),
    });
    let watching = Arc::clone(&collector);
    context
        .tasks
        .spawn("garbagecollector discovery", async move {
            loop {
                if let Err(error) = watching.watch_kinds().await {
                    tracing::debug!(%error, "discovery failed");
                }
                tokio::time::sleep(DISCOVERY_PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep(DISCOVERY_PERIOD - DISCOVERY_PAUSE) => {}
                    () = watching.unknown.notified() => {}
                }
            }
        });
    let handler = handler_fn(move |key: ObjectKey| {
        let collector = Arc::clone(&collector);
        async move { collector.work(&key.name).await }
    });
    controller.run(handler, 8, &context.metrics, &context.tasks);
}

impl Collector {
    /// Begins to watch kinds that are new, and ends with those that are gone.
    async fn watch_kinds(self: &Arc<Self>) -> Result<(), Error> {
        let discovered = discovery::discover(&self.client).await?;
        let complete = discovered.failures.is_empty();
        let mut found = HashMap::new();
        for kind in discovered.kinds {
            let resource = &kind.resource;
            let ignored = IGNORED.contains(&(resource.group.as_str(), resource.plural.as_str()));
            if !ignored
                && ["list", "watch", "delete"]
                    .iter()
                    .all(|verb| kind.can(verb))
            {
                found.insert((resource.api_version.clone(), resource.kind.clone()), kind);
            }
        }
        let (new, gone) = {
            let mut kinds = self
                .kinds
                .lock()
                .expect("no panic while the kinds are held");
            let new: Vec<_> = found
                .iter()
                .filter(|(key, _)| !kinds.contains_key(*key))
                .map(|(_, kind)| kind.clone())
                .collect();
            let mut gone = Vec::new();
            // A group that could not be asked just now is not gone.
            if complete {
                gone.extend(
                    kinds
                        .iter()
                        .filter(|(key, _)| !found.contains_key(*key))
                        .map(|(_, kind)| kind.clone()),
                );
                kinds.retain(|key, _| found.contains_key(key));
            }
            kinds.extend(found);
            (new, gone)
        };
        for kind in gone {
            self.caches.forget_metadata(&kind.resource);
        }
        for kind in new {
            self.listen(&kind.resource);
        }
        Ok(())
    }

    fn listen(self: &Arc<Self>, resource: &ApiResource) {
        // The graph outlives no collector: a weak reference keeps the caches from keeping it alive.
        let (collector, of) = (Arc::downgrade(self), Arc::new(resource.clone()));
        let listener = move |change: MetadataChange<'_>| {
            let Some(collector) = collector.upgrade() else {
                return;
            };
            let mut graph = collector
                .graph
                .lock()
                .expect("no panic while the graph is held");
            let wake = match change {
                MetadataChange::Applied(meta) => graph.apply(&of, meta),
                MetadataChange::Deleted(meta) => graph.remove(uid_of(meta)),
            };
            drop(graph);
            wake.into_iter()
                .for_each(|uid| collector.queue.add(ObjectKey::cluster(uid)));
        };
        self.caches.listen_metadata(resource, Arc::new(listener));
    }

    fn is_synced(&self) -> bool {
        let kinds = self
            .kinds
            .lock()
            .expect("no panic while the kinds are held");
        !kinds.is_empty()
            && kinds
                .values()
                .all(|kind| self.caches.is_metadata_synced(&kind.resource))
    }

    async fn work(&self, uid: &str) -> Result<Action, Error> {
        if !self.is_synced() {
            return Ok(Action::After(NOT_SYNCED_RETRY));
        }
        let identity = self
            .graph
            .lock()
            .expect("no panic while the graph is held")
            .identity(uid);
        let Some(identity) = identity else {
            return Ok(Action::Done);
        };
        let live = self
            .get(&identity.resource, &identity.key)
            .await?
            .filter(|live| uid_of(&live.metadata) == uid);
        let Some(live) = live else {
            // The watch will say so, too; until then the graph may lag.
            let wake = self
                .graph
                .lock()
                .expect("no panic while the graph is held")
                .remove(uid);
            wake.into_iter()
                .for_each(|uid| self.queue.add(ObjectKey::cluster(uid)));
            return Ok(Action::Done);
        };
        let mut owners = Vec::new();
        for owner in live.metadata.owner_references.iter().flatten() {
            owners.push((owner.clone(), self.state_of(&identity, owner).await?));
        }
        let dependents = self
            .graph
            .lock()
            .expect("no panic while the graph is held")
            .dependents(uid);
        match decide(&live.metadata, &owners, &dependents) {
            Decision::Nothing => {}
            Decision::Wake(uids) => uids
                .into_iter()
                .for_each(|uid| self.queue.add(ObjectKey::cluster(uid))),
            Decision::Delete(policy) => self.delete(&identity, &live, policy).await?,
            Decision::KeepOwners(kept) => {
                self.patch(
                    &identity,
                    &live,
                    json!({"metadata": {"ownerReferences": kept}}),
                )
                .await?;
            }
            Decision::Unblock(references) => {
                self.patch(
                    &identity,
                    &live,
                    json!({"metadata": {"ownerReferences": references}}),
                )
                .await?;
                self.queue.add(ObjectKey::cluster(uid));
            }
            Decision::DropFinalizer(finalizer) => {
                self.drop_finalizer(&identity, &live, finalizer).await?
            }
            Decision::Orphan(dependents) => {
                self.orphan(uid, dependents).await?;
                self.drop_finalizer(&identity, &live, ORPHAN).await?;
            }
        }
        Ok(Action::Done)
    }

    /// Whether an owner is there; the graph's word counts if it knows the owner, the server's otherwise.
    async fn state_of(
        &self,
        dependent: &Identity,
        owner: &OwnerReference,
    ) -> Result<OwnerState, Error> {
        {
            let graph = self.graph.lock().expect("no panic while the graph is held");
            if let Some(state) = graph.owner_state(&owner.uid, &dependent.key.namespace) {
                return Ok(state);
            }
        }
        if self
            .absent
            .lock()
            .expect("no panic while held")
            .uids
            .contains(&owner.uid)
        {
            return Ok(OwnerState::Absent);
        }
        let kind = {
            let kinds = self
                .kinds
                .lock()
                .expect("no panic while the kinds are held");
            kinds
                .get(&(owner.api_version.clone(), owner.kind.clone()))
                .cloned()
        };
        let Some(kind) = kind else {
            self.unknown.notify_one();
            let text = format!(
                "owner kind {} {} is not known",
                owner.api_version, owner.kind
            );
            return Err(Error::Invalid(text));
        };
        let namespace = if kind.namespaced {
            dependent.key.namespace.clone()
        } else {
            String::new()
        };
        if kind.namespaced && namespace.is_empty() {
            // A cluster-scoped object cannot have an owner in a namespace; its deletion could be anybody's mistake.
            return Ok(OwnerState::Solid);
        }
        let live = self
            .get(&kind.resource, &ObjectKey::new(namespace, &owner.name))
            .await?;
        match live.filter(|live| uid_of(&live.metadata) == owner.uid) {
            Some(live) => Ok(decide::state_of_present(&live.metadata)),
            None => {
                self.absent
                    .lock()
                    .expect("no panic while held")
                    .add(&owner.uid);
                Ok(OwnerState::Absent)
            }
        }
    }

    async fn get(
        &self,
        resource: &ApiResource,
        key: &ObjectKey,
    ) -> Result<Option<Metadata>, Error> {
        let path = DynamicObject::url_path(resource, key.scope());
        let request = Request::new(path).get_metadata(&key.name, &GetParams::default())?;
        match self
            .client
            .request::<Metadata>(request)
            .await
            .map_err(Error::from)
        {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete(
        &self,
        of: &Identity,
        live: &Metadata,
        policy: PropagationPolicy,
    ) -> Result<(), Error> {
        let preconditions = Preconditions {
            uid: live.metadata.uid.clone(),
            resource_version: live.metadata.resource_version.clone(),
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let path = DynamicObject::url_path(&of.resource, of.key.scope());
        let request = Request::new(path).delete(&of.key.name, &params)?;
        let outcome = self
            .client
            .request::<Value>(request)
            .await
            .map(drop)
            .map_err(Error::from);
        crate::ownership::gone_is_fine(outcome)
    }

    async fn patch(&self, of: &Identity, live: &Metadata, patch: Value) -> Result<(), Error> {
        let path = DynamicObject::url_path(&of.resource, of.key.scope());
        let patch = Patch::Merge(guarded(&live.metadata, patch));
        let request = Request::new(path).patch(&of.key.name, &PatchParams::default(), &patch)?;
        let outcome = self
            .client
            .request::<Value>(request)
            .await
            .map(drop)
            .map_err(Error::from);
        crate::ownership::gone_is_fine(outcome)
    }

    async fn drop_finalizer(
        &self,
        of: &Identity,
        live: &Metadata,
        finalizer: &str,
    ) -> Result<(), Error> {
        let kept: Vec<_> = live
            .metadata
            .finalizers
            .iter()
            .flatten()
            .filter(|f| *f != finalizer)
            .collect();
        self.patch(of, live, json!({"metadata": {"finalizers": kept}}))
            .await
    }

    /// Takes an owner's reference out of all its dependents.
    async fn orphan(&self, owner: &str, dependents: Vec<String>) -> Result<(), Error> {
        for uid in dependents {
            let identity = self
                .graph
                .lock()
                .expect("no panic while the graph is held")
                .identity(&uid);
            let Some(identity) = identity else { continue };
            let Some(live) = self.get(&identity.resource, &identity.key).await? else {
                continue;
            };
            let kept: Vec<_> = live
                .metadata
                .owner_references
                .iter()
                .flatten()
                .filter(|o| o.uid != owner)
                .collect();
            self.patch(
                &identity,
                &live,
                json!({"metadata": {"ownerReferences": kept}}),
            )
            .await?;
        }
        Ok(())
    }
}
