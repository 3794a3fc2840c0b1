//! Server-side apply and field ownership.
//!
//! Every write leaves in `metadata.managedFields` who set which field. An update takes ownership of what it changed;
//! an apply owns exactly what its configuration names, conflicts with other owners of fields that it would change,
//! and removes what it named before and names no more.
//!
//! Reading order: [`set`] (sets of field paths), [`compare`] (what differs between two objects), [`merge`] (an
//! applied configuration laid over an object), [`typed`] (what a configuration must be), [`entries`] (who owns what, as it
//! is stored), [`last_applied`] (what client-side apply leaves behind), [`managed`] (what a write does to who owns what),
//! [`across`] (the same where versions name fields differently).

use std::collections::HashMap;
use std::hash::Hash;

pub mod across;
pub mod compare;
mod entries;
pub(crate) mod last_applied;
pub mod managed;
pub mod merge;
pub mod set;
pub mod typed;

pub use across::{Translations, Views, versions_of};
pub use compare::is_keyless;
pub(crate) use entries::{restore_managed, same_owners, take_managed};
pub use managed::{Applied, Manager, Owners, apply, update};

/// Where each item of a list is found; of those that are there twice, the first counts.
pub(crate) fn first_places<T: Hash + Eq>(
    items: impl DoubleEndedIterator<Item = T> + ExactSizeIterator,
) -> HashMap<T, usize> {
    let places = items.enumerate().rev();
    places.map(|(at, item)| (item, at)).collect()
}
