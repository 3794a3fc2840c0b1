//! Caches of objects that somebody else converts: filled when they are first asked for, emptied when nobody has asked for
//! long, and told apart from others by what goes wrong: a reader hears why the webhook did not convert.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corral_api::status::Status;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A cache that nobody has read for this long is emptied, and its objects are converted no more.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Pause before a webhook is asked again that could not be asked, at first; twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest such pause. A reader ends it.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Who wants a cache filled, and why it is not.
pub(super) struct Demand {
    wanted: Notify,
    // When somebody last read. Held for copies only.
    used: Mutex<Instant>,
    holders: AtomicUsize,
    failure: watch::Sender<Option<Status>>,
}

impl Demand {
    pub(super) fn new() -> Self {
        Self {
            wanted: Notify::new(),
            used: Mutex::new(Instant::now()),
            holders: AtomicUsize::new(0),
            failure: watch::Sender::new(None),
        }
    }

    /// Somebody reads: the cache is filled, or what failed is tried again. Answers where failures are told from now on.
    pub(super) fn read(&self) -> watch::Receiver<Option<Status>> {
        self.touch();
        let failures = self.failure.subscribe();
        self.wanted.notify_one();
        failures
    }

    pub(super) fn touch(&self) {
        *self.used.lock().expect("no panic under the lock") = Instant::now();
    }

    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Until nobody has read for long and nobody holds the cache.
    pub(super) async fn idle(&self) {
        loop {
            let used = *self.used.lock().expect("no panic under the lock");
            let until = used + IDLE_MAX;
            if Instant::now() < until {
                tokio::time::sleep_until(until).await;
            } else if self.holders.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(IDLE_MAX).await;
            } else {
                return;
            }
        }
    }

    pub(super) fn hold(&self, more: bool) {
        match more {
            true => self.holders.fetch_add(1, Ordering::AcqRel),
            false => self.holders.fetch_sub(1, Ordering::AcqRel),
        };
    }

    /// Tells why objects are not there, and waits: for a while, or until somebody reads.
    pub(super) async fn failed(&self, status: Status, attempts: u32) {
        self.failure.send_replace(Some(status));
        let pause = PAUSE_MIN
            .saturating_mul(1 << attempts.min(16))
            .min(PAUSE_MAX);
        tokio::select! {
            () = self.wanted.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Keeps a cache filled.
pub struct Held(pub(super) std::sync::Arc<super::Cacher>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(demand) = &self.0.demand {
            demand.hold(false);
        }
    }
}
