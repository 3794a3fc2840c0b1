//! Declared types, and views of data, from OpenAPI v3 and structural schemas.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::decl::DeclType;
use crate::escape::escape;
pub use crate::shape::Shape as View;
use crate::shape::{Format, ListType, Shape, ShapeKind};
use crate::types::Type;

/// The largest request, from which the most items of an unbounded list follow.
pub(crate) const REQUEST_BYTES_MAX: i64 = 3 * 1024 * 1024;
const QUOTES: i64 = 2;
const STRING_BYTES_MIN: i64 = 2;
const BOOL_BYTES_MIN: i64 = 4;
const NUMBER_BYTES_MIN: i64 = 1;
const DURATION_BYTES_MIN: i64 = 3;
const DURATION_BYTES_MAX: i64 = 32;
const DATE_BYTES: i64 = 12;
const DATE_TIME_BYTES_MIN: i64 = 21;
const DATE_TIME_BYTES_MAX: i64 = 32;
const CHAR_BYTES_MAX: i64 = 4;

/// A schema's text fields, numbers and flags.
pub(crate) trait Reads {
    fn text(&self, name: &str) -> &str;
    fn flag(&self, name: &str) -> bool;
    fn bound(&self, name: &str) -> Option<i64>;
    fn texts(&self, name: &str) -> Vec<String>;
    /// The schemas of its properties; none if there are no properties.
    fn properties(&self) -> Option<&serde_json::Map<String, Json>>;
    /// The schema of the values of a map.
    fn values(&self) -> Option<&Json>;
    /// The schema of the items of a list.
    fn items(&self) -> Option<&Json>;
}

impl Reads for Json {
    fn text(&self, name: &str) -> &str {
        self.get(name).and_then(Json::as_str).unwrap_or("")
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Json::as_bool).unwrap_or(false)
    }

    fn bound(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(Json::as_i64)
    }

    fn texts(&self, name: &str) -> Vec<String> {
        let list = self.get(name).and_then(Json::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    }

    fn properties(&self) -> Option<&serde_json::Map<String, Json>> {
        self.get("properties")
            .and_then(Json::as_object)
            .filter(|p| !p.is_empty())
    }

    fn values(&self) -> Option<&Json> {
        self.get("additionalProperties").filter(|a| a.is_object())
    }

    fn items(&self) -> Option<&Json> {
        self.get("items").filter(|i| i.is_object())
    }
}

const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
pub(crate) const EMBEDDED: &str = "x-kubernetes-embedded-resource";

/// The schema of a whole resource, which always has a kind, an apiVersion, and a name.
fn with_object_meta(schema: &Json) -> Cow<'_, Json> {
    let has = |properties: Option<&serde_json::Map<String, Json>>, name: &str, t: &str| {
        properties
            .and_then(|p| p.get(name))
            .is_some_and(|s| s.text("type") == t)
    };
    let own = schema.properties();
    let metadata = own
        .and_then(|p| p.get("metadata"))
        .and_then(Reads::properties);
    if has(own, "kind", "string")
        && has(own, "apiVersion", "string")
        && has(own, "metadata", "object")
        && has(metadata, "name", "string")
        && has(metadata, "generateName", "string")
    {
        return Cow::Borrowed(schema);
    }
    let mut changed = schema.clone();
    let text = json!({"type": "string"});
    let mut properties = own.cloned().unwrap_or_default();
    properties.insert("kind".to_owned(), text.clone());
    properties.insert("apiVersion".to_owned(), text.clone());
    let metadata = json!({"type": "object", "properties": {"name": text, "generateName": text}});
    properties.insert("metadata".to_owned(), metadata);
    if let Some(object) = changed.as_object_mut() {
        object.insert("properties".to_owned(), Json::Object(properties));
    }
    Cow::Owned(changed)
}

/// The declared type of a schema; `None` for what expressions can't see. `is_resource` for the schema of a whole
/// resource.
pub fn declared_type(schema: &Json, is_resource: bool) -> Option<DeclType> {
    if schema.flag(INT_OR_STRING) {
        let max = max_length(schema).unwrap_or(REQUEST_BYTES_MAX - QUOTES);
        return Some(DeclType::simple(Type::Dyn, 1, max));
    }
    let schema = if is_resource {
        with_object_meta(schema)
    } else {
        Cow::Borrowed(schema)
    };
    match schema.text("type") {
        "array" => {
            let items = schema.items()?;
            let item = declared_type(items, items.flag(EMBEDDED))?;
            let max = schema.bound("maxItems").map_or_else(
                || (REQUEST_BYTES_MAX - 2) / (item.bytes_min + 1),
                |n| n.max(0),
            );
            Some(DeclType::list(item, max))
        }
        "object" => match schema.values() {
            Some(values) => {
                let value = declared_type(values, values.flag(EMBEDDED))?;
                let max = schema.bound("maxProperties").map_or_else(
                    || (REQUEST_BYTES_MAX - 2) / (value.bytes_min + 6),
                    |n| n.max(0),
                );
                Some(DeclType::map(value, max))
            }
            None => Some(object(&schema)),
        },
        "string" => Some(string(&schema)),
        "boolean" => Some(DeclType::simple(Type::Bool, BOOL_BYTES_MIN, 0)),
        "number" => Some(DeclType::simple(Type::Double, NUMBER_BYTES_MIN, 0)),
        "integer" => Some(DeclType::simple(Type::Int, NUMBER_BYTES_MIN, 0)),
        _ => None,
    }
}

/// The most bytes of a text with a bound on its code points.
fn max_length(schema: &Json) -> Option<i64> {
    schema
        .bound("maxLength")
        .map(|n| n.max(0).saturating_mul(CHAR_BYTES_MAX))
}

fn object(schema: &Json) -> DeclType {
    let required = schema.texts("required");
    let mut fields = BTreeMap::new();
    let mut bytes_min = 2_i64;
    for (name, property) in schema.properties().into_iter().flatten() {
        let Some(t) = declared_type(property, property.flag(EMBEDDED)) else {
            continue;
        };
        // What has a default needn't be sent.
        if required.contains(name) && property.get("default").is_none_or(Json::is_null) {
            let name_bytes = i64::try_from(name.len()).unwrap_or(0);
            bytes_min = bytes_min.saturating_add(name_bytes + t.bytes_min + 4);
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped, Arc::new(t));
        }
    }
    DeclType::object(None, fields, bytes_min)
}

fn string(schema: &Json) -> DeclType {
    let unbounded = REQUEST_BYTES_MAX - QUOTES;
    match schema.text("format") {
        "byte" => {
            let max = schema.bound("maxLength").map_or(unbounded, |n| n.max(0));
            DeclType::simple(Type::Bytes, STRING_BYTES_MIN, max)
        }
        "duration" => DeclType::simple(Type::Duration, DURATION_BYTES_MIN, DURATION_BYTES_MAX),
        "date" => DeclType::simple(Type::Timestamp, DATE_BYTES, DATE_BYTES),
        "date-time" => DeclType::simple(Type::Timestamp, DATE_TIME_BYTES_MIN, DATE_TIME_BYTES_MAX),
        _ => {
            let values = schema.get("enum").and_then(Json::as_array);
            let longest = values.filter(|v| !v.is_empty()).map(|values| {
                let lengths = values.iter().filter_map(|v| v.as_str().map(str::len));
                i64::try_from(lengths.max().unwrap_or(0)).unwrap_or(i64::MAX)
            });
            let max = max_length(schema).or(longest).unwrap_or(unbounded);
            DeclType::simple(Type::String, STRING_BYTES_MIN, max)
        }
    }
}

impl Shape {
    /// The view that a schema gives of data.
    pub fn of_schema(schema: &Json, is_resource: bool) -> Self {
        let schema = if is_resource {
            with_object_meta(schema)
        } else {
            Cow::Borrowed(schema)
        };
        Self {
            nullable: schema.flag("nullable"),
            kind: kind_of(&schema),
        }
    }
}

fn child(schema: &Json) -> Shape {
    Shape::of_schema(schema, schema.flag(EMBEDDED))
}

fn kind_of(schema: &Json) -> ShapeKind {
    if schema.flag(INT_OR_STRING) {
        return ShapeKind::IntOrString;
    }
    match schema.text("type") {
        "object" => match schema.properties() {
            Some(properties) => {
                let children = properties.iter().map(|(name, s)| (name.clone(), child(s)));
                ShapeKind::Object(children.collect())
            }
            None => ShapeKind::Map(schema.values().map(|values| Box::new(child(values)))),
        },
        "array" => match schema.items() {
            Some(items) => ShapeKind::List {
                item: Box::new(child(items)),
                list_type: list_type(schema),
            },
            None => ShapeKind::Unusable(
                "invalid array type, expected Items with a non-empty Schema".to_owned(),
            ),
        },
        "string" => ShapeKind::String(match schema.text("format") {
            "duration" => Format::Duration,
            "date" => Format::Date,
            "date-time" => Format::DateTime,
            "byte" => Format::Byte,
            _ => Format::None,
        }),
        "number" => ShapeKind::Number,
        "integer" => ShapeKind::Integer,
        "boolean" => ShapeKind::Boolean,
        _ if schema.flag("x-kubernetes-preserve-unknown-fields") => ShapeKind::Preserved,
        other => ShapeKind::Unusable(format!(
            "invalid type, expected object, array, number, integer, boolean or string, or no type with x-kubernetes-int-or-string or x-kubernetes-preserve-unknown-fields is true, got {other}"
        )),
    }
}

/// The list type of a schema, and its keys.
pub(crate) fn list_type(schema: &Json) -> ListType {
    match schema.text("x-kubernetes-list-type") {
        "" | "atomic" => ListType::Atomic,
        "set" => ListType::Set,
        "map" => ListType::Map(schema.texts("x-kubernetes-list-map-keys")),
        other => ListType::Unknown(other.to_owned()),
    }
}
