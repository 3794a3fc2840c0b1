//! The fields of a kind, from an OpenAPI v3 document.

use std::fmt;

use serde_json::{Map, Value};

/// How deep fields are followed, and how often one schema may be inside itself.
const DEPTH_MAX: usize = 9;
/// The key that stands for those of a map.
const MAP_KEY: &str = "a";

/// A step into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A field, or a key of a map.
    Key(String),
    /// The first item of a list.
    First,
}

/// Where a field is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(pub Vec<Step>);

impl Path {
    fn child(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Whether it is this one, written with dots.
    pub fn is(&self, dotted: &str) -> bool {
        self.to_string() == dotted
    }

    /// Whether it is this one or inside it.
    pub fn starts_with(&self, dotted: &str) -> bool {
        let own = self.to_string();
        own.strip_prefix(dotted)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index > 0 => write!(f, ".{key}")?,
                Step::Key(key) => f.write_str(key)?,
                Step::First => f.write_str("[0]")?,
            }
        }
        Ok(())
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number.
    Number,
    /// Yes or no.
    Boolean,
    /// Fields, or a map.
    Object,
    /// A list.
    Array,
    /// A number or text.
    IntOrString,
    /// An amount.
    Quantity,
    /// A time.
    Time,
    /// Anything.
    Any,
}

/// A field of a kind.
#[derive(Debug, Clone)]
pub struct Field {
    /// Where it is.
    pub path: Path,
    /// What it holds.
    pub holds: Type,
    /// The values that it may have, if they are few.
    pub values: Vec<Value>,
}

/// The schemas of a document.
pub struct Schemas(Map<String, Value>);

impl Schemas {
    /// Those of a document of `/openapi/v3`.
    pub fn new(mut document: Value) -> Self {
        let schemas = document["components"]["schemas"].take();
        Self(schemas.as_object().cloned().unwrap_or_default())
    }

    /// The fields of a kind, in the order of their names; `None` if the document does not have it.
    pub fn fields(&self, api_version: &str, kind: &str) -> Option<Vec<Field>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let schema = self.0.values().find(|schema| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            kinds.into_iter().flatten().any(|names| {
                names["group"] == group && names["version"] == version && names["kind"] == kind
            })
        })?;
        let mut found = Vec::new();
        self.walk(schema, &Path::default(), &mut Vec::new(), &mut found);
        Some(found)
    }

    fn walk<'a>(
        &'a self,
        schema: &'a Value,
        path: &Path,
        inside: &mut Vec<&'a str>,
        found: &mut Vec<Field>,
    ) {
        let (name, schema) = self.resolve(schema);
        let again = name.is_some_and(|name| inside.contains(&name));
        if path.0.len() > DEPTH_MAX || again {
            return;
        }
        let holds = holds(name, schema);
        if !path.0.is_empty() {
            found.push(Field {
                path: path.clone(),
                holds,
                values: schema["enum"].as_array().cloned().unwrap_or_default(),
            });
        }
        inside.extend(name);
        let depth = inside.len();
        if holds == Type::Object {
            for (key, property) in schema["properties"].as_object().into_iter().flatten() {
                self.walk(property, &path.child(Step::Key(key.clone())), inside, found);
            }
            if schema["additionalProperties"].is_object() {
                let key = Step::Key(MAP_KEY.to_owned());
                self.walk(
                    &schema["additionalProperties"],
                    &path.child(key),
                    inside,
                    found,
                );
            }
        }
        if holds == Type::Array {
            self.walk(&schema["items"], &path.child(Step::First), inside, found);
        }
        inside.truncate(depth - usize::from(name.is_some()));
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> (Option<&'a str>, &'a Value) {
        let inner = &schema["allOf"][0]["$ref"];
        let reference = schema["$ref"].as_str().or(inner.as_str());
        let name = reference.and_then(|reference| reference.rsplit('/').next());
        match name.and_then(|name| self.0.get(name)) {
            Some(found) => (name, found),
            None => (None, schema),
        }
    }
}

fn holds(name: Option<&str>, schema: &Value) -> Type {
    let name = name.unwrap_or("");
    if name.ends_with(".resource.Quantity") {
        return Type::Quantity;
    }
    if name.ends_with(".IntOrString") || schema["format"] == "int-or-string" {
        return Type::IntOrString;
    }
    if name.ends_with(".Time") || name.ends_with(".MicroTime") {
        return Type::Time;
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), _) => Type::String,
        (Some("integer"), Some("int64")) => Type::Int64,
        (Some("integer"), _) => Type::Int32,
        (Some("number"), _) => Type::Number,
        (Some("boolean"), _) => Type::Boolean,
        (Some("array"), _) => Type::Array,
        (Some("object"), _) => Type::Object,
        _ => Type::Any,
    }
}
