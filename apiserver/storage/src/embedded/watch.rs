//! Watches: a hub that the writer publishes to, and streams that replay history and then follow the hub.
//!
//! ```text
//!   replay (after, published]  ──▶  live buffer  ──▶  consumer
//!            from redb               from the hub, entered before the last step of the replay is read
//! ```
//!
//! A stream enters the hub first and reads the rest of its history afterwards, so nothing falls between; what it
//! gets twice it recognises by revision.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::stream;
use tokio::sync::mpsc;

use super::Shared;
use super::metrics::EmbeddedMetrics;
use super::read::ReadError;
use crate::{Error, Revision, WatchEvent, WatchStream};

/// Bytes of values that may wait for one watcher, whatever their number: with the largest values, about twenty updates.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// All watchers that follow live.
#[derive(Debug)]
pub(super) struct Hub {
    /// Guards the watchers and the revision up to which they were told; held only for non-blocking sends.
    state: Mutex<State>,
    metrics: EmbeddedMetrics,
    buffer: usize,
}

#[derive(Debug)]
struct State {
    published: u64,
    /// A progress was asked for at a revision that is committed but not yet published.
    progress_due: bool,
    next_id: u64,
    slots: Vec<Slot>,
    closed: bool,
}

#[derive(Debug)]
struct Slot {
    id: u64,
    prefix: Arc<str>,
    events: mpsc::Sender<WatchEvent>,
    /// Bytes of the events that wait.
    waiting: Arc<AtomicUsize>,
    ended: Arc<OnceLock<Error>>,
}

/// A watcher's end of a slot. Dropping it leaves the hub.
#[derive(Debug)]
struct Subscription {
    id: u64,
    hub: Arc<Hub>,
    events: mpsc::Receiver<WatchEvent>,
    waiting: Arc<AtomicUsize>,
    ended: Arc<OnceLock<Error>>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.slots.retain(|slot| slot.id != self.id);
        self.hub.metrics.watchers.dec();
    }
}

impl Hub {
    pub(super) fn new(published: u64, buffer: usize, metrics: EmbeddedMetrics) -> Self {
        Self {
            state: Mutex::new(State {
                published,
                progress_due: false,
                next_id: 0,
                slots: Vec::new(),
                closed: false,
            }),
            metrics,
            buffer,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn published(&self) -> u64 {
        self.state().published
    }

    /// Tells watchers of the transactions up to `revision`. Never waits for one.
    pub(super) fn publish(&self, events: &[WatchEvent], revision: u64) {
        let mut state = self.state();
        state.published = revision;
        let progress = std::mem::take(&mut state.progress_due);
        let mut too_slow = 0;
        state.slots.retain(|slot| {
            let sent = events
                .iter()
                .filter(|event| key_of(event).starts_with(&*slot.prefix))
                .try_for_each(|event| slot.send(event.clone()))
                .and_then(|()| match progress {
                    true => slot.send(WatchEvent::Progress(Revision(revision))),
                    false => Ok(()),
                });
            too_slow += u64::from(sent.is_err());
            sent.is_ok()
        });
        self.metrics.watchers_too_slow.inc_by(too_slow);
    }

    /// Sends every watcher a progress at or above `revision`, now or as soon as that revision is published.
    pub(super) fn request_progress(&self, revision: u64) {
        let mut state = self.state();
        if state.published < revision {
            state.progress_due = true;
            return;
        }
        let progress = WatchEvent::Progress(Revision(state.published));
        state
            .slots
            .retain(|slot| slot.send(progress.clone()).is_ok());
    }

    /// Ends every watch: the store closes.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.slots.clear();
    }

    /// Enters a watcher; it gets everything after the returned revision.
    fn subscribe(self: &Arc<Self>, prefix: Arc<str>) -> Result<(Subscription, u64), Error> {
        let (sender, events) = mpsc::channel(self.buffer);
        let ended = Arc::new(OnceLock::new());
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        let id = state.next_id;
        state.next_id += 1;
        state.slots.push(Slot {
            id,
            prefix,
            events: sender,
            waiting: waiting.clone(),
            ended: ended.clone(),
        });
        self.metrics.watchers.inc();
        let published = state.published;
        drop(state);
        let subscription = Subscription {
            id,
            hub: self.clone(),
            events,
            waiting,
            ended,
        };
        Ok((subscription, published))
    }
}

impl Slot {
    fn send(&self, event: WatchEvent) -> Result<(), ()> {
        let size = size_of_values(&event);
        let waiting = self.waiting.fetch_add(size, Ordering::Relaxed);
        let sent = match waiting {
            waiting if waiting > WAITING_BYTES_MAX => Err(true),
            _ => self
                .events
                .try_send(event)
                .map_err(|error| matches!(error, mpsc::error::TrySendError::Full(_))),
        };
        sent.map_err(|full| {
            if full {
                // Only the first reason counts, and this is the only one.
                let _ = self.ended.set(Error::WatchTooSlow);
            }
        })
    }
}

fn size_of_values(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Put { entry, previous } => {
            entry.value.len() + previous.as_ref().map_or(0, |entry| entry.value.len())
        }
        WatchEvent::Delete { previous, .. } => previous.value.len(),
        WatchEvent::Progress(_) => 0,
    }
}

/// A watch in progress.
struct Watch {
    shared: Arc<Shared>,
    prefix: Arc<str>,
    /// Every event up to here is delivered or in `ready`.
    position: u64,
    ready: VecDeque<WatchEvent>,
    phase: Phase,
}

enum Phase {
    /// Reading history, far behind.
    Replay,
    /// In the hub, with the last of history still to read.
    Joining(Subscription, u64),
    Live(Subscription),
    Ended,
}

/// Opens a watch. Fails at once when `from` is outside the history that is kept.
pub(super) async fn open(
    shared: Arc<Shared>,
    prefix: &str,
    from: Revision,
) -> Result<WatchStream, Error> {
    let mut watch = Watch {
        shared,
        prefix: Arc::from(prefix),
        position: from.0,
        ready: VecDeque::from([WatchEvent::Progress(from)]),
        phase: Phase::Replay,
    };
    // The first step here, not at the first poll: a bad revision is an error of the call, and a watch that is close
    // to the present joins the hub before the call returns.
    while watch.ready.len() == 1 && !matches!(watch.phase, Phase::Live(_)) {
        watch.advance().await?;
    }
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Some((item, watch))
    })))
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        loop {
            if let Phase::Ended = self.phase {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Err(error) = self.advance().await {
                self.phase = Phase::Ended;
                return Some(Err(error));
            }
        }
    }

    /// Takes one step; afterwards there may be something in `ready`.
    async fn advance(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Replay => {
                self.phase = match self.replay().await? {
                    false => Phase::Replay,
                    true => {
                        let hub = self.shared.hub.clone();
                        let (subscription, until) = hub.subscribe(self.prefix.clone())?;
                        Phase::Joining(subscription, until)
                    }
                };
            }
            Phase::Joining(subscription, until) => {
                if self.position < until {
                    self.replay().await?;
                    self.phase = Phase::Joining(subscription, until);
                } else {
                    self.join(subscription);
                }
            }
            Phase::Live(mut subscription) => {
                self.follow(&mut subscription).await?;
                self.phase = Phase::Live(subscription);
            }
            Phase::Ended => {}
        }
        Ok(())
    }

    /// Reads a step of history; true when the snapshot had no more.
    async fn replay(&mut self) -> Result<bool, Error> {
        let prefix = self.prefix.clone();
        let after = self.position;
        let step = self
            .shared
            .read_blocking(move |snapshot| snapshot.replay(&prefix, after))
            .await
            .map_err(ReadError::into_answer)?;
        self.ready.extend(step.events);
        self.position = step.position;
        Ok(step.finished)
    }

    fn join(&mut self, subscription: Subscription) {
        let progress = WatchEvent::Progress(Revision(self.position));
        if self.ready.back() != Some(&progress) {
            self.ready.push_back(progress);
        }
        self.phase = Phase::Live(subscription);
    }

    async fn follow(&mut self, subscription: &mut Subscription) -> Result<(), Error> {
        let event = subscription.events.recv().await;
        if let Some(error) = subscription.ended.get() {
            return Err(error.clone());
        }
        let event = event.ok_or_else(closed)?;
        subscription
            .waiting
            .fetch_sub(size_of_values(&event), Ordering::Relaxed);
        let (revision, already) = match &event {
            WatchEvent::Put { entry, .. } => (entry.revision.0, self.replayed(entry.revision)),
            WatchEvent::Delete { revision, .. } => (revision.0, self.replayed(*revision)),
            WatchEvent::Progress(revision) => (revision.0, revision.0 < self.position),
        };
        if !already {
            if let WatchEvent::Progress(_) = event {
                self.position = revision;
            }
            self.ready.push_back(event);
        }
        Ok(())
    }

    /// Whether the event of this revision came out of history already. `position` does not follow live events,
    /// whose transactions may have more than one.
    fn replayed(&self, revision: Revision) -> bool {
        revision.0 <= self.position
    }
}

fn key_of(event: &WatchEvent) -> &str {
    match event {
        WatchEvent::Put { entry, .. } => entry.key.as_str(),
        WatchEvent::Delete { key, .. } => key.as_str(),
        WatchEvent::Progress(_) => "",
    }
}

fn closed() -> Error {
    Error::Unavailable("the store has been closed".to_owned())
}
