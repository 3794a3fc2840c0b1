//! Lists: of values, of data as it is, or of data with a schema.

use std::sync::Arc;

use serde_json::Value as Json;

use super::{Evaluated, EvaluationError, Value};
use crate::shape::Shape;

/// A list.
#[derive(Debug, Clone)]
pub struct List<'a> {
    pub(crate) items: Items<'a>,
    pub(crate) kind: ListKind<'a>,
}

#[derive(Debug, Clone)]
pub(crate) enum Items<'a> {
    Values(Arc<Vec<Value<'a>>>),
    Json(&'a [Json]),
    Shaped(&'a [Json], &'a Shape),
}

/// What equality and sums of a list mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListKind<'a> {
    /// A list of the language.
    Plain,
    /// A list of the data whose schema says no more.
    Atomic,
    /// Without order, without duplicates.
    Set,
    /// Without order, items identified by these fields.
    Keyed(&'a [String]),
}

impl<'a> List<'a> {
    pub(crate) fn of_values(values: Vec<Value<'a>>) -> Self {
        Self {
            items: Items::Values(Arc::new(values)),
            kind: ListKind::Plain,
        }
    }

    pub(crate) fn of_json(items: &'a [Json]) -> Self {
        Self {
            items: Items::Json(items),
            kind: ListKind::Plain,
        }
    }

    /// The same as data that no schema describes.
    pub(crate) fn without_schema(&self) -> Self {
        match &self.items {
            Items::Shaped(items, _) => Self::of_json(items),
            items => Self {
                items: items.clone(),
                kind: ListKind::Plain,
            },
        }
    }

    /// The type that it has in kube-apiserver.
    pub(crate) fn go_type(&self) -> &'static str {
        match (&self.items, self.kind) {
            (Items::Values(_), _) => "*types.baseList",
            (Items::Json(_), _) => "[]interface {}",
            (Items::Shaped(..), ListKind::Set) => "*common.unstructuredSetList",
            (Items::Shaped(..), ListKind::Keyed(_)) => "*common.unstructuredMapList",
            (Items::Shaped(..), _) => "*common.unstructuredList",
        }
    }

    /// Whether its items can only be found by whole numbers of the signed type.
    pub(crate) fn is_of_schema(&self) -> bool {
        matches!(self.items, Items::Shaped(..))
    }

    /// Whether an expression made it, and not the data.
    pub(crate) fn is_made(&self) -> bool {
        matches!(self.items, Items::Values(_))
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Values(values) => values.len(),
            Items::Json(items) | Items::Shaped(items, _) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item; `None` behind the end.
    pub fn get(&self, index: usize) -> Option<Evaluated<'a>> {
        match &self.items {
            Items::Values(values) => values.get(index).cloned().map(Ok),
            Items::Json(items) => items.get(index).map(|item| Ok(Value::of_json(item))),
            Items::Shaped(items, shape) => items.get(index).map(|item| shape.view(item)),
        }
    }

    pub(crate) fn first(&self) -> Option<Evaluated<'a>> {
        self.get(0)
    }

    /// All items.
    pub fn iter(&self) -> impl Iterator<Item = Evaluated<'a>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// All items, or why one of them is no value.
    pub(crate) fn values(&self) -> Result<Vec<Value<'a>>, EvaluationError> {
        self.iter().collect()
    }

    /// Whether a value is among the items.
    pub(crate) fn contains(&self, value: &Value<'a>) -> Result<bool, EvaluationError> {
        let mut wrong = None;
        for item in self.iter() {
            // Data compares itself with the value, and tells if it can't; other lists only look.
            let equal = match self.kind {
                ListKind::Plain => item.and_then(|item| value.same_as(&item)),
                _ => item.and_then(|item| item.same_as(value)),
            };
            match equal {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(e) => wrong = wrong.or(Some(e)),
            }
        }
        match wrong {
            Some(e) if self.kind != ListKind::Plain => Err(e),
            _ => Ok(false),
        }
    }

    /// The sum of two lists: for sets and lists with keys, a union.
    pub(crate) fn plus(mut self, other: &Self) -> Result<Self, EvaluationError> {
        if self.kind == ListKind::Plain {
            if self.is_empty() {
                return Ok(other.clone());
            }
            if other.is_empty() {
                return Ok(self);
            }
        }
        let kind = self.kind;
        let mut values = match &mut self.items {
            Items::Values(values) => std::mem::take(values),
            _ => Arc::new(self.values()?),
        };
        let own = Arc::make_mut(&mut values);
        for item in other.iter() {
            let item = item?;
            match kind {
                ListKind::Set => {
                    if !own.iter().any(|v| v.identical(&item)) {
                        own.push(item);
                    }
                }
                ListKind::Keyed(keys) => {
                    let same = own
                        .iter()
                        .position(|v| super::equal::same_keys(v, &item, keys));
                    match same {
                        Some(at) => own[at] = item,
                        None => own.push(item),
                    }
                }
                ListKind::Plain | ListKind::Atomic => own.push(item),
            }
        }
        Ok(Self {
            items: Items::Values(values),
            kind,
        })
    }

    /// One item more, in place if nothing else holds the list.
    pub(crate) fn push_all(mut self, other: &Self) -> Result<Self, EvaluationError> {
        let Items::Values(values) = &mut self.items else {
            return self.plus(other);
        };
        let own = Arc::make_mut(values);
        for item in other.iter() {
            own.push(item?);
        }
        Ok(self)
    }
}
