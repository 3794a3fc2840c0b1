//! The schema of a custom resource as a tree.
//!
//! A structural schema names every field once, outside of `allOf`, `anyOf`, `oneOf` and `not`; inside of those it only says
//! more about values. Both are read into the same type. Prose and what only OpenAPI documents show stay in the definition.

use std::sync::{Arc, OnceLock};

use regex::Regex;
use serde_json::Value;

use crate::sorted::Sorted;

/// Levels of a schema; deeper ones are refused, since every walk over them is recursive.
pub const DEPTH_MAX: usize = 128;

/// The JSON type that a schema wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    /// The names of all, in the order of the alphabet.
    pub const NAMES: [&'static str; 6] =
        ["array", "boolean", "integer", "number", "object", "string"];

    /// The type of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// As schemas write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What an object may hold besides its properties.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    /// The schema does not say: nothing that survives pruning.
    #[default]
    Unsaid,
    /// Anything.
    Anything,
    /// Nothing, which is an error, not pruned.
    Nothing,
    /// Values of one shape.
    Of(Box<Structural>),
}

/// How a list merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    /// As one value.
    #[default]
    Atomic,
    /// By value.
    Set,
    /// By the values of some fields of its items.
    Map,
}

/// A pattern, compiled when first used.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Its text.
    pub text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            compiled: OnceLock::new(),
        }
    }

    /// Compiles a pattern within bounds.
    ///
    /// # Errors
    /// What is wrong with it, as Go tells it.
    pub fn compile(text: &str) -> Result<Regex, String> {
        corral_cel::pattern::compile(text)
    }

    /// Whether a text matches somewhere. Nothing matches what is no pattern.
    pub fn matches(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| Self::compile(&self.text).ok());
        compiled.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

/// A bound of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The number.
    pub at: f64,
    /// Whether the number itself is out of bounds.
    pub exclusive: bool,
}

/// What a schema says about values beyond their type.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// Format of texts and numbers, if it is one that there is.
    pub format: String,
    /// Least number.
    pub minimum: Option<Bound>,
    /// Greatest number.
    pub maximum: Option<Bound>,
    /// What numbers are a multiple of.
    pub multiple_of: Option<f64>,
    /// Fewest characters.
    pub min_length: Option<u64>,
    /// Most characters.
    pub max_length: Option<u64>,
    /// What texts match.
    pub pattern: Option<Pattern>,
    /// Fewest items.
    pub min_items: Option<u64>,
    /// Most items.
    pub max_items: Option<u64>,
    /// Whether no two items are the same.
    pub unique_items: bool,
    /// Fewest properties.
    pub min_properties: Option<u64>,
    /// Most properties.
    pub max_properties: Option<u64>,
    /// Properties that must be there.
    pub required: Vec<String>,
    /// All values that there are; empty if any is allowed.
    pub allowed: Vec<Value>,
    /// Schemas that must all hold.
    pub all_of: Vec<Structural>,
    /// Schemas of which one must hold.
    pub any_of: Vec<Structural>,
    /// Schemas of which exactly one must hold.
    pub one_of: Vec<Structural>,
    /// A schema that must not hold.
    pub not: Option<Box<Structural>>,
}

/// The shape of a value.
#[derive(Debug, Clone, Default)]
pub struct Structural {
    /// Its type; `None` if it has several, or any.
    pub kind: Option<Type>,
    /// Fields of an object.
    pub properties: Sorted<Structural>,
    /// What else an object may hold.
    pub additional: Additional,
    /// Items of an array.
    pub items: Option<Box<Structural>>,
    /// Whether `null` is a value.
    pub nullable: bool,
    /// The value of a field that is left out.
    pub default: Option<Value>,
    /// Whether fields that the schema does not have are kept.
    pub preserves: bool,
    /// Whether it is a whole object of Kubernetes.
    pub embedded: bool,
    /// Whether it is a number or a text.
    pub int_or_string: bool,
    /// How a list merges.
    pub list_type: ListType,
    /// The fields by which the items of a list map are told apart.
    pub list_keys: Vec<String>,
    /// Whether an object has one owner as a whole.
    pub atomic: bool,
    /// More about values; most schemas have nothing of it.
    pub checks: Option<Box<Checks>>,
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn list(value: &Value) -> Vec<Structural> {
    let items = value.as_array().into_iter().flatten();
    items.map(Structural::parse).collect()
}

impl Structural {
    /// Reads a schema. What it has beyond a structural schema is left out.
    pub fn parse(schema: &Value) -> Self {
        let flag = |key: &str| schema[key].as_bool().unwrap_or(false);
        let properties = schema["properties"].as_object().into_iter().flatten();
        let kind = schema["type"].as_str().and_then(Type::parse);
        Self {
            kind,
            properties: properties
                .map(|(name, inner)| (Arc::from(name.as_str()), Self::parse(inner)))
                .collect(),
            additional: match &schema["additionalProperties"] {
                Value::Bool(true) => Additional::Anything,
                Value::Bool(false) => Additional::Nothing,
                inner @ Value::Object(_) => Additional::Of(Box::new(Self::parse(inner))),
                _ => Additional::Unsaid,
            },
            items: match &schema["items"] {
                inner @ Value::Object(_) => Some(Box::new(Self::parse(inner))),
                _ => None,
            },
            nullable: flag("nullable"),
            default: schema
                .get("default")
                .filter(|value| !value.is_null())
                .cloned(),
            preserves: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list_type: match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map,
                _ => ListType::Atomic,
            },
            list_keys: texts(&schema["x-kubernetes-list-map-keys"]),
            atomic: schema["x-kubernetes-map-type"] == "atomic",
            checks: Checks::parse(schema, kind).map(Box::new),
        }
    }

    /// The levels of a schema that is not read yet.
    pub fn depth(schema: &Value) -> usize {
        fn below(value: &Value) -> usize {
            match value {
                Value::Object(map) => map.values().map(below).max().map_or(1, |d| d + 1),
                Value::Array(items) => items.iter().map(below).max().unwrap_or(0),
                _ => 0,
            }
        }
        below(schema)
    }

    /// The shape of what an object holds under a name.
    pub fn below(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(property), _) => Some(property),
            (None, Additional::Of(inner)) => Some(inner),
            _ => None,
        }
    }

    /// Whether a schema or one below it holds.
    pub fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        let additional = match &self.additional {
            Additional::Of(inner) => Some(&**inner),
            _ => None,
        };
        test(self)
            || self.properties.values().any(|inner| inner.any(test))
            || additional.is_some_and(|inner| inner.any(test))
            || self.items.as_ref().is_some_and(|inner| inner.any(test))
    }
}

impl Checks {
    fn parse(schema: &Value, kind: Option<Type>) -> Option<Self> {
        /// Keys that say something about values.
        const KEYS: [&str; 21] = [
            "format",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "pattern",
            "minItems",
            "maxItems",
            "uniqueItems",
            "minProperties",
            "maxProperties",
            "required",
            "enum",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "x-kubernetes-int-or-string",
        ];
        let has = |key: &&str| schema.get(*key).is_some_and(|value| !value.is_null());
        if !KEYS.iter().any(has) {
            return None;
        }
        let count = |key: &str| schema[key].as_u64();
        let bound = |at: &str, exclusive: &str| {
            schema[at].as_f64().map(|at| Bound {
                at,
                exclusive: schema[exclusive].as_bool().unwrap_or(false),
            })
        };
        let format = schema["format"].as_str().unwrap_or_default();
        Some(Self {
            format: super::formats::known(format, kind)
                .unwrap_or_default()
                .to_owned(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64(),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern: schema["pattern"]
                .as_str()
                .filter(|p| !p.is_empty())
                .map(Pattern::new),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: schema["uniqueItems"].as_bool().unwrap_or(false),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: texts(&schema["required"]),
            allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
            all_of: list(&schema["allOf"]),
            any_of: list(&schema["anyOf"]),
            one_of: list(&schema["oneOf"]),
            not: match &schema["not"] {
                inner @ Value::Object(_) => Some(Box::new(Structural::parse(inner))),
                _ => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_read_with_what_it_says_about_values() {
        let schema = Structural::parse(&json!({"type": "object", "properties": {
            "replicas": {"type": "integer", "minimum": 1, "exclusiveMinimum": true, "default": 2},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
        }}));
        let replicas = schema.properties.get("replicas").expect("said");
        let minimum = replicas.checks.as_ref().and_then(|checks| checks.minimum);
        assert_eq!(
            minimum,
            Some(Bound {
                at: 1.0,
                exclusive: true
            })
        );
        assert_eq!(replicas.default, Some(2.into()));
        let ports = schema.properties.get("ports").expect("said");
        assert_eq!(
            (ports.list_type, ports.list_keys.as_slice()),
            (ListType::Map, &["name".to_owned()][..])
        );
        assert!(schema.properties.get("any").expect("said").checks.is_none());
        assert!(schema.any(&|inner| inner.preserves) && !schema.any(&|inner| inner.embedded));
    }
}
