//! What differs between two objects of a kind, as sets of paths.

use corral_kinds::schema::{Field, ListKind, Node};
use serde_json::Value;

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
        self.added.union(&self.modified)
    }
}

/// Compares two objects.
pub fn compare(node: &Node, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    walk(
        &mut comparison,
        node,
        &mut Vec::new(),
        Some(old),
        Some(new),
        Parent::There,
        None,
    );
    comparison
}

/// Whether the struct around a value was there before: in Kubernetes' empty object all structs are that are no
/// pointers, and their fields have zero values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parent {
    There,
    New,
}

/// `field`: the field of a struct that this is.
fn walk(
    out: &mut Comparison,
    node: &Node,
    path: &mut Vec<Step>,
    old: Option<&Value>,
    new: Option<&Value>,
    parent: Parent,
    field: Option<&Field>,
) {
    // What the empty object has already is no addition.
    let implied = path.is_empty() || parent == Parent::There && field.is_some_and(is_implied);
    match (old, new) {
        (None, None) => {}
        (Some(old), Some(new)) if old == new => {}
        (Some(old), Some(new)) if is_leaf(node, old) && is_leaf(node, new) => {
            out.modified.insert(path);
        }
        (None, Some(new))
            if parent == Parent::There
                && field
                    .and_then(Field::unset)
                    .is_some_and(|unset| unset == *new) => {}
        _ => {
            let leaf = |v: Option<&Value>| v.is_none_or(|v| is_leaf(node, v));
            if leaf(old) && leaf(new) {
                let target = if new.is_some() {
                    &mut out.added
                } else {
                    &mut out.removed
                };
                target.insert(path);
                return;
            }
            match (old, new) {
                (None, Some(_)) if !implied => out.added.insert(path),
                (Some(_), None) => out.removed.insert(path),
                (Some(before), Some(after))
                    if !implied && is_leaf(node, before) != is_leaf(node, after) =>
                {
                    out.modified.insert(path);
                }
                _ => {}
            }
            let there = old.is_some() || implied;
            let parent = if there { Parent::There } else { Parent::New };
            descend(out, node, path, old, new, parent);
        }
    }
}

fn descend(
    out: &mut Comparison,
    node: &Node,
    path: &mut Vec<Step>,
    old: Option<&Value>,
    new: Option<&Value>,
    parent: Parent,
) {
    match node {
        Node::Struct { .. } | Node::Map { .. } | Node::Deduced => {
            let before = old.and_then(Value::as_object);
            let after = new.and_then(Value::as_object);
            let names = before
                .into_iter()
                .flatten()
                .chain(after.into_iter().flatten());
            let mut names: Vec<&String> = names.map(|(name, _)| name).collect();
            names.sort();
            names.dedup();
            for name in names {
                let child = node.child(name).unwrap_or(&Node::Any);
                let field = node.field(name);
                path.push(Step::Field(name.clone()));
                let (a, b) = (
                    before.and_then(|m| m.get(name)),
                    after.and_then(|m| m.get(name)),
                );
                walk(out, child, path, a, b, parent, field);
                path.pop();
            }
        }
        Node::List { item, kind } => {
            let before = items(item, kind, old);
            let after = items(item, kind, new);
            if let (ListKind::Map(keys), Some(Value::Array(items))) = (kind, new) {
                let has = |item: &Value, key: &str| item.get(key).is_some();
                let complete = |inner: &Value| {
                    keys.iter()
                        .all(|key| has(inner, key) || item.default_of(key).is_some())
                };
                out.keyless |= !items.iter().all(complete);
            }
            for (step, a) in &before {
                let b = after.iter().find(|(s, _)| s == step).map(|(_, v)| *v);
                path.push(step.clone());
                walk(out, item, path, Some(a), b, Parent::New, None);
                path.pop();
            }
            for (step, b) in &after {
                if before.iter().all(|(s, _)| s != step) {
                    path.push(step.clone());
                    walk(out, item, path, None, Some(b), Parent::New, None);
                    path.pop();
                }
            }
        }
        _ => {}
    }
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
