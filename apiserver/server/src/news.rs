//! Tells tasks that wait of news: each is registered once, for as long as it listens, and not anew for each piece.
//!
//! A thousand watches wait for the same change. To wake a task for each costs more than to tell them; so streams of one
//! connection that wait for the same [`Bell`] may be polled together, by whoever polls [`together`]. They find out by
//! [`awaits`].

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use futures::task::AtomicWaker;
use slab::Slab;

/// Wakes one task, and remembers that it did.
#[derive(Debug, Default)]
pub struct Ear {
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl Ear {
    /// The task to wake from now on. What was rung before is not told again: ask [`Ear::heard`] after this.
    pub fn wakes(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Whether it was rung since this was last asked.
    pub fn heard(&self) -> bool {
        // Most are asked for nothing; to look costs less than to write.
        self.rung.load(Ordering::Acquire) && self.rung.swap(false, Ordering::AcqRel)
    }

    /// Rings.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl Wake for Ear {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Rings at each piece of news, for all who listen.
#[derive(Debug, Default)]
pub struct Bell {
    ears: Mutex<Slab<Arc<Ear>>>,
}

impl Bell {
    /// Listens until what this answers is dropped.
    pub fn listen(self: &Arc<Self>) -> Listening {
        let ear = Arc::new(Ear::default());
        let key = self.ears().insert(ear.clone());
        Listening {
            bell: self.clone(),
            ear,
            key,
        }
    }

    /// Tells all who listen that there is something new.
    pub fn ring(&self) {
        for (_, ear) in &*self.ears() {
            ear.ring();
        }
    }

    fn ears(&self) -> MutexGuard<'_, Slab<Arc<Ear>>> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An [`Ear`] at a [`Bell`].
#[derive(Debug)]
pub struct Listening {
    bell: Arc<Bell>,
    ear: Arc<Ear>,
    key: usize,
}

impl Listening {
    /// What it listens to.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }
}

impl std::ops::Deref for Listening {
    type Target = Ear;

    fn deref(&self) -> &Ear {
        &self.ear
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.bell.ears().try_remove(self.key);
    }
}

/// Who polls what runs on this thread.
#[derive(Clone, Copy)]
enum Poller {
    /// A task of its own, which wants to know what it waits for.
    Apart,
    /// Somebody who polls it whenever the bell at this address rings.
    Together(*const Bell),
}

thread_local! {
    static POLLER: Cell<Option<Poller>> = const { Cell::new(None) };
    static AWAITED: RefCell<Option<Arc<Bell>>> = const { RefCell::new(None) };
}

fn polled<T>(poller: Poller, poll: impl FnOnce() -> T) -> T {
    /// Also when a poll panics.
    struct Back(Option<Poller>);
    impl Drop for Back {
        fn drop(&mut self) {
            POLLER.set(self.0);
        }
    }
    let _back = Back(POLLER.replace(Some(poller)));
    poll()
}

/// Polls something by itself, and answers with the bell that it waits for, if it does.
pub fn apart<T>(poll: impl FnOnce() -> T) -> (T, Option<Arc<Bell>>) {
    AWAITED.take();
    let polled = polled(Poller::Apart, poll);
    (polled, AWAITED.take())
}

/// Polls something that is polled whenever `bell` rings.
pub fn together<T>(bell: &Bell, poll: impl FnOnce() -> T) -> T {
    polled(Poller::Together(bell), poll)
}

/// Says that what runs has nothing to do until the bell rings; whether it is polled then without listening itself.
pub fn awaits(bell: &Arc<Bell>) -> bool {
    match POLLER.get() {
        None => false,
        Some(Poller::Apart) => {
            AWAITED.set(Some(bell.clone()));
            false
        }
        Some(Poller::Together(polled_at)) => std::ptr::eq(polled_at, &raw const **bell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_woken_once_until_asked_and_never_after() {
        let woken = Arc::new(Ear::default());
        let bell = Arc::new(Bell::default());
        let listening = bell.listen();
        bell.ring();
        assert!(listening.heard());
        listening.wakes(&Waker::from(woken.clone()));
        assert!(!woken.heard());
        bell.ring();
        bell.ring();
        assert!(woken.heard() && listening.heard() && !listening.heard());
        listening.wakes(&Waker::from(woken.clone()));
        drop(listening);
        bell.ring();
        assert!(!woken.heard() && bell.ears().is_empty());
    }

    #[test]
    fn only_who_is_polled_at_a_bell_need_not_listen() {
        let (bell, other) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        assert!(!awaits(&bell));
        let (by_itself, awaited) = apart(|| awaits(&bell));
        assert!(!by_itself && awaited.is_some_and(|awaited| Arc::ptr_eq(&awaited, &bell)));
        assert!(together(&bell, || awaits(&bell) && !awaits(&other)));
        assert!(!awaits(&bell));
        assert!(apart(|| ()).1.is_none());
    }
}
