//! The cacher: one store watch per resource feeds a snapshot and a ring of events that every reader shares.
//!
//! ```text
//!   store watch ──▶ apply ──▶ OrdMap snapshot  (a LIST clones one pointer)
//!                        └──▶ ring of events   (a WATCH holds a cursor into it)
//! ```
//!
//! Nothing is buffered per watcher: a watcher pulls from the ring when its connection can take more, so a slow one
//! costs nothing and, when the ring has moved past its cursor, ends with 410 Gone. An event is serialised once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use bytes::Bytes;
use corral_api::status::{Status, StatusReason};
use corral_kinds::{AnyKind, KindRef};
use corral_storage::{self as storage, Key, ListOptions, Revision, Storage, WatchEvent};
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::conversion::{Conversion, Failure};
use crate::flow::width::Stock;
use crate::news::Bell;
use crate::object::{Corrupt, Shape, Stored, go_type};

mod demand;
pub mod snapshot;
pub mod watcher;

pub use demand::Held;
pub use snapshot::Snapshot;

use demand::Demand;

/// Events that the ring keeps. A watcher that lags by more is told to list again; at 2,000 writes a second this is
/// several seconds, and the memory is bounded by as many objects.
pub const RING_EVENTS_MAX: usize = 16_384;
/// Bytes of replaced objects that the ring may hold on to.
pub const RING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a read waits for the cacher to reach a revision, as kube-apiserver does.
pub const FRESH_WAIT_MAX: Duration = Duration::from_secs(3);
/// The same where a webhook converts, which has half a minute for each review.
const CONVERTED_WAIT_MAX: Duration = Duration::from_secs(35);
/// Events that are converted together.
const EVENTS_MAX: usize = 100;
/// Entries read at a time when the cacher starts.
const START_PAGE: usize = 2_000;
/// Pause before the store is asked again after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Pause before objects that cannot be read are looked at again: somebody has to remove them, or to mend the keys.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(1);
/// Seconds after which a client may ask again for what cannot be read.
const UNREADABLE_RETRY_SECONDS: u32 = 1;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was created, or begins to be selected.
    Added,
    /// It was changed.
    Modified,
    /// It was removed, or is no longer selected.
    Deleted,
}

impl EventKind {
    /// As the watch protocol names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change, shared by all watchers.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object: its new state, or its last state at the revision of its removal.
    pub object: Arc<Stored>,
    /// Its state before.
    pub previous: Option<Arc<Stored>>,
    frame: OnceLock<Bytes>,
    message_frame: OnceLock<Bytes>,
}

impl Event {
    fn new(kind: EventKind, object: Arc<Stored>, previous: Option<Arc<Stored>>) -> Self {
        Self {
            kind,
            object,
            previous,
            frame: OnceLock::new(),
            message_frame: OnceLock::new(),
        }
    }

    /// The event as a frame of protobuf, made once.
    pub fn message_frame(&self, make: impl FnOnce() -> Bytes) -> Bytes {
        self.message_frame.get_or_init(make).clone()
    }

    /// The event as a line of JSON, made once.
    pub fn frame(&self) -> Bytes {
        let make = || watch_frame(self.kind, &self.object.json);
        self.frame.get_or_init(make).clone()
    }
}

/// One line of the watch protocol.
pub fn watch_frame(kind: EventKind, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_str().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

struct State {
    snapshot: Snapshot,
    ring: VecDeque<Arc<Event>>,
    /// Number of the ring's first event since the cacher was made.
    first: u64,
    /// Number of the first event after the last list. What happened between the ring's last event and that list is only in
    /// the store.
    listed: u64,
    /// The ring holds every event after this revision.
    oldest: Revision,
    /// Bytes held by the ring alone: states that are no longer current.
    bytes: usize,
    ready: bool,
    /// An object cannot be read, so that nothing here is all there is.
    unreadable: bool,
}

/// The cache of one resource.
pub struct Cacher {
    shape: Shape,
    prefix: String,
    storage: Arc<dyn Storage>,
    // Guards the snapshot and the ring together, so that a reader gets both of one moment. Held for copies only.
    state: RwLock<State>,
    // The revision reached; 0 until the first list is complete.
    reached: watch::Sender<Revision>,
    /// Rings for watchers, which are too many to wait for `reached`.
    bell: Arc<Bell>,
    watchers: AtomicUsize,
    /// Who converts what the store keeps in another version.
    conversion: Option<Arc<Conversion>>,
    /// Who wants it filled; nothing where that is always so.
    demand: Option<Demand>,
}

/// Why a cacher does not follow its store.
enum Trouble {
    Store(storage::Error),
    Conversion(Box<Failure>),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Conversion(Box::new(failure))
    }
}

impl From<storage::Error> for Trouble {
    fn from(error: storage::Error) -> Self {
        Self::Store(error)
    }
}

impl Cacher {
    /// A cacher that knows nothing until [`Cacher::run`] runs.
    pub fn new(kind: KindRef, storage: Arc<dyn Storage>) -> Arc<Self> {
        Self::with(kind, storage, None, None)
    }

    /// One that is filled once somebody reads, by a conversion if there is one; else with objects in the versions in
    /// which the store keeps them.
    pub fn on_demand(
        kind: KindRef,
        storage: Arc<dyn Storage>,
        conversion: Option<Arc<Conversion>>,
    ) -> Arc<Self> {
        Self::with(kind, storage, conversion, Some(Demand::new()))
    }

    fn with(
        kind: KindRef,
        storage: Arc<dyn Storage>,
        conversion: Option<Arc<Conversion>>,
        demand: Option<Demand>,
    ) -> Arc<Self> {
        let mut shape = Shape::new(kind);
        shape.foreign = storage.is_shared();
        let names = shape.kind.names();
        Arc::new(Self {
            prefix: match shape.kind.is_custom() {
                true => names.grouped_prefix(),
                false => names.storage_prefix(),
            },
            storage,
            state: RwLock::new(State {
                snapshot: Snapshot::empty(&shape),
                ring: VecDeque::new(),
                first: 0,
                listed: 0,
                oldest: Revision(0),
                bytes: 0,
                ready: false,
                unreadable: false,
            }),
            reached: watch::Sender::new(Revision(0)),
            bell: Arc::default(),
            watchers: AtomicUsize::new(0),
            conversion,
            demand,
            shape,
        })
    }

    /// The kind cached.
    pub fn kind(&self) -> &dyn AnyKind {
        &*self.shape.kind
    }

    /// What of its objects is kept beside their bytes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The prefix of the kind's keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Number of watchers now.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Number of objects now.
    pub fn len(&self) -> usize {
        self.read().snapshot.objects.len()
    }

    /// How much there is now.
    pub fn stock(&self) -> Stock {
        let state = self.read();
        Stock {
            objects: state.snapshot.objects.len(),
            bytes: state.snapshot.bytes,
        }
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Follows the store until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(demand) = &self.demand else {
            self.follow_on(&stop).await;
            return;
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = demand.wanted() => {}
            }
            tokio::select! {
                () = self.follow_on(&stop) => return,
                () = demand.idle() => self.empty(),
            }
        }
    }

    async fn follow_on(&self, stop: &CancellationToken) {
        let resource = self.shape.kind.names().plural;
        let (mut attempts, mut told) = (0, String::new());
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.follow() => outcome,
            };
            let pause = match (outcome, &self.demand) {
                (Err(Trouble::Conversion(failure)), Some(demand)) => {
                    let why = &failure.status.message;
                    tracing::warn!(resource, why, "objects are not converted");
                    attempts = if self.read().ready { 0 } else { attempts + 1 };
                    self.empty();
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = demand.failed(failure.status, attempts) => {}
                    }
                    continue;
                }
                (Err(Trouble::Store(error @ storage::Error::Unreadable { .. })), _) => {
                    self.set_unreadable();
                    let text = error.to_string();
                    if text != told {
                        tracing::error!(resource, %error, "{UNREADABLE_ADVICE}");
                        told = text;
                    }
                    UNREADABLE_PAUSE
                }
                (Err(Trouble::Store(error)), _) => {
                    tracing::warn!(resource, %error, "store watch ended, listing again");
                    RETRY_PAUSE
                }
                _ => RETRY_PAUSE,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn follow(&self) -> Result<(), Trouble> {
        let revision = self.load().await?;
        let mut events = self.storage.watch(&self.prefix, revision).await?;
        if self.conversion.is_none() {
            while let Some(event) = events.next().await {
                let event = event?;
                let stored = self.stored_of(&event);
                self.apply(event, stored);
            }
            return Ok(());
        }
        let mut chunks = events.ready_chunks(EVENTS_MAX);
        while let Some(chunk) = chunks.next().await {
            let chunk: Vec<WatchEvent> = chunk.into_iter().collect::<Result<_, _>>()?;
            self.apply_converted(chunk).await?;
        }
        Ok(())
    }

    /// Applies events whose objects come in other versions. A webhook that cannot be asked just now is waited for: the
    /// events stay in order, and watchers lose nothing.
    async fn apply_converted(&self, chunk: Vec<WatchEvent>) -> Result<(), Trouble> {
        let mut puts: Vec<storage::Entry> = Vec::new();
        for event in &chunk {
            if let WatchEvent::Put { entry, .. } = event {
                puts.push(entry.clone());
            }
        }
        let mut attempts = 0;
        let converted = loop {
            match (self.converted(&puts).await, &self.demand) {
                (Err(failure), Some(demand)) if failure.unreachable => {
                    demand.failed(failure.status, attempts).await;
                    attempts += 1;
                }
                (outcome, _) => break outcome?,
            }
        };
        let mut converted = converted.into_iter();
        for event in chunk {
            let stored = match &event {
                WatchEvent::Progress(_) => None,
                WatchEvent::Put { .. } => converted.next(),
                // What is gone needs no webhook: how it was last is known.
                WatchEvent::Delete { key, revision, .. } => {
                    let last = self.peek(key);
                    last.map(|last| Ok(watcher::at_revision(&last, *revision)))
                }
            };
            self.apply(event, stored);
        }
        Ok(())
    }

    /// Entries as objects of this version.
    async fn converted(
        &self,
        entries: &[storage::Entry],
    ) -> Result<Vec<Result<Stored, Corrupt>>, Failure> {
        let Some(conversion) = &self.conversion else {
            let stored = entries.iter();
            return Ok(stored
                .map(|entry| Stored::from_entry(&self.shape, entry))
                .collect());
        };
        let values = entries.iter().map(|entry| entry.value.clone()).collect();
        let version = self.shape.kind.names().api_version();
        let values = conversion.read(values, &version).await?;
        let pairs = entries.iter().zip(values);
        Ok(pairs
            .map(|(entry, own)| {
                Stored::from_own(&self.shape, entry.key.clone(), &own, entry.revision)
            })
            .collect())
    }

    /// Entries that were not read through the cache, such as those of the past.
    ///
    /// # Errors
    /// When one cannot be read, or is not converted.
    pub async fn read_entries(&self, entries: &[storage::Entry]) -> Result<Vec<Stored>, Status> {
        let read = self.converted(entries).await?;
        let read = read.into_iter().collect::<Result<_, _>>();
        read.map_err(Status::internal)
    }

    /// Lists the resource afresh; events before it are forgotten.
    async fn load(&self) -> Result<Revision, Trouble> {
        let mut snapshot = Snapshot::empty(&self.shape);
        let mut next = Some(self.page(ListOptions {
            limit: START_PAGE,
            ..Default::default()
        }));
        let mut revision = Revision(0);
        while let Some(page) = next.take() {
            let page = page
                .await
                .map_err(|ended| storage::Error::Unavailable(ended.to_string()))??;
            revision = page.revision;
            if page.more {
                // Read while this one is looked at: a start waits for all pods, and has a processor left to read them.
                next = Some(self.page(ListOptions {
                    limit: START_PAGE,
                    revision: Some(page.revision),
                    after: page.entries.last().map(|entry| entry.key.clone()),
                }));
                // The new task has the turn after this one, and no other worker may take it: without a pause it would
                // begin only when this page is done.
                tokio::task::yield_now().await;
            }
            let converted = self.converted(&page.entries).await;
            for stored in converted? {
                match stored {
                    Ok(stored) => {
                        snapshot.insert(Arc::new(stored));
                    }
                    Err(error) => log_corrupt(&error),
                }
            }
        }
        snapshot.revision = revision;
        self.replace(snapshot, true);
        Ok(revision)
    }

    /// A page of the store, read by a task of its own.
    fn page(
        &self,
        options: ListOptions,
    ) -> AbortOnDropHandle<Result<storage::Page, storage::Error>> {
        let (storage, prefix) = (self.storage.clone(), self.prefix.clone());
        AbortOnDropHandle::new(tokio::spawn(
            async move { storage.list(&prefix, options).await },
        ))
    }

    /// Forgets everything.
    fn empty(&self) {
        self.replace(Snapshot::empty(&self.shape), false);
    }

    /// The object of an event; nothing where there is none.
    fn stored_of(&self, event: &WatchEvent) -> Option<Result<Stored, Corrupt>> {
        match event {
            WatchEvent::Progress(_) => None,
            WatchEvent::Put { entry, .. } => Some(Stored::from_entry(&self.shape, entry)),
            WatchEvent::Delete {
                key,
                revision,
                previous,
            } => {
                let (key, last) = (key.clone(), &previous.value);
                Some(Stored::from_parts(&self.shape, key, last, *revision))
            }
        }
    }

    fn replace(&self, snapshot: Snapshot, ready: bool) {
        let revision = snapshot.revision;
        let mut state = self.write();
        // One more than there were: also who had read them all has missed something.
        state.first += state.ring.len() as u64 + 1;
        state.listed = state.first;
        state.ring.clear();
        state.bytes = 0;
        state.oldest = revision;
        state.ready = ready;
        state.unreadable = false;
        state.snapshot = snapshot;
        drop(state);
        self.reached.send_replace(revision);
        self.bell.ring();
    }

    fn apply(&self, event: WatchEvent, stored: Option<Result<Stored, Corrupt>>) {
        // Several events may share a revision (one transaction), so each one wakes watchers.
        let is_change = !matches!(event, WatchEvent::Progress(_));
        let stored = match stored.transpose() {
            Ok(stored) => stored.map(Arc::new),
            Err(error) => {
                log_corrupt(&error);
                None
            }
        };
        let revision = match (event, stored) {
            (WatchEvent::Progress(revision), _) => {
                let mut state = self.write();
                state.snapshot.revision = state.snapshot.revision.max(revision);
                revision
            }
            (WatchEvent::Put { .. }, Some(stored)) => self.put(stored),
            (WatchEvent::Put { entry, .. }, None) => entry.revision,
            (WatchEvent::Delete { key, revision, .. }, stored) => {
                if let Some(last) = stored {
                    self.remove(&key, last);
                }
                revision
            }
        };
        let told = self.reached.send_if_modified(|reached| {
            let news = is_change || *reached < revision;
            *reached = revision.max(*reached);
            news
        });
        if told {
            self.bell.ring();
        }
    }

    fn put(&self, stored: Arc<Stored>) -> Revision {
        let revision = stored.revision;
        let mut state = self.write();
        let previous = state.snapshot.insert(stored.clone());
        let kind = if previous.is_some() {
            EventKind::Modified
        } else {
            EventKind::Added
        };
        state.push(Event::new(kind, stored, previous), revision);
        revision
    }

    fn remove(&self, key: &Key, last: Arc<Stored>) {
        let revision = last.revision;
        let mut state = self.write();
        let previous = state.snapshot.remove(key);
        state.push(Event::new(EventKind::Deleted, last, previous), revision);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().expect("no panic under the lock")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().expect("no panic under the lock")
    }

    /// The objects as they are known now, however old that is.
    pub fn snapshot(&self) -> Snapshot {
        self.read().snapshot.clone()
    }

    /// Whether it is filled only when somebody reads.
    pub fn is_on_demand(&self) -> bool {
        self.demand.is_some()
    }

    /// Keeps it filled as long as what this answers lives.
    pub fn hold(self: &Arc<Self>) -> Held {
        if let Some(demand) = &self.demand {
            demand.hold(true);
        }
        Held(self.clone())
    }

    /// Waits until the first list is complete.
    ///
    /// # Errors
    /// When the objects are not converted.
    pub async fn started(&self) -> Result<(), Status> {
        match self.demand {
            Some(_) => self.at_least(Revision(0)).await.map(drop),
            None => self.ready().await,
        }
    }

    /// Waits until the first list is complete.
    ///
    /// # Errors
    /// 429 when it cannot be, because an object cannot be read.
    pub async fn ready(&self) -> Result<(), Status> {
        let mut reached = self.reached.subscribe();
        // The sender lives as long as `self`.
        let _ = reached.wait_for(|_| self.read().is_settled()).await;
        self.check_readable()
    }

    /// Refuses to show a part of the objects as if it were all of them.
    fn check_readable(&self) -> Result<(), Status> {
        if !self.read().unreadable {
            return Ok(());
        }
        let kind = &*self.shape.kind;
        let names = kind.names();
        let what = corral_api::gvk::qualified(names.plural, names.group);
        let message = format!(
            "storage is (re)initializing: failed to list {}: failed to read one or more {what} from the storage",
            go_type(kind, "")
        );
        Err(Status::too_many_requests(message, UNREADABLE_RETRY_SECONDS))
    }

    fn set_unreadable(&self) {
        let mut state = self.write();
        state.unreadable = true;
        state.ready = false;
        drop(state);
        // Wakes those who wait for more; no revision is reached.
        self.reached.send_modify(|_| {});
        self.bell.ring();
    }

    /// Tells of every change, by the revision reached.
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.reached.subscribe()
    }

    /// Whether the first list is complete, or cannot be because an object cannot be read: the rest is served then.
    pub fn is_settled(&self) -> bool {
        self.read().is_settled()
    }

    /// The objects as of a moment not before this call.
    ///
    /// # Errors
    /// 504 when the store does not get there in time, 500 when it does not answer.
    pub async fn fresh(&self) -> Result<Snapshot, Status> {
        self.check_readable()?;
        let current = self
            .storage
            .current_revision()
            .await
            .map_err(|e| storage_status(&e))?;
        let known = self.snapshot();
        if known.revision >= current && known.revision > Revision(0) && self.read().ready {
            if let Some(demand) = &self.demand {
                demand.touch();
            }
            return Ok(known);
        }
        self.storage
            .request_progress()
            .await
            .map_err(|e| storage_status(&e))?;
        self.at_least(current).await
    }

    /// The objects as of `revision` or later.
    ///
    /// # Errors
    /// 504 when that revision does not come in time.
    pub async fn at_least(&self, revision: Revision) -> Result<Snapshot, Status> {
        let mut reached = self.reached.subscribe();
        let wait = reached.wait_for(|reached| {
            let state = self.read();
            state.unreadable || (*reached >= revision && state.ready)
        });
        let Some(demand) = &self.demand else {
            if tokio::time::timeout(FRESH_WAIT_MAX, wait).await.is_err() {
                return Err(too_large_revision(revision, self.snapshot().revision));
            }
            self.check_readable()?;
            return Ok(self.snapshot());
        };
        let mut failures = demand.read();
        tokio::select! {
            biased;
            _ = wait => {
                self.check_readable()?;
                Ok(self.snapshot())
            }
            _ = failures.changed() => {
                let told = failures.borrow().clone();
                Err(told.unwrap_or_else(|| Status::unavailable("the cache has ended")))
            }
            () = tokio::time::sleep(CONVERTED_WAIT_MAX) => {
                Err(too_large_revision(revision, self.snapshot().revision))
            }
        }
    }

    /// One object as it is known now.
    pub fn peek(&self, key: &Key) -> Option<Arc<Stored>> {
        self.read().snapshot.objects.get(key).cloned()
    }
}

impl State {
    /// Whether waiting for the first list is over.
    fn is_settled(&self) -> bool {
        self.ready || self.unreadable
    }

    fn push(&mut self, event: Event, revision: Revision) {
        self.snapshot.revision = self.snapshot.revision.max(revision);
        self.bytes += event.held_bytes();
        self.ring.push_back(Arc::new(event));
        while self.ring.len() > RING_EVENTS_MAX
            || (self.bytes > RING_BYTES_MAX && self.ring.len() > 1)
        {
            if let Some(gone) = self.ring.pop_front() {
                self.first += 1;
                self.bytes -= gone.held_bytes();
                self.oldest = gone.object.revision;
            }
        }
    }
}

impl Event {
    /// Bytes that would be free without the event: what it replaced, and its frame.
    fn held_bytes(&self) -> usize {
        self.previous.as_ref().map_or(0, |p| p.json.len()) + self.object.json.len()
    }
}

fn log_corrupt(error: &Corrupt) {
    tracing::error!(%error, "an object cannot be read and is left out");
}

fn too_large_revision(asked: Revision, current: Revision) -> Status {
    let mut status = Status::timeout(format!(
        "Too large resource version: {asked}, current: {current}"
    ));
    status.details = Some(corral_api::status::StatusDetails {
        retry_after_seconds: 1,
        causes: vec![corral_api::status::StatusCause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }],
        ..Default::default()
    });
    status
}

/// What to do about values that nobody can decrypt.
const UNREADABLE_ADVICE: &str = "objects cannot be read, so that none of the resource are listed. If they are encrypted: all servers of \
    a store need the same keys: see --encryption-provider-config, and pki/encryption-config.yaml in the data directory of \
    the server that wrote the object. What is lost is removed by a deletion with \
    ignoreStoreReadErrorWithClusterBreakingPotential";

/// Kubernetes' code of objects that cannot be read.
const CORRUPT_CODE: u32 = 7;

/// An object that cannot be read, as Kubernetes tells it.
fn unreadable(key: &Key, why: &str) -> String {
    let key = key.as_str();
    let key = key.strip_prefix("/registry").unwrap_or(key);
    format!(
        "StorageError: corrupt object, Code: {CORRUPT_CODE}, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}"
    )
}

/// A failure of the store as a client sees it.
pub fn storage_status(error: &storage::Error) -> Status {
    match error {
        storage::Error::Compacted { asked, oldest } => {
            Status::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        storage::Error::Future { asked, current } => too_large_revision(*asked, *current),
        storage::Error::TooLarge { size, max, .. } => Status::failure(
            413,
            StatusReason::RequestEntityTooLarge,
            format!("etcdserver: request is too large: {size} bytes, at most {max} are allowed"),
        ),
        storage::Error::NoSpace(_) => Status::failure(
            507,
            StatusReason::InternalError,
            "no space left on the device that holds the store; reads go on, writes resume when there is room",
        ),
        storage::Error::Unreadable { key, why, .. } => Status::internal(unreadable(key, why)),
        storage::Error::Sealing(why) => {
            tracing::error!(why, "a value cannot be encrypted");
            Status::internal(why)
        }
        storage::Error::Unavailable(_) => {
            tracing::error!(%error, "store unavailable");
            Status::unavailable("the store does not answer; try again")
        }
        other => {
            tracing::error!(error = %other, "store failed");
            Status::internal("the store failed")
        }
    }
}

#[cfg(test)]
mod tests {
    use corral_kinds::all;
    use corral_storage::Key;

    use super::*;

    #[test]
    fn all_watchers_of_an_event_get_the_same_bytes() {
        let shape = Shape::new(all::resource("", "v1", "configmaps").expect("served"));
        let json =
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"n"}}"#;
        let key = Key::new("/registry/configmaps/n/a");
        let stored = Stored::from_parts(
            &shape,
            key,
            &Bytes::from_static(json.as_bytes()),
            Revision(1),
        );
        let event = Event::new(EventKind::Added, Arc::new(stored.expect("an object")), None);
        let first = event.frame();
        assert!(first.starts_with(br#"{"type":"ADDED","object":{"#));
        for _ in 0..1000 {
            // The same place in memory: nothing was written a second time.
            assert_eq!(event.frame().as_ptr(), first.as_ptr());
        }
    }
}
