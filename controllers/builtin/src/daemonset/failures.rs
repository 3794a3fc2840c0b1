//! How long a failed pod stays before it is replaced: longer each time that the set fails on the node, so that a pod
//! that the node always refuses does not spin. Pure.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// The wait after the first failure, doubled with each further one.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// Failures are forgotten when nothing has failed for this long.
const MEMORY: Duration = Duration::from_secs(30 * 60);

/// The last failure on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    at: Timestamp,
    wait: Duration,
}

/// A set, as it was when the pod failed: a change of the set begins anew.
pub type Key = (String, i64);

/// The last failures of all sets, by node. As many as there are nodes with a failing pod of a set.
#[derive(Debug, Default)]
pub struct Failures {
    sets: HashMap<Key, Waits>,
}

/// The failures of one set, by node.
#[derive(Debug, Clone, Default)]
pub struct Waits(HashMap<String, Failure>);

impl Failures {
    /// Those of one set.
    pub fn of(&self, key: &Key) -> Waits {
        self.sets.get(key).cloned().unwrap_or_default()
    }

    /// A failed pod on a node is being replaced.
    pub fn note(&mut self, key: &Key, node: &str, now: Timestamp) {
        self.sets.retain(|_, waits| {
            waits.0.retain(|_, failure| !failure.is_forgotten(now));
            !waits.0.is_empty()
        });
        let waits = self.sets.entry(key.clone()).or_default();
        let before = waits.0.get(node);
        let wait = before.map_or(WAIT, |before| (before.wait * 2).min(WAIT_MAX));
        waits.0.insert(node.to_owned(), Failure { at: now, wait });
    }
}

impl Failure {
    fn is_forgotten(&self, now: Timestamp) -> bool {
        self.at + MEMORY < now
    }
}

impl Waits {
    /// When a failed pod of a node may be replaced; nothing if at once.
    pub fn until(&self, node: &str, now: Timestamp) -> Option<Timestamp> {
        let failure = self
            .0
            .get(node)
            .filter(|failure| !failure.is_forgotten(now))?;
        Some(failure.at + failure.wait).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_quarter_of_an_hour_and_are_forgotten_after_a_calm() {
        let key = ("uid".to_owned(), 1);
        let (mut failures, mut now) = (Failures::default(), Timestamp::UNIX_EPOCH);
        let mut waits = Vec::new();
        for _ in 0..13 {
            assert_eq!(failures.of(&key).until("n", now), None);
            failures.note(&key, "n", now);
            let until = failures.of(&key).until("n", now).expect("waits");
            waits.push(until.as_second() - now.as_second());
            now = until;
        }
        assert_eq!(
            waits,
            [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
        );
        assert_eq!(failures.of(&key).until("other", now), None);
        assert_eq!(failures.of(&("uid".to_owned(), 2)).until("n", now), None);
        failures.note(&("other".to_owned(), 1), "n", now + MEMORY + WAIT_MAX);
        assert_eq!(failures.sets.len(), 1, "the old ones are forgotten");
    }
}
