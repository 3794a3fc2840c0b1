//! Forgetting: when history is old enough, and how it is removed in slices small enough to ride along with commits.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redb::{ReadableTable, WriteTransaction};
use tokio::sync::mpsc;

use super::Shared;
use super::layout::{HISTORY, Place, VERSIONS, decode_record, version_key};
use super::read::ReadError;
use super::writer::Request;

/// Records looked at in one slice. It bounds what a slice adds to the commit that it rides on (about a millisecond).
const SLICE_RECORDS_MAX: usize = 256;

/// How finely the window is sampled: history is kept up to this fraction longer than asked for.
const WINDOW_SAMPLES: u32 = 60;

/// Bounds of the time between two samples.
const CADENCE_MIN: Duration = Duration::from_millis(20);
const CADENCE_MAX: Duration = Duration::from_secs(10);

/// What can be removed once everything before a revision is forgotten.
struct Superseded {
    key: String,
    /// The version that this record replaced.
    previous: Option<Place>,
    /// The record itself, if it is a removal.
    own: Option<Place>,
}

/// Removes what the records in `(trimmed, compacted]` superseded, one bounded slice. Returns how far it came.
///
/// A version is superseded by exactly one record, which names it, so that each record is looked at once however
/// long the version it replaced had lived.
pub(super) fn trim(
    write: &WriteTransaction,
    trimmed: u64,
    compacted: u64,
) -> Result<u64, ReadError> {
    let mut history = write.open_table(HISTORY)?;
    let mut versions = write.open_table(VERSIONS)?;
    let (superseded, reached) = collect(&history, trimmed, compacted)?;
    for item in superseded {
        for place in [item.previous, item.own].into_iter().flatten() {
            history.remove((place.revision, place.operation))?;
            versions.remove(version_key(&item.key, place.revision).as_slice())?;
        }
    }
    Ok(reached)
}

fn collect(
    history: &impl ReadableTable<(u64, u32), &'static [u8]>,
    trimmed: u64,
    compacted: u64,
) -> Result<(Vec<Superseded>, u64), ReadError> {
    let mut found = Vec::new();
    let mut reached = trimmed;
    for (seen, item) in history
        .range((trimmed + 1, 0)..(compacted + 1, 0))?
        .enumerate()
    {
        let (place, record) = item?;
        let (revision, operation) = place.value();
        if seen >= SLICE_RECORDS_MAX && revision != reached {
            return Ok((found, reached));
        }
        reached = revision;
        let record = decode_record(record.value()).ok_or(ReadError::Malformed("history record"))?;
        let own = record.value.is_none().then_some(Place {
            revision,
            operation,
        });
        if own.is_some() || record.previous.is_some() {
            found.push(Superseded {
                key: record.key.to_owned(),
                previous: record.previous,
                own,
            });
        }
    }
    Ok((found, compacted))
}

/// How much history is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub(super) window: Duration,
    pub(super) revisions_min: u64,
}

/// The body of the thread that decides what is old enough. Ends when `stop` is dropped or the store is gone.
pub(super) fn run(
    shared: &Weak<Shared>,
    requests: &mpsc::WeakSender<Request>,
    retention: Retention,
    stop: &Receiver<()>,
) {
    let cadence = (retention.window / WINDOW_SAMPLES).clamp(CADENCE_MIN, CADENCE_MAX);
    let mut samples = Samples::default();
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(cadence) {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.measure_file();
        let target = samples.take(Instant::now(), shared.hub.published(), retention);
        drop(shared);
        if let Some(revision) = target {
            let Some(requests) = requests.upgrade() else {
                return;
            };
            // A full queue means busy writers: the next sample asks again.
            let _ = requests.try_send(Request::Forget { revision });
        }
    }
}

/// Revisions by the time at which they were the newest; bounded by the window over the cadence.
#[derive(Debug, Default)]
struct Samples {
    taken: VecDeque<(Instant, u64)>,
    aged: u64,
}

impl Samples {
    /// Adds a sample and returns the revision before which history may go.
    fn take(&mut self, now: Instant, revision: u64, retention: Retention) -> Option<u64> {
        self.taken.push_back((now, revision));
        while let Some((at, revision)) = self.taken.front()
            && now.duration_since(*at) >= retention.window
        {
            self.aged = *revision;
            self.taken.pop_front();
        }
        let target = self
            .aged
            .min(revision.saturating_sub(retention.revisions_min));
        (target > 0).then_some(target)
    }
}

/// Starts the thread.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    requests: &mpsc::Sender<Request>,
    retention: Retention,
    stop: Receiver<()>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let shared = Arc::downgrade(shared);
    let requests = requests.downgrade();
    std::thread::Builder::new()
        .name("store-window".to_owned())
        .spawn(move || run(&shared, &requests, retention, &stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_goes_when_it_is_both_old_and_not_among_the_last_revisions() {
        let retention = Retention {
            window: Duration::from_secs(10),
            revisions_min: 5,
        };
        let mut samples = Samples::default();
        let start = Instant::now();
        assert_eq!(samples.take(start, 100, retention), None);
        let later = start + Duration::from_secs(9);
        assert_eq!(samples.take(later, 102, retention), None);
        let later = start + Duration::from_secs(10);
        assert_eq!(samples.take(later, 102, retention), Some(97));
        let later = start + Duration::from_secs(11);
        assert_eq!(samples.take(later, 500, retention), Some(100));
    }
}
