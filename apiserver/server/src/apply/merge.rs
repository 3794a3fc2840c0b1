//! Lays an applied configuration over an object, and takes paths out of an object.

use corral_kinds::schema::{ListKind, Node};
use serde_json::{Map, Value};

use super::set::{Set, Step, is_leaf};

/// The object with everything that the configuration names.
pub fn merge(node: &Node, live: &Value, config: &Value) -> Value {
    if is_leaf(node, config) && !config.is_object() {
        return config.clone();
    }
    match (node, live, config) {
        (
            Node::Struct { atomic: false, .. } | Node::Map { atomic: false, .. } | Node::Deduced,
            Value::Object(live),
            Value::Object(config),
        ) => {
            let mut out = live.clone();
            for (name, value) in config {
                let child = node.child(name).unwrap_or(&Node::Any);
                let merged = match live.get(name) {
                    Some(current) => merge(child, current, value),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Node::List { item, kind }, Value::Array(live), Value::Array(config))
            if *kind != ListKind::Atomic =>
        {
            Value::Array(merge_items(item, kind, live, config))
        }
        _ => config.clone(),
    }
}

/// Items of the configuration come in its order; those that only the object has keep their place before what
/// followed them.
fn merge_items(node: &Node, kind: &ListKind, live: &[Value], config: &[Value]) -> Vec<Value> {
    let step = |value: &Value| Step::of_item(node, kind, value);
    let wanted: Vec<Option<Step>> = config.iter().map(step).collect();
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut next = 0;
    for current in live {
        let here = step(current);
        match wanted.iter().position(|w| *w == here) {
            None => out.push(current.clone()),
            Some(index) if index >= next => {
                out.extend(
                    config[next..index]
                        .iter()
                        .map(|item| merged_item(node, kind, live, item)),
                );
                out.push(merge(node, current, &config[index]));
                next = index + 1;
            }
            // Already placed, ahead of its old position.
            Some(_) => {}
        }
    }
    out.extend(
        config[next..]
            .iter()
            .map(|item| merged_item(node, kind, live, item)),
    );
    out
}

fn merged_item(node: &Node, kind: &ListKind, live: &[Value], item: &Value) -> Value {
    let step = Step::of_item(node, kind, item);
    match live.iter().find(|l| Step::of_item(node, kind, l) == step) {
        Some(current) => merge(node, current, item),
        None => item.clone(),
    }
}

/// The object without the given paths.
pub fn remove(node: &Node, value: &mut Value, paths: &Set) {
    match (node, value) {
        (Node::Struct { .. } | Node::Map { .. } | Node::Deduced, Value::Object(map)) => {
            remove_fields(node, map, paths)
        }
        (Node::List { item, kind }, Value::Array(items)) => {
            items.retain(|inner| {
                Step::of_item(item, kind, inner).is_none_or(|step| !paths.members.contains(&step))
            });
            for inner in items {
                let child =
                    Step::of_item(item, kind, inner).and_then(|step| paths.children.get(&step));
                if let Some(child) = child {
                    remove(item, inner, child);
                }
            }
        }
        _ => {}
    }
}

fn remove_fields(node: &Node, map: &mut Map<String, Value>, paths: &Set) {
    for member in &paths.members {
        if let Step::Field(name) = member {
            map.remove(name);
        }
    }
    for (step, child) in &paths.children {
        let Step::Field(name) = step else { continue };
        let Some(inner) = map.get_mut(name) else {
            continue;
        };
        remove(node.child(name).unwrap_or(&Node::Any), inner, child);
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
