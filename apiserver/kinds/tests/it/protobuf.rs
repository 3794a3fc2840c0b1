//! Protobuf against the pairs that `xtask/wire` makes of the Go types: JSON and the bytes of the same object.

use std::io::Read;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1 as meta;
use corral_kinds::all;
use corral_kinds::kind::{AnyKind, Verbs};
use corral_kinds::protobuf::{self, Layout};
use corral_kinds::schema::{self, Node};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Pair {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    json: Box<RawValue>,
    protobuf: String,
}

fn pairs() -> Vec<Pair> {
    let mut text = String::new();
    let packed: &[u8] = include_bytes!("../data/protobuf.jsonl.gz");
    flate2::read::GzDecoder::new(packed)
        .read_to_string(&mut text)
        .expect("gzip of text");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a pair"))
        .collect()
}

fn kind(api_version: &str, name: &str) -> Option<&'static dyn AnyKind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    all::kind(group, version, name)
}

/// The shape of what is no list; `None` for kinds that are not there.
fn node(pair: &Pair) -> Option<Node> {
    match (pair.api_version.as_str(), pair.kind.as_str()) {
        ("v1", "Status") => Some(schema::of_type::<meta::Status>()),
        ("v1", "DeleteOptions") => Some(schema::of_type::<meta::DeleteOptions>()),
        ("v1", "APIGroup") => Some(schema::of_type::<meta::APIGroup>()),
        ("v1", "APIGroupList") => Some(schema::of_type::<meta::APIGroupList>()),
        ("v1", "APIResourceList") => Some(schema::of_type::<meta::APIResourceList>()),
        ("v1", "APIVersions") => Some(schema::of_type::<meta::APIVersions>()),
        (version, name) => kind(version, name).map(schema::of),
    }
}

fn layout(pair: &Pair) -> Option<Arc<Layout>> {
    Layout::of_type(&pair.api_version, &pair.kind)
}

#[test]
fn every_object_is_encoded_as_go_does() {
    let mut compared = std::collections::BTreeSet::new();
    for (index, pair) in pairs().iter().enumerate() {
        let Some(layout) = layout(pair) else { continue };
        let expected = STANDARD.decode(&pair.protobuf).expect("base64");
        let (version, kind, json) = (&pair.api_version, &pair.kind, pair.json.get());
        let found = protobuf::encode(&layout, version, kind, json.as_bytes());
        let found =
            found.unwrap_or_else(|error| panic!("{version} {kind} {index}: {error}\n{json}"));
        if found != expected {
            let same = found.iter().zip(&expected).take_while(|(a, b)| a == b);
            let same = same.count();
            let near = |bytes: &[u8]| {
                let part = &bytes[same.saturating_sub(40)..bytes.len().min(same + 60)];
                part.escape_ascii().to_string()
            };
            panic!(
                "{version} {kind} {index} differs at {same}:\nours   {}\ntheirs {}\n{json}",
                near(&found),
                near(&expected)
            );
        }
        compared.insert(format!("{version} {kind}"));
    }
    for kind in all::RESOURCES {
        let names = kind.names();
        let name = format!("{} {}", names.api_version(), names.kind);
        assert!(compared.contains(&name), "no pair of {name}");
        let list = name + "List";
        let is_listed = kind.verbs() != Verbs::CreateOnly;
        assert_eq!(compared.contains(&list), is_listed, "{list}");
    }
}

/// What is left when all that Go writes for what is not set is taken off.
fn bare(value: Value) -> Value {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, inner)| (key, bare(inner)))
            .filter(|(_, inner)| !is_nothing(inner))
            .collect(),
        Value::Array(items) => items.into_iter().map(bare).collect(),
        other => other,
    }
}

#[test]
fn what_is_decoded_is_what_was_encoded() {
    let mut compared = 0;
    for pair in pairs() {
        let Some(node) = node(&pair) else { continue };
        let bytes = STANDARD.decode(&pair.protobuf).expect("base64");
        let envelope = protobuf::envelope(&bytes).expect("an envelope");
        assert_eq!(envelope.kind, pair.kind);
        let decoded = protobuf::decode(&node, envelope.raw).expect("a message");
        let mut expected: Value = serde_json::from_str(pair.json.get()).expect("JSON");
        let type_meta = expected.as_object_mut().expect("an object");
        type_meta.remove("apiVersion");
        type_meta.remove("kind");
        assert_eq!(bare(decoded.clone()), bare(expected), "{}", pair.kind);
        // And back: what was not set stays so.
        let layout = Layout::of_node(&node).expect("messages");
        let mut encoder = protobuf::Encoder::new();
        let again = encoder.message(&layout, decoded.to_string().as_bytes());
        assert_eq!(again.expect("encodes"), envelope.raw, "{}", pair.kind);
        compared += 1;
    }
    assert!(compared > 200);
}

#[test]
fn every_built_in_kind_has_messages() {
    for kind in all::RESOURCES.iter() {
        let layout = Layout::of_node(&kind.schema());
        assert!(layout.is_some(), "{}", kind.names().kind);
    }
}

#[test]
fn what_is_no_json_of_the_shape_is_refused() {
    let node = schema::of(all::resource("", "v1", "configmaps").expect("served"));
    let layout = Layout::of_node(&node).expect("messages");
    let mut encoder = protobuf::Encoder::new();
    for json in [
        "",
        "{",
        "{\"data\":",
        "{\"data\":[]}",
        "{\"data\":{\"a\":1}}",
        "{\"immutable\":1}",
        "{}x",
        "[]",
        "{\"metadata\":{\"name\":\"\\",
        "{\"metadata\":{\"creationTimestamp\":\"x\"}}",
        "{\"binaryData\":{\"a\":\"-\"}}",
    ] {
        assert!(encoder.message(&layout, json.as_bytes()).is_err(), "{json}");
    }
    // Unsorted and repeated keys, and whitespace, come out in order.
    let loose = r#" { "data" : { "b" : "2" , "a":"1", "b":"3" }, "unknown": [1, {"x": null}] } "#;
    let strict = r#"{"data":{"a":"1","b":"3"}}"#;
    let expected = encoder
        .message(&layout, strict.as_bytes())
        .expect("valid")
        .to_vec();
    let found = encoder.message(&layout, loose.as_bytes()).expect("valid");
    assert_eq!(found, expected);
}

#[test]
fn what_is_cut_off_or_broken_is_refused_or_read_and_nothing_else() {
    for pair in pairs().iter().filter(|pair| pair.protobuf.len() < 900) {
        let Some(node) = node(pair) else { continue };
        let mut bytes = STANDARD.decode(&pair.protobuf).expect("base64");
        for at in 0..bytes.len() {
            if let Ok(envelope) = protobuf::envelope(&bytes[..at]) {
                let _ = protobuf::decode(&node, envelope.raw);
            }
            bytes[at] ^= 1 << (at % 8);
            if let Ok(envelope) = protobuf::envelope(&bytes) {
                let _ = protobuf::decode(&node, envelope.raw);
            }
            bytes[at] ^= 1 << (at % 8);
        }
    }
}
