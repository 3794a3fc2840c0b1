//! How data is seen through a schema: what is a date becomes a point in time, and so on.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use serde_json::Value as Json;

use crate::time::{Timestamp, parse_openapi_duration};
use crate::value::{Evaluated, EvaluationError, Items, List, ListKind, Map, Text, Value};

/// A view of data through a schema: the part of it that decides what values are.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub(crate) nullable: bool,
    pub(crate) kind: ShapeKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ShapeKind {
    IntOrString,
    /// An object with named properties.
    Object(BTreeMap<String, Shape>),
    /// A map whose values all have one shape; `None` for an object of which nothing is known.
    Map(Option<Box<Shape>>),
    List {
        item: Box<Shape>,
        list_type: ListType,
    },
    String(Format),
    Number,
    Integer,
    Boolean,
    /// Of no type, but preserved.
    Preserved,
    /// Nothing that an expression can use; the text says why.
    Unusable(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListType {
    Atomic,
    Set,
    Map(Vec<String>),
    Unknown(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    None,
    Duration,
    Date,
    DateTime,
    Byte,
}

fn invalid<T>(expected: &str) -> Result<T, EvaluationError> {
    Err(EvaluationError::new(format!(
        "invalid data, expected {expected}"
    )))
}

impl Shape {
    /// Whether names of its entries are names of fields, which are escaped.
    pub(crate) fn has_properties(&self) -> bool {
        matches!(self.kind, ShapeKind::Object(_))
    }

    /// The shape of an entry.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        match &self.kind {
            ShapeKind::Object(properties) => properties.get(name),
            ShapeKind::Map(values) => values.as_deref(),
            _ => None,
        }
    }

    /// Data as a value.
    pub fn view<'a>(&'a self, json: &'a Json) -> Evaluated<'a> {
        if json.is_null() {
            return if self.nullable {
                Ok(Value::Null)
            } else {
                Err(EvaluationError::new(
                    "invalid data, got null for schema with nullable=false",
                ))
            };
        }
        match &self.kind {
            ShapeKind::IntOrString => match json {
                Json::String(s) => Ok(Value::String(Text::Borrowed(s))),
                Json::Number(n) if n.is_i64() => Ok(Value::of_json(json)),
                _ => invalid("XIntOrString value to be either a string or integer"),
            },
            ShapeKind::Object(_) | ShapeKind::Map(_) => match json {
                Json::Object(map) => Ok(Value::Map(Map::Shaped(map, self))),
                _ => invalid("a map for the provided schema with type=object"),
            },
            ShapeKind::List { item, list_type } => match json {
                Json::Array(items) => list(items, item, list_type),
                _ => invalid("an array for the provided schema with type=array"),
            },
            ShapeKind::String(format) => match json {
                Json::String(s) => text(s, *format),
                other => invalid(&format!("string, got {}", go_type(other))),
            },
            ShapeKind::Number => match json {
                Json::Number(n) => Ok(Value::Double(n.as_f64().unwrap_or(f64::NAN))),
                other => invalid(&format!("float, got {}", go_type(other))),
            },
            ShapeKind::Integer => match json {
                Json::Number(n) if n.is_i64() => Ok(Value::of_json(json)),
                other => invalid(&format!("int, got {}", go_type(other))),
            },
            ShapeKind::Boolean => match json {
                Json::Bool(b) => Ok(Value::Bool(*b)),
                other => invalid(&format!("bool, got {}", go_type(other))),
            },
            ShapeKind::Preserved => Ok(Value::Preserved(json)),
            ShapeKind::Unusable(why) => Err(EvaluationError::new(why.clone())),
        }
    }
}

/// The type that kube-apiserver's messages name.
fn go_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_i64() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

fn list<'a>(items: &'a [Json], item: &'a Shape, list_type: &'a ListType) -> Evaluated<'a> {
    let kind = match list_type {
        ListType::Atomic => ListKind::Atomic,
        ListType::Set => ListKind::Set,
        ListType::Map(keys) => ListKind::Keyed(keys),
        ListType::Unknown(other) => {
            return Err(EvaluationError::new(format!(
                "invalid x-kubernetes-list-type, expected 'map', 'set' or 'atomic' but got {other}"
            )));
        }
    };
    Ok(Value::List(List {
        items: Items::Shaped(items, item),
        kind,
    }))
}

fn text(text: &str, format: Format) -> Evaluated<'_> {
    let wrong = |what: &str| EvaluationError::new(format!("Invalid {what} {text}"));
    Ok(match format {
        Format::None => Value::String(Text::Borrowed(text)),
        Format::Duration => {
            Value::Duration(parse_openapi_duration(text).ok_or_else(|| wrong("duration"))?)
        }
        Format::Date => Value::Timestamp(
            Timestamp::parse_date(text).ok_or_else(|| wrong("date formatted string"))?,
        ),
        Format::DateTime => Value::Timestamp(
            Timestamp::parse_lenient(text).ok_or_else(|| wrong("date-time formatted string"))?,
        ),
        Format::Byte => {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|_| wrong("byte formatted string"))?;
            Value::Bytes(Arc::from(bytes))
        }
    })
}
