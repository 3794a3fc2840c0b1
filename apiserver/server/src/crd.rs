//! CustomResourceDefinitions: kinds that clients describe are served as soon as their names are accepted, and go with their
//! objects when the description goes.
//!
//! One task looks at every definition that has changed. What its status shall say is a pure function ([`status`]); what is
//! served follows from the status in the store, so that several servers on one store agree. Reading order: [`status`], then
//! [`cleanup`] (the end of a definition).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use corral_api::status::{Status as Failure, StatusReason};
use corral_kinds::apiextensions::custom_resource_definition::{
    CLEANUP_FINALIZER, CustomResourceDefinition, Names,
};
use corral_kinds::custom::kind;
use corral_storage::Revision;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Converting};
use crate::bootstrap;
use crate::conversion::{Conversion, Conversions};
use crate::object::Stored;
use crate::registry::{Ownership, Part, Resource, WriteContext, metadata, parse_revision};

mod cleanup;
mod status;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// What is kept of a definition that was looked at: reading all of them at each change would take the longer the more there
/// are.
struct Seen {
    /// Its revision then, which may be ahead of the cache: what this task writes it knows before.
    revision: Revision,
    /// Whether it waits for a name, and one has become free.
    is_due: bool,
    group: String,
    /// The names that were accepted for it.
    accepted: Names,
    /// Whether those are all that it wants.
    has_all: bool,
}

impl Seen {
    fn of(revision: Revision, definition: &CustomResourceDefinition) -> Self {
        let status = definition.status.as_ref();
        Self {
            revision,
            is_due: false,
            group: definition.spec.group.clone(),
            accepted: status
                .map(|status| status.accepted_names.clone())
                .unwrap_or_default(),
            has_all: definition.is("NamesAccepted"),
        }
    }

    /// Of what cannot be read: it is told once.
    fn unreadable(revision: Revision) -> Self {
        Self {
            revision,
            is_due: false,
            group: String::new(),
            accepted: Names::default(),
            has_all: true,
        }
    }
}

/// Serves what definitions describe.
pub(crate) struct Definitions {
    api: Arc<Api>,
    conversions: Arc<Conversions>,
    stop: CancellationToken,
    /// What the others must know of each definition that was looked at, by its name.
    seen: HashMap<String, Seen>,
    /// Definitions that are coming to an end, each by a task of its own.
    ending: TaskTracker,
    /// Their names.
    ended: HashMap<String, tokio::task::JoinHandle<()>>,
}

fn definitions(api: &Api) -> Result<&Arc<Resource>, Failure> {
    api.resource(GROUP, PLURAL)
        .ok_or_else(|| Failure::internal("a built-in resource is missing"))
}

impl Definitions {
    /// Nothing is served yet.
    pub(crate) fn new(
        api: Arc<Api>,
        conversions: Arc<Conversions>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            api,
            conversions,
            stop,
            seen: HashMap::new(),
            ending: TaskTracker::new(),
            ended: HashMap::new(),
        }
    }

    /// Follows the definitions until told to stop.
    pub(crate) async fn run(mut self) {
        let Ok(resource) = definitions(&self.api).cloned() else {
            return;
        };
        let mut changes = resource.cacher.changes();
        loop {
            changes.borrow_and_update();
            self.pass().await;
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Looks at every definition that has changed since the last time.
    pub(crate) async fn pass(&mut self) {
        let Ok(resource) = definitions(&self.api).cloned() else {
            return;
        };
        let snapshot = resource.cacher.snapshot();
        let there = snapshot.objects.values().map(|stored| {
            let (_, name) = stored.namespace_and_name(resource.cacher.prefix());
            (name, &**stored)
        });
        let there: HashMap<&str, &Stored> = there.collect();
        let is_gone = |name: &String| !there.contains_key(name.as_str());
        let gone: Vec<String> = self.seen.keys().filter(|n| is_gone(n)).cloned().collect();
        for name in &gone {
            self.api.withdraw(name);
            self.ended.remove(name);
            self.seen.remove(name);
        }
        if !gone.is_empty() {
            let waiting = self.seen.values_mut().filter(|seen| !seen.has_all);
            waiting.for_each(|seen| seen.is_due = true);
        }
        let is_new = |(name, stored): &(&&str, &&Stored)| match self.seen.get(**name) {
            None => true,
            // An older one is what it was before this task wrote it.
            Some(seen) if seen.is_due => seen.revision <= stored.revision,
            Some(seen) => seen.revision < stored.revision,
        };
        let mut news: Vec<(&str, &Stored)> = there
            .iter()
            .filter(is_new)
            .map(|(name, stored)| (*name, *stored))
            .collect();
        // Who came first has the first choice of names.
        news.sort_by_key(|(_, stored)| stored.revision);
        let mut changed = Vec::new();
        for (name, stored) in news {
            match serde_json::from_slice::<CustomResourceDefinition>(&stored.json) {
                Ok(definition) => {
                    let seen = Seen::of(stored.revision, &definition);
                    self.seen.insert(name.to_owned(), seen);
                    changed.push((name, definition));
                }
                Err(error) => {
                    tracing::error!(key = %stored.key, %error, "a definition cannot be read");
                    let seen = Seen::unreadable(stored.revision);
                    self.seen.insert(name.to_owned(), seen);
                }
            }
        }
        for (name, definition) in changed {
            if let Err(failure) = self.settle(&resource, name, definition).await {
                tracing::warn!(definition = name, error = %failure.message, "tried again when it changes");
            }
        }
    }

    /// The names that were accepted for the others of a definition's group.
    fn taken(&self, name: &str, group: &str) -> Vec<&Names> {
        let others = self
            .seen
            .iter()
            .filter(|(other, seen)| *other != name && seen.group == group);
        others.map(|(_, seen)| &seen.accepted).collect()
    }

    async fn settle(
        &mut self,
        resource: &Resource,
        name: &str,
        mut definition: CustomResourceDefinition,
    ) -> Result<(), Failure> {
        let goes = definition.metadata.deletion_timestamp.is_some();
        let taken = self.taken(name, &definition.spec.group);
        if !goes && let Some(next) = status::next(&definition, &taken, Timestamp::now()) {
            let next = serde_json::to_value(next).map_err(Failure::internal)?;
            let Some(written) = write_status(resource, name, &definition, &next).await? else {
                // It has changed meanwhile, and is looked at again.
                return Ok(());
            };
            // Served at once, not when the change comes back from the store.
            definition = written;
            let version = definition.metadata.resource_version.as_deref();
            let revision = parse_revision(version.unwrap_or_default())?;
            let seen = Seen::of(revision, &definition);
            self.seen.insert(name.to_owned(), seen);
        }
        if definition.is("Established") && !(goes && self.api.custom(name).is_some()) {
            self.serve(name, &definition);
        }
        if !goes {
            return Ok(());
        }
        if let Some(custom) = self.api.custom(name) {
            custom.close();
        }
        let finalizers = definition.metadata.finalizers.iter().flatten();
        let mut finalizers = finalizers.map(String::as_str);
        if finalizers.any(|finalizer| finalizer == CLEANUP_FINALIZER)
            && self
                .ended
                .get(name)
                .is_none_or(tokio::task::JoinHandle::is_finished)
        {
            let work = cleanup::run(self.api.clone(), definition, self.stop.clone());
            self.ended.insert(name.to_owned(), self.ending.spawn(work));
        }
        Ok(())
    }

    /// Serves what a definition describes, unless that is what is served already.
    fn serve(&self, name: &str, definition: &CustomResourceDefinition) {
        let made_from = fingerprint(definition);
        if self
            .api
            .custom(name)
            .is_some_and(|custom| custom.made_from == made_from)
        {
            return;
        }
        let kinds = kind::described(definition);
        match Conversion::of(definition, &kinds, &self.api, &self.conversions) {
            Ok(conversion) => {
                let conversion = conversion.map(|conversion| Converting {
                    conversion,
                    uniform: is_uniform(definition),
                });
                self.api
                    .serve(name, made_from, kinds, conversion, &self.stop);
            }
            Err(error) => {
                tracing::error!(definition = name, %error, "its conversion cannot be read");
                return;
            }
        }
        tracing::info!(definition = name, "served");
    }
}

/// Whether the store keeps all objects in one version.
fn is_uniform(definition: &CustomResourceDefinition) -> bool {
    let mut versions = definition.spec.versions.iter();
    let storage = versions.find(|version| version.storage);
    let stored = definition.status.as_ref().map(|s| &s.stored_versions);
    storage.is_some_and(|storage| {
        stored.is_some_and(|stored| stored.iter().all(|name| *name == storage.name))
    })
}

/// What a resource is made from: another one follows from another of these.
fn fingerprint(definition: &CustomResourceDefinition) -> String {
    let meta = &definition.metadata;
    let names = definition
        .status
        .as_ref()
        .map(|status| &status.accepted_names);
    let names = serde_json::to_string(&names).unwrap_or_default();
    let uniform = kind::is_converted_by_webhook(definition) && is_uniform(definition);
    format!(
        "{} {} {names} {uniform}",
        meta.uid.as_deref().unwrap_or_default(),
        meta.generation.unwrap_or_default()
    )
}

/// Writes a status that follows from this very state of a definition, and answers what it is then; `None` for one that has
/// changed meanwhile.
async fn write_status(
    resource: &Resource,
    name: &str,
    definition: &CustomResourceDefinition,
    status: &Value,
) -> Result<Option<CustomResourceDefinition>, Failure> {
    let seen = definition
        .metadata
        .resource_version
        .clone()
        .unwrap_or_default();
    let change = |live: &Value| {
        let mut next = live.clone();
        next["status"] = status.clone();
        next["metadata"]["resourceVersion"] = seen.clone().into();
        Ok((next, Ownership::Update))
    };
    let cx = context();
    let written = resource.update(&cx, name, Part::Status, "status", &change);
    match written.await {
        Err(failure)
            if failure.is(StatusReason::Conflict) || failure.is(StatusReason::NotFound) =>
        {
            Ok(None)
        }
        other => serde_json::from_slice(&other?.json)
            .map(Some)
            .map_err(Failure::internal),
    }
}

/// What definitions are written with: their status is the server's own in Kubernetes, too.
fn context() -> WriteContext {
    WriteContext {
        manager: "kube-apiserver".to_owned(),
        ..bootstrap::context("")
    }
}

/// Changes the whole of a definition, whatever its state.
async fn write(
    api: &Api,
    name: &str,
    edit: &(dyn Fn(&mut Value) + Send + Sync),
) -> Result<(), Failure> {
    let change = |live: &Value| {
        let mut next = live.clone();
        edit(&mut next);
        metadata::drop_live_version(&mut next, live);
        Ok((next, Ownership::Update))
    };
    let cx = context();
    let resource = definitions(api)?;
    let written = resource.update(&cx, name, Part::Whole, "status", &change);
    match written.await {
        Err(failure) if failure.is(StatusReason::NotFound) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether new objects of a resource are refused, because its definition is coming to an end.
pub(crate) fn is_closed(resource: &Resource) -> bool {
    resource.closed.load(Ordering::Acquire)
}
