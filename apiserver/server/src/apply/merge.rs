//! Lays an applied configuration over an object, and takes paths out of an object.

use corral_kinds::schema::{ListKind, Node};
use serde_json::{Map, Value};

use super::first_places;
use super::set::{Set, Step};

/// Lays everything that a configuration names over an object.
pub fn merge(node: &Node, live: &mut Value, config: &Value) {
    match (node, live, config) {
        (
            Node::Struct { atomic: false, .. } | Node::Map { atomic: false, .. } | Node::Deduced,
            Value::Object(live),
            Value::Object(config),
        ) => {
            for (name, value) in config {
                match live.get_mut(name) {
                    Some(current) => {
                        merge(node.child(name).unwrap_or(&Node::Any), current, value);
                    }
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Node::List { item, kind }, Value::Array(live), Value::Array(config))
            if *kind != ListKind::Atomic && !config.is_empty() =>
        {
            *live = merge_items(item, kind, std::mem::take(live), config);
        }
        (_, live, config) => *live = config.clone(),
    }
}

/// Items of the configuration come in its order; those that only the object has keep their place before what
/// followed them.
fn merge_items(node: &Node, kind: &ListKind, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
    let steps = |items: &[Value]| -> Vec<Option<Step>> {
        let step = |item| Step::of_item(node, kind, item);
        items.iter().map(step).collect()
    };
    let (are, wanted) = (steps(&live), steps(config));
    let (live_at, wanted_at) = (first_places(are.iter()), first_places(wanted.iter()));
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let merged = |live: &mut [Option<Value>], index: usize| {
        let current = live_at.get(&wanted[index]).and_then(|at| live[*at].take());
        match current {
            Some(mut current) => {
                merge(node, &mut current, &config[index]);
                current
            }
            None => config[index].clone(),
        }
    };
    let mut next = 0;
    for (at, step) in are.iter().enumerate() {
        match wanted_at.get(step) {
            None => out.extend(live[at].take()),
            Some(&index) if index >= next => {
                out.extend((next..=index).map(|index| merged(&mut live, index)));
                next = index + 1;
            }
            // Already placed, ahead of its old position.
            Some(_) => {}
        }
    }
    out.extend((next..config.len()).map(|index| merged(&mut live, index)));
    out
}

/// The object without the given paths.
pub fn remove(node: &Node, value: &mut Value, paths: &Set) {
    match (node, value) {
        (Node::Struct { .. } | Node::Map { .. } | Node::Deduced, Value::Object(map)) => {
            remove_fields(node, map, paths)
        }
        (Node::List { item, kind }, Value::Array(items)) => items.retain_mut(|inner| {
            let found = Step::of_item(item, kind, inner);
            let Some((is_member, below)) = found.and_then(|step| paths.at(&step)) else {
                return true;
            };
            if !is_member {
                remove(item, inner, below);
            }
            !is_member
        }),
        _ => {}
    }
}

fn remove_fields(node: &Node, map: &mut Map<String, Value>, paths: &Set) {
    for (step, is_member, below) in paths.branches() {
        let Some(name) = step.name() else { continue };
        if is_member {
            map.remove(name);
            continue;
        }
        let Some(inner) = map.get_mut(name) else {
            continue;
        };
        remove(node.child(name).unwrap_or(&Node::Any), inner, below);
        let emptied = match inner {
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        if emptied {
            map.remove(name);
        }
    }
}
