//! The objects of one resource at one revision. Cloning one copies pointers, whatever it holds.

use std::ops::Bound;
use std::sync::Arc;

use corral_storage::{Key, Revision};
use imbl::OrdMap;

use crate::object::{Shape, Stored};
use crate::select::Predicate;

/// Objects by key.
pub type Objects = OrdMap<Key, Arc<Stored>>;

/// Objects of one resource at one revision.
#[derive(Clone)]
pub struct Snapshot {
    /// The objects.
    pub objects: Objects,
    /// The revision up to which every write is seen.
    pub revision: Revision,
    /// Bytes of the objects' JSON.
    pub bytes: usize,
    index: Option<Index>,
}

/// Objects by the value of one field, so that asking for the pods of one node does not look at all pods.
#[derive(Clone)]
struct Index {
    field: Arc<str>,
    entries: OrdMap<(Arc<str>, Key), Arc<Stored>>,
}

impl Snapshot {
    /// No objects.
    pub fn empty(shape: &Shape) -> Self {
        Self {
            objects: Objects::new(),
            revision: Revision(0),
            bytes: 0,
            index: shape.kind.indexed_field().map(|field| Index {
                field: field.into(),
                entries: OrdMap::new(),
            }),
        }
    }

    /// Adds or replaces an object; answers what it replaced.
    pub fn insert(&mut self, stored: Arc<Stored>) -> Option<Arc<Stored>> {
        let previous = self.objects.insert(stored.key.clone(), stored.clone());
        self.bytes += stored.json.len();
        self.bytes -= previous.as_ref().map_or(0, |previous| previous.json.len());
        if let Some(index) = &mut self.index {
            if let Some(previous) = &previous {
                index.remove(previous);
            }
            index.insert(stored);
        }
        previous
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Stored>> {
        let previous = self.objects.remove(key);
        self.bytes -= previous.as_ref().map_or(0, |previous| previous.json.len());
        if let (Some(index), Some(previous)) = (&mut self.index, &previous) {
            index.remove(previous);
        }
        previous
    }

    /// The objects that a predicate selects, in order of their keys, after a given one.
    pub fn select<'a>(
        &'a self,
        predicate: &'a Predicate,
        after: Option<&Key>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> + 'a {
        let below = |key: &Key| key.as_str().starts_with(predicate.prefix());
        let start = match after {
            Some(key) => Bound::Excluded(key.clone()),
            None => Bound::Included(Key::new(predicate.prefix())),
        };
        // Nothing follows a key of somewhere else, which a client may have made up.
        let snapshot = Some(self).filter(|_| after.is_none_or(below));
        let indexed = snapshot.and_then(|snapshot| {
            let index = snapshot.index.as_ref()?;
            let value = predicate.required_field(&index.field)?;
            Some(index.of(value, start.clone()))
        });
        let scanned = match indexed {
            Some(_) => None,
            None => snapshot.map(|snapshot| {
                let end = end_of(predicate.prefix());
                snapshot.objects.range((start, end))
            }),
        };
        let indexed = indexed.into_iter().flatten();
        let indexed = indexed.take_while(move |(key, _)| below(key));
        // The end is found once: to compare each key is to wait for it.
        let candidates = indexed.chain(scanned.into_iter().flatten());
        candidates
            .map(|(_, stored)| stored)
            .filter(|stored| predicate.is_everything() || predicate.selects_below(stored))
    }

    /// The objects whose keys begin with a text.
    pub fn below<'a>(&'a self, prefix: &'a Key) -> impl Iterator<Item = &'a Arc<Stored>> + 'a {
        self.objects
            .range((Bound::Included(prefix.clone()), Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix.as_str()))
            .map(|(_, stored)| stored)
    }

    /// The objects whose indexed field has a value. Nothing for kinds without an index.
    pub fn indexed<'a>(&'a self, value: &'a str) -> impl Iterator<Item = &'a Arc<Stored>> + 'a {
        let index = self.index.iter();
        index
            .flat_map(move |index| index.of(value, Bound::Unbounded))
            .map(|(_, stored)| stored)
    }
}

/// The end of the keys that begin with a text.
fn end_of(prefix: &str) -> Bound<Key> {
    // Prefixes end with a slash, and so there is always a character after the last one.
    let mut end = prefix.to_owned();
    let next = end.pop().and_then(|last| char::from_u32(last as u32 + 1));
    match next {
        Some(next) => {
            end.push(next);
            Bound::Excluded(Key::new(end))
        }
        None => Bound::Unbounded,
    }
}

impl Index {
    fn value<'a>(&self, stored: &'a Stored) -> &'a str {
        stored.field(&self.field).unwrap_or("")
    }

    fn insert(&mut self, stored: Arc<Stored>) {
        let value = self.value(&stored);
        // All objects with one value share its text.
        let value = self.shared(value).unwrap_or_else(|| value.into());
        self.entries.insert((value, stored.key.clone()), stored);
    }

    fn remove(&mut self, stored: &Stored) {
        let value = self.value(stored).into();
        self.entries.remove(&(value, stored.key.clone()));
    }

    /// The text of a value that some object has already.
    fn shared(&self, value: &str) -> Option<Arc<str>> {
        let start = (Arc::from(value), Key::new(""));
        let ((found, _), _) = self.entries.range(start..).next()?;
        (found.as_ref() == value).then(|| found.clone())
    }

    fn of<'a>(
        &'a self,
        value: &'a str,
        start: Bound<Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Stored>)> + 'a {
        let shared: Arc<str> = value.into();
        let start = match start {
            Bound::Included(key) => Bound::Included((shared, key)),
            Bound::Excluded(key) => Bound::Excluded((shared, key)),
            Bound::Unbounded => Bound::Included((shared, Key::new(""))),
        };
        let entries = self.entries.range((start, Bound::Unbounded));
        entries
            .take_while(move |((found, _), _)| found.as_ref() == value)
            .map(|((_, key), stored)| (key, stored))
    }
}

#[cfg(test)]
mod tests {
    use corral_api::selector::{FieldSelector, LabelSelector};
    use corral_kinds::all;
    use proptest::prelude::*;

    use super::*;

    fn pod(name: u8, node: u8, revision: u64) -> Arc<Stored> {
        let shape = Shape::new(all::resource("", "v1", "pods").expect("pods are built in"));
        let json = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p{name}","namespace":"n{}"}},"spec":{{"containers":[],"nodeName":"node-{node}"}}}}"#,
            name % 2
        );
        let key = Key::new(format!("/registry/pods/n{}/p{name}", name % 2));
        let stored = Stored::from_parts(&shape, key, &json.into_bytes().into(), Revision(revision));
        Arc::new(stored.expect("a pod"))
    }

    proptest! {
        #[test]
        fn the_index_selects_what_a_scan_selects(writes in prop::collection::vec((0_u8..12, 0_u8..4, any::<bool>()), 0..60)) {
            let shape = Shape::new(all::resource("", "v1", "pods").expect("pods are built in"));
            let mut snapshot = Snapshot::empty(&shape);
            for (revision, (name, node, removed)) in writes.into_iter().enumerate() {
                let pod = pod(name, node, revision as u64 + 1);
                if removed {
                    snapshot.remove(&pod.key);
                } else {
                    snapshot.insert(pod);
                }
            }
            for node in 0..4 {
                let value = format!("node-{node}");
                let fields = FieldSelector::parse(&format!("spec.nodeName={value}")).expect("a selector");
                for namespace in [None, Some("n0")] {
                    let predicate = Predicate::new("/registry/pods/", namespace, LabelSelector::everything(), fields.clone());
                    let scan: Vec<_> = snapshot.objects.values().filter(|s| predicate.selects(s)).map(|s| s.key.clone()).collect();
                    let selected: Vec<_> = snapshot.select(&predicate, None).map(|s| s.key.clone()).collect();
                    prop_assert_eq!(&selected, &scan);
                    let elsewhere = Key::new("/registry/pods/n/p");
                    let rest = namespace.map(|_| snapshot.select(&predicate, Some(&elsewhere)).count());
                    prop_assert_eq!(rest.unwrap_or_default(), 0);
                    if let Some(first) = scan.first() {
                        let rest: Vec<_> = snapshot.select(&predicate, Some(first)).map(|s| s.key.clone()).collect();
                        prop_assert_eq!(&rest[..], &scan[1..]);
                    }
                }
                let all = snapshot.objects.values().filter(|s| s.field("spec.nodeName") == Some(&value)).count();
                prop_assert_eq!(snapshot.indexed(&value).count(), all);
            }
        }
    }
}
