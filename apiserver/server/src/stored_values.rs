//! A store over another one whose values are our own form of objects, whoever wrote them.
//!
//! kube-apiserver stores Kubernetes' own kinds as protobuf (those of its extensions as JSON), and custom resources as JSON
//! in an order of its own. Here all become the canonical JSON that everything above stands on, so that a server takes a cluster's etcd over as it
//! is. What is written stays JSON, which kube-apiserver reads as well.

mod definition;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use corral_kinds::AnyKind;
use corral_kinds::protobuf::{self, MAGIC};
use corral_kinds::schema::Node;
use corral_storage::{
    Entry, Error, Key, ListOptions, Page, Revision, Storage, Transaction, Version, WatchEvent,
    WatchStream,
};
use futures::StreamExt;
use serde_json::Value;

use crate::object::canonical;

/// A store whose values are canonical JSON.
pub struct StoredValues(Arc<dyn Storage>);

impl StoredValues {
    /// A store over `inner`.
    pub fn over(inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(Self(inner))
    }
}

/// A kind with its schema, which is built once.
struct Known {
    kind: &'static dyn AnyKind,
    schema: Node,
}

/// Kinds by apiVersion and name.
type Kinds = HashMap<(String, String), Arc<Known>>;

/// The kinds that were met in other forms. There are no more than kinds.
fn known(api_version: &str, kind: &str) -> Option<Arc<Known>> {
    static KNOWN: LazyLock<Mutex<Kinds>> = LazyLock::new(Mutex::default);
    let name = (api_version.to_owned(), kind.to_owned());
    if let Some(known) = KNOWN.lock().expect("no panic under the lock").get(&name) {
        return Some(known.clone());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind =
        corral_kinds::all::kind(group, version, kind).or_else(|| stable(group, version, kind))?;
    let schema = kind.schema();
    let known = Arc::new(Known { kind, schema });
    let mut all = KNOWN.lock().expect("no panic under the lock");
    all.insert(name, known.clone());
    Some(known)
}

/// The kind that has come of one in a version before its first stable one. kube-apiserver stores kinds so for some
/// releases after they are stable; their fields are the same, and so are the numbers of those.
fn stable(group: &str, version: &str, kind: &str) -> Option<&'static dyn AnyKind> {
    if !version.contains("alpha") && !version.contains("beta") {
        return None;
    }
    let mut all = corral_kinds::all::RESOURCES.iter().copied();
    all.find(|of| of.names().group == group && of.names().kind == kind)
}

/// The canonical JSON of a value; the value itself when it is that, or no object.
fn own(value: Bytes) -> Result<Bytes, String> {
    if value.starts_with(MAGIC) {
        return of_message(&value);
    }
    if !value.starts_with(b"{") || is_canonical(&value) {
        return Ok(value);
    }
    let Ok(object) = serde_json::from_slice::<Value>(&value) else {
        return Ok(value);
    };
    if !object["metadata"].is_object() {
        return Ok(value);
    }
    let object = match object["apiVersion"] == definition::STORED {
        true => definition::served(object),
        false => object,
    };
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    match known(&text("apiVersion"), &text("kind")) {
        Some(known) => known.complete(object),
        None => Ok(canonical(object)),
    }
}

fn of_message(value: &[u8]) -> Result<Bytes, String> {
    let envelope = protobuf::envelope(value).map_err(|error| error.to_string())?;
    let (api_version, kind) = (envelope.api_version, envelope.kind);
    let known = known(&api_version, &kind)
        .ok_or_else(|| format!("no kind {kind:?} is registered for version {api_version:?}"))?;
    let object = protobuf::decode(&known.schema, envelope.raw);
    let mut object = object.map_err(|error| error.to_string())?;
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    known.complete(object)
}

impl Known {
    /// An object as it is read in Kubernetes: without what says nothing, and with the defaults of the day.
    fn complete(&self, mut object: Value) -> Result<Bytes, String> {
        object["apiVersion"] = self.kind.names().api_version().into();
        self.schema.check(&mut object).map_err(|error| error.0)?;
        // Types hold the owners of fields in another order.
        let managed = object["metadata"].get("managedFields").cloned();
        let mut typed = self
            .kind
            .decode(object)
            .map_err(|error| error.to_string())?;
        self.kind.default(&mut typed);
        let mut object = self
            .kind
            .encode(&typed)
            .map_err(|error| error.to_string())?;
        self.schema.complete(&mut object);
        match (object["metadata"].as_object_mut(), managed) {
            (Some(metadata), Some(managed)) => {
                drop(metadata.insert("managedFields".into(), managed))
            }
            (Some(metadata), None) => drop(metadata.remove("managedFields")),
            (None, _) => {}
        }
        Ok(canonical(object))
    }
}

/// Whether JSON begins as ours does, with type and metadata, and ends where it ends.
fn is_canonical(value: &[u8]) -> bool {
    fn text(rest: &[u8]) -> Option<&[u8]> {
        // Names of types hold nothing that JSON escapes.
        let end = rest.iter().position(|byte| *byte == b'"')?;
        Some(&rest[end + 1..])
    }
    let begins = || {
        let rest = text(value.strip_prefix(b"{\"apiVersion\":\"")?)?;
        let rest = text(rest.strip_prefix(b",\"kind\":\"")?)?;
        rest.strip_prefix(b",\"metadata\":{")
    };
    value.ends_with(b"}") && begins().is_some()
}

fn entry(mut entry: Entry) -> Result<Entry, Error> {
    match own(entry.value) {
        Ok(value) => {
            entry.value = value;
            Ok(entry)
        }
        Err(why) => Err(undecodable(entry.key, entry.revision, &why)),
    }
}

fn undecodable(key: Key, revision: Revision, why: &str) -> Error {
    Error::Unreadable {
        key,
        why: format!("object not decodable revision={revision}: {why}"),
        revision,
    }
}

fn event(event: WatchEvent) -> Result<WatchEvent, Error> {
    Ok(match event {
        WatchEvent::Put {
            entry: new,
            previous,
        } => WatchEvent::Put {
            entry: entry(new)?,
            previous: previous.map(entry).transpose()?,
        },
        WatchEvent::Delete {
            key,
            revision,
            previous,
        } => WatchEvent::Delete {
            key,
            revision,
            previous: entry(previous)?,
        },
        WatchEvent::Progress(revision) => WatchEvent::Progress(revision),
    })
}

#[async_trait]
impl Storage for StoredValues {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.0.get(key).await?.map(entry).transpose()
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error> {
        let mut page = self.0.list(prefix, options).await?;
        let entries = page.entries.into_iter().map(entry);
        page.entries = entries.collect::<Result<_, _>>()?;
        Ok(page)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        self.0.commit(transaction).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let events = Some(self.0.watch(prefix, from).await?);
        let own = futures::stream::unfold(events, |events| async move {
            let mut events = events?;
            let event = events.next().await?.and_then(event);
            // After an error the stream ends, whosever it was.
            let rest = event.is_ok().then_some(events);
            Some((event, rest))
        });
        Ok(Box::pin(own))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.0.request_progress().await
    }

    async fn history(&self, key: &Key) -> Result<Vec<Version>, Error> {
        let mut versions = self.0.history(key).await?;
        for version in &mut versions {
            if let Some(value) = version.value.take() {
                let value =
                    own(value).map_err(|why| undecodable(key.clone(), version.revision, &why))?;
                version.value = Some(value);
            }
        }
        Ok(versions)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.0.compact(revision).await
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        self.0.current_revision().await
    }

    async fn health(&self) -> Result<(), Error> {
        self.0.health().await
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    async fn is_stale(&self, key: &Key) -> Result<bool, Error> {
        self.0.is_stale(key).await
    }

    async fn checks(&self) -> Vec<(String, Result<(), String>)> {
        self.0.checks().await
    }
}

#[cfg(test)]
mod tests;
