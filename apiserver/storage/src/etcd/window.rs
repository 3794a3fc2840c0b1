//! Keeps etcd's history to the window: samples the revision over time, and compacts to what is old enough.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Etcd;
use crate::Revision;

/// How finely the window is sampled.
const WINDOW_SAMPLES: u32 = 60;

/// Bounds of the time between samples.
const CADENCE_MIN: Duration = Duration::from_millis(50);
const CADENCE_MAX: Duration = Duration::from_secs(10);

/// Runs until aborted.
pub(super) async fn run(etcd: Etcd, window: Duration, revisions_min: u64) {
    let mut ticks = interval((window / WINDOW_SAMPLES).clamp(CADENCE_MIN, CADENCE_MAX));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Bounded by the window over the cadence.
    let mut samples: VecDeque<(Instant, u64)> = VecDeque::new();
    let mut compacted = 0;
    loop {
        ticks.tick().await;
        let current = match etcd.current_revision().await {
            Ok(Revision(current)) => current,
            Err(error) => {
                tracing::debug!(%error, "etcd did not tell its revision");
                continue;
            }
        };
        let now = Instant::now();
        samples.push_back((now, current));
        let mut aged = 0;
        while let Some((at, revision)) = samples.front()
            && now.duration_since(*at) >= window
        {
            aged = *revision;
            samples.pop_front();
        }
        let target = aged.min(current.saturating_sub(revisions_min));
        if target > compacted {
            match etcd.compact(Revision(target)).await {
                Ok(()) => compacted = target,
                Err(error) => tracing::warn!(%error, target, "etcd did not compact"),
            }
        }
    }
}
