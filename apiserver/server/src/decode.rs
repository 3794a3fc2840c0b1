//! Reads request bodies: JSON or YAML into a tree, with duplicate fields reported.

mod leniency;

use std::fmt;

use corral_api::status::Status;
use corral_kinds::protobuf;
use corral_kinds::schema::Node;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::DuplicateKeyPolicy;

use crate::negotiate::PatchType;

/// Deepest nesting of a body, in lists and objects. Kubernetes' decoder stops at 10,000; nothing real is deeper than a few
/// dozen, and a shallow bound keeps recursive code within its stack. What is stored is read within 127 levels, and the
/// owners of the fields of an object lie five levels deeper than the fields, what reviews enclose four.
pub const DEPTH_MAX: usize = 100;
/// Most values of a document in YAML, which takes some microseconds for each of them. What has more does not fit into the
/// store.
const YAML_NODES_MAX: usize = 250_000;
/// Most values that aliases may stand for in a document in YAML, as lists and objects count twice: fewer than a document
/// may have. Kubernetes looks at their share, too.
const YAML_ALIASED_MAX: usize = 200_000;
/// Deepest nesting of a document in YAML, whose reader takes many times more of the stack than that of JSON.
const YAML_DEPTH_MAX: usize = 64;
/// Most duplicates that one report lists.
const DUPLICATES_MAX: usize = 100;

/// The format of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// As headers name it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// A body as a tree, and the fields that it names twice.
#[derive(Debug)]
pub struct Decoded {
    /// The tree.
    pub value: Value,
    /// What a strict decoder would say about duplicates, such as `duplicate field "spec.replicas"`.
    pub duplicates: Vec<String>,
    /// How the body begins, for messages.
    pub head: String,
}

impl Decoded {
    /// A tree that was not read from a body.
    pub fn of(value: Value) -> Self {
        Self {
            value,
            duplicates: Vec::new(),
            head: String::new(),
        }
    }
}

/// A body that is none.
#[derive(Debug)]
pub struct Undecodable {
    /// Why, in Go's words where they are known.
    pub why: String,
    /// Whether it was read as JSON: kube-apiserver tells what it wanted to know of such a body, and not of YAML.
    is_json: bool,
    head: String,
}

impl Undecodable {
    /// As kube-apiserver tells it of the body of a write.
    pub fn of_object(self, kind: &str) -> Status {
        let Self { why, is_json, head } = self;
        let what = match is_json {
            true => "couldn't get version/kind; json parse error: ",
            false => "",
        };
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {what}{why} ({head})"
        ))
    }

    /// As kube-apiserver tells it of a configuration to apply, which it always reads as YAML.
    pub fn of_configuration(self) -> Status {
        Status::bad_request(format!(
            "error decoding YAML: error converting YAML to JSON: {}",
            self.why
        ))
    }

    /// As kube-apiserver tells it of a patch.
    pub fn of_patch(self, kind: PatchType) -> Status {
        Status::bad_request(match kind {
            PatchType::Strategic => self.why,
            _ => format!("error decoding patch: {}", self.why),
        })
    }
}

/// How much of a body is shown in a message, as in Kubernetes.
const HEAD_CHARS: usize = 30;

fn head(body: &[u8]) -> String {
    match body.trim_ascii_start().first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => {}
        // What is not JSON for sure is shown byte by byte.
        Some(_) => {
            let shown = &body[..body.len().min(HEAD_CHARS)];
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            return match shown.len() < body.len() {
                true => hex + " ...",
                false => hex,
            };
        }
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(HEAD_CHARS * 4)]);
    let shown: String = text.chars().take(HEAD_CHARS).collect();
    match shown.len() < body.len() {
        true => shown + " ...",
        false => shown,
    }
}

/// Reads a body whose object has the given shape.
///
/// # Errors
/// 400 when the body is not in its format, or not an object.
pub fn decode(body: &[u8], format: Format, shape: &Node) -> Result<Decoded, Status> {
    let kind = match shape {
        Node::Struct { definition, .. } => definition.get().short_name.to_string(),
        _ => "Object".to_owned(),
    };
    let mut decoded = match format {
        Format::Protobuf => Decoded::of(protobuf(body, shape)?),
        text => decode_text(body, text).map_err(|error| error.of_object(&kind))?,
    };
    // What is JSON was held to it while it was read.
    if format != Format::Json && is_deeper(&decoded.value, DEPTH_MAX) {
        let error = Undecodable {
            why: too_deep(DEPTH_MAX),
            is_json: false,
            head: head(body),
        };
        return Err(error.of_object(&kind));
    }
    if decoded.value.is_null() {
        // To Go, nothing is an object without fields.
        decoded.value = Value::Object(Map::new());
    }
    if !decoded.value.is_object() && matches!(shape, Node::Struct { .. }) {
        let found = crate::patch::go_kind(&decoded.value);
        let error = Undecodable {
            why: format!("json: cannot unmarshal {found} into Go value of type {GO_TYPE_META}"),
            is_json: true,
            head: head(body),
        };
        return Err(error.of_object(&kind));
    }
    Ok(decoded)
}

/// What Go reads the type of an object into, as its messages name it.
const GO_TYPE_META: &str = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; \
                            Kind string \"json:\\\"kind,omitempty\\\"\" }";

fn too_deep(levels: usize) -> String {
    format!("nested deeper than {levels} levels")
}

/// Whether lists and objects nest deeper than this.
pub fn is_deeper(value: &Value, levels: usize) -> bool {
    let is_below = |inner: &Value| levels == 0 || is_deeper(inner, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(is_below),
        Value::Object(map) => levels == 0 || map.values().any(is_below),
        _ => false,
    }
}

/// Reads a body in a format that names its fields.
///
/// # Errors
/// When the body is not in its format.
pub fn decode_text(body: &[u8], format: Format) -> Result<Decoded, Undecodable> {
    let mut duplicates = Vec::new();
    let value = match format {
        Format::Json => {
            let value = json(body, &mut duplicates).or_else(|error| {
                let mended = leniency::without_halves(body).ok_or(error)?;
                duplicates.clear();
                json(&mended, &mut duplicates)
            });
            value.map_err(|error| Undecodable {
                why: crate::patch::syntax(&error),
                is_json: true,
                head: head(body),
            })?
        }
        _ => yaml(body, &mut duplicates).map_err(|why| Undecodable {
            why,
            is_json: false,
            head: head(body),
        })?,
    };
    Ok(Decoded {
        value,
        duplicates,
        head: head(body),
    })
}

fn json(body: &[u8], duplicates: &mut Vec<String>) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let seed = Tree {
        path: &mut String::new(),
        duplicates,
        depth: 0,
    };
    let value = seed.deserialize(&mut reader)?;
    reader.end().map(|()| value)
}

fn protobuf(body: &[u8], shape: &Node) -> Result<Value, Status> {
    let malformed = |error: protobuf::Malformed| Status::bad_request(error.to_string());
    let envelope = protobuf::envelope(body).map_err(malformed)?;
    let mut value = protobuf::decode(shape, envelope.raw).map_err(malformed)?;
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".into(), envelope.api_version.into());
        map.insert("kind".into(), envelope.kind.into());
    }
    Ok(value)
}

/// A key that is there twice, told as Go's reader of YAML tells it.
fn duplicate_key(why: &str) -> String {
    let after = |mark: &str, end: char| {
        let (_, rest) = why.split_once(mark)?;
        rest.split(end).next()
    };
    match (after("line ", ' '), after("duplicate mapping key: ", ',')) {
        (Some(line), Some(key)) => {
            format!("yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map")
        }
        _ => why.lines().next().unwrap_or("duplicate field").to_owned(),
    }
}

/// What a document in YAML may cost, and what becomes of keys that are there twice.
fn options(duplicate_keys: DuplicateKeyPolicy) -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: duplicate_keys,
        budget: serde_saphyr::budget! {
            max_depth: YAML_DEPTH_MAX,
            max_nodes: YAML_NODES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: YAML_ALIASED_MAX,
        },
    }
}

fn yaml(body: &[u8], duplicates: &mut Vec<String>) -> Result<Value, String> {
    let text = std::str::from_utf8(body).map_err(|e| format!("yaml: {e}"))?;
    // As in Kubernetes, what comes after it is not even read.
    let text = leniency::first_document(text);
    let read = |keys| serde_saphyr::from_str_with_options::<Value>(text, options(keys));
    match read(DuplicateKeyPolicy::Error) {
        Ok(value) => Ok(value),
        Err(error) => {
            let why = error.to_string();
            if why.contains("duplicate") {
                duplicates.push(duplicate_key(&why));
                return read(DuplicateKeyPolicy::LastWins).map_err(|e| format!("yaml: {e}"));
            }
            Err(format!("yaml: {}", told(why)))
        }
    }
}

/// What kube-apiserver says of documents that cost too much, and of others what their reader says.
fn told(why: String) -> String {
    let first = why.lines().next().unwrap_or_default();
    let is = |what: &str| first.contains(what);
    if is("budget breached: Depth") || is("recursion limit exceeded") {
        too_deep(YAML_DEPTH_MAX)
    } else if is("alias replay") || is("budget breached: Alias") {
        "document contains excessive aliasing".to_owned()
    } else if is("budget breached") {
        format!("document has more than {YAML_NODES_MAX} values")
    } else {
        why
    }
}

struct Tree<'a> {
    path: &'a mut String,
    duplicates: &'a mut Vec<String>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::Number(n.into()))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::Number(n.into()))
    }
    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        Ok(Number::from_f64(n).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(Value::String(s.to_owned()))
    }
    fn visit_string<E>(self, s: String) -> Result<Value, E> {
        Ok(Value::String(s))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        if self.depth == DEPTH_MAX {
            return Err(A::Error::custom(too_deep(DEPTH_MAX)));
        }
        let mut items = Vec::new();
        let length = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", items.len()));
            let seed = Tree {
                path: &mut *self.path,
                duplicates: &mut *self.duplicates,
                depth: self.depth + 1,
            };
            let item = seq.next_element_seed(seed)?;
            self.path.truncate(length);
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        if self.depth == DEPTH_MAX {
            return Err(A::Error::custom(too_deep(DEPTH_MAX)));
        }
        let mut map = Map::new();
        let length = self.path.len();
        while let Some(key) = access.next_key::<String>()? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if map.contains_key(&key) && self.duplicates.len() < DUPLICATES_MAX {
                let text = format!("duplicate field {:?}", self.path);
                if !self.duplicates.contains(&text) {
                    self.duplicates.push(text);
                }
            }
            let seed = Tree {
                path: &mut *self.path,
                duplicates: &mut *self.duplicates,
                depth: self.depth + 1,
            };
            let value = access.next_value_seed(seed)?;
            self.path.truncate(length);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_reported_with_their_path_and_the_last_one_wins() {
        let body = br#"{"spec":{"replicas":1,"replicas":2,"c":[{"a":1,"a":1}]}}"#;
        let decoded = decode(body, Format::Json, &Node::Any).expect("valid");
        assert_eq!(
            decoded.duplicates,
            [
                "duplicate field \"spec.replicas\"",
                "duplicate field \"spec.c[0].a\""
            ]
        );
        assert_eq!(decoded.value["spec"]["replicas"], 2);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(10_000);
        assert!(decode(deep.as_bytes(), Format::Json, &Node::Any).is_err());
        let lists = |n: usize| "[".repeat(n) + &"]".repeat(n);
        for (levels, is_good) in [(YAML_DEPTH_MAX, true), (YAML_DEPTH_MAX + 1, false)] {
            let read = decode(lists(levels).as_bytes(), Format::Yaml, &Node::Any);
            assert_eq!(read.is_ok(), is_good, "{levels} {read:?}");
        }
        let mut encoder = protobuf::Encoder::new();
        let node = corral_kinds::all::resource("apps", "v1", "controllerrevisions");
        let node = corral_kinds::schema::of(node.expect("served"));
        let layout = protobuf::Layout::of_node(&node).expect("it has messages");
        for (levels, is_good) in [(DEPTH_MAX, true), (DEPTH_MAX + 1, false)] {
            let text = lists(levels);
            let read = decode(text.as_bytes(), Format::Json, &Node::Any);
            assert_eq!(read.is_ok(), is_good, "{levels} {read:?}");
            let revision = format!(r#"{{"revision":1,"data":{}}}"#, lists(levels - 1));
            let message = encoder.message(&layout, revision.as_bytes());
            let message = message.expect("a revision");
            let body = protobuf::enclose("apps/v1", "ControllerRevision", message);
            let read = decode(&body, Format::Protobuf, &node);
            assert_eq!(read.is_ok(), is_good, "{levels}");
        }
    }

    #[test]
    fn aliases_are_bounded() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let alias = format!("*a{}", level - 1);
            let items = vec![alias; 10].join(", ");
            laughs.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        let deep = (0..150).map(|level| format!("b{level}: &b{level} [*b{}]\n", level - 1));
        let deep = deep.collect::<String>().replace("[*b-1]", "x");
        let excessive = "yaml: document contains excessive aliasing";
        let too_deep = "yaml: nested deeper than 64 levels";
        let too_many = "yaml: document has more than 250000 values";
        let many = format!("[{}]", "0,".repeat(YAML_NODES_MAX));
        for (body, why) in [(laughs, excessive), (deep, too_deep), (many, too_many)] {
            let refused = decode_text(body.as_bytes(), Format::Yaml).expect_err("too much");
            assert_eq!(refused.why, why);
        }
        let usual = b"a: &a {x: 1}\nb: *a\nc: {<<: *a, y: *a}\n";
        let read = decode_text(usual, Format::Yaml).expect("valid").value;
        assert_eq!(read["c"], serde_json::json!({"x": 1, "y": {"x": 1}}));
    }

    #[test]
    fn yaml_reads_as_kubectl_does() {
        let decoded =
            decode(b"a: 0644\nb: on\nc: [1, x]\n", Format::Yaml, &Node::Any).expect("valid");
        assert_eq!(decoded.value["a"], 420);
        assert_eq!(decoded.value["c"][1], "x");
    }
}
