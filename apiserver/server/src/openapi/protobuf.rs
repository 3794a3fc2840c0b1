//! OpenAPI version 2 in protobuf, the only form that client-go asks for.
//!
//! The messages are those of <https://github.com/google/gnostic-models/blob/main/openapiv2/OpenAPIv2.proto>. What they
//! have no place for is left out.

use http::HeaderMap;
use http::header::ACCEPT;
use serde_json::{Map, Value};

/// What the answer says that it is.
pub(super) const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How older clients, and client-go, ask for the same.
const MEDIA_TYPE_OF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Whether a client likes protobuf better than JSON.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    let clauses = accepted.flat_map(|value| value.split(','));
    let mut best: Option<(f32, bool)> = None;
    for clause in clauses {
        let mut parts = clause.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let is_ours = [MEDIA_TYPE, MEDIA_TYPE_OF_OLD].contains(&media_type);
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let weight = weight.and_then(|q| q.parse().ok()).unwrap_or(1.0);
        // Of two that are liked as much, the first.
        if best.is_none_or(|(known, _)| weight > known) {
            best = Some((weight, is_ours));
        }
    }
    best.is_some_and(|(_, is_ours)| is_ours)
}

/// The document as a message.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Value::Object(document) = document {
        write_struct(&mut out, &DOCUMENT, document);
    }
    out
}

/// How a value of JSON is written as a field. A list is the field several times.
enum Is {
    Text,
    Flag,
    Whole,
    Number,
    /// Anything, as YAML.
    Any,
    /// A list as a whole is the value, of each item.
    AnyList,
    Message(&'static Struct),
    /// A message with a value or several in its field 1.
    Wrapped(&'static Is),
    /// Which of several messages it is; each has its own field in one around it.
    OneOf(fn(&Value) -> (u32, Is)),
}

/// A message.
struct Struct {
    fields: &'static [(&'static str, u32, Is)],
    /// Where the limits of a primitive value begin, which are the same everywhere.
    limits: u32,
    /// Where `x-` fields are, by name.
    extensions: u32,
    /// Where the others are, by name.
    named: Option<(u32, Is)>,
}

const PLAIN: Struct = Struct {
    fields: &[],
    limits: 0,
    extensions: 0,
    named: None,
};

/// The limits of a primitive value, in the order of their numbers.
static LIMITS: [(&str, Is); 17] = [
    ("type", Is::Text),
    ("format", Is::Text),
    ("items", Is::Message(&ITEMS)),
    ("collectionFormat", Is::Text),
    ("default", Is::Any),
    ("maximum", Is::Number),
    ("exclusiveMaximum", Is::Flag),
    ("minimum", Is::Number),
    ("exclusiveMinimum", Is::Flag),
    ("maxLength", Is::Whole),
    ("minLength", Is::Whole),
    ("pattern", Is::Text),
    ("maxItems", Is::Whole),
    ("minItems", Is::Whole),
    ("uniqueItems", Is::Flag),
    ("enum", Is::AnyList),
    ("multipleOf", Is::Number),
];

static ITEMS: Struct = Struct {
    limits: 1,
    extensions: 18,
    ..PLAIN
};

static DOCUMENT: Struct = Struct {
    fields: &[
        ("swagger", 1, Is::Text),
        ("info", 2, Is::Message(&INFO)),
        ("host", 3, Is::Text),
        ("basePath", 4, Is::Text),
        ("schemes", 5, Is::Text),
        ("consumes", 6, Is::Text),
        ("produces", 7, Is::Text),
        ("paths", 8, Is::Message(&PATHS)),
        ("definitions", 9, Is::Message(&SCHEMAS)),
    ],
    extensions: 16,
    ..PLAIN
};

static INFO: Struct = Struct {
    fields: &[
        ("title", 1, Is::Text),
        ("version", 2, Is::Text),
        ("description", 3, Is::Text),
        ("termsOfService", 4, Is::Text),
    ],
    extensions: 7,
    ..PLAIN
};

static PATHS: Struct = Struct {
    extensions: 1,
    named: Some((2, Is::Message(&PATH))),
    ..PLAIN
};

static PATH: Struct = Struct {
    fields: &[
        ("$ref", 1, Is::Text),
        ("get", 2, Is::Message(&OPERATION)),
        ("put", 3, Is::Message(&OPERATION)),
        ("post", 4, Is::Message(&OPERATION)),
        ("delete", 5, Is::Message(&OPERATION)),
        ("options", 6, Is::Message(&OPERATION)),
        ("head", 7, Is::Message(&OPERATION)),
        ("patch", 8, Is::Message(&OPERATION)),
        ("parameters", 9, Is::OneOf(parameter_or_reference)),
    ],
    extensions: 10,
    ..PLAIN
};

static OPERATION: Struct = Struct {
    fields: &[
        ("tags", 1, Is::Text),
        ("summary", 2, Is::Text),
        ("description", 3, Is::Text),
        ("externalDocs", 4, Is::Message(&EXTERNAL_DOCS)),
        ("operationId", 5, Is::Text),
        ("produces", 6, Is::Text),
        ("consumes", 7, Is::Text),
        ("parameters", 8, Is::OneOf(parameter_or_reference)),
        ("responses", 9, Is::Message(&RESPONSES)),
        ("schemes", 10, Is::Text),
        ("deprecated", 11, Is::Flag),
    ],
    extensions: 13,
    ..PLAIN
};

static REFERENCE: Struct = Struct {
    fields: &[("$ref", 1, Is::Text), ("description", 2, Is::Text)],
    ..PLAIN
};

static BODY: Struct = Struct {
    fields: &[
        ("description", 1, Is::Text),
        ("name", 2, Is::Text),
        ("in", 3, Is::Text),
        ("required", 4, Is::Flag),
        ("schema", 5, Is::Message(&SCHEMA)),
    ],
    extensions: 6,
    ..PLAIN
};

/// A parameter in the path or a header.
static PLACED: Struct = Struct {
    fields: &[
        ("required", 1, Is::Flag),
        ("in", 2, Is::Text),
        ("description", 3, Is::Text),
        ("name", 4, Is::Text),
    ],
    limits: 5,
    extensions: 22,
    ..PLAIN
};

/// A parameter in the query or a form, which may be there without a value.
static ASKED: Struct = Struct {
    fields: &[
        ("required", 1, Is::Flag),
        ("in", 2, Is::Text),
        ("description", 3, Is::Text),
        ("name", 4, Is::Text),
        ("allowEmptyValue", 5, Is::Flag),
    ],
    limits: 6,
    extensions: 23,
    ..PLAIN
};

fn parameter_or_reference(value: &Value) -> (u32, Is) {
    match value["$ref"].is_string() {
        true => (2, Is::Message(&REFERENCE)),
        false => (1, Is::OneOf(parameter)),
    }
}

fn parameter(value: &Value) -> (u32, Is) {
    match value["in"].as_str() {
        Some("body") => (1, Is::Message(&BODY)),
        _ => (2, Is::OneOf(parameter_outside_of_body)),
    }
}

fn parameter_outside_of_body(value: &Value) -> (u32, Is) {
    match value["in"].as_str() {
        Some("header") => (1, Is::Message(&PLACED)),
        Some("formData") => (2, Is::Message(&ASKED)),
        Some("path") => (4, Is::Message(&PLACED)),
        _ => (3, Is::Message(&ASKED)),
    }
}

static RESPONSES: Struct = Struct {
    extensions: 2,
    named: Some((1, Is::OneOf(response_or_reference))),
    ..PLAIN
};

fn response_or_reference(value: &Value) -> (u32, Is) {
    match value["$ref"].is_string() {
        true => (2, Is::Message(&REFERENCE)),
        false => (1, Is::Message(&RESPONSE)),
    }
}

static RESPONSE: Struct = Struct {
    fields: &[
        ("description", 1, Is::Text),
        ("schema", 2, Is::OneOf(schema_alone)),
    ],
    extensions: 5,
    ..PLAIN
};

/// Beside a schema there could be a file, which Kubernetes answers nowhere.
fn schema_alone(_: &Value) -> (u32, Is) {
    (1, Is::Message(&SCHEMA))
}

static SCHEMAS: Struct = Struct {
    named: Some((1, Is::Message(&SCHEMA))),
    ..PLAIN
};

static SCHEMA: Struct = Struct {
    fields: &[
        ("$ref", 1, Is::Text),
        ("format", 2, Is::Text),
        ("title", 3, Is::Text),
        ("description", 4, Is::Text),
        ("default", 5, Is::Any),
        ("multipleOf", 6, Is::Number),
        ("maximum", 7, Is::Number),
        ("exclusiveMaximum", 8, Is::Flag),
        ("minimum", 9, Is::Number),
        ("exclusiveMinimum", 10, Is::Flag),
        ("maxLength", 11, Is::Whole),
        ("minLength", 12, Is::Whole),
        ("pattern", 13, Is::Text),
        ("maxItems", 14, Is::Whole),
        ("minItems", 15, Is::Whole),
        ("uniqueItems", 16, Is::Flag),
        ("maxProperties", 17, Is::Whole),
        ("minProperties", 18, Is::Whole),
        ("required", 19, Is::Text),
        ("enum", 20, Is::AnyList),
        ("additionalProperties", 21, Is::OneOf(schema_or_flag)),
        ("type", 22, Is::Wrapped(&Is::Text)),
        ("items", 23, Is::Wrapped(&Is::Message(&SCHEMA))),
        ("allOf", 24, Is::Message(&SCHEMA)),
        ("properties", 25, Is::Message(&SCHEMAS)),
        ("discriminator", 26, Is::Text),
        ("readOnly", 27, Is::Flag),
        ("externalDocs", 29, Is::Message(&EXTERNAL_DOCS)),
        ("example", 30, Is::Any),
    ],
    extensions: 31,
    ..PLAIN
};

fn schema_or_flag(value: &Value) -> (u32, Is) {
    match value.is_boolean() {
        true => (2, Is::Flag),
        false => (1, Is::Message(&SCHEMA)),
    }
}

static EXTERNAL_DOCS: Struct = Struct {
    fields: &[("description", 1, Is::Text), ("url", 2, Is::Text)],
    extensions: 3,
    ..PLAIN
};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// Writes fields in the order of their numbers, as Go does.
fn write_struct(out: &mut Vec<u8>, kind: &Struct, from: &Map<String, Value>) {
    let mut field = |name: &str, number: u32, is: &Is| {
        if let Some(value) = from.get(name) {
            write_each(out, number, is, value);
        }
    };
    for (name, number, is) in kind.fields {
        field(name, *number, is);
    }
    if kind.limits > 0 {
        for ((name, is), number) in LIMITS.iter().zip(kind.limits..) {
            field(name, number, is);
        }
    }
    let is_extension = |key: &str| kind.extensions > 0 && key.starts_with("x-");
    if let Some((number, is)) = &kind.named {
        for (key, value) in from.iter().filter(|(key, _)| !is_extension(key)) {
            write_named(out, *number, is, key, value);
        }
    }
    for (key, value) in from.iter().filter(|(key, _)| is_extension(key)) {
        write_named(out, kind.extensions, &Is::Any, key, value);
    }
}

/// A value under its name, which is how maps are written.
fn write_named(out: &mut Vec<u8>, number: u32, is: &Is, key: &str, value: &Value) {
    write_message(out, number, |out| {
        write_bytes(out, 1, key.as_bytes());
        write(out, 2, is, value);
    });
}

fn write_each(out: &mut Vec<u8>, number: u32, is: &Is, value: &Value) {
    match (is, value) {
        (Is::Any | Is::Wrapped(_), _) => write(out, number, is, value),
        (_, Value::Array(items)) => {
            for item in items {
                write(out, number, is, item);
            }
        }
        _ => write(out, number, is, value),
    }
}

fn write(out: &mut Vec<u8>, number: u32, is: &Is, value: &Value) {
    match (is, value) {
        (Is::Text, Value::String(text)) => write_bytes(out, number, text.as_bytes()),
        (Is::Flag, Value::Bool(true)) => {
            write_tag(out, number, VARINT);
            write_varint(out, 1);
        }
        (Is::Whole, Value::Number(value)) => {
            // A limit beyond what the message can hold is none, and 0 is what is not written.
            if let Some(value) = value.as_i64().filter(|value| *value != 0) {
                write_tag(out, number, VARINT);
                write_varint(out, value as u64);
            }
        }
        (Is::Number, Value::Number(value)) => {
            if let Some(value) = value.as_f64().filter(|value| *value != 0.0) {
                write_tag(out, number, FIXED64);
                out.extend(value.to_le_bytes());
            }
        }
        // JSON is YAML.
        (Is::Any | Is::AnyList, value) => write_message(out, number, |out| {
            write_bytes(out, 2, value.to_string().as_bytes());
        }),
        (Is::Message(kind), Value::Object(value)) => {
            write_message(out, number, |out| write_struct(out, kind, value));
        }
        (Is::Wrapped(inner), value) => {
            write_message(out, number, |out| write_each(out, 1, inner, value));
        }
        (Is::OneOf(choose), value) => {
            let (chosen, is) = choose(value);
            write_message(out, number, |out| write(out, chosen, &is, value));
        }
        // `false`, and what the format does not have there.
        _ => {}
    }
}

fn write_message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    write_bytes(out, number, &inner);
}

fn write_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    write_tag(out, number, BYTES);
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn write_tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    write_varint(out, u64::from(number << 3 | wire));
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clients_get_what_they_like_best() {
        let of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header"));
            is_wanted(&headers)
        };
        assert!(of(MEDIA_TYPE) && of(MEDIA_TYPE_OF_OLD));
        assert!(of(&format!("{MEDIA_TYPE_OF_OLD}, application/json")));
        assert!(of(&format!("application/json;q=0.5,{MEDIA_TYPE};q=0.8")));
        assert!(!of(&format!("application/json, {MEDIA_TYPE}")));
        assert!(!of("*/*") && !of("application/json") && !is_wanted(&HeaderMap::new()));
    }

    /// The expected bytes are what Go's `proto.Marshal` makes of gnostic's reading of the same JSON, with values of any
    /// type as JSON instead of indented YAML.
    #[test]
    fn messages_are_those_of_gnostic() {
        let document = include_str!("protobuf/document.json");
        let document = serde_json::from_str(document).expect("JSON");
        let expected = include_str!("protobuf/document.hex");
        let hex: String = encode(&document)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, expected.trim());
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        let odd =
            json!({"swagger": "2.0", "security": [], "info": "no object", "paths": {"/a": null}});
        assert_eq!(
            encode(&odd),
            b"\x0a\x032.0\x42\x06\x12\x04\x0a\x02/a".to_vec()
        );
    }
}
