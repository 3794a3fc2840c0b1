//! After how long one who was refused shall come back: the longer, the more were refused lately.

use std::collections::VecDeque;

/// Longest time, in seconds, as in kube-apiserver.
const AFTER_MAX: u64 = 32;

/// What was refused lately at one level.
#[derive(Debug)]
pub struct Refusals {
    /// Seconds and how many were refused in each, oldest first; no longer than twice the longest time.
    past: VecDeque<(u64, u64)>,
    second: u64,
    count: u64,
    after: u64,
    raised: Option<u64>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            past: VecDeque::new(),
            second: 0,
            count: 0,
            after: 1,
            raised: None,
        }
    }
}

impl Refusals {
    /// One is refused in this second; answers after how many it shall come back.
    pub fn refuse(&mut self, second: u64) -> u64 {
        if second == self.second {
            self.count += 1;
            return self.after;
        }
        self.past.push_back((self.second, self.count));
        let kept = (2 * self.after).min(AFTER_MAX);
        while self
            .past
            .front()
            .is_some_and(|(s, _)| s + kept < self.second)
        {
            self.past.pop_front();
        }
        (self.second, self.count) = (second, 1);
        self.adjust(second);
        self.after
    }

    /// Doubles the time when many were refused during it, and shortens it by a second when few were.
    fn adjust(&mut self, second: u64) {
        let lately = |(s, _): &&(u64, u64)| s + self.after >= second && *s < second;
        let n: u64 = self.past.iter().filter(lately).map(|(_, n)| n).sum();
        let may_raise = self
            .raised
            .is_none_or(|raised| raised + self.after <= second);
        if may_raise && n >= 3 * self.after {
            self.after = (2 * self.after).min(AFTER_MAX);
            self.raised = Some(second);
        } else if n < self.after && self.after > 1 {
            self.after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_doubles_under_load_and_shrinks_slowly() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.refuse(100), 1);
        for _ in 0..10 {
            refusals.refuse(100);
        }
        assert_eq!(refusals.refuse(101), 2);
        let mut longest = 0;
        for second in 102..400 {
            for _ in 0..200 {
                longest = longest.max(refusals.refuse(second));
            }
        }
        assert_eq!(longest, AFTER_MAX);
        assert_eq!(refusals.refuse(500), AFTER_MAX - 1);
        assert_eq!(refusals.refuse(600), AFTER_MAX - 2);
        assert!(refusals.past.len() <= 2 * AFTER_MAX as usize);
    }
}
