//! One client's watch: a cursor into the ring, and what the client selects.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use corral_api::status::Status;
use corral_storage::{self as storage, Revision, WatchEvent};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Cacher, Event, EventKind, Held, storage_status};
use crate::news::{self, Ear, Listening};
use crate::object::Stored;
use crate::select::Predicate;

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
    /// End at once when this is cancelled.
    pub ended: CancellationToken,
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
    /// The store itself, for revisions older than the ring, until the ring covers what is left.
    Store(BoxStream<'static, Result<Past, Status>>),
    /// It is looked for where the watch can go on.
    Resuming(BoxFuture<'static, Result<Source, Status>>),
}

/// What the store has for a watcher.
enum Past {
    Event(Arc<Event>),
    /// An event of objects that cannot be read.
    Unreadable,
    /// There is nothing up to this revision.
    Progress(Revision),
}

/// What the ring has for a watcher.
enum Found {
    /// The next event, and whether there are more.
    Event(Arc<Event>, bool),
    /// Nothing, and the revision that is reached.
    Nothing(Revision),
    /// The objects were listed again since, and what happened before that is not in the ring.
    Listed,
    /// The ring has moved past what comes next.
    Gone,
}

/// What ends a watch, or has it say where it stands. They are polled when one of them has something to say, and not each
/// time that the watch is.
struct Alarms {
    /// Rung by each of them.
    ear: Arc<Ear>,
    waker: Waker,
    /// At the deadline or the next bookmark, whichever comes first.
    alarm: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Whether one has rung and has not been asked.
    rung: bool,
}

impl Alarms {
    fn new(first: Instant, stop: CancellationToken, ended: CancellationToken) -> Self {
        let ear = Arc::new(Ear::default());
        Self {
            waker: Waker::from(ear.clone()),
            ear,
            alarm: Box::pin(tokio::time::sleep_until(first)),
            stopped: Box::pin(stop.cancelled_owned()),
            ended: Box::pin(ended.cancelled_owned()),
            // None of them knows whom to wake yet.
            rung: true,
        }
    }
}

/// The changes that a client selects, in order, until it ends.
pub struct Watcher {
    cacher: Arc<Cacher>,
    _held: Held,
    options: WatchOptions,
    source: Source,
    /// The last revision seen; nothing before it is sent again.
    seen: Revision,
    /// Whether more of that revision may come.
    torn: bool,
    ready: VecDeque<WatchItem>,
    deadline: Instant,
    alarms: Alarms,
    /// For news of the ring, unless somebody polls at each.
    news: Option<Listening>,
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
pub async fn watch(cacher: Arc<Cacher>, options: WatchOptions) -> Result<Watcher, Status> {
    let now = Instant::now();
    let mut ready = VecDeque::new();
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
    Ok(Watcher {
        deadline,
        alarms: Alarms::new(first, options.stop.clone(), options.ended.clone()),
        news: None,
        _held: cacher.hold(),
        cacher,
        options,
        source,
        seen,
        torn: false,
        ready,
        ended: false,
    })
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

    async fn resume(self: &Arc<Self>, from: Revision) -> Result<Source, Status> {
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
        let watch = watch.map_err(|e| storage_status(&e))?;
        let cacher = self.clone();
        let past = watch.then(move |event| {
            let cacher = cacher.clone();
            async move { cacher.past(event).await }
        });
        Ok(Source::Store(past.boxed()))
    }

    async fn past(&self, event: Result<WatchEvent, storage::Error>) -> Result<Past, Status> {
        match event.map_err(|e| storage_status(&e))? {
            WatchEvent::Progress(revision) => Ok(Past::Progress(revision)),
            event => Ok(match self.event(&event).await? {
                Some(event) => Past::Event(Arc::new(event)),
                None => Past::Unreadable,
            }),
        }
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

    /// The event of the number `next`.
    fn found(&self, next: u64) -> Found {
        let state = self.read();
        if next < state.listed {
            return Found::Listed;
        }
        let Some(index) = next.checked_sub(state.first) else {
            return Found::Gone;
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match state.ring.get(index) {
            Some(event) => Found::Event(event.clone(), index + 1 < state.ring.len()),
            None => Found::Nothing(state.snapshot.revision),
        }
    }
}

impl Stream for Watcher {
    type Item = WatchItem;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchItem>> {
        let watcher = &mut *self;
        // Before anything is looked at, so that nothing is missed.
        watcher.alarms.ear.wakes(cx.waker());
        if watcher.alarms.ear.heard() || watcher.alarms.rung {
            watcher.alarms.rung = true;
            let mut alarm = Context::from_waker(&watcher.alarms.waker);
            if watcher.alarms.ended.as_mut().poll(&mut alarm).is_ready() {
                return Poll::Ready(None);
            }
        }
        loop {
            if let Some(item) = watcher.ready.pop_front() {
                watcher.ended |= matches!(item, WatchItem::Failed(_));
                return Poll::Ready(Some(item));
            }
            watcher.options.begins = None;
            if watcher.ended {
                return Poll::Ready(None);
            }
            let goes_on = match &mut watcher.source {
                Source::Ring(next) => {
                    let next = *next;
                    ready!(watcher.poll_ring(cx, next))
                }
                Source::Store(_) => ready!(watcher.poll_store(cx)),
                Source::Resuming(resuming) => {
                    match ready!(resuming.as_mut().poll(cx)) {
                        Ok(source) => watcher.source = source,
                        Err(status) => watcher.fail(status),
                    }
                    true
                }
            };
            if !goes_on {
                return Poll::Ready(None);
            }
        }
    }
}

impl Watcher {
    /// Fills `ready`, or waits for news; `false` at the end of the watch.
    fn poll_ring(&mut self, cx: &mut Context<'_>, next: u64) -> Poll<bool> {
        match self.cacher.found(next) {
            Found::Event(event, more) => {
                self.source = Source::Ring(next + 1);
                self.torn = more;
                self.take(event);
                Poll::Ready(true)
            }
            Found::Nothing(revision) => {
                self.seen = self.seen.max(revision);
                self.torn = false;
                if self.hears_news(cx) {
                    return Poll::Ready(true);
                }
                self.poll_alarms(true)
            }
            // The store may still know what was missed.
            Found::Listed if !self.torn => {
                let (cacher, seen) = (self.cacher.clone(), self.seen);
                let resuming = async move { cacher.resume(seen).await };
                self.source = Source::Resuming(Box::pin(resuming));
                Poll::Ready(true)
            }
            Found::Listed | Found::Gone => {
                let oldest = self.cacher.read().oldest;
                let message = format!("too old resource version: {} ({oldest})", self.seen);
                self.fail(Status::expired(message));
                Poll::Ready(true)
            }
        }
    }

    /// Whether there may be something that was not there a moment ago; if not, the task is woken when there is.
    fn hears_news(&mut self, cx: &Context<'_>) -> bool {
        if news::awaits(&self.cacher.bell) {
            self.news = None;
            return false;
        }
        if let Some(news) = &self.news {
            news.wakes(cx.waker());
            return news.heard();
        }
        let news = self.cacher.bell.listen();
        news.wakes(cx.waker());
        self.news = Some(news);
        true
    }

    fn fail(&mut self, status: Status) {
        self.ready.push_back(WatchItem::Failed(Box::new(status)));
    }

    fn poll_store(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Source::Store(past) = &mut self.source else {
            return Poll::Ready(true);
        };
        match past.poll_next_unpin(cx) {
            // The rest of a transaction may be to come, so nobody is told where the watch stands.
            Poll::Pending => return self.poll_alarms(false),
            Poll::Ready(None) => return Poll::Ready(false),
            Poll::Ready(Some(Err(status))) => self.fail(status),
            Poll::Ready(Some(Ok(Past::Progress(revision)))) => self.seen = self.seen.max(revision),
            Poll::Ready(Some(Ok(Past::Event(event)))) => self.take(event),
            Poll::Ready(Some(Ok(Past::Unreadable))) => {}
        }
        // Back to the shared ring as soon as it covers what is left.
        if let Some(next) = self.cacher.find_after(self.seen) {
            self.source = Source::Ring(next);
        }
        Poll::Ready(true)
    }

    /// Waits for the end, and for the time to tell where the watch stands if it `tells` that now.
    fn poll_alarms(&mut self, tells: bool) -> Poll<bool> {
        if !self.alarms.rung {
            return Poll::Pending;
        }
        let mut cx = Context::from_waker(&self.alarms.waker);
        if self.alarms.alarm.as_mut().poll(&mut cx).is_ready() {
            return Poll::Ready(self.ring_out(tells));
        }
        if self.alarms.stopped.as_mut().poll(&mut cx).is_ready() {
            self.tell_the_end();
            return Poll::Ready(true);
        }
        self.alarms.rung = false;
        Poll::Pending
    }

    /// Tells where the watch stands if it `tells` that now; `false` when it is over.
    fn ring_out(&mut self, tells: bool) -> bool {
        let now = Instant::now();
        if now >= self.deadline {
            return false;
        }
        let next = self.deadline.min(now + BOOKMARK_PERIOD);
        self.alarms.alarm.as_mut().reset(next);
        if tells {
            let bookmark = WatchItem::Bookmark(self.seen, false);
            self.ready.push_back(bookmark);
        }
        true
    }

    /// The server stops: the client is told from where it can go on with another one, so that it need not list again.
    fn tell_the_end(&mut self) {
        self.ended = true;
        if self.options.bookmarks {
            self.ready.push_back(WatchItem::Bookmark(self.seen, false));
        }
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
