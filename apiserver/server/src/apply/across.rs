//! Owners of fields across versions of a kind whose fields are named differently in each: a set of fields is compared with
//! objects of the version in which its owner named them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use corral_api::status::Status;
use corral_kinds::AnyKind;
use corral_kinds::schema::Node;
use serde_json::Value;

use super::compare::{Comparison, compare};
use super::managed::Owners;
use super::merge;
use super::set::Set;
use crate::conversion::Conversion;

/// An object before and after a change, in the versions of its managers other than the writer's.
#[derive(Default)]
pub struct Views {
    /// Whether a version that is not among them is none of the kind; else its fields are named as the writer's are.
    pub complete: bool,
    versions: HashMap<String, Option<Comparison>>,
}

/// What is known of the fields of an entry.
pub enum Seen<'a> {
    /// They compare in the writer's own version.
    Own,
    /// They compare so.
    Compared(&'a Comparison),
    /// Nobody can tell: the entry stays as it is.
    Kept,
    /// Their version is gone, and nobody's fields any more.
    Gone,
}

impl Views {
    /// Adds a version.
    pub fn add(&mut self, version: String, node: Node, old: Option<Value>, new: Value) {
        let empty = Value::Object(serde_json::Map::new());
        let comparison = compare(&node, old.as_ref().unwrap_or(&empty), &new);
        self.versions.insert(version, Some(comparison));
    }

    /// Adds a version in which nothing can be compared.
    pub fn keep(&mut self, version: String) {
        self.versions.insert(version, None);
    }

    /// What is known of an entry's fields.
    pub fn of(&self, version: &str, own: &str) -> Seen<'_> {
        match self.versions.get(version) {
            _ if version == own || !self.complete => Seen::Own,
            Some(Some(comparison)) => Seen::Compared(comparison),
            Some(None) => Seen::Kept,
            None => Seen::Gone,
        }
    }
}

/// The versions of an object's managers other than the writer's.
pub fn versions_of(owners: Owners<'_>, own: &str) -> BTreeSet<String> {
    let entries = owners.sent.or(owners.stored);
    let entries = entries.and_then(Value::as_array).into_iter().flatten();
    entries
        .filter_map(|entry| entry["apiVersion"].as_str())
        .filter(|version| *version != own)
        .map(str::to_owned)
        .collect()
}

/// Objects in other versions, as far as they have been asked for: an apply is computed without waiting, so that it ends at
/// the first that is not there, and is computed again once it is.
pub struct Translations {
    conversion: Arc<Conversion>,
    // What is known, and what is missing. Held for copies only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<(String, String), Value>,
    missing: Option<(String, Value)>,
}

impl Translations {
    /// Nothing is known yet.
    pub fn new(conversion: Arc<Conversion>) -> Self {
        Self {
            conversion,
            state: Mutex::default(),
        }
    }

    /// The shape of a version; nothing if the kind has no such version.
    fn node(&self, version: &str) -> Option<Node> {
        self.conversion.kind(version).map(|kind| kind.schema())
    }

    fn to(&self, object: &Value, version: &str) -> Result<Value, Status> {
        if object["apiVersion"] == version {
            return Ok(object.clone());
        }
        let mut state = self.state.lock().expect("no panic under the lock");
        let key = (version.to_owned(), object.to_string());
        if let Some(known) = state.known.get(&key) {
            return Ok(known.clone());
        }
        state.missing = Some((version.to_owned(), object.clone()));
        Err(Status::internal("an object is not converted yet"))
    }

    /// Converts what was missing; answers whether anything was.
    ///
    /// # Errors
    /// When it is not converted.
    pub async fn complete(&self) -> Result<bool, Status> {
        let missing = {
            let mut state = self.state.lock().expect("no panic under the lock");
            state.missing.take()
        };
        let Some((version, object)) = missing else {
            return Ok(false);
        };
        let key = (version.clone(), object.to_string());
        let converted = self.conversion.convert(vec![object], &version).await?;
        let mut state = self.state.lock().expect("no panic under the lock");
        state
            .known
            .extend(converted.into_iter().map(|value| (key.clone(), value)));
        Ok(true)
    }
}

/// The fields of each version that somebody keeps.
pub struct Kept(pub Vec<(String, Set)>);

/// Both states of an object in the version in which an entry names its fields.
pub(super) fn changed(
    translations: &Translations,
    version: &str,
    live: &Value,
    merged: &Value,
) -> Result<Option<Set>, Status> {
    let Some(node) = translations.node(version) else {
        return Ok(None);
    };
    let live = translations.to(live, version)?;
    let merged = translations.to(merged, version)?;
    Ok(Some(compare(&node, &live, &merged).changed()))
}

/// The object without what the last configuration named in its version and nobody names in theirs any more, as
/// [`merge::prune`] has it. Answers whether something is `null` for it, too.
pub(super) fn prune(
    translations: &Translations,
    merged: Value,
    own: &str,
    before: (&str, &Set),
    kept: &Kept,
) -> Result<(Value, bool), Status> {
    let (version, last) = before;
    let Some(node) = translations.node(version) else {
        return Ok((merged, false));
    };
    let last = last.with_parents(&node);
    let whole = translations.to(&merged, version)?;
    let mut left = whole.clone();
    merge::remove(&node, &mut left, &last);
    // What is kept in the version of the last configuration comes first: what is left then converts.
    let (first, others): (Vec<_>, Vec<_>) = kept.0.iter().partition(|(kept, _)| kept == version);
    for (other, owned) in first.into_iter().chain(others) {
        let Some(node) = translations.node(other) else {
            continue;
        };
        let mut back = translations.to(&merged, other)?;
        left = translations.to(&left, other)?;
        let mut lost = Set::of(&node, &back).with_parents(&node);
        lost.subtract(&Set::of(&node, &left).with_parents(&node));
        lost.subtract(&owned.with_parents(&node));
        merge::remove(&node, &mut back, &lost);
        left = back;
    }
    let left = translations.to(&left, version)?;
    let mut gone = Set::of(&node, &whole).with_parents(&node);
    gone.subtract(&Set::of(&node, &left).with_parents(&node));
    let mut pruned = whole;
    let empties = merge::remove(&node, &mut pruned, &gone.intersection(&last));
    Ok((translations.to(&pruned, own)?, empties))
}
