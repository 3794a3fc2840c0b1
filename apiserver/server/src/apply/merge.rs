//! Lays an applied configuration over an object, and takes paths out of an object.

use corral_kinds::schema::{ListKind, Node};
use serde_json::Value;

use super::first_places;
use super::set::{Set, Step};

/// Lays everything that a configuration names over an object, as it was sent: `null` and what is empty replace what has one
/// owner as a whole, and say nothing of what is shared.
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
        (
            Node::Struct { atomic: false, .. } | Node::Map { atomic: false, .. } | Node::Deduced,
            Value::Object(live),
            Value::Null,
        ) if !live.is_empty() => {}
        (Node::List { item, kind }, Value::Array(live), Value::Array(config))
            if *kind != ListKind::Atomic && !config.is_empty() =>
        {
            *live = merge_items(item, kind, std::mem::take(live), config);
        }
        (Node::List { kind, .. }, Value::Array(live), Value::Array(_) | Value::Null)
            if *kind != ListKind::Atomic && !live.is_empty() => {}
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

/// The object without the given paths. What had something and is left with nothing is `null`, as in Kubernetes; answers
/// whether anything is.
pub fn remove(node: &Node, value: &mut Value, paths: &Set) -> bool {
    let nothing = Set::default();
    let mut removal = Removal::default();
    removal.below(node, value, (paths, &nothing), Fate::REMOVED);
    removal.empties
}

/// The object without what a manager's last configuration named and nobody names any more; answers whether anything is gone,
/// and whether something is `null` for it.
///
/// A field of a struct that leads to what was named was named itself: with it goes what the server had filled in around that.
/// Where something below it is kept, what was not named stays around what is kept.
pub fn prune(node: &Node, value: &mut Value, last: &Set, kept: &Set) -> Removal {
    let mut removal = Removal::default();
    removal.below(node, value, (last, kept), Fate::default());
    removal
}

/// What a removal has done.
#[derive(Debug, Default, Clone, Copy)]
pub struct Removal {
    /// Whether anything is gone.
    pub removes: bool,
    /// Whether anything is `null` that had something.
    pub empties: bool,
}

/// What has been found on the way to a place.
#[derive(Debug, Default, Clone, Copy)]
struct Fate {
    /// Whether parents count as named. Else a path is named only where it ends.
    of_paths: bool,
    /// Whether it, or what it is in, was named.
    named: bool,
    /// Whether it, or what it is in, is kept by nobody.
    lost: bool,
}

impl Fate {
    /// Of paths that go whatever leads to them.
    const REMOVED: Self = Self {
        of_paths: true,
        named: true,
        lost: true,
    };
}

impl Removal {
    /// Whether anything went from below a value.
    fn below(&mut self, node: &Node, value: &mut Value, sets: (&Set, &Set), fate: Fate) -> bool {
        let mut any = false;
        match (node, &mut *value) {
            (Node::Struct { .. } | Node::Map { .. } | Node::Deduced, Value::Object(map)) => {
                for (step, is_member, below) in sets.0.branches() {
                    let Some(name) = step.name() else { continue };
                    let Some(inner) = map.get_mut(name) else {
                        continue;
                    };
                    let is_field = !fate.of_paths && node.field(name).is_some();
                    let child = node.child(name).unwrap_or(&Node::Any);
                    let last = (is_member || is_field, below);
                    let kept = sets.1.at(step).map_or((false, None), |(is_member, below)| {
                        (is_member || is_field, Some(below))
                    });
                    if self.goes(child, inner, last, kept, fate, &mut any) {
                        map.remove(name);
                    }
                }
                if any && map.is_empty() {
                    *value = Value::Null;
                    self.empties = true;
                }
            }
            (Node::List { item, kind }, Value::Array(items)) => {
                items.retain_mut(|inner| {
                    let found = Step::of_item(item, kind, inner);
                    let found = found.and_then(|step| Some((sets.0.at(&step)?, step)));
                    let Some((last, step)) = found else {
                        return true;
                    };
                    let kept = sets.1.at(&step);
                    let kept =
                        kept.map_or((false, None), |(is_member, below)| (is_member, Some(below)));
                    !self.goes(item, inner, last, kept, fate, &mut any)
                });
                if any && items.is_empty() {
                    *value = Value::Null;
                    self.empties = true;
                }
            }
            _ => {}
        }
        any
    }

    /// Whether a value goes as a whole; else what is below it may have gone.
    fn goes(
        &mut self,
        node: &Node,
        value: &mut Value,
        (is_last, last): (bool, &Set),
        (is_kept, kept): (bool, Option<&Set>),
        mut fate: Fate,
        any: &mut bool,
    ) -> bool {
        let nothing = Set::default();
        // A shared list without items is nobody's.
        let is_there = match (node, &*value) {
            (Node::List { kind, .. }, Value::Array(items)) => {
                *kind == ListKind::Atomic || !items.is_empty()
            }
            _ => true,
        };
        fate.named |= is_last;
        fate.lost |= fate.named && !is_kept && is_there;
        let goes = is_last && fate.lost;
        let removes = goes || self.below(node, value, (last, kept.unwrap_or(&nothing)), fate);
        self.removes |= removes;
        *any |= removes;
        goes
    }
}
