//! Equality and order of values.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::{EvaluationError, List, ListKind, Map, Text, Value};
use crate::number::{compare_double_int, compare_double_uint, compare_int_uint};

type Answer = Result<bool, EvaluationError>;

impl<'a> Value<'a> {
    /// What `==` means. Data with a schema tells when it is compared with something else; other values are just not
    /// equal then.
    pub(crate) fn same_as(&self, other: &Self) -> Answer {
        match (self, other) {
            (Self::Null, _) | (_, Self::Null) => {
                Ok(matches!((self, other), (Self::Null, Self::Null)))
            }
            (Self::List(a), b) => a.same_as(b),
            (Self::Map(a), b) => a.same_as(b),
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.same_as(b),
                (a, b) => Ok(a.is_none() && b.is_none()),
            },
            (Self::Authorizer(_), _) => Err(EvaluationError::no_such_overload()),
            (Self::Preserved(a), b) => Ok(b.to_json().is_some_and(|b| **a == b)),
            (Self::Object(a), Self::Object(b)) => {
                if a.type_name != b.type_name || a.fields.len() != b.fields.len() {
                    return Ok(false);
                }
                for (name, value) in &a.fields {
                    let same = b.fields.iter().find(|(n, _)| n == name);
                    match same {
                        Some((_, v)) if value.same_as(v)? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
            (
                Self::Quantity(_)
                | Self::Url(_)
                | Self::Ip(_)
                | Self::Cidr(_)
                | Self::Semver(_)
                | Self::Format(_),
                _,
            ) if self.type_of() != other.type_of() => Err(EvaluationError::no_such_overload()),
            (Self::Quantity(_), Self::Quantity(b)) if b.is_computed => {
                Err(EvaluationError::no_such_overload())
            }
            _ => Ok(self.same_scalar(other)),
        }
    }

    fn same_scalar(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => **a == **b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a.same_time(b),
            (Self::Type(a), Self::Type(b)) => a.name() == b.name(),
            (Self::Quantity(a), Self::Quantity(b)) => a.compare(b) == Ordering::Equal,
            (Self::Url(a), Self::Url(b)) => a.text() == b.text(),
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.compare(b) == Ordering::Equal,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            _ => self.compare_numbers(other) == Some(Ordering::Equal),
        }
    }

    /// Order of numbers of any type; `None` for what is none or for not-a-number.
    fn compare_numbers(&self, other: &Self) -> Option<Ordering> {
        let is_nan = |v: &Self| matches!(v, Self::Double(d) if d.is_nan());
        if is_nan(self) || is_nan(other) {
            return None;
        }
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Uint(b)) => Some(compare_int_uint(*a, *b)),
            (Self::Uint(a), Self::Int(b)) => Some(compare_int_uint(*b, *a).reverse()),
            (Self::Double(a), Self::Int(b)) => Some(compare_double_int(*a, *b)),
            (Self::Int(a), Self::Double(b)) => Some(compare_double_int(*b, *a).reverse()),
            (Self::Double(a), Self::Uint(b)) => Some(compare_double_uint(*a, *b)),
            (Self::Uint(a), Self::Double(b)) => Some(compare_double_uint(*b, *a).reverse()),
            _ => None,
        }
    }

    /// What `<` and its like mean; an error for values that have no order.
    pub(crate) fn compare(&self, other: &Self) -> Result<Ordering, EvaluationError> {
        let is_number = |v: &Self| matches!(v, Self::Int(_) | Self::Uint(_) | Self::Double(_));
        let found = match (self, other) {
            (a, b) if is_number(a) && is_number(b) => {
                return self
                    .compare_numbers(other)
                    .ok_or_else(|| EvaluationError::new("NaN values cannot be ordered"));
            }
            (Self::Double(d), _) if d.is_nan() => {
                return Err(EvaluationError::new("NaN values cannot be ordered"));
            }
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::String(a), Self::String(b)) => Some((**a).cmp(&**b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.compare(b)),
            _ => None,
        };
        found.ok_or_else(EvaluationError::no_such_overload)
    }

    /// Whether two values are the same data: same type, same content. Sets go by this.
    pub(crate) fn identical(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(_), Self::Int(_))
            | (Self::Uint(_), Self::Uint(_))
            | (Self::Double(_), Self::Double(_)) => self.same_scalar(other),
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), _)
            | (_, Self::Int(_) | Self::Uint(_) | Self::Double(_)) => false,
            _ => self.same_as(other).unwrap_or(false),
        }
    }
}

/// Whether two objects have the same values in all these fields.
pub(crate) fn same_keys<'a>(a: &Value<'a>, b: &Value<'a>, keys: &[String]) -> bool {
    let (Value::Map(a), Value::Map(b)) = (a, b) else {
        return false;
    };
    keys.iter().all(|key| {
        let key = Value::String(Text::Borrowed(key));
        match (a.get(&key), b.get(&key)) {
            (Some(Ok(a)), Some(Ok(b))) => a.identical(&b),
            (None, None) => true,
            _ => false,
        }
    })
}

impl<'a> List<'a> {
    fn same_as(&self, other: &Value<'a>) -> Answer {
        let is_plain = self.kind == ListKind::Plain;
        let Value::List(other) = other else {
            return if is_plain {
                Ok(false)
            } else {
                Err(EvaluationError::no_such_overload())
            };
        };
        if self.len() != other.len() {
            return Ok(false);
        }
        match self.kind {
            ListKind::Plain => {
                for (a, b) in self.iter().zip(other.iter()) {
                    // An item that can't be compared doesn't make lists differ.
                    if let (Ok(a), Ok(b)) = (a, b)
                        && a.same_as(&b) == Ok(false)
                    {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListKind::Atomic => {
                for (a, b) in self.iter().zip(other.iter()) {
                    if !a?.same_as(&b?)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListKind::Set => {
                let own = self.values()?;
                for b in other.iter() {
                    let b = b?;
                    if !own.iter().any(|a| a.identical(&b)) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListKind::Keyed(keys) => {
                let own = self.values()?;
                for b in other.iter() {
                    let b = b?;
                    // Of items with the same keys the last one counts.
                    let same = own.iter().rev().find(|a| same_keys(a, &b, keys));
                    match same {
                        Some(a) if a.same_as(&b)? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
        }
    }
}

impl<'a> Map<'a> {
    fn same_as(&self, other: &Value<'a>) -> Answer {
        let Value::Map(other) = other else {
            return match self {
                Self::Shaped(..) => Err(EvaluationError::no_such_overload()),
                _ => Ok(false),
            };
        };
        if self.len() != other.len() {
            return Ok(false);
        }
        let Self::Shaped(map, shape) = self else {
            for (key, a) in self.iter() {
                match other.get(&key) {
                    None => return Ok(false),
                    Some(b) => match (a, b) {
                        (Ok(a), Ok(b)) if a.same_as(&b) == Ok(false) => return Ok(false),
                        (Ok(_), Err(_)) => return Ok(false),
                        _ => {}
                    },
                }
            }
            return Ok(true);
        };
        for (name, json) in *map {
            if shape.child(name).is_none() {
                // What the schema doesn't know is compared as it is, if the other has it.
                let Self::Shaped(theirs, _) = other else {
                    return Err(EvaluationError::no_such_overload());
                };
                if theirs.get(name).is_some_and(|b| b != json) {
                    return Ok(false);
                }
                continue;
            }
            let key = Value::String(Text::Borrowed(name));
            match (self.get(&key), other.get(&key)) {
                (None, None) => {}
                (Some(a), Some(b)) => {
                    if !a?.same_as(&b?)? {
                        return Ok(false);
                    }
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Value<'_> {
    /// The value as data, where there is such.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => Json::from(*i),
            Self::Uint(u) => Json::from(*u),
            Self::Double(d) => Json::Number(serde_json::Number::from_f64(*d)?),
            Self::String(s) => Json::String(s.to_string()),
            Self::Bytes(b) => {
                use base64::Engine as _;
                Json::String(base64::engine::general_purpose::STANDARD.encode(b))
            }
            Self::Duration(_) | Self::Timestamp(_) => Json::String(self.converted_to_string()?),
            Self::List(list) => Json::Array(
                list.iter()
                    .map(|item| item.ok()?.to_json())
                    .collect::<Option<_>>()?,
            ),
            Self::Map(map) => {
                let mut object = serde_json::Map::new();
                for (key, value) in map.iter() {
                    object.insert(key.converted_to_string()?, value.ok()?.to_json()?);
                }
                Json::Object(object)
            }
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Object(object) => {
                let mut fields = serde_json::Map::new();
                for (name, value) in &object.fields {
                    fields.insert(name.to_string(), value.to_json()?);
                }
                Json::Object(fields)
            }
            Self::Quantity(q) => Json::String(q.text()),
            Self::Preserved(json) => (*json).clone(),
            _ => return None,
        })
    }
}
