//! Types of expressions.

use std::fmt;
use std::sync::Arc;

/// The type of an expression or a variable, as the checker knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Type {
    /// Anything; checked when it is evaluated.
    Dyn,
    /// What an expression with a mistake has.
    Error,
    /// The type of `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A signed number of 64 bits.
    Int,
    /// An unsigned number of 64 bits.
    Uint,
    /// A floating-point number.
    Double,
    /// A text.
    String,
    /// Bytes.
    Bytes,
    /// A length of time.
    Duration,
    /// A point in time.
    Timestamp,
    /// A placeholder of a function's signature.
    Param(Arc<str>),
    /// A list of values of one type.
    List(Arc<Type>),
    /// A map by keys of one type to values of another.
    Map(Arc<(Type, Type)>),
    /// The type of types.
    Type(Option<Arc<Type>>),
    /// A type that the library defines, such as `net.IP` or `optional_type`.
    Opaque(Arc<str>, Arc<[Type]>),
    /// An object with named fields, or a type of Kubernetes' library such as `kubernetes.Quantity`.
    Object(Arc<str>),
}

impl Type {
    /// A list of this.
    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(item))
    }

    /// A map.
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// An optional value of this.
    pub fn optional(inner: Self) -> Self {
        Self::Opaque(Arc::from("optional_type"), Arc::from([inner]))
    }

    /// An object.
    pub fn object(name: &str) -> Self {
        Self::Object(Arc::from(name))
    }

    pub(crate) fn type_of(inner: Self) -> Self {
        Self::Type(Some(Arc::new(inner)))
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// What an optional type holds.
    pub(crate) fn unwrap_optional(&self) -> Option<&Self> {
        match self {
            Self::Opaque(name, params) if &**name == "optional_type" => params.first(),
            _ => None,
        }
    }

    /// The types that this one is made of.
    pub(crate) fn parameters(&self) -> Vec<&Self> {
        match self {
            Self::List(item) => vec![item],
            Self::Map(entry) => vec![&entry.0, &entry.1],
            Self::Type(Some(inner)) => vec![inner],
            Self::Opaque(_, params) => params.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The name without parameters, as values tell it at run time.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Error => "!error!",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Param(name) | Self::Opaque(name, _) | Self::Object(name) => name,
        }
    }

    /// The type as kube-apiserver tells what an expression gives; messages of the checker write it otherwise.
    pub fn declared(&self) -> String {
        let parameters: Vec<String> = self.parameters().into_iter().map(Self::declared).collect();
        if parameters.is_empty() {
            self.name().to_owned()
        } else {
            format!("{}({})", self.name(), parameters.join(", "))
        }
    }

    /// Reads a type as a signature writes it; single capital letters are placeholders.
    pub(crate) fn parse(text: &str) -> Self {
        if let Some((name, params)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
            let params: Vec<Self> = split_parameters(params).map(Self::parse).collect();
            return match (name, params.as_slice()) {
                ("list", [item]) => Self::list(item.clone()),
                ("map", [key, value]) => Self::map(key.clone(), value.clone()),
                ("type", [inner]) => Self::type_of(inner.clone()),
                _ => Self::Opaque(Arc::from(name), Arc::from(params)),
            };
        }
        match text {
            "dyn" => Self::Dyn,
            "null" => Self::Null,
            "bool" => Self::Bool,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "duration" => Self::Duration,
            "timestamp" => Self::Timestamp,
            "type" => Self::Type(None),
            "net.IP" | "net.CIDR" => Self::Opaque(Arc::from(text), Arc::from([])),
            _ if text.len() == 1 => Self::Param(Arc::from(text)),
            _ => Self::object(text),
        }
    }
}

/// The parts between the commas that are in no parentheses.
pub(crate) fn split_parameters(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Null => "null",
            Self::Duration => "duration",
            Self::Timestamp => "timestamp",
            other => other.name(),
        };
        f.write_str(name)?;
        let parameters = self.parameters();
        for (i, parameter) in parameters.iter().enumerate() {
            write!(f, "{}{parameter}", if i == 0 { "(" } else { ", " })?;
        }
        if !parameters.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_as_they_are_read() {
        for text in [
            "map(string, list(optional_type(V)))",
            "type(map(A, B))",
            "kubernetes.Quantity",
            "net.IP",
            "null",
            "timestamp",
        ] {
            assert_eq!(Type::parse(text).to_string(), text);
        }
        assert_eq!(
            split_parameters("map(A, B), A").collect::<Vec<_>>(),
            ["map(A, B)", "A"]
        );
    }
}
