//! Maps: made by the expression, of data as it is, or of data with a schema.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::{Evaluated, EvaluationError, Text, Value};
use crate::escape::{escape, unescape};
use crate::shape::Shape;

type JsonMap = serde_json::Map<String, Json>;

/// A map.
#[derive(Debug, Clone)]
pub enum Map<'a> {
    /// What the expression made.
    #[doc(hidden)]
    Entries(Arc<Entries<'a>>),
    /// Data without a schema.
    #[doc(hidden)]
    Json(&'a JsonMap),
    /// Data with a schema.
    #[doc(hidden)]
    Shaped(&'a JsonMap, &'a Shape),
}

/// The entries of a map that an expression made, in its order.
#[derive(Debug, Clone, Default)]
pub struct Entries<'a> {
    entries: Vec<(Value<'a>, Value<'a>)>,
    places: HashMap<Key, usize>,
}

/// What a map finds its entries by. Numbers that are equal are the same key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Null,
    Bool(bool),
    Int(i64),
    /// Only beyond what a signed number holds.
    Uint(u64),
    String(Arc<str>),
    /// A floating-point number that is no whole one.
    Bits(u64),
}

impl Key {
    /// The key that a value is; `None` for what can't be one.
    pub(crate) fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Self::Uint(*u), Self::Int),
            Value::String(s) => Self::String(Arc::from(&**s)),
            Value::Double(d) => {
                crate::number::whole(*d).map_or_else(|| Self::Bits(d.to_bits()), Self::Int)
            }
            _ => return None,
        })
    }
}

impl<'a> Entries<'a> {
    /// Adds or replaces an entry. What can't be looked up by its key is only there.
    pub(crate) fn set(&mut self, key: Value<'a>, value: Value<'a>) {
        let place = Key::of(&key);
        if let Some(at) = place.as_ref().and_then(|p| self.places.get(p)) {
            self.entries[*at].1 = value;
            return;
        }
        if let Some(place) = place {
            self.places.insert(place, self.entries.len());
        }
        self.entries.push((key, value));
    }

    pub(crate) fn get(&self, key: &Value<'_>) -> Option<&Value<'a>> {
        let at = *self.places.get(&Key::of(key)?)?;
        Some(&self.entries[at].1)
    }
}

impl<'a> Map<'a> {
    pub(crate) fn of_json(map: &'a JsonMap) -> Self {
        Self::Json(map)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Entries(entries) => entries.entries.len(),
            Self::Json(map) | Self::Shaped(map, _) => map.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &Value<'_>) -> Option<Evaluated<'a>> {
        match self {
            Self::Entries(entries) => entries.get(key).cloned().map(Ok),
            Self::Json(map) => map.get(key.as_str()?).map(|v| Ok(Value::of_json(v))),
            Self::Shaped(map, shape) => {
                let Some(name) = key.as_str() else {
                    return Some(Err(EvaluationError::no_such_overload()));
                };
                if !shape.has_properties() {
                    return Some(shape.child(name)?.view(map.get(name)?));
                }
                let name = unescape(name)?;
                let value = map.get(&name).filter(|v| !v.is_null())?;
                Some(shape.child(&name)?.view(value))
            }
        }
    }

    /// All keys.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Entries(entries) => entries.entries.iter().map(|(k, _)| k.clone()).collect(),
            Self::Json(map) => map
                .keys()
                .map(|k| Value::String(Text::Borrowed(k)))
                .collect(),
            Self::Shaped(map, shape) => map
                .keys()
                .filter(|name| shape.child(name).is_some())
                .map(|name| match escape(name) {
                    Some(escaped) if shape.has_properties() && escaped != *name => {
                        Value::text(escaped)
                    }
                    _ => Value::String(Text::Borrowed(name)),
                })
                .collect(),
        }
    }

    pub(crate) fn first(&self) -> Option<(Value<'a>, Evaluated<'a>)> {
        let key = self.keys().into_iter().next()?;
        let value = self.get(&key)?;
        Some((key, value))
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (Value<'a>, Evaluated<'a>)> + '_ {
        let own = match self {
            Self::Entries(entries) => entries.entries.as_slice(),
            _ => &[],
        };
        let data = match self {
            Self::Entries(_) => Vec::new(),
            _ => self.keys(),
        };
        let own = own
            .iter()
            .map(|(key, value)| (key.clone(), Ok(value.clone())));
        own.chain(data.into_iter().map(|key| {
            // A field that is null has a key, and no value.
            let missing = || Err(EvaluationError::no_such_key(&key));
            let value = self.get(&key).unwrap_or_else(missing);
            (key, value)
        }))
    }
}
