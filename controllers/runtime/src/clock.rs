//! The one place that wall-clock time comes from. Waiting goes through tokio's clock, which tests pause.

use std::sync::Mutex;

use jiff::Timestamp;

/// Says what time it is.
pub trait Clock: Send + Sync + 'static {
    /// The present.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that starts at a given time and follows tokio's clock, so that paused time moves both.
#[derive(Debug)]
pub struct TokioClock {
    start: Timestamp,
    origin: tokio::time::Instant,
    /// Guards what tests add on top of the elapsed time.
    offset: Mutex<jiff::SignedDuration>,
}

impl TokioClock {
    /// Starts at `start`.
    pub fn starting_at(start: Timestamp) -> Self {
        Self {
            start,
            origin: tokio::time::Instant::now(),
            offset: Mutex::new(jiff::SignedDuration::ZERO),
        }
    }

    /// Jumps ahead without waking any timer.
    pub fn jump(&self, by: jiff::SignedDuration) {
        let mut offset = self
            .offset
            .lock()
            .expect("no panic while the offset is held");
        *offset += by;
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let elapsed = jiff::SignedDuration::try_from(self.origin.elapsed())
            .expect("the process has not run for longer than the range of a duration");
        self.start
            + elapsed
            + *self
                .offset
                .lock()
                .expect("no panic while the offset is held")
    }
}
