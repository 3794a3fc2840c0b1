//! Which parts of an object were there before, and whether they changed.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use crate::schema::{Reads, list_type};
use crate::shape::ListType;

/// The part of a schema that says how values before and after belong together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Topology {
    properties: BTreeMap<String, Topology>,
    values: Option<Box<Topology>>,
    items: Option<Box<Topology>>,
    list_type: ListType,
}

impl Topology {
    pub(super) fn of(schema: &Json) -> Self {
        let properties = schema.properties().into_iter().flatten();
        Self {
            properties: properties
                .map(|(name, s)| (name.clone(), Self::of(s)))
                .collect(),
            values: schema.values().map(|s| Box::new(Self::of(s))),
            items: schema.items().map(|s| Box::new(Self::of(s))),
            list_type: if schema.text("type") == "array" {
                list_type(schema)
            } else {
                ListType::Atomic
            },
        }
    }
}

/// The old items of a list by their keys; none for lists whose items have no keys.
pub(super) struct OldItems<'a, 't> {
    keys: &'t [String],
    items: HashMap<Vec<&'a Json>, &'a Json>,
}

impl<'a, 't> OldItems<'a, 't> {
    pub(super) fn of(list_type: &'t ListType, old: &'a [Json]) -> Self {
        let keys = match list_type {
            ListType::Map(keys) => keys.as_slice(),
            _ => &[],
        };
        let old = if keys.is_empty() { &[] } else { old };
        // Of those that are there twice, the first counts.
        let items = old.iter().rev();
        let items = items.filter_map(|item| Some((keys_of(item, keys)?, item)));
        Self {
            keys,
            items: items.collect(),
        }
    }

    /// The one that has the keys of a new one.
    pub(super) fn of_item(&self, new: &Json) -> Option<&'a Json> {
        if self.items.is_empty() {
            return None;
        }
        self.items.get(&keys_of(new, self.keys)?).copied()
    }
}

fn keys_of<'a>(item: &'a Json, keys: &[String]) -> Option<Vec<&'a Json>> {
    keys.iter()
        .map(|key| {
            let value = item.as_object()?.get(key)?;
            (value.is_string() || value.is_number() || value.is_boolean()).then_some(value)
        })
        .collect()
}

/// A value, what it was before, and the schema of both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    new: &'a Json,
    old: &'a Json,
    topology: &'a Topology,
}

impl<'a> Pair<'a> {
    fn key(self, name: &str) -> Option<Self> {
        let topology = match self.topology.properties.get(name) {
            Some(topology) => topology,
            None => self.topology.values.as_deref()?,
        };
        Some(Self {
            new: self.new.as_object()?.get(name)?,
            old: self.old.as_object()?.get(name)?,
            topology,
        })
    }

    /// An item of it and what that was before.
    fn item(self, new: &'a Json, old: Option<&'a Json>) -> Option<Self> {
        Some(Self {
            new,
            old: old?,
            topology: self.topology.items.as_deref()?,
        })
    }

    fn is_unchanged(self) -> bool {
        match (self.new, self.old) {
            (Json::Array(new), Json::Array(old)) => {
                new.len() == old.len()
                    && match &self.topology.list_type {
                        ListType::Map(_) => {
                            let old = OldItems::of(&self.topology.list_type, old);
                            let pair = |item| self.item(item, old.of_item(item));
                            new.iter()
                                .all(|item| pair(item).is_some_and(Self::is_unchanged))
                        }
                        _ => new == old,
                    }
            }
            (Json::Object(new), Json::Object(old)) => {
                new.len() == old.len()
                    && new
                        .keys()
                        .all(|k| self.key(k).is_some_and(Self::is_unchanged))
            }
            (new, old) => new == old,
        }
    }
}

/// Where validation is in the pair of an object before and after.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Correlation<'a> {
    current: Option<Pair<'a>>,
    /// The nearest part around it that belongs to something before.
    parent: Option<Pair<'a>>,
}

impl<'a> Correlation<'a> {
    pub(super) fn root(new: &'a Json, old: &'a Json, topology: &'a Topology) -> Self {
        Self {
            current: Some(Pair { new, old, topology }),
            parent: None,
        }
    }

    pub(super) fn key(self, name: &str) -> Self {
        match self.current {
            None => self,
            // Versions are converted into each other, so these say nothing.
            Some(_) if self.parent.is_none() && matches!(name, "apiVersion" | "kind") => {
                Self::default()
            }
            Some(current) => Self {
                current: current.key(name),
                parent: Some(current),
            },
        }
    }

    /// What the items of a list were before.
    pub(super) fn old_items(self) -> OldItems<'a, 'a> {
        let Some(current) = self.current else {
            return OldItems::of(&ListType::Atomic, &[]);
        };
        let old = current.old.as_array().map_or(&[][..], Vec::as_slice);
        OldItems::of(&current.topology.list_type, old)
    }

    /// For an item of a list, and what it was before by [`Correlation::old_items`].
    pub(super) fn item(self, new: &'a Json, old: Option<&'a Json>) -> Self {
        match self.current {
            None => self,
            Some(current) => Self {
                current: current.item(new, old),
                parent: Some(current),
            },
        }
    }

    /// For the schemas of `allOf`.
    pub(super) fn around(self) -> Self {
        Self {
            current: None,
            parent: self.parent,
        }
    }

    /// Whether errors here are about what was there before.
    pub(super) fn is_unchanged(self) -> bool {
        self.current.or(self.parent).is_some_and(Pair::is_unchanged)
    }
}
