//! One client's watch: a cursor into the ring, and what the client selects.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corral_api::status::Status;
use corral_storage::{Revision, WatchEvent, WatchStream};
use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Cacher, Event, EventKind, Held, storage_status};
use crate::object::Stored;
use crate::select::Predicate;

/// Events that a watcher takes from the ring under one lock.
const BATCH: usize = 64;
/// How often a quiet watch tells where it stands, if the client asked for bookmarks.
pub const BOOKMARK_PERIOD: Duration = Duration::from_secs(55);

/// What to watch.
pub struct WatchOptions {
    /// Which objects.
    pub predicate: Predicate,
    /// Only events after this revision; `None` begins with the objects that there are.
    pub from: Option<Revision>,
    /// Begin with the objects that there are, then a bookmark (`sendInitialEvents`).
    pub initial_bookmark: bool,
    /// Send bookmarks.
    pub bookmarks: bool,
    /// End after this long.
    pub timeout: Duration,
    /// Kept until the objects that there were at the beginning have been sent.
    pub begins: Option<Box<dyn Send>>,
    /// End when this is cancelled, once all that has happened has been told.
    pub stop: CancellationToken,
}

/// What a watcher sees.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// A change, as it happened.
    Event(Arc<Event>),
    /// A change that means something else to this watcher because of its selector, or an initial object.
    Derived(EventKind, Arc<Stored>),
    /// Where the watch stands; `true` at the end of the initial objects.
    Bookmark(Revision, bool),
    /// The watch has failed and ends.
    Failed(Box<Status>),
}

enum Source {
    /// Number of the next event in the ring.
    Ring(u64),
    /// The store itself, for revisions older than the ring, up to the given number of the ring.
    Store(WatchStream),
}

/// What the ring has for a watcher.
enum Batch {
    /// Events, if there are any, and the revision that is reached after all there are.
    Events(Vec<Arc<Event>>, Revision),
    /// The objects were listed again since, and what happened before that is not in the ring.
    Listed,
    /// The ring has moved past what comes next.
    Gone,
}

struct Watcher {
    cacher: Arc<Cacher>,
    _held: Held,
    options: WatchOptions,
    source: Source,
    /// The last revision seen; nothing before it is sent again.
    seen: Revision,
    /// Whether more of that revision may come.
    torn: bool,
    ready: std::collections::VecDeque<WatchItem>,
    deadline: Instant,
    /// At the deadline or the next bookmark, whichever comes first. Made once, as what follows: a watcher waits anew
    /// after each event, and to enter and leave lists that all watchers share would be most of its work.
    alarm: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    reached: tokio::sync::watch::Receiver<Revision>,
    ended: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.cacher.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a watch.
///
/// # Errors
/// 410 when the revision is older than what is kept, 504 when it is too far ahead.
pub async fn watch(
    cacher: Arc<Cacher>,
    options: WatchOptions,
) -> Result<impl Stream<Item = WatchItem> + Send, Status> {
    let now = Instant::now();
    let mut ready = std::collections::VecDeque::new();
    let (source, seen) = match options.from {
        None => {
            cacher.fresh().await?;
            let (snapshot, next) = cacher.position();
            let selected = snapshot.select(&options.predicate, None);
            ready.extend(selected.map(|s| WatchItem::Derived(EventKind::Added, s.clone())));
            if options.initial_bookmark {
                ready.push_back(WatchItem::Bookmark(snapshot.revision, true));
            }
            (Source::Ring(next), snapshot.revision)
        }
        Some(from) => (cacher.resume(from).await?, from),
    };
    cacher.watchers.fetch_add(1, Ordering::Relaxed);
    let mut options = options;
    if ready.is_empty() {
        options.begins = None;
    }
    let deadline = now + options.timeout;
    let first = match options.bookmarks {
        true => deadline.min(now + BOOKMARK_PERIOD),
        false => deadline,
    };
    let watcher = Watcher {
        deadline,
        alarm: Box::pin(tokio::time::sleep_until(first)),
        reached: cacher.reached.subscribe(),
        stopped: Box::pin(options.stop.clone().cancelled_owned()),
        _held: cacher.hold(),
        cacher,
        options,
        source,
        seen,
        torn: false,
        ready,
        ended: false,
    };
    Ok(futures::stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        Some((item, watcher))
    }))
}

impl Cacher {
    /// The snapshot and the number of the event that comes next.
    fn position(&self) -> (super::Snapshot, u64) {
        let state = self.read();
        (
            state.snapshot.clone(),
            state.first + state.ring.len() as u64,
        )
    }

    async fn resume(&self, from: Revision) -> Result<Source, Status> {
        self.started().await?;
        if let Some(next) = self.find(from) {
            return Ok(Source::Ring(next));
        }
        if from > self.snapshot().revision {
            self.at_least(from).await?;
            if let Some(next) = self.find(from) {
                return Ok(Source::Ring(next));
            }
        }
        let watch = self.storage.watch(&self.prefix, from).await;
        watch.map(Source::Store).map_err(|e| storage_status(&e))
    }

    /// The number of the first event after `from`, if the ring has every event since.
    fn find(&self, from: Revision) -> Option<u64> {
        let state = self.read();
        if from < state.oldest || from > state.snapshot.revision {
            return None;
        }
        let index = state
            .ring
            .partition_point(|event| event.object.revision <= from);
        Some(state.first + index as u64)
    }

    /// The number of the first event after one of the revision `seen`, unless the ring has several of that revision, of
    /// which some may not have been seen.
    fn find_after(&self, seen: Revision) -> Option<u64> {
        let next = self.find(seen)?;
        let state = self.read();
        let index = usize::try_from(next.checked_sub(state.first)?).ok()?;
        let before = state.ring.iter().take(index).rev();
        let same = before.take_while(|event| event.object.revision == seen);
        (same.take(2).count() < 2).then_some(next)
    }

    /// Events from `next` on.
    fn batch(&self, next: u64) -> Batch {
        let state = self.read();
        if next < state.listed {
            return Batch::Listed;
        }
        let Some(start) = next.checked_sub(state.first) else {
            return Batch::Gone;
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let events = state.ring.iter().skip(start).take(BATCH).cloned().collect();
        Batch::Events(events, state.snapshot.revision)
    }
}

impl Watcher {
    async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.ended |= matches!(item, WatchItem::Failed(_));
                return Some(item);
            }
            self.options.begins = None;
            if self.ended {
                return None;
            }
            let more = match &mut self.source {
                Source::Ring(next) => {
                    let next = *next;
                    self.pull_ring(next).await
                }
                Source::Store(_) => self.pull_store().await,
            };
            more?;
        }
    }

    /// Fills `ready`, or waits for news; `None` at the end of the watch.
    async fn pull_ring(&mut self, next: u64) -> Option<()> {
        self.reached.mark_unchanged();
        let (events, revision) = match self.cacher.batch(next) {
            Batch::Events(events, revision) => (events, revision),
            // The store may still know what was missed.
            Batch::Listed if !self.torn => {
                match self.cacher.resume(self.seen).await {
                    Ok(source) => self.source = source,
                    Err(status) => self.fail(status),
                }
                return Some(());
            }
            Batch::Listed | Batch::Gone => {
                let oldest = self.cacher.read().oldest;
                let message = format!("too old resource version: {} ({oldest})", self.seen);
                self.fail(Status::expired(message));
                return Some(());
            }
        };
        if events.is_empty() {
            self.seen = self.seen.max(revision);
            self.torn = false;
            return self.wait().await;
        }
        self.source = Source::Ring(next + events.len() as u64);
        self.torn = events.len() == BATCH;
        for event in events {
            self.take(event);
        }
        Some(())
    }

    fn fail(&mut self, status: Status) {
        self.ready.push_back(WatchItem::Failed(Box::new(status)));
    }

    async fn pull_store(&mut self) -> Option<()> {
        let Source::Store(stream) = &mut self.source else {
            return Some(());
        };
        let event = tokio::select! {
            event = stream.next() => event,
            // The rest of a transaction may be to come.
            () = &mut self.alarm => return self.ring_out(false),
            () = &mut self.stopped => return self.tell_the_end(),
        };
        match event {
            None => return None,
            Some(Err(error)) => self.fail(storage_status(&error)),
            Some(Ok(WatchEvent::Progress(revision))) => self.seen = self.seen.max(revision),
            Some(Ok(event)) => match self.cacher.event(&event).await {
                Ok(Some(event)) => self.take(Arc::new(event)),
                Ok(None) => {}
                Err(status) => self.ready.push_back(WatchItem::Failed(Box::new(status))),
            },
        }
        // Back to the shared ring as soon as it covers what is left.
        if let Some(next) = self.cacher.find_after(self.seen) {
            self.source = Source::Ring(next);
        }
        Some(())
    }

    async fn wait(&mut self) -> Option<()> {
        tokio::select! {
            // What has happened is told before the end.
            biased;
            changed = self.reached.changed() => changed.ok(),
            () = &mut self.alarm => self.ring_out(true),
            () = &mut self.stopped => self.tell_the_end(),
        }
    }

    /// Tells where the watch stands if it `tells` that now, unless it is over.
    fn ring_out(&mut self, tells: bool) -> Option<()> {
        let now = Instant::now();
        if now >= self.deadline {
            return None;
        }
        let next = self.deadline.min(now + BOOKMARK_PERIOD);
        self.alarm.as_mut().reset(next);
        if tells {
            let bookmark = WatchItem::Bookmark(self.seen, false);
            self.ready.push_back(bookmark);
        }
        Some(())
    }

    /// The server stops: the client is told from where it can go on with another one, so that it need not list again.
    fn tell_the_end(&mut self) -> Option<()> {
        self.ended = true;
        if self.options.bookmarks {
            self.ready.push_back(WatchItem::Bookmark(self.seen, false));
        }
        Some(())
    }

    fn take(&mut self, event: Arc<Event>) {
        if event.object.revision < self.seen {
            return;
        }
        self.seen = event.object.revision;
        let predicate = &self.options.predicate;
        let before = event
            .previous
            .as_ref()
            .is_some_and(|p| predicate.selects(p));
        let after = event.kind != EventKind::Deleted && predicate.selects(&event.object);
        let item = match (before, after, event.kind) {
            (false, false, EventKind::Deleted)
                if predicate.selects(&event.object) && event.previous.is_none() =>
            {
                WatchItem::Event(event)
            }
            (false, false, _) => return,
            (true, true, EventKind::Modified) | (true, false, EventKind::Deleted) => {
                WatchItem::Event(event)
            }
            (false, true, EventKind::Added) => WatchItem::Event(event),
            (false, true, _) => WatchItem::Derived(EventKind::Added, event.object.clone()),
            (true, true, _) => WatchItem::Derived(EventKind::Modified, event.object.clone()),
            (true, false, _) => match last_state(&event) {
                Some(last) => WatchItem::Derived(EventKind::Deleted, last),
                None => return,
            },
        };
        self.ready.push_back(item);
    }
}

/// The state before, at the revision of the change that took it out of a selection.
fn last_state(event: &Event) -> Option<Arc<Stored>> {
    let previous = event.previous.as_ref()?;
    let last = at_revision(previous, event.object.revision);
    Some(Arc::new(last))
}

/// An object as it was last, at the revision of the change that ended it.
pub(super) fn at_revision(previous: &Stored, revision: Revision) -> Stored {
    let old = format!("\"resourceVersion\":\"{}\"", previous.revision);
    let new = format!("\"resourceVersion\":\"{revision}\"");
    let json = String::from_utf8_lossy(&previous.json).replacen(&old, &new, 1);
    let json = json.into_bytes().into();
    previous.at_revision(revision, json)
}

impl Cacher {
    /// A store's event as the ring has them; `None` for what cannot be read.
    ///
    /// # Errors
    /// When its objects are not converted.
    async fn event(&self, event: &WatchEvent) -> Result<Option<Event>, Status> {
        let (revision, now, before) = match event {
            WatchEvent::Progress(_) => return Ok(None),
            WatchEvent::Put { entry, previous } => (entry.revision, Some(entry), previous.as_ref()),
            WatchEvent::Delete {
                revision, previous, ..
            } => (*revision, None, Some(previous)),
        };
        let entries: Vec<_> = now.into_iter().chain(before).cloned().collect();
        let mut read = self.converted(&entries).await?.into_iter().map(Result::ok);
        let now = now.and_then(|_| read.next().flatten());
        let before = before.and_then(|_| read.next().flatten()).map(Arc::new);
        Ok(match (event, now, before) {
            (WatchEvent::Put { .. }, None, _) | (_, None, None) => None,
            (_, Some(now), before) => {
                let kind = match before {
                    Some(_) => EventKind::Modified,
                    None => EventKind::Added,
                };
                Some(Event::new(kind, Arc::new(now), before))
            }
            (_, None, Some(before)) => {
                let last = Arc::new(at_revision(&before, revision));
                Some(Event::new(EventKind::Deleted, last, Some(before)))
            }
        })
    }
}
