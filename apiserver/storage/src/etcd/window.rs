//! Keeps etcd's history to the window: samples the revision over time, and compacts to what is old enough.
//!
//! Several servers share an etcd, and kube-apiserver may be among them. They agree as it does: a key of its name holds
//! the revision of the last compaction, and how often it was written is a clock. Who finds it where it was an interval ago
//! may write it, and compacts; the others see that it has moved, and wait for another interval. So there is one compaction
//! in an interval, whoever does it, and when a server dies the next one goes on.

use std::collections::VecDeque;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::error::{plain, to_revision};
use super::{Etcd, REQUEST_TIMEOUT, ReadFailure};
use crate::{Error, Revision};

/// The key by which servers agree; its name is Kubernetes'.
pub const COMPACT_KEY: &str = "compact_rev_key";

/// How finely the window is sampled.
const WINDOW_SAMPLES: u32 = 60;

/// Bounds of the time between samples.
const CADENCE_MIN: Duration = Duration::from_millis(50);
const CADENCE_MAX: Duration = Duration::from_secs(10);

/// Longest time between compactions, which is kube-apiserver's; half of a window that is shorter than two of these.
const INTERVAL_MAX: Duration = Duration::from_secs(300);

/// Runs until aborted.
pub(super) async fn run(etcd: Etcd, window: Duration, revisions_min: u64) {
    let mut ticks = interval((window / WINDOW_SAMPLES).clamp(CADENCE_MIN, CADENCE_MAX));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut history = History {
        window,
        revisions_min,
        samples: VecDeque::new(),
        clock: None,
    };
    loop {
        ticks.tick().await;
        if let Err(error) = history.look(&etcd).await {
            tracing::debug!(%error, "etcd's history was not looked after; tried again");
        }
    }
}

/// What the servers' clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clock {
    /// How often the key was written; 0 when it is not there.
    time: i64,
    /// The revision of the last compaction that it tells of.
    compacted: u64,
}

struct History {
    window: Duration,
    revisions_min: u64,
    /// Revisions by the time at which they were the newest; bounded by the window over the cadence.
    samples: VecDeque<(Instant, u64)>,
    /// The clock, and since when it shows that.
    clock: Option<(Clock, Instant)>,
}

impl History {
    async fn look(&mut self, etcd: &Etcd) -> Result<(), Error> {
        let (clock, current) = read(etcd).await?;
        let now = Instant::now();
        let aged = self.sample(now, current);
        let Some((_, since)) = self.clock.filter(|(before, _)| *before == clock) else {
            self.clock = Some((clock, now));
            return Ok(());
        };
        let target = aged.min(current.0.saturating_sub(self.revisions_min));
        let interval = (self.window / 2).min(INTERVAL_MAX);
        if target <= clock.compacted || now.duration_since(since) < interval {
            return Ok(());
        }
        // Whatever comes of it, it has been tried in this interval.
        self.clock = Some((clock, now));
        if advance(etcd, clock, target).await? {
            tracing::debug!(revision = target, "compacting etcd");
            etcd.compact(Revision(target)).await?;
        }
        Ok(())
    }

    /// Takes a sample, and answers the newest revision that is as old as the window.
    fn sample(&mut self, now: Instant, current: Revision) -> u64 {
        self.samples.push_back((now, current.0));
        let mut aged = 0;
        while let Some((at, revision)) = self.samples.front().copied()
            && now.duration_since(at) >= self.window
        {
            aged = revision;
            // The newest of those that are old enough is needed until the next one is.
            if self
                .samples
                .get(1)
                .is_none_or(|(next, _)| now.duration_since(*next) < self.window)
            {
                break;
            }
            self.samples.pop_front();
        }
        aged
    }
}

async fn read(etcd: &Etcd) -> Result<(Clock, Revision), Error> {
    let answer = etcd.read(COMPACT_KEY, GetOptions::new()).await;
    let answer = answer.map_err(ReadFailure::into_error)?;
    let current = to_revision(answer.header().map_or(0, |header| header.revision()));
    Ok((clock_of(answer.kvs().first()), current))
}

fn clock_of(kv: Option<&KeyValue>) -> Clock {
    let text = kv.and_then(|kv| kv.value_str().ok());
    Clock {
        time: kv.map_or(0, KeyValue::version),
        // One who cannot be understood has not compacted as far as anybody knows.
        compacted: text.and_then(|text| text.parse().ok()).unwrap_or(0),
    }
}

/// Lets the clock go on by one, unless somebody else has done that.
async fn advance(etcd: &Etcd, clock: Clock, target: u64) -> Result<bool, Error> {
    let unmoved = Compare::version(COMPACT_KEY, CompareOp::Equal, clock.time);
    let txn =
        Txn::new()
            .when([unmoved])
            .and_then([TxnOp::put(COMPACT_KEY, target.to_string(), None)]);
    let answer = timeout(REQUEST_TIMEOUT, etcd.kv_client().txn(txn))
        .await
        .map_err(|_| Error::Unavailable("etcd did not answer in time".to_owned()))?
        .map_err(|error| plain(&error))?;
    Ok(answer.succeeded())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_old_as_the_window_is_known_until_something_newer_is() {
        let mut history = History {
            window: Duration::from_secs(10),
            revisions_min: 0,
            samples: VecDeque::new(),
            clock: None,
        };
        let start = Instant::now();
        let mut at = |seconds, revision| {
            history.sample(start + Duration::from_secs(seconds), Revision(revision))
        };
        assert_eq!(at(0, 5), 0);
        assert_eq!(at(9, 6), 0);
        assert_eq!(at(10, 7), 5);
        assert_eq!(at(11, 8), 5);
        assert_eq!(at(18, 9), 5);
        assert_eq!(at(19, 9), 6);
        assert_eq!(at(60, 10), 9);
    }
}
