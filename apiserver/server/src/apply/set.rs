//! Sets of field paths, and their `fieldsV1` form.

use std::collections::{BTreeMap, BTreeSet};

use corral_kinds::schema::{ListKind, Node};
use serde_json::{Map, Value};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A field of a struct or a key of a map.
    Field(String),
    /// An item of a list map: its key fields as canonical JSON.
    Key(String),
    /// An item of a set: its value as canonical JSON.
    Value(String),
}

impl Step {
    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(key) => format!("k:{key}"),
            Self::Value(value) => format!("v:{value}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let canonical = || {
            serde_json::from_str::<Value>(rest)
                .ok()
                .map(|v| v.to_string())
        };
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => canonical().map(Self::Key),
            "v" => canonical().map(Self::Value),
            _ => None,
        }
    }

    /// The step of a list's item.
    pub fn of_item(node: &Node, kind: &ListKind, item: &Value) -> Option<Self> {
        match kind {
            ListKind::Atomic => None,
            ListKind::Set => Some(Self::Value(item.to_string())),
            ListKind::Map(keys) => {
                let mut map = Map::new();
                for key in keys {
                    let value = item.get(&**key).or_else(|| node.default_of(key));
                    if let Some(value) = value {
                        map.insert(key.to_string(), value.clone());
                    }
                }
                Some(Self::Key(Value::Object(map).to_string()))
            }
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(key) => {
                // {"name":"a"} reads as [name="a"].
                let map: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let parts: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", parts.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
        }
    }
}

/// A set of paths, as a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Set {
    /// Paths that end here.
    pub members: BTreeSet<Step>,
    /// Paths that go on.
    pub children: BTreeMap<Step, Set>,
}

impl Set {
    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// Whether a path is in the set.
    pub fn contains(&self, path: &[Step]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [first, rest @ ..] => self.children.get(first).is_some_and(|c| c.contains(rest)),
        }
    }

    /// Paths in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (step, child) in &other.children {
            let entry = out.children.entry(step.clone()).or_default();
            *entry = entry.union(child);
        }
        out
    }

    /// Paths in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: BTreeMap::new(),
        };
        for (step, child) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                let both = child.intersection(theirs);
                if !both.is_empty() {
                    out.children.insert(step.clone(), both);
                }
            }
        }
        out
    }

    /// Paths in this set and not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        let mut out = Self {
            members: self.members.difference(&other.members).cloned().collect(),
            children: BTreeMap::new(),
        };
        for (step, child) in &self.children {
            let left = match other.children.get(step) {
                Some(theirs) => child.difference(theirs),
                None => child.clone(),
            };
            if !left.is_empty() {
                out.children.insert(step.clone(), left);
            }
        }
        out
    }

    /// Takes out paths and everything below them.
    pub fn remove_below(&self, other: &Self) -> Self {
        let mut out = self.difference(other);
        out.children.retain(|step, _| !other.members.contains(step));
        for (step, theirs) in &other.children {
            if let Some(child) = out.children.get(step) {
                let left = child.remove_below(theirs);
                if left.is_empty() {
                    out.children.remove(step);
                } else {
                    out.children.insert(step.clone(), left);
                }
            }
        }
        out
    }

    /// Every path.
    pub fn paths(&self) -> Vec<Vec<Step>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
        for member in &self.members {
            path.push(member.clone());
            out.push(path.clone());
            path.pop();
        }
        for (step, child) in &self.children {
            path.push(step.clone());
            child.collect(path, out);
            path.pop();
        }
    }

    /// As `fieldsV1`.
    pub fn to_fields(&self) -> Value {
        let mut map = Map::new();
        for member in &self.members {
            map.insert(member.encode(), Value::Object(Map::new()));
        }
        for (step, child) in &self.children {
            let mut inner = match child.to_fields() {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            if inner.is_empty() {
                continue;
            }
            if self.members.contains(step) {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(step.encode(), Value::Object(inner));
        }
        Value::Object(map)
    }

    /// From `fieldsV1`; what cannot be read is left out.
    pub fn from_fields(fields: &Value) -> Self {
        let mut out = Self::default();
        for (text, inner) in fields.as_object().into_iter().flatten() {
            let Some(step) = Step::decode(text) else {
                continue;
            };
            let below = inner.as_object();
            if below.is_none_or(|m| m.is_empty() || m.contains_key(".")) {
                out.members.insert(step.clone());
            }
            let child = Self::from_fields(inner);
            if !child.is_empty() {
                out.children.insert(step, child);
            }
        }
        out
    }

    /// Every field that a configuration names.
    pub fn of(node: &Node, value: &Value) -> Self {
        let mut out = Self::default();
        out.add_fields(node, value);
        out
    }

    fn add_fields(&mut self, node: &Node, value: &Value) {
        match (node, value) {
            (Node::Struct { .. } | Node::Map { .. } | Node::Deduced, Value::Object(map)) => {
                for (name, item) in map {
                    let step = Step::Field(name.clone());
                    let child = node.child(name).unwrap_or(&Node::Any);
                    // A key that no schema names is owned itself, as an item of a list is.
                    self.add_item(step, child, item, node.field(name).is_none());
                }
            }
            (Node::List { item, kind }, Value::Array(items)) => {
                for inner in items {
                    if let Some(step) = Step::of_item(item, kind, inner) {
                        self.add_item(step, item, inner, true);
                    }
                }
            }
            _ => {}
        }
    }

    fn add_item(&mut self, step: Step, node: &Node, value: &Value, is_item: bool) {
        let below = if is_leaf(node, value) {
            Self::default()
        } else {
            Self::of(node, value)
        };
        if is_item || below.is_empty() {
            self.members.insert(step.clone());
        }
        if !below.is_empty() {
            self.children.insert(step, below);
        }
    }
}

/// Whether a value has one owner as a whole.
pub fn is_leaf(node: &Node, value: &Value) -> bool {
    match (node, value) {
        (Node::Struct { atomic, .. } | Node::Map { atomic, .. }, Value::Object(map)) => {
            *atomic || map.is_empty()
        }
        (Node::Deduced, Value::Object(map)) => map.is_empty(),
        (Node::List { kind, .. }, Value::Array(items)) => {
            *kind == ListKind::Atomic || items.is_empty()
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_v1_round_trips() {
        let fields = json!({"f:spec": {"f:replicas": {}, "f:containers": {
            "k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}, "f:finalizers": {"v:\"x\"": {}}});
        assert_eq!(Set::from_fields(&fields).to_fields(), fields);
    }
}
