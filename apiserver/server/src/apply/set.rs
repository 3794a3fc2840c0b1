//! Sets of field paths, and their `fieldsV1` form.

use std::cmp::Ordering;

use corral_kinds::schema::{ListKind, Node};
use serde_json::{Map, Value};

/// One step of a path, as `fieldsV1` writes it: `f:` and the field of a struct or key of a map, `k:` and the key fields of
/// an item of a list as canonical JSON, or `v:` and an item of a set as canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Step(Box<str>);

impl Step {
    /// A field of a struct, or a key of a map.
    pub fn field(name: &str) -> Self {
        let mut text = String::with_capacity(2 + name.len());
        text.push_str("f:");
        text.push_str(name);
        Self(text.into())
    }

    fn key(key: &Map<String, Value>) -> Self {
        let mut text = b"k:".to_vec();
        serde_json::to_writer(&mut text, key).expect("a tree of JSON serialises into memory");
        Self(String::from_utf8(text).expect("JSON is text").into())
    }

    fn value(value: &Value) -> Self {
        Self(format!("v:{value}").into())
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let parsed = || serde_json::from_str::<Value>(rest).ok();
        match kind {
            "f" => Some(Self(text.into())),
            "k" => parsed()?.as_object().map(Self::key),
            "v" => Some(Self::value(&parsed()?)),
            // A place in a list, which nobody writes.
            "i" => parsed()?.as_i64().map(|_| Self(text.into())),
            _ => None,
        }
    }

    /// The name, if it is that of a field.
    pub fn name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// The step of a list's item.
    pub fn of_item(node: &Node, kind: &ListKind, item: &Value) -> Option<Self> {
        match kind {
            ListKind::Atomic => None,
            ListKind::Set => Some(Self::value(item)),
            ListKind::Map(keys) => {
                let mut map = Map::new();
                for key in keys {
                    let value = item.get(&**key).or_else(|| node.default_of(key));
                    if let Some(value) = value {
                        map.insert(key.to_string(), value.clone());
                    }
                }
                Some(Self::key(&map))
            }
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, rest) = self.0.split_at(2);
        match kind {
            "f:" => write!(f, ".{rest}"),
            "k:" => {
                // {"name":"a"} reads as [name="a"].
                let map: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let parts: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", parts.join(","))
            }
            _ => write!(f, "[={rest}]"),
        }
    }
}

/// A set of paths, as a tree: its branches in order of their steps, none of them bare.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Set(Vec<Branch>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Branch {
    step: Step,
    /// Whether a path ends here.
    is_member: bool,
    /// How paths go on.
    below: Set,
}

impl Branch {
    fn is_bare(&self) -> bool {
        !self.is_member && self.below.is_empty()
    }
}

impl Set {
    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All paths of many sets. Halves are joined first, so that no large one is gone through for each small one.
    pub fn union(mut sets: Vec<Self>) -> Self {
        while sets.len() > 1 {
            let mut pairs = sets.into_iter();
            let mut joined = Vec::new();
            while let Some(mut set) = pairs.next() {
                if let Some(other) = pairs.next() {
                    set.join(&other);
                }
                joined.push(set);
            }
            sets = joined;
        }
        sets.pop().unwrap_or_default()
    }

    /// A set of paths of fields.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let branch = |path: &&[&str]| {
            let (first, rest) = path.split_first()?;
            Some((
                Step::field(first),
                rest.is_empty(),
                Self::of_fields(&[rest]),
            ))
        };
        paths.iter().filter_map(branch).collect()
    }

    fn get(&self, step: &Step) -> Option<&Branch> {
        let found = self.0.binary_search_by(|branch| branch.step.cmp(step));
        found.ok().map(|at| &self.0[at])
    }

    /// Adds the paths of another.
    pub fn join(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        // Side by side, so that two long sets take no longer than their lengths together.
        let mut ours = std::mem::take(&mut self.0).into_iter().peekable();
        let mut theirs = other.0.iter().peekable();
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (Some(a), Some(b)) => a.step.cmp(&b.step),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return,
            };
            let taken = (order != Ordering::Less).then(|| theirs.next()).flatten();
            match (ours.next_if(|_| order != Ordering::Greater), taken) {
                (Some(mut branch), Some(theirs)) => {
                    branch.is_member |= theirs.is_member;
                    branch.below.join(&theirs.below);
                    self.0.push(branch);
                }
                (Some(branch), None) => self.0.push(branch),
                (None, taken) => self.0.extend(taken.cloned()),
            }
        }
    }

    /// Paths in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let both = |branch: &Branch| {
            let theirs = other.get(&branch.step)?;
            let branch = Branch {
                step: branch.step.clone(),
                is_member: branch.is_member && theirs.is_member,
                below: branch.below.intersection(&theirs.below),
            };
            (!branch.is_bare()).then_some(branch)
        };
        Self(self.0.iter().filter_map(both).collect())
    }

    /// Takes out the paths of another.
    pub fn subtract(&mut self, other: &Self) {
        self.0.retain_mut(|branch| {
            if let Some(theirs) = other.get(&branch.step) {
                branch.is_member &= !theirs.is_member;
                branch.below.subtract(&theirs.below);
            }
            !branch.is_bare()
        });
    }

    /// Takes out the paths of another and everything below them.
    pub fn subtract_below(&mut self, other: &Self) {
        self.0.retain_mut(|branch| match other.get(&branch.step) {
            None => true,
            Some(theirs) if theirs.is_member => false,
            Some(theirs) => {
                branch.below.subtract_below(&theirs.below);
                !branch.is_bare()
            }
        });
    }

    /// These paths, and those of the fields of structs that lead to them.
    pub fn with_parents(&self, node: &Node) -> Self {
        let branch = |branch: &Branch| {
            let (child, is_field) = match branch.step.name() {
                Some(name) => (node.child(name), node.field(name).is_some()),
                None => (node.item(), false),
            };
            Branch {
                step: branch.step.clone(),
                is_member: branch.is_member || is_field,
                below: branch.below.with_parents(child.unwrap_or(&Node::Any)),
            }
        };
        Self(self.0.iter().map(branch).collect())
    }

    /// The first steps of the paths, with whether a path ends there, and how they go on.
    pub fn branches(&self) -> impl Iterator<Item = (&Step, bool, &Self)> {
        self.0.iter().map(|b| (&b.step, b.is_member, &b.below))
    }

    /// What is known of a first step: whether a path ends there, and how they go on.
    pub fn at(&self, step: &Step) -> Option<(bool, &Self)> {
        self.get(step).map(|b| (b.is_member, &b.below))
    }

    /// Every path as it is told.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.tell(&mut String::new(), &mut out);
        out
    }

    fn tell(&self, path: &mut String, out: &mut Vec<String>) {
        use std::fmt::Write;
        let length = path.len();
        // Where a path ends is told before how others go on.
        for branch in self.0.iter().filter(|branch| branch.is_member) {
            out.push(format!("{path}{}", branch.step));
        }
        for branch in &self.0 {
            write!(path, "{}", branch.step).expect("text grows");
            branch.below.tell(path, out);
            path.truncate(length);
        }
    }

    /// As `fieldsV1`.
    pub fn to_fields(&self) -> Value {
        Value::Object(self.to_map())
    }

    fn to_map(&self) -> Map<String, Value> {
        let field = |branch: &Branch| {
            let mut inner = branch.below.to_map();
            if branch.is_member && !inner.is_empty() {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            (branch.step.0.to_string(), Value::Object(inner))
        };
        self.0.iter().map(field).collect()
    }

    /// From `fieldsV1`; what cannot be read is left out.
    pub fn from_fields(fields: &Value) -> Self {
        let fields = fields.as_object().into_iter().flatten();
        let branch = |(text, inner): (&String, &Value)| {
            Some((Step::decode(text)?, ends(inner), Self::from_fields(inner)))
        };
        fields.filter_map(branch).collect()
    }

    /// Whether a client's `fieldsV1` is one.
    pub fn are_fields(fields: &Value) -> bool {
        let Value::Object(fields) = fields else {
            return fields.is_null();
        };
        let mut fields = fields.iter();
        fields.all(|(text, inner)| {
            (text == "." || Step::decode(text).is_some()) && Self::are_fields(inner)
        })
    }

    /// Whether any path is among those of a `fieldsV1`.
    pub fn meets(&self, fields: &Value) -> bool {
        self.meets_where(fields, &|branch, inner| {
            branch.is_member && ends(inner) || branch.below.meets(inner)
        })
    }

    /// Whether any path of a `fieldsV1` is one of these, or goes on where one of these ends.
    pub fn meets_below(&self, fields: &Value) -> bool {
        self.meets_where(fields, &|branch, inner| {
            branch.is_member || branch.below.meets_below(inner)
        })
    }

    /// Whether a first step is in both and something holds of it.
    ///
    /// The shorter side is gone through: a write that changes thousands of fields of an object with thousands of owners
    /// then takes as long as all that they own, not the one times the other.
    fn meets_where(&self, fields: &Value, holds: &dyn Fn(&Branch, &Value) -> bool) -> bool {
        let Some(fields) = fields.as_object() else {
            return false;
        };
        if self.0.len() <= fields.len() {
            return self.0.iter().any(|branch| {
                let inner = fields.get(&*branch.step.0);
                inner.is_some_and(|inner| holds(branch, inner))
            });
        }
        fields.iter().any(|(step, inner)| {
            let found = self.0.binary_search_by(|branch| (*branch.step.0).cmp(step));
            found.is_ok_and(|at| holds(&self.0[at], inner))
        })
    }

    /// Whether every path is among those of a `fieldsV1`.
    pub fn is_within(&self, fields: &Value) -> bool {
        self.0.iter().all(|branch| {
            let inner = fields.get(&*branch.step.0);
            inner.is_some_and(|inner| {
                (!branch.is_member || ends(inner)) && branch.below.is_within(inner)
            })
        })
    }

    /// Whether a `fieldsV1` has these paths and no other.
    pub fn is_all_of(&self, fields: &Value) -> bool {
        let n_fields = fields
            .as_object()
            .map_or(0, |map| map.len() - usize::from(map.contains_key(".")));
        n_fields == self.0.len()
            && self.0.iter().all(|branch| {
                let inner = fields.get(&*branch.step.0);
                inner.is_some_and(|inner| {
                    branch.is_member == ends(inner) && branch.below.is_all_of(inner)
                })
            })
    }

    /// Every field that a configuration names.
    pub fn of(node: &Node, value: &Value) -> Self {
        match (node, value) {
            (Node::Struct { .. } | Node::Map { .. } | Node::Deduced, Value::Object(map)) => {
                let field = |(name, item): (&String, &Value)| {
                    let child = node.child(name).unwrap_or(&Node::Any);
                    // A key that no schema names is owned itself, as an item of a list is.
                    let is_item = node.field(name).is_none();
                    Self::of_item(Step::field(name), child, item, is_item)
                };
                map.iter().map(field).collect()
            }
            (Node::List { item, kind }, Value::Array(items)) => {
                let inner = |inner: &Value| {
                    let step = Step::of_item(item, kind, inner)?;
                    Some(Self::of_item(step, item, inner, true))
                };
                items.iter().filter_map(inner).collect()
            }
            _ => Self::default(),
        }
    }

    fn of_item(step: Step, node: &Node, value: &Value, is_item: bool) -> (Step, bool, Self) {
        let is_leaf = is_leaf(node, value);
        let below = match is_leaf {
            true => Self::default(),
            false => Self::of(node, value),
        };
        // Who names no items of a shared list says nothing of it.
        let says_nothing = matches!((node, value),
            (Node::List { kind, .. }, Value::Array(items)) if *kind != ListKind::Atomic && items.is_empty());
        (step, is_item || is_leaf && !says_nothing, below)
    }
}

/// Collects what begins with a step: whether a path ends there, and how others go on.
impl FromIterator<(Step, bool, Set)> for Set {
    fn from_iter<I: IntoIterator<Item = (Step, bool, Set)>>(branches: I) -> Self {
        let branches = branches.into_iter().map(|(step, is_member, below)| Branch {
            step,
            is_member,
            below,
        });
        let mut branches: Vec<Branch> = branches.filter(|branch| !branch.is_bare()).collect();
        if !branches.is_sorted_by(|a, b| a.step < b.step) {
            branches.sort_by(|a, b| a.step.cmp(&b.step));
            branches.dedup_by(|again, first| {
                let is_same = again.step == first.step;
                if is_same {
                    first.is_member |= again.is_member;
                    first.below.join(&again.below);
                }
                is_same
            });
        }
        Self(branches)
    }
}

/// Whether a path of a `fieldsV1` ends at a field.
fn ends(inner: &Value) -> bool {
    inner
        .as_object()
        .is_none_or(|below| below.is_empty() || below.contains_key("."))
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
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_v1_round_trips() {
        let fields = json!({"f:spec": {"f:replicas": {}, "f:containers": {
            "k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}, "f:finalizers": {"v:\"x\"": {}}});
        assert_eq!(Set::from_fields(&fields).to_fields(), fields);
    }

    #[test]
    fn what_clients_write_otherwise_is_read_as_it_is_meant() {
        let fields =
            json!({"k:{\"b\": 1, \"a\":2}": {}, "x": {}, "i:3": {}, "k:no": {}, "f:a": null});
        let meant = json!({"k:{\"a\":2,\"b\":1}": {}, "i:3": {}, "f:a": {}});
        assert_eq!(Set::from_fields(&fields).to_fields(), meant);
        assert!(!Set::are_fields(&fields));
        assert!(Set::are_fields(&meant));
    }

    type Paths = BTreeSet<Vec<&'static str>>;

    fn paths() -> impl Strategy<Value = Paths> {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        prop::collection::btree_set(prop::collection::vec(name, 1..4), 0..8)
    }

    fn set(paths: &Paths) -> Set {
        let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
        Set::of_fields(&paths)
    }

    fn begins(path: &[&str], with: &[&str]) -> bool {
        path.starts_with(with)
    }

    proptest! {
        #[test]
        fn sets_are_sets_of_paths(a in paths(), b in paths()) {
            let mut joined = set(&a);
            joined.join(&set(&b));
            prop_assert_eq!(joined, set(&a.union(&b).cloned().collect()));
            let both: Paths = a.intersection(&b).cloned().collect();
            prop_assert_eq!(set(&a).intersection(&set(&b)), set(&both));
            let mut left = set(&a);
            left.subtract(&set(&b));
            prop_assert_eq!(left, set(&a.difference(&b).cloned().collect()));
            let mut above = set(&a);
            above.subtract_below(&set(&b));
            let is_above = |path: &&Vec<&str>| !b.iter().any(|gone| begins(path, gone));
            prop_assert_eq!(above, set(&a.iter().filter(is_above).cloned().collect()));
        }

        #[test]
        fn fields_are_looked_at_as_sets_are(a in paths(), b in paths()) {
            let fields = set(&b).to_fields();
            prop_assert_eq!(Set::from_fields(&fields), set(&b));
            let ours = set(&a);
            prop_assert_eq!(ours.meets(&fields), !a.is_disjoint(&b));
            prop_assert_eq!(ours.is_within(&fields), a.is_subset(&b));
            prop_assert_eq!(ours.is_all_of(&fields), a == b);
            let below = b.iter().any(|path| a.iter().any(|gone| begins(path, gone)));
            prop_assert_eq!(ours.meets_below(&fields), below);
        }
    }
}
