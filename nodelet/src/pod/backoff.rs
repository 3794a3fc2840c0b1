//! How long to wait between attempts.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// The wait after the second failure in a row; it doubles from there.
pub const FIRST: SignedDuration = SignedDuration::from_secs(10);

/// The longest wait.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// A container that ran so long starts with a clean slate.
pub const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// How soon a container whose configuration cannot be resolved is tried again.
pub const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(5);

/// A count of failures that gives growing delays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay before the next restart: none for the first, then [`FIRST`] doubling up to [`MAX`].
    pub fn restart_delay(self) -> SignedDuration {
        match self.failures {
            0 => SignedDuration::ZERO,
            failures => growing(failures - 1),
        }
    }

    /// Counts a restart.
    pub fn restarted(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Counts a failed attempt and gives the delay before the next.
    pub fn next_delay(&mut self) -> SignedDuration {
        self.failures = self.failures.saturating_add(1);
        growing(self.failures - 1)
    }

    /// Takes into account how long an instance ran.
    pub fn ran(&mut self, time: SignedDuration) {
        if time >= RESET_AFTER {
            self.failures = 0;
        }
    }
}

fn growing(doublings: u32) -> SignedDuration {
    // Five doublings of ten seconds pass five minutes; the bound keeps the shift defined.
    let factor = 1_i32 << doublings.min(6);
    (FIRST * factor).min(MAX)
}

/// The delay after a sandbox could not be made.
pub fn sandbox_delay(failures: u32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(failures.clamp(1, 6)) * 5).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_five_minutes_and_a_long_run_resets_them() {
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        for _ in 0..8 {
            delays.push(backoff.restart_delay().as_secs());
            backoff.restarted();
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        backoff.ran(RESET_AFTER);
        assert_eq!(backoff.restart_delay(), SignedDuration::ZERO);
    }
}
