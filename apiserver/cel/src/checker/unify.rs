//! Which type fits where, and what placeholders stand for.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Type;

/// What placeholders stand for so far.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    of: HashMap<Arc<str>, Type>,
    /// What was there before each change, to take back the changes of a try that failed.
    undo: Vec<(Arc<str>, Option<Type>)>,
    n_fresh: usize,
}

impl Mapping {
    /// A placeholder that nothing else uses.
    pub(super) fn fresh(&mut self) -> Type {
        let name = format!("_var{}", self.n_fresh);
        self.n_fresh += 1;
        Type::Param(Arc::from(name))
    }

    /// A signature with placeholders of its own.
    pub(super) fn instantiate(&mut self, args: &[Type], result: &Type) -> (Vec<Type>, Type) {
        let mut fresh: HashMap<Arc<str>, Type> = HashMap::new();
        let args = args.iter().map(|t| self.renamed(t, &mut fresh)).collect();
        let result = self.renamed(result, &mut fresh);
        (args, result)
    }

    fn renamed(&mut self, t: &Type, fresh: &mut HashMap<Arc<str>, Type>) -> Type {
        match t {
            Type::Param(name) => match fresh.get(name) {
                Some(known) => known.clone(),
                None => {
                    let new = self.fresh();
                    fresh.insert(name.clone(), new.clone());
                    new
                }
            },
            other => rebuild(other, &mut |inner| self.renamed(inner, fresh)),
        }
    }

    /// Whether a value of the first type fits the second; what placeholders must stand for is kept if so.
    pub(super) fn is_assignable(&mut self, t1: &Type, t2: &Type) -> bool {
        self.attempt(|m| m.assignable(t1, t2))
    }

    /// The same for each of two lists.
    pub(super) fn are_assignable(&mut self, l1: &[Type], l2: &[Type]) -> bool {
        self.attempt(|m| m.all_assignable(l1.iter(), l2.iter()))
    }

    fn attempt(&mut self, try_it: impl FnOnce(&mut Self) -> bool) -> bool {
        self.undo.clear();
        let fits = try_it(self);
        if !fits {
            while let Some((name, before)) = self.undo.pop() {
                match before {
                    Some(t) => self.of.insert(name, t),
                    None => self.of.remove(&name),
                };
            }
        }
        fits
    }

    fn set(&mut self, name: &Arc<str>, t: Type) {
        let before = self.of.insert(name.clone(), t);
        self.undo.push((name.clone(), before));
    }

    fn all_assignable<'a>(
        &mut self,
        mut l1: impl ExactSizeIterator<Item = &'a Type>,
        mut l2: impl ExactSizeIterator<Item = &'a Type>,
    ) -> bool {
        l1.len() == l2.len()
            && std::iter::from_fn(|| Some((l1.next()?, l2.next()?)))
                .all(|(t1, t2)| self.assignable(t1, t2))
    }

    fn assignable(&mut self, t1: &Type, t2: &Type) -> bool {
        if let Type::Param(name) = t2 {
            let (valid, had_one) = self.substitutes(t1, t2, name);
            if valid || had_one {
                return valid;
            }
        }
        if let Type::Param(name) = t1 {
            return self.substitutes(t2, t1, name).0;
        }
        if t1.is_dyn_or_error() || t2.is_dyn_or_error() {
            return true;
        }
        match (t1, t2) {
            (Type::Null, t) | (t, Type::Null) => matches!(
                t,
                Type::Null | Type::Opaque(..) | Type::Object(_) | Type::Duration | Type::Timestamp
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::Opaque(a, p1), Type::Opaque(b, p2)) => {
                a == b && self.all_assignable(p1.iter(), p2.iter())
            }
            (Type::List(a), Type::List(b)) => self.assignable(a, b),
            (Type::Map(a), Type::Map(b)) => {
                self.assignable(&a.0, &b.0) && self.assignable(&a.1, &b.1)
            }
            _ => t1 == t2,
        }
    }

    /// Whether the placeholder `t2` can stand for `t1`, and whether it stood for something already.
    fn substitutes(&mut self, t1: &Type, t2: &Type, name: &Arc<str>) -> (bool, bool) {
        if t1 == t2 {
            return (true, true);
        }
        if let Some(known) = self.of.get(name).cloned() {
            if *t1 == known {
                return (true, true);
            }
            if self.assignable(t1, &known) {
                let general = most_general(t1, &known);
                if self.is_free_of(t2, &general) {
                    self.set(name, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.is_free_of(t2, t1) {
            self.set(name, t1.clone());
            return (true, false);
        }
        (false, false)
    }

    /// Whether `t` occurs nowhere within `within`.
    fn is_free_of(&self, t: &Type, within: &Type) -> bool {
        if t == within {
            return false;
        }
        match within {
            Type::Param(name) => self.of.get(name).is_none_or(|sub| self.is_free_of(t, sub)),
            other => other
                .parameters()
                .into_iter()
                .all(|inner| self.is_free_of(t, inner)),
        }
    }

    /// The type with placeholders replaced by what they stand for; free ones become `dyn` if wanted.
    pub(super) fn substitute(&self, t: &Type, free_to_dyn: bool) -> Type {
        match t {
            Type::Param(name) => match self.of.get(name) {
                Some(known) => self.substitute(known, free_to_dyn),
                None if free_to_dyn => Type::Dyn,
                None => t.clone(),
            },
            other => rebuild(other, &mut |inner| self.substitute(inner, free_to_dyn)),
        }
    }
}

fn rebuild(t: &Type, change: &mut dyn FnMut(&Type) -> Type) -> Type {
    match t {
        Type::List(item) => Type::list(change(item)),
        Type::Map(entry) => Type::map(change(&entry.0), change(&entry.1)),
        Type::Type(Some(inner)) => Type::type_of(change(inner)),
        Type::Opaque(name, params) => {
            Type::Opaque(name.clone(), params.iter().map(change).collect())
        }
        other => other.clone(),
    }
}

/// The more general of two types that fit each other.
pub(super) fn most_general(t1: &Type, t2: &Type) -> Type {
    if is_at_most_as_specific(t1, t2) {
        t1.clone()
    } else {
        t2.clone()
    }
}

fn is_at_most_as_specific(t1: &Type, t2: &Type) -> bool {
    match (t1, t2) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) => is_at_most_as_specific(a, b),
        (Type::Map(a), Type::Map(b)) => {
            is_at_most_as_specific(&a.0, &b.0) && is_at_most_as_specific(&a.1, &b.1)
        }
        (Type::Opaque(a, p1), Type::Opaque(b, p2)) => {
            a == b
                && p1.len() == p2.len()
                && p1
                    .iter()
                    .zip(p2.iter())
                    .all(|(x, y)| is_at_most_as_specific(x, y))
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => t1 == t2,
    }
}
