//! Paths of fields and what can be wrong with the values there, in the words of the Kubernetes API.

use std::fmt;
use std::fmt::Write as _;

use crate::names;
use crate::status::StatusCause;

/// The path of a field, such as `spec.containers[0].image`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(String);

impl FieldPath {
    /// A path that begins with this field.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path before any field.
    pub fn root() -> Self {
        Self::default()
    }

    /// A field below this one; dots in `name` separate several levels.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            return Self::new(name);
        }
        self.extended(&[".", name])
    }

    /// An element of a list.
    pub fn index(&self, index: usize) -> Self {
        self.key(&index.to_string())
    }

    /// An entry of a map.
    pub fn key(&self, key: &str) -> Self {
        self.extended(&["[", key, "]"])
    }

    /// Paths are made for every field that is checked, so they are put together without a formatter.
    fn extended(&self, pieces: &[&str]) -> Self {
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let mut text = String::with_capacity(self.0.len() + length);
        text.push_str(&self.0);
        pieces.iter().for_each(|piece| text.push_str(piece));
        Self(text)
    }

    /// The path's text; `<nil>` for the root, as Kubernetes prints it.
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "<nil>" } else { &self.0 }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The class of a [`FieldError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl FieldErrorKind {
    /// The `reason` of a Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// Something wrong with the value at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The class.
    pub kind: FieldErrorKind,
    /// Where.
    pub path: FieldPath,
    /// The value as it is shown, already quoted if it is a string; `None` where the class shows no value.
    pub value: Option<String>,
    /// Why.
    pub detail: String,
}

/// A value as Kubernetes shows it inside an error.
pub trait ShowValue {
    /// The text.
    fn show(&self) -> String;
}

impl ShowValue for str {
    fn show(&self) -> String {
        go_quote(self)
    }
}
impl<T: ShowValue + ?Sized> ShowValue for &T {
    fn show(&self) -> String {
        (**self).show()
    }
}
impl ShowValue for String {
    fn show(&self) -> String {
        go_quote(self)
    }
}
macro_rules! show_plain {
    ($($t:ty),*) => {$(
        impl ShowValue for $t {
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
show_plain!(i32, i64, u16, u32, u64, usize, bool);
impl ShowValue for serde_json::Value {
    fn show(&self) -> String {
        match self {
            Self::String(s) => go_quote(s),
            other => other.to_string(),
        }
    }
}
impl<T: ShowValue> ShowValue for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "null".to_owned(), T::show)
    }
}

/// A string in double quotes with Go's escapes, as `%q` prints it.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: &FieldPath, value: Option<String>, detail: String) -> Self {
        Self {
            kind,
            path: path.clone(),
            value,
            detail,
        }
    }

    /// A value that must be given is missing.
    pub fn required(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, None, detail.into())
    }

    /// A value that may be there once is there again.
    pub fn duplicate(path: &FieldPath, value: impl ShowValue) -> Self {
        Self::new(
            FieldErrorKind::Duplicate,
            path,
            Some(value.show()),
            String::new(),
        )
    }

    /// A value that breaks a rule.
    pub fn invalid(path: &FieldPath, value: impl ShowValue, detail: impl Into<String>) -> Self {
        Self::new(
            FieldErrorKind::Invalid,
            path,
            Some(value.show()),
            detail.into(),
        )
    }

    /// A value that is none of the allowed ones.
    pub fn not_supported(path: &FieldPath, value: impl ShowValue, allowed: &[&str]) -> Self {
        let mut allowed = allowed.to_vec();
        allowed.sort_unstable();
        Self::not_supported_of(path, value, &allowed)
    }

    /// The same with the values in the order given.
    pub fn not_supported_of(path: &FieldPath, value: impl ShowValue, allowed: &[&str]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(|a| go_quote(a)).collect();
        let detail = if allowed.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", allowed.join(", "))
        };
        Self::new(
            FieldErrorKind::NotSupported,
            path,
            Some(value.show()),
            detail,
        )
    }

    /// Something that may not be given here.
    pub fn forbidden(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, None, detail.into())
    }

    /// A reference to something that is not there.
    pub fn not_found(path: &FieldPath, value: impl ShowValue) -> Self {
        Self::new(
            FieldErrorKind::NotFound,
            path,
            Some(value.show()),
            String::new(),
        )
    }

    /// A text with too many bytes.
    pub fn too_long(path: &FieldPath, bytes_max: usize) -> Self {
        let detail = format!("may not be more than {bytes_max} bytes");
        Self::new(FieldErrorKind::TooLong, path, None, detail)
    }

    /// A list with too many items.
    pub fn too_many(path: &FieldPath, n: usize, n_max: usize) -> Self {
        let s = if n_max == 1 { "" } else { "s" };
        let detail = format!("must have at most {n_max} item{s}");
        Self::new(FieldErrorKind::TooMany, path, Some(n.to_string()), detail)
    }

    /// A failure of ours while validating.
    pub fn internal(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, path, None, detail.into())
    }

    /// What is wrong with a name such as `acme.io/foo`.
    pub fn domain_prefixed_path(path: &FieldPath, text: &str) -> Vec<Self> {
        if text.is_empty() {
            return vec![Self::required(path, "")];
        }
        let parts = text
            .split_once('/')
            .filter(|(host, rest)| !host.is_empty() && !rest.is_empty());
        let Some((host, rest)) = parts else {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            return vec![Self::invalid(path, text, detail)];
        };
        let invalid = |text, details: Vec<String>| {
            let details = details.into_iter();
            details.map(move |detail| Self::invalid(path, text, detail))
        };
        let mut errors: Vec<Self> = invalid(host, names::dns1123_subdomain(host)).collect();
        errors.extend(invalid(rest, names::http_path(rest)));
        errors
    }

    /// The text without the path, which is the message of a Status cause.
    pub fn body(&self) -> String {
        let mut out = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            let _ = write!(out, ": {value}");
        }
        if !self.detail.is_empty() {
            let _ = write!(out, ": {}", self.detail);
        }
        out
    }

    /// As a cause of a Status.
    pub fn cause(&self) -> StatusCause {
        StatusCause {
            reason: self.kind.reason().to_owned(),
            message: self.body(),
            field: self.path.to_string(),
        }
    }

    /// Several errors in one text: one as it is, more in brackets, repeated ones once.
    pub fn aggregate(errors: &[Self]) -> String {
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.len() {
            1 => texts.remove(0),
            _ => format!("[{}]", texts.join(", ")),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_in_kubernetes() {
        let path = FieldPath::new("spec")
            .child("containers")
            .index(0)
            .child("image");
        let errors = [
            FieldError::required(&path, ""),
            FieldError::not_supported(&FieldPath::new("spec.type"), "x", &["b", "a"]),
            FieldError::invalid(
                &FieldPath::new("spec.replicas"),
                -1,
                "must be greater than or equal to 0",
            ),
        ];
        assert_eq!(
            FieldError::aggregate(&errors),
            "[spec.containers[0].image: Required value, spec.type: Unsupported value: \"x\": supported values: \
             \"a\", \"b\", spec.replicas: Invalid value: -1: must be greater than or equal to 0]"
        );
    }
}
