//! Pods that wait: ready ones by priority and age, failed ones until their back-off is over, unschedulable ones until
//! something changes that might help, or for some minutes at most.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use corral_runtime::ObjectKey;
use corral_runtime::backoff::Backoff;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::requests::PodInfo;

/// The wait after failed attempts.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_secs(1),
    max: Duration::from_secs(10),
};
/// An unschedulable pod is looked at again after this long even if nothing seems to have changed.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

type Rank = (Reverse<i32>, Timestamp, ObjectKey);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready,
    /// Waits for the time.
    Backoff(Instant),
    /// Waits for a change, until the time.
    Unschedulable {
        until: Instant,
        backoff_over: Instant,
    },
    /// Given out; its outcome is awaited.
    Out,
}

struct Entry {
    pod: PodInfo,
    place: Place,
    attempts: u32,
    /// Whether something that might help happened while the pod was out.
    helped: bool,
}

/// The queue. It holds one entry per pod that has no node, which the server bounds.
#[derive(Default)]
pub struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    ready: BTreeSet<Rank>,
    timers: BTreeSet<(Instant, ObjectKey)>,
}

fn rank(pod: &PodInfo) -> Rank {
    (Reverse(pod.priority), pod.created, pod.key.clone())
}

impl Queue {
    /// Takes a pod in or its new state; a new state counts as something that might help.
    pub fn put(&mut self, pod: PodInfo) {
        let key = pod.key.clone();
        let (attempts, place) = match self.entries.get(&key) {
            Some(known) if known.pod.uid == pod.uid => {
                let changed = known.pod.class != pod.class || known.pod.priority != pod.priority;
                (known.attempts, (!changed).then_some(known.place))
            }
            _ => (0, None),
        };
        self.unlink(&key);
        let entry = Entry {
            pod,
            place: Place::Out,
            attempts,
            helped: place.is_none(),
        };
        self.entries.insert(key.clone(), entry);
        self.link(&key, place.unwrap_or(Place::Ready));
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.unlink(key);
        self.entries.remove(key);
    }

    /// Gives out the first ready pod.
    pub fn pop(&mut self) -> Option<PodInfo> {
        let key = self.ready.first()?.2.clone();
        self.unlink(&key);
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Out;
        entry.attempts += 1;
        entry.helped = false;
        Some(entry.pod.clone())
    }

    /// The pod that was given out fits nowhere.
    pub fn unschedulable(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        let backoff_over = Instant::now() + BACKOFF.delay(entry.attempts.saturating_sub(1), key);
        let place = if entry.helped {
            Place::Backoff(backoff_over)
        } else {
            Place::Unschedulable {
                until: Instant::now() + UNSCHEDULABLE_MAX,
                backoff_over,
            }
        };
        self.link(key, place);
    }

    /// The pod that was given out could not be bound.
    pub fn failed(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        let until = Instant::now() + BACKOFF.delay(entry.attempts.saturating_sub(1), key);
        self.link(key, Place::Backoff(until));
    }

    /// Something happened that might help unschedulable pods.
    pub fn wake_unschedulable(&mut self) {
        let now = Instant::now();
        let mut waiting = Vec::new();
        for (key, entry) in &mut self.entries {
            match entry.place {
                Place::Unschedulable { backoff_over, .. } => {
                    waiting.push((key.clone(), backoff_over))
                }
                Place::Out => entry.helped = true,
                Place::Ready | Place::Backoff(_) => {}
            }
        }
        for (key, backoff_over) in waiting {
            self.unlink(&key);
            let place = if backoff_over <= now {
                Place::Ready
            } else {
                Place::Backoff(backoff_over)
            };
            self.link(&key, place);
        }
    }

    /// Makes pods ready whose time has come.
    pub fn advance(&mut self) {
        let now = Instant::now();
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.unlink(&key);
            self.link(&key, Place::Ready);
        }
    }

    /// Whether a pod is ready.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When [`Self::advance`] has something to do next.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many pods wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn link(&mut self, key: &ObjectKey, place: Place) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.place = place;
        match place {
            Place::Ready => drop(self.ready.insert(rank(&entry.pod))),
            Place::Backoff(at) | Place::Unschedulable { until: at, .. } => {
                self.timers.insert((at, key.clone()));
            }
            Place::Out => {}
        }
    }

    fn unlink(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match entry.place {
            Place::Ready => drop(self.ready.remove(&rank(&entry.pod))),
            Place::Backoff(at) | Place::Unschedulable { until: at, .. } => {
                self.timers.remove(&(at, key.clone()));
            }
            Place::Out => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use corral_runtime::testing::object;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32, created: &str) -> PodInfo {
        PodInfo::new(Arc::new(object(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "spec": {"containers": [], "priority": priority},
        }))))
    }

    #[tokio::test(start_paused = true)]
    async fn priority_comes_before_age() {
        let mut queue = Queue::default();
        queue.put(pod("young", 0, "2023-01-02T00:00:00Z"));
        queue.put(pod("old", 0, "2023-01-01T00:00:00Z"));
        queue.put(pod("high", 10, "2023-01-03T00:00:00Z"));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|pod| pod.key.name)
            .collect();
        assert_eq!(order, ["high", "old", "young"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unschedulable_pod_waits_for_a_change_and_its_back_off() {
        let mut queue = Queue::default();
        queue.put(pod("a", 0, "2023-01-01T00:00:00Z"));
        let out = queue.pop().expect("ready");
        queue.unschedulable(&out.key);
        queue.advance();
        assert!(queue.pop().is_none());
        queue.wake_unschedulable();
        assert!(queue.pop().is_none(), "still backing off");
        tokio::time::advance(Duration::from_secs(2)).await;
        queue.advance();
        assert!(queue.pop().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_the_attempt_is_not_lost() {
        let mut queue = Queue::default();
        queue.put(pod("a", 0, "2023-01-01T00:00:00Z"));
        let out = queue.pop().expect("ready");
        queue.wake_unschedulable();
        queue.unschedulable(&out.key);
        tokio::time::advance(Duration::from_secs(2)).await;
        queue.advance();
        assert!(queue.pop().is_some());
    }
}
