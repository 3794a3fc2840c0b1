//! Which images go when the disk fills up. The decisions are pure; [`super::store`] does the removing.
//!
//! As in a kubelet: at the high threshold images that no pod of this node needs go, those that were used longest ago
//! first, until the low one is reached; an image that has just come is left alone, for somebody is about to use it. On
//! top, unused images may be given a greatest age.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::store::Listed;

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How full the disk is, in percent, when something has to go.
    pub high_percent: u8,
    /// How full it may be afterwards.
    pub low_percent: u8,
    /// An image that has been here for less stays.
    pub age_min: Duration,
    /// An image that was not used for longer goes in any case.
    pub unused_max: Option<Duration>,
}

impl Default for Policy {
    /// Kubernetes' values.
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            age_min: Duration::from_secs(2 * 60),
            unused_max: None,
        }
    }
}

/// A reading of the disk that holds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its size in bytes.
    pub capacity: u64,
    /// What can still be written to it.
    pub available: u64,
}

impl Disk {
    /// How full it is, in percent; `None` if the reading makes no sense.
    pub fn used_percent(&self) -> Option<u8> {
        let available = u128::from(self.available.min(self.capacity));
        let free = (available * 100).checked_div(u128::from(self.capacity))?;
        u8::try_from(100 - free).ok()
    }

    /// How much has to go, if anything.
    pub fn to_free(&self, policy: &Policy) -> Option<u64> {
        if self.used_percent()? < policy.high_percent {
            return None;
        }
        let share = u128::from(100 - policy.low_percent.min(100));
        let wanted = u64::try_from(u128::from(self.capacity) * share / 100).unwrap_or(u64::MAX);
        Some(wanted.saturating_sub(self.available))
    }
}

/// What is remembered of an image between rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    first_seen: Timestamp,
    last_used: Timestamp,
}

/// When images came and were used, by their identity. In memory: after a restart all that is there counts as old.
#[derive(Debug)]
pub struct Ages {
    began: Timestamp,
    known: BTreeMap<String, Known>,
    looked: bool,
}

impl Ages {
    /// Nothing is known yet.
    pub fn new(now: Timestamp) -> Self {
        Self {
            began: now,
            known: BTreeMap::new(),
            looked: false,
        }
    }

    /// Takes in what is there and what is used.
    pub fn look(&mut self, images: &[Listed], used: &BTreeSet<String>, now: Timestamp) {
        let old = Timestamp::UNIX_EPOCH;
        let first_seen = if self.looked { now } else { old };
        self.known
            .retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let known = self.known.entry(image.id.clone()).or_insert(Known {
                first_seen,
                last_used: old,
            });
            if used.contains(&image.id) {
                known.last_used = now;
            }
        }
        self.looked = true;
    }

    /// Images that have not been used for too long.
    pub fn outdated(
        &self,
        used: &BTreeSet<String>,
        policy: &Policy,
        now: Timestamp,
    ) -> Vec<String> {
        let Some(max) = policy.unused_max else {
            return Vec::new();
        };
        // What was used before this process began is not known; nothing is called unused before that is over.
        if age(self.began, now) <= max {
            return Vec::new();
        }
        self.order(used)
            .into_iter()
            .filter(|(_, known)| age(known.last_used.max(known.first_seen), now) > max)
            .map(|(id, _)| id)
            .collect()
    }

    /// Images that may go for room, the first to go first.
    pub fn removable(
        &self,
        used: &BTreeSet<String>,
        policy: &Policy,
        now: Timestamp,
    ) -> Vec<String> {
        self.order(used)
            .into_iter()
            .filter(|(_, known)| age(known.first_seen, now) >= policy.age_min)
            .map(|(id, _)| id)
            .collect()
    }

    fn order(&self, used: &BTreeSet<String>) -> Vec<(String, Known)> {
        let mut list: Vec<(String, Known)> = self
            .known
            .iter()
            .filter(|(id, _)| !used.contains(*id))
            .map(|(id, known)| (id.clone(), *known))
            .collect();
        list.sort_by_key(|(_, known)| (known.last_used, known.first_seen));
        list
    }
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn images(ids: &[&str]) -> Vec<Listed> {
        let listed = |id: &&str| Listed {
            names: vec![],
            id: (*id).to_owned(),
            size: 1,
        };
        ids.iter().map(listed).collect()
    }

    fn used(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn room_is_made_from_the_high_threshold_down_to_the_low_one() {
        let policy = Policy::default();
        let disk = |available| Disk {
            capacity: 1000,
            available,
        };
        assert_eq!(disk(160).to_free(&policy), None, "84 % are used");
        assert_eq!(
            disk(159).to_free(&policy),
            Some(41),
            "what is free is rounded down"
        );
        assert_eq!(disk(0).to_free(&policy), Some(200));
        assert_eq!(
            Disk {
                capacity: 0,
                available: 0
            }
            .to_free(&policy),
            None
        );
        assert_eq!(disk(2000).used_percent(), Some(0));
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_used_or_new_stays() {
        let policy = Policy::default();
        let mut ages = Ages::new(at(0));
        ages.look(&images(&["a", "b", "c"]), &used(&["a"]), at(0));
        ages.look(&images(&["a", "b", "c"]), &used(&["b"]), at(60));
        ages.look(&images(&["a", "b", "c", "new"]), &used(&[]), at(100));
        assert_eq!(
            ages.removable(&used(&[]), &policy, at(101)),
            ["c", "a", "b"]
        );
        assert_eq!(ages.removable(&used(&["c"]), &policy, at(101)), ["a", "b"]);
        assert_eq!(
            ages.removable(&used(&["a"]), &policy, at(220)),
            ["c", "new", "b"],
            "it is two minutes old now, and was never used"
        );
    }

    #[test]
    fn an_age_for_unused_images_counts_from_when_they_were_last_seen_in_use() {
        let mut policy = Policy::default();
        let mut ages = Ages::new(at(0));
        ages.look(&images(&["a", "b"]), &used(&["a"]), at(0));
        ages.look(&images(&["a", "b"]), &used(&["a"]), at(3000));
        assert_eq!(
            ages.outdated(&used(&[]), &policy, at(9000)),
            Vec::<String>::new()
        );
        policy.unused_max = Some(Duration::from_secs(3600));
        assert_eq!(
            ages.outdated(&used(&[]), &policy, at(3600)),
            Vec::<String>::new(),
            "too early to tell"
        );
        assert_eq!(ages.outdated(&used(&[]), &policy, at(3601)), ["b"]);
        assert_eq!(ages.outdated(&used(&[]), &policy, at(6601)), ["b", "a"]);
    }
}
