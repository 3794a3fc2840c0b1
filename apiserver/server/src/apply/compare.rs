//! What differs between two objects of a kind, as sets of paths.

use corral_kinds::schema::{Field, ListKind, Node};
use serde_json::{Map, Value};

use super::first_places;
use super::set::{Set, Step, is_leaf};

/// How an object differs from an older state.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Paths that were not there.
    pub added: Set,
    /// Paths with another value.
    pub modified: Set,
    /// Paths that are no longer there.
    pub removed: Set,
    /// Whether an item of a keyed list has no key: Kubernetes then tracks nothing at all.
    pub keyless: bool,
}

impl Comparison {
    /// Paths that are new or have another value.
    pub fn changed(&self) -> Set {
        let mut changed = self.added.clone();
        changed.join(&self.modified);
        changed
    }
}

/// Compares two objects.
pub fn compare(node: &Node, old: &Value, new: &Value) -> Comparison {
    walk(node, Some(old), Some(new), Place::Root).below
}

/// Whether a field holds an item of a keyed list without its key, once everything is written that Go always writes.
pub fn is_keyless(node: &Node, field: &str, mut value: Value) -> bool {
    let Some(node) = node.child(field) else {
        return false;
    };
    node.complete(&mut value);
    compare(node, &Value::Object(Map::new()), &value).keyless
}

/// What has become of a value itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Modified,
    Removed,
}

/// How a value differs: itself, and what is below it.
#[derive(Default)]
struct Difference {
    itself: Option<Change>,
    below: Comparison,
}

impl From<Change> for Difference {
    fn from(change: Change) -> Self {
        Self {
            itself: Some(change),
            below: Comparison::default(),
        }
    }
}

/// Where a value stands. In Kubernetes' empty object all structs are there that are no pointers, and their fields have
/// zero values: what the empty object has already is no addition.
#[derive(Clone, Copy)]
enum Place<'n> {
    /// Nowhere else: it is the whole.
    Root,
    /// A field of what was there before; what is known of the field, if it is one of a struct.
    OfThere(Option<&'n Field>),
    /// A part of what is new, or an item of a list.
    Elsewhere,
}

impl Place<'_> {
    fn is_implied(self) -> bool {
        match self {
            Self::Root => true,
            Self::OfThere(field) => field.is_some_and(is_implied),
            Self::Elsewhere => false,
        }
    }

    /// Whether it is a field of a type in Go: what is empty there is another thing than what is not. Kinds that are described
    /// have no such types, only pointers to nothing of a name.
    fn is_typed(self) -> bool {
        matches!(self, Self::OfThere(Some(field)) if !matches!(&*field.go_type, "" | "*"))
    }

    /// Whether to set it to this is as good as to leave it out.
    fn is_unset(self, value: &Value) -> bool {
        match self {
            Self::OfThere(Some(field)) => field.unset().is_some_and(|unset| unset == *value),
            _ => false,
        }
    }
}

fn walk(node: &Node, old: Option<&Value>, new: Option<&Value>, place: Place<'_>) -> Difference {
    match (old, new) {
        (None, None) => return Difference::default(),
        (Some(old), Some(new)) if old == new => return Difference::default(),
        (Some(old), Some(new)) if is_leaf(node, old) && is_leaf(node, new) => {
            return Change::Modified.into();
        }
        (None, Some(new)) if place.is_unset(new) => return Difference::default(),
        _ => {}
    }
    let is_leaf = |value: &Value| is_leaf(node, value);
    if old.is_none_or(is_leaf) && new.is_none_or(is_leaf) {
        return match new {
            Some(_) => Change::Added.into(),
            None => Change::Removed.into(),
        };
    }
    let is_implied = place.is_implied();
    let itself = match (old, new) {
        (None, Some(_)) if !is_implied => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (Some(old), Some(new)) if !is_implied && is_leaf(old) != is_leaf(new) => {
            let leaf = if is_leaf(old) { old } else { new };
            let is_other = place.is_typed() || !is_nothing(leaf);
            is_other.then_some(Change::Modified)
        }
        _ => None,
    };
    let was_there = old.is_some() || is_implied;
    Difference {
        itself,
        below: descend(node, old, new, was_there),
    }
}

/// Whether a value has nothing in it, whatever it might hold.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// What differs below a value, as it is found.
#[derive(Default)]
struct Found {
    added: Vec<(Step, bool, Set)>,
    modified: Vec<(Step, bool, Set)>,
    removed: Vec<(Step, bool, Set)>,
    keyless: bool,
}

impl Found {
    fn add(&mut self, step: impl FnOnce() -> Step, difference: Difference) {
        let Difference { itself, below } = difference;
        self.keyless |= below.keyless;
        let kept = [&below.added, &below.modified, &below.removed];
        if itself.is_none() && kept.iter().all(|set| set.is_empty()) {
            return;
        }
        let step = step();
        for (change, into, below) in [
            (Change::Added, &mut self.added, below.added),
            (Change::Modified, &mut self.modified, below.modified),
            (Change::Removed, &mut self.removed, below.removed),
        ] {
            let is_member = itself == Some(change);
            if is_member || !below.is_empty() {
                into.push((step.clone(), is_member, below));
            }
        }
    }

    fn comparison(self) -> Comparison {
        Comparison {
            added: self.added.into_iter().collect(),
            modified: self.modified.into_iter().collect(),
            removed: self.removed.into_iter().collect(),
            keyless: self.keyless,
        }
    }
}

fn descend(node: &Node, old: Option<&Value>, new: Option<&Value>, was_there: bool) -> Comparison {
    let mut found = Found::default();
    match node {
        Node::Struct { .. } | Node::Map { .. } | Node::Deduced => {
            let nothing = Map::new();
            let before = old.and_then(Value::as_object).unwrap_or(&nothing);
            let after = new.and_then(Value::as_object).unwrap_or(&nothing);
            let mut compare = |name: &str, old: Option<&Value>, new: Option<&Value>| {
                let child = node.child(name).unwrap_or(&Node::Any);
                let place = match was_there {
                    true => Place::OfThere(node.field(name)),
                    false => Place::Elsewhere,
                };
                found.add(|| Step::field(name), walk(child, old, new, place));
            };
            for (name, value) in before {
                compare(name, Some(value), after.get(name));
            }
            for (name, value) in after {
                if !before.contains_key(name) {
                    compare(name, None, Some(value));
                }
            }
        }
        Node::List { item, kind } => {
            let before = items(item, kind, old);
            let after = items(item, kind, new);
            if let (ListKind::Map(keys), Some(Value::Array(items))) = (kind, new) {
                let has = |item: &Value, key: &str| item.get(key).is_some();
                // One of several keys is enough.
                let has_key = |inner: &Value| {
                    keys.iter()
                        .any(|key| has(inner, key) || item.default_of(key).is_some())
                };
                found.keyless |= !items.iter().all(has_key);
            }
            let were = first_places(before.iter().map(|(step, _)| step));
            let are = first_places(after.iter().map(|(step, _)| step));
            for (step, old) in &before {
                let new = are.get(step).map(|at| after[*at].1);
                let difference = walk(item, Some(old), new, Place::Elsewhere);
                found.add(|| step.clone(), difference);
            }
            for (step, new) in &after {
                if !were.contains_key(step) {
                    let difference = walk(item, None, Some(new), Place::Elsewhere);
                    found.add(|| step.clone(), difference);
                }
            }
        }
        _ => {}
    }
    found.comparison()
}

fn is_implied(field: &Field) -> bool {
    match field.node {
        Node::Struct { .. } => !field.go_type.starts_with('*'),
        Node::List { .. } | Node::Map { .. } => !field.omit_zero && !field.go_type.starts_with('*'),
        _ => false,
    }
}

fn items<'a>(node: &Node, kind: &ListKind, value: Option<&'a Value>) -> Vec<(Step, &'a Value)> {
    let list = value.and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|item| Step::of_item(node, kind, item).map(|step| (step, item)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_without_a_type_is_one_where_go_writes_none() {
        let keyless = |group: &str, plural: &str| {
            let kind = corral_kinds::all::resource(group, "v1", plural).expect("it is built in");
            let status = json!({"conditions": [{"status": "True"}]});
            is_keyless(&kind.schema(), "status", status)
        };
        assert!(keyless("flowcontrol.apiserver.k8s.io", "flowschemas"));
        // Its type is always written.
        assert!(!keyless("apps", "deployments"));
        assert!(!keyless("", "configmaps"));
    }
}
