//! Values: what literals, data and functions give. Data is borrowed, not copied.

mod equal;
mod list;
mod map;
mod show;

use std::sync::Arc;

use serde_json::Value as Json;

use crate::authorizer::AuthorizerValue;
use crate::library::{
    cidr::Cidr, format::NamedFormat, ip::Ip, quantity::Amount, semver::Semver, url::Url,
};
use crate::time::Timestamp;
use crate::types::Type;

pub use list::List;
pub(crate) use list::{Items, ListKind};
pub use map::Map;
pub(crate) use map::{Entries, Key};

/// Why an evaluation gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvaluationError {
    message: String,
    kind: ErrorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorKind {
    /// Something that `||` and `&&` may absorb.
    Usual,
    /// The end of the whole evaluation.
    Broken,
    Limit,
}

impl EvaluationError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            kind: ErrorKind::Usual,
        }
    }

    pub(crate) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }

    pub(crate) fn no_such_key(key: &Value<'_>) -> Self {
        Self::new(format!("no such key: {key}"))
    }

    pub(crate) fn limit() -> Self {
        Self {
            message: "operation cancelled: actual cost limit exceeded".to_owned(),
            kind: ErrorKind::Limit,
        }
    }

    /// Whether the evaluation was broken off because it cost too much. Nothing in an expression absorbs that.
    pub fn is_limit(&self) -> bool {
        self.kind == ErrorKind::Limit
    }

    /// Whether nothing in an expression absorbs it.
    pub(crate) fn ends_all(&self) -> bool {
        self.kind != ErrorKind::Usual
    }

    /// The end of an evaluation for which kube-apiserver has no value either.
    pub(crate) fn broken(why: &str) -> Self {
        Self {
            message: format!("internal error: {why}"),
            kind: ErrorKind::Broken,
        }
    }
}

/// What an evaluation gives.
pub type Evaluated<'a> = Result<Value<'a>, EvaluationError>;

/// A text, borrowed or shared.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    /// A part of the data.
    Borrowed(&'a str),
    /// A literal, or what a function gave.
    Shared(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

/// A value.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A length of time in nanoseconds.
    Duration(i64),
    /// A point in time.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map, or an object of the data.
    Map(Map<'a>),
    /// A type.
    Type(Type),
    /// A value that may be missing.
    Optional(Option<Arc<Value<'a>>>),
    /// A quantity of a resource.
    Quantity(Arc<Amount>),
    /// A URL.
    Url(Arc<Url>),
    /// An IP address.
    Ip(Ip),
    /// A range of IP addresses.
    Cidr(Cidr),
    /// A semantic version.
    Semver(Arc<Semver>),
    /// A named format.
    Format(&'static NamedFormat),
    /// An object that the expression made: its type's name and its fields.
    Object(Arc<Object<'a>>),
    /// The authorizer, or a check or decision of it.
    Authorizer(AuthorizerValue<'a>),
    /// Data of unknown schema that was preserved: it can only be compared.
    Preserved(&'a Json),
}

/// An object that an expression made, in the order in which its fields were given.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    /// The type's name, such as `JSONPatch` or `Object.spec`.
    pub type_name: Arc<str>,
    /// The fields.
    pub fields: Vec<(Arc<str>, Value<'a>)>,
}

impl<'a> Value<'a> {
    /// A text that is shared.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    /// A part of the data as it is: no schema, numbers as they are written.
    pub fn of_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => n
                .as_i64()
                .map_or_else(|| Self::Double(n.as_f64().unwrap_or(f64::NAN)), Self::Int),
            Json::String(s) => Self::String(Text::Borrowed(s)),
            Json::Array(items) => Self::List(List::of_json(items)),
            Json::Object(map) => Self::Map(Map::of_json(map)),
        }
    }

    /// A list of values.
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(List::of_values(items))
    }

    pub(crate) fn list_of_texts(texts: impl IntoIterator<Item = String>) -> Self {
        Self::list(texts.into_iter().map(Self::text).collect())
    }

    pub(crate) fn some(value: Self) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The type that the value has when it is evaluated.
    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Type(_) => Type::Type(None),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Quantity(_) => Type::object("kubernetes.Quantity"),
            Self::Url(_) => Type::object("kubernetes.URL"),
            Self::Ip(_) => Type::parse("net.IP"),
            Self::Cidr(_) => Type::parse("net.CIDR"),
            Self::Semver(_) => Type::object("kubernetes.Semver"),
            Self::Format(_) => Type::object("kubernetes.NamedFormat"),
            Self::Object(object) => Type::Object(object.type_name.clone()),
            Self::Authorizer(value) => Type::object(value.type_name()),
            Self::Preserved(_) => Type::object("unknown"),
        }
    }

    /// The name of the type in messages that tell an implementation's.
    pub(crate) fn go_type(&self) -> &'static str {
        match self {
            Self::Null => "types.Null",
            Self::Bool(_) => "types.Bool",
            Self::Int(_) => "types.Int",
            Self::Uint(_) => "types.Uint",
            Self::Double(_) => "types.Double",
            Self::String(_) => "types.String",
            Self::Bytes(_) => "types.Bytes",
            Self::Duration(_) => "types.Duration",
            Self::Timestamp(_) => "types.Timestamp",
            Self::Type(_) => "*types.Type",
            Self::Optional(_) => "*types.Optional",
            Self::Quantity(_) => "cel.Quantity",
            Self::Url(_) => "cel.URL",
            Self::Ip(_) => "cel.IP",
            Self::Cidr(_) => "cel.CIDR",
            Self::Semver(_) => "cel.Semver",
            Self::Format(_) => "cel.Format",
            Self::List(list) => list.go_type(),
            Self::Map(Map::Entries(_)) => "*types.baseMap",
            Self::Map(Map::Json(_)) => "map[string]interface {}",
            Self::Map(Map::Shaped(..)) => "*common.unstructuredMap",
            _ => "ref.Val",
        }
    }

    /// The type of the plain value behind it in kube-apiserver, for its messages.
    pub(crate) fn go_native(&self) -> &'static str {
        match self {
            Self::Null => "structpb.NullValue",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int64",
            Self::Uint(_) => "uint64",
            Self::Double(_) => "float64",
            Self::String(_) => "string",
            Self::Bytes(_) => "[]uint8",
            Self::Duration(_) => "time.Duration",
            Self::Timestamp(_) => "time.Time",
            Self::List(_) => "[]ref.Val",
            Self::Map(_) => "map[ref.Val]ref.Val",
            other => other.go_type(),
        }
    }

    /// Whether a function whose argument has this type takes this value.
    pub(crate) fn fits(&self, wanted: &Type) -> bool {
        match wanted {
            Type::Dyn | Type::Param(_) => true,
            Type::List(item) => match self {
                Self::List(list) => list
                    .first()
                    .is_none_or(|first| first.is_ok_and(|v| v.fits(item))),
                _ => false,
            },
            Type::Map(entry) => match self {
                Self::Map(map) => map
                    .first()
                    .is_none_or(|(k, v)| k.fits(&entry.0) && v.is_ok_and(|v| v.fits(&entry.1))),
                _ => false,
            },
            other => self.type_of().name() == other.name(),
        }
    }

    /// How many elements, entries, code points or bytes there are; `None` for what has no size.
    pub fn size(&self) -> Option<i64> {
        let n = match self {
            Self::String(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::Map(map) => map.len(),
            Self::Ip(ip) => ip.n_bytes(),
            Self::Cidr(cidr) => cidr.n_bytes(),
            Self::Url(_) => return None,
            _ => return None,
        };
        i64::try_from(n).ok()
    }

    /// The truth value that this is.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The text that this is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}
