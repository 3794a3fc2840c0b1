//! A watch on etcd: one gRPC stream, opened again from where it stood when it breaks.

use std::collections::VecDeque;
use std::time::Duration;

use etcd_client::{EventType, KeyValue, WatchOptions, WatchResponse};
use futures::stream;
use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::error::to_revision;
use super::{Etcd, entry_of, key_of};
use crate::{Error, Revision, WatchEvent, WatchStream};

/// How long a broken watch tries to come back before it ends.
const RECONNECT_FOR: Duration = Duration::from_secs(30);

/// Pauses between attempts.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);

struct Watch {
    etcd: Etcd,
    prefix: String,
    /// Every event up to here is delivered or in `ready`.
    position: Revision,
    ready: VecDeque<WatchEvent>,
    stream: Option<etcd_client::WatchStream>,
    /// Counts requests for progress; each change is one.
    progress: signal::Receiver<u64>,
    /// A progress that is not believed yet; see [`Confirmation`].
    confirmation: Option<Confirmation>,
    ended: bool,
}

/// Opens a watch; fails at once when `from` is outside the history that is kept.
pub(super) async fn open(
    etcd: Etcd,
    progress: signal::Receiver<u64>,
    prefix: &str,
    from: Revision,
) -> Result<WatchStream, Error> {
    let mut watch = Watch {
        etcd,
        prefix: prefix.to_owned(),
        position: from,
        ready: VecDeque::from([WatchEvent::Progress(from)]),
        stream: None,
        progress,
        confirmation: None,
        ended: false,
    };
    watch.connect().await?;
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Some((item, watch))
    })))
}

/// etcd before 3.4.25 and 3.5.8 may answer a request for progress ahead of events of the same watch that it has
/// queued or still has to read from history (etcd issue 15220). For those versions the revision of a first answer
/// counts only once a second one has come, asked for after a pause in which etcd's own queues drain many times over.
#[derive(Debug, Clone, Copy)]
struct Confirmation {
    revision: Revision,
    due: Instant,
    asked: bool,
    /// Progress was requested again meanwhile.
    again: bool,
}

/// etcd catches watches up every 100 ms.
const CONFIRMATION_PAUSE: Duration = Duration::from_millis(300);

/// The watch id of answers to requests for progress.
const REQUESTED_PROGRESS: i64 = -1;

enum Woken {
    Response(Result<Option<WatchResponse>, etcd_client::Error>),
    Progress(bool),
    ConfirmationDue,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Err(error) = self.advance().await {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    async fn advance(&mut self) -> Result<(), Error> {
        let Some(stream) = &mut self.stream else {
            return self.reconnect().await;
        };
        let due = self
            .confirmation
            .filter(|confirmation| !confirmation.asked)
            .map(|confirmation| confirmation.due);
        let woken = tokio::select! {
            response = stream.message() => Woken::Response(response),
            changed = self.progress.changed() => Woken::Progress(changed.is_ok()),
            () = pause_until(due) => Woken::ConfirmationDue,
        };
        match woken {
            Woken::Response(Ok(Some(response))) => self.take(&response)?,
            Woken::Response(Ok(None)) => self.stream = None,
            Woken::Response(Err(error)) => self.broken(&error),
            Woken::Progress(true) => match &mut self.confirmation {
                Some(confirmation) => confirmation.again = true,
                None => self.ask_progress().await,
            },
            Woken::Progress(false) => {
                return Err(Error::Unavailable("the store has been closed".to_owned()));
            }
            Woken::ConfirmationDue => {
                if let Some(confirmation) = &mut self.confirmation {
                    confirmation.asked = true;
                }
                self.ask_progress().await;
            }
        }
        Ok(())
    }

    async fn ask_progress(&mut self) {
        if let Some(stream) = &mut self.stream
            && let Err(error) = stream.request_progress().await
        {
            self.broken(&error);
        }
    }

    fn broken(&mut self, error: &etcd_client::Error) {
        tracing::debug!(%error, prefix = self.prefix, "a watch on etcd broke");
        self.stream = None;
    }

    fn take(&mut self, response: &WatchResponse) -> Result<(), Error> {
        if response.compact_revision() > 0 {
            return Err(Error::Compacted {
                asked: self.position,
                oldest: to_revision(response.compact_revision()),
            });
        }
        if response.canceled() {
            tracing::debug!(reason = response.cancel_reason(), "etcd cancelled a watch");
            self.stream = None;
            return Ok(());
        }
        let mut newest = self.position;
        for event in response.events() {
            let kv = event
                .kv()
                .ok_or_else(|| malformed("an event without its key"))?;
            let revision = to_revision(kv.mod_revision());
            // After a reconnection nothing older can come, but a wrong event would be worse than a test.
            if revision > self.position {
                let event = translate(event.event_type(), kv, event.prev_kv())?;
                self.ready.push_back(event);
                newest = newest.max(revision);
            }
        }
        self.position = newest;
        if response.events().is_empty() && !response.created() {
            self.take_progress(response);
        }
        Ok(())
    }

    fn take_progress(&mut self, response: &WatchResponse) {
        let revision = to_revision(response.header().map_or(0, |header| header.revision()));
        if response.watch_id() != REQUESTED_PROGRESS || self.etcd.orders_progress {
            return self.progressed(revision);
        }
        match self.confirmation {
            None => {
                self.confirmation = Some(Confirmation {
                    revision,
                    due: Instant::now() + CONFIRMATION_PAUSE,
                    asked: false,
                    again: false,
                });
            }
            Some(confirmation) if confirmation.asked => {
                self.confirmation = None;
                self.progressed(confirmation.revision.max(self.position));
                if confirmation.again {
                    self.progress.mark_changed();
                }
            }
            Some(_) => {}
        }
    }

    fn progressed(&mut self, revision: Revision) {
        if revision >= self.position {
            self.position = revision;
            self.ready.push_back(WatchEvent::Progress(revision));
        }
    }

    /// Opens the stream after `position`.
    async fn connect(&mut self) -> Result<(), Error> {
        let after = self.position;
        let options = WatchOptions::new()
            .with_range(super::range_end(&self.prefix))
            .with_start_revision(super::error::to_etcd(Revision(after.0 + 1)))
            .with_progress_notify()
            .with_prev_key();
        let mut client = self.etcd.watch_client();
        let stream = client
            .watch(super::range_start(&self.prefix), Some(options))
            .await
            .map_err(|error| super::error::plain(&error))?;
        // etcd itself takes a start in the future, and one at the very edge of compaction whose removals are gone.
        self.etcd.check_revision(after).await?;
        self.stream = Some(stream);
        Ok(())
    }

    async fn reconnect(&mut self) -> Result<(), Error> {
        let until = Instant::now() + RECONNECT_FOR;
        let mut pause = RECONNECT_PAUSE_MIN;
        loop {
            match self.connect().await {
                Ok(()) => {
                    self.confirmation = None;
                    // Requests for progress on the broken stream went unanswered.
                    self.progress.mark_changed();
                    return Ok(());
                }
                Err(Error::Unavailable(text)) if Instant::now() >= until => {
                    return Err(Error::Unavailable(text));
                }
                Err(Error::Unavailable(_)) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn translate(
    kind: EventType,
    kv: &KeyValue,
    previous: Option<&KeyValue>,
) -> Result<WatchEvent, Error> {
    let previous = previous.map(entry_of).transpose()?;
    Ok(match kind {
        EventType::Put => WatchEvent::Put {
            entry: entry_of(kv)?,
            previous,
        },
        EventType::Delete => WatchEvent::Delete {
            key: key_of(kv)?,
            revision: to_revision(kv.mod_revision()),
            previous: previous.ok_or_else(|| malformed("a removal without what was there"))?,
        },
    })
}

async fn pause_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn malformed(what: &str) -> Error {
    Error::Unavailable(format!("etcd sent {what}"))
}
