//! Exponential back-off with jitter.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// How long to wait before the n-th retry.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The wait before the first retry.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Backoff {
    /// What reconciles use: quick at first, because most failures are conflicts with a cache that is about to catch up.
    pub const RECONCILE: Self = Self {
        base: Duration::from_millis(5),
        max: Duration::from_secs(300),
    };
    /// What reflectors use when the server is away.
    pub const CONNECT: Self = Self {
        base: Duration::from_millis(200),
        max: Duration::from_secs(30),
    };

    /// The wait before retry `attempt` (from 0). The jitter (up to a quarter more) is drawn from the key and the
    /// attempt, so that a run can be replayed and keys that failed together do not return together.
    pub fn delay(&self, attempt: u32, key: &impl Hash) -> Duration {
        let doubled = self
            .base
            .saturating_mul(1_u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX));
        let capped = doubled.min(self.max);
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        attempt.hash(&mut hasher);
        let thousandths = u32::try_from(hasher.finish() % 250).expect("below 250");
        capped + capped * thousandths / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let backoff = Backoff {
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
        };
        for (attempt, floor) in [(0, 1), (1, 2), (3, 8), (10, 60), (40, 60)] {
            let delay = backoff.delay(attempt, &"key");
            assert!(delay >= Duration::from_secs(floor), "{attempt}: {delay:?}");
            assert!(
                delay <= Duration::from_secs(floor).mul_f64(1.25),
                "{attempt}: {delay:?}"
            );
        }
    }
}
