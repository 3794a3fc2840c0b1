//! A queue of keys: a key waits once however often it is added, is worked on by one worker at a time, and backs off
//! by itself when it fails.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// The most keys that wait: one per object, so this is the number of objects of the largest cluster we plan for.
pub const CAPACITY: usize = 1_000_000;

struct State<T> {
    /// Each with the time since which it is ready.
    ready: VecDeque<(T, Instant)>,
    /// Keys that wait in `ready`, or that came again while being worked on.
    dirty: HashSet<T>,
    working: HashSet<T>,
    /// Keys that wait for their time, and the index that finds their time.
    delayed: BTreeMap<(Instant, u64), T>,
    due: HashMap<T, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<T, u32>,
    overflowed: bool,
    closed: bool,
    /// Keys that became ready since this was last asked.
    adds: u64,
}

impl<T> State<T> {
    fn push(&mut self, key: T) {
        self.adds += 1;
        self.ready.push_back((key, Instant::now()));
    }
}

/// The queue; share it in an `Arc`.
pub struct WorkQueue<T> {
    /// Guards the queue's whole state; every method is short.
    state: Mutex<State<T>>,
    wake: Notify,
    capacity: usize,
    backoff: Backoff,
}

impl<T: Clone + Eq + Hash + Debug> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new(CAPACITY, Backoff::RECONCILE)
    }
}

impl<T: Clone + Eq + Hash + Debug> WorkQueue<T> {
    /// A queue for at most `capacity` keys.
    pub fn new(capacity: usize, backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            overflowed: false,
            closed: false,
            adds: 0,
        };
        Self {
            state: Mutex::new(state),
            wake: Notify::new(),
            capacity,
            backoff,
        }
    }

    /// Adds a key now. A full queue drops it and remembers that it did ([`Self::take_overflow`]).
    pub fn add(&self, key: T) {
        let mut state = self.lock();
        if state.dirty.contains(&key) {
            return;
        }
        if state.dirty.len() >= self.capacity {
            state.overflowed = true;
            return;
        }
        state.dirty.insert(key.clone());
        if !state.working.contains(&key) {
            state.push(key);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Adds a key after a while; if it waits for its time already, the earlier time counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut state = self.lock();
        if let Some(known) = state.due.get(&key).copied() {
            if known.0 <= at {
                return;
            }
            state.delayed.remove(&known);
        } else if state.delayed.len() >= self.capacity {
            state.overflowed = true;
            return;
        }
        state.sequence += 1;
        let slot = (at, state.sequence);
        state.delayed.insert(slot, key.clone());
        state.due.insert(key, slot);
        drop(state);
        self.wake.notify_one();
    }

    /// Adds a key after its back-off, and returns how long that is.
    pub fn retry(&self, key: T) -> Duration {
        let delay = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            self.backoff.delay(*failures - 1, &format!("{key:?}"))
        };
        self.add_after(key, delay);
        delay
    }

    /// Forgets a key's failures.
    pub fn forget(&self, key: &T) {
        self.lock().failures.remove(key);
    }

    /// The next key to work on; nothing once the queue is closed. Call [`Self::done`] afterwards.
    pub async fn next(&self) -> Option<T> {
        self.next_with_wait().await.map(|(key, _)| key)
    }

    /// The same, with how long the key was ready.
    pub(crate) async fn next_with_wait(&self) -> Option<(T, Duration)> {
        loop {
            let notified = self.wake.notified();
            let until = match self.take() {
                Taken::Key(key, waited) => return Some((key, waited)),
                Taken::Closed => return None,
                Taken::Wait(until) => until,
            };
            match until {
                Some(at) => {
                    // Either wakes us; both lead to another look.
                    let _ = tokio::time::timeout_at(at, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// Ends the work on a key; if it came again meanwhile it is ready at once.
    pub fn done(&self, key: &T) {
        let mut state = self.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.push(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Ends `next` for everybody.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_waiters();
    }

    /// Whether keys were dropped since the last call; then all keys should be added again.
    pub fn take_overflow(&self) -> bool {
        std::mem::take(&mut self.lock().overflowed)
    }

    /// How many keys became ready since the last call.
    pub(crate) fn take_adds(&self) -> u64 {
        std::mem::take(&mut self.lock().adds)
    }

    /// How many keys are ready.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self) -> Taken<T> {
        let mut state = self.lock();
        if state.closed {
            return Taken::Closed;
        }
        let now = Instant::now();
        while let Some(entry) = state.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            state.due.remove(&key);
            if state.dirty.insert(key.clone()) && !state.working.contains(&key) {
                state.push(key);
            }
        }
        let Some((key, since)) = state.ready.pop_front() else {
            return Taken::Wait(state.delayed.first_key_value().map(|((at, _), _)| *at));
        };
        state.dirty.remove(&key);
        state.working.insert(key.clone());
        if !state.ready.is_empty() {
            // One wake-up may stand for several keys that became due together.
            self.wake.notify_one();
        }
        Taken::Key(key, now.saturating_duration_since(since))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().expect("no panic while the queue is held")
    }
}

enum Taken<T> {
    /// With how long it was ready.
    Key(T, Duration),
    Wait(Option<Instant>),
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_not_worked_on_twice_at_a_time() {
        let queue = WorkQueue::<&str>::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("b"));
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_at_their_time_and_the_earlier_time_counts() {
        let queue = WorkQueue::<&str>::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("b", Duration::from_secs(20));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 10);
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("b"));
        assert_eq!(start.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_until_forgotten() {
        let queue = WorkQueue::<&str>::default();
        let first = queue.retry("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        let second = queue.retry("a");
        assert!(second > first);
        queue.forget(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        assert_eq!(queue.retry("a"), first);
    }

    #[tokio::test]
    async fn a_full_queue_remembers_that_it_dropped_keys() {
        let queue = WorkQueue::<u32>::new(2, Backoff::RECONCILE);
        (0..3).for_each(|n| queue.add(n));
        assert_eq!(queue.len(), 2);
        assert!(queue.take_overflow());
        assert!(!queue.take_overflow());
    }
}
