//! What admission makes of objects in caches: made once, and again only when they have changed.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cacher::snapshot::Objects;

/// What was made, and of which objects.
type Made<const N: usize, T> = ([Objects; N], Arc<T>);

/// Something made of the objects of `N` resources.
pub struct Derived<const N: usize, T>(Mutex<Option<Made<N, T>>>);

impl<const N: usize, T> Default for Derived<N, T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<const N: usize, T> Derived<N, T> {
    /// What belongs to these objects. `make` is given what belonged to the last ones, of which parts may still be good.
    pub fn of(
        &self,
        objects: [Objects; N],
        make: impl FnOnce(&[Objects; N], Option<&T>) -> T,
    ) -> Arc<T> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, value)) = &*made
            && from.iter().zip(&objects).all(|(a, b)| a.ptr_eq(b))
        {
            return value.clone();
        }
        let before = made.take();
        let value = Arc::new(make(&objects, before.as_ref().map(|(_, value)| &**value)));
        *made = Some((objects, value.clone()));
        value
    }
}
