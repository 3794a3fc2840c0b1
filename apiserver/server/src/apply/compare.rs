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
        true,
    );
    comparison
}

/// `implied`: whether Kubernetes' empty object has the value already (a struct that is not a pointer, a list that is
/// never left out), so that its appearance is no addition.
fn walk(
    out: &mut Comparison,
    node: &Node,
    path: &mut Vec<Step>,
    old: Option<&Value>,
    new: Option<&Value>,
    implied: bool,
) {
    match (old, new) {
        (None, None) => {}
        (Some(old), Some(new)) if old == new => {}
        (Some(old), Some(new)) if is_leaf(node, old) && is_leaf(node, new) => {
            out.modified.insert(path);
        }
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
            descend(out, node, path, old, new);
        }
    }
}

fn descend(
    out: &mut Comparison,
    node: &Node,
    path: &mut Vec<Step>,
    old: Option<&Value>,
    new: Option<&Value>,
) {
    match node {
        Node::Struct { .. } | Node::Map { .. } => {
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
                let implied = node.field(name).is_some_and(is_implied);
                path.push(Step::Field(name.clone()));
                let (a, b) = (
                    before.and_then(|m| m.get(name)),
                    after.and_then(|m| m.get(name)),
                );
                walk(out, child, path, a, b, implied);
                path.pop();
            }
        }
        Node::List { item, kind } => {
            let before = items(item, kind, old);
            let after = items(item, kind, new);
            for (step, a) in &before {
                let b = after.iter().find(|(s, _)| s == step).map(|(_, v)| *v);
                path.push(step.clone());
                walk(out, item, path, Some(a), b, false);
                path.pop();
            }
            for (step, b) in &after {
                if before.iter().all(|(s, _)| s != step) {
                    path.push(step.clone());
                    walk(out, item, path, None, Some(b), false);
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
