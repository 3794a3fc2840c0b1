//! Answers of services that are kept for a while, in a number that is bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Answers that one cache keeps. The oldest that is found goes for a new one.
pub const ENTRIES_MAX: usize = 8_192;

/// Answers by the hash of what was asked.
#[derive(Debug)]
pub struct Cache<T> {
    // Held for a lookup or an insertion.
    entries: Mutex<HashMap<[u8; 32], (Instant, T)>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
        }
    }
}

impl<T: Clone> Cache<T> {
    /// The answer, if it is still good.
    pub fn get(&self, key: &[u8; 32]) -> Option<T> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get(key) {
            Some((until, value)) if *until > Instant::now() => Some(value.clone()),
            Some(_) => {
                entries.remove(key);
                None
            }
            None => None,
        }
    }

    /// Keeps an answer for a while; a time of nothing keeps it not at all.
    pub fn put(&self, key: [u8; 32], value: T, life: Duration) {
        if life.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES_MAX && !entries.contains_key(&key) {
            entries.retain(|_, (until, _)| *until > now);
        }
        if entries.len() >= ENTRIES_MAX && !entries.contains_key(&key) {
            // Which one goes matters little: it is asked about again.
            let some = entries.keys().next().copied();
            some.map(|key| entries.remove(&key));
        }
        entries.insert(key, (now + life, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_their_time_and_in_their_number() {
        let cache = Cache::default();
        let key = |index: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&index.to_le_bytes());
            key
        };
        cache.put(key(0), "a", Duration::from_secs(10));
        cache.put(key(1), "b", Duration::ZERO);
        assert_eq!((cache.get(&key(0)), cache.get(&key(1))), (Some("a"), None));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(cache.get(&key(0)), None);
        for index in 0..2 * u32::try_from(ENTRIES_MAX).expect("few") {
            cache.put(key(index), "c", Duration::from_secs(10));
        }
        assert_eq!(cache.entries.lock().expect("no panic").len(), ENTRIES_MAX);
    }
}
