//! What is read from clients, taken at its worst: one function for each kind of input, that panics if what must hold does
//! not.
//!
//! The targets in `bin/` give them to libFuzzer (`cargo xtask fuzz`); a test of corral-server includes this file and
//! replays the seeds without it. An input of several parts has one on each line, as its function says.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use corral_api::field::FieldPath;
use corral_api::selector::{FieldSelector, LabelSelector};
use corral_cel::rules::Rules;
use corral_cel::{Budget, Env, Type, Value as CelValue, Version};
use corral_kinds::protobuf::{self, Encoder, Layout};
use corral_kinds::schema::{self, Node};
use corral_server::apply::{self, Manager, Owners, Views, set::Set, typed};
use corral_server::decode::{self, Decoded, Format};
use corral_server::patch;
use serde_json::{Value, json};

/// Kinds that have all there is: lists by key, sets, unions, quantities, raw JSON, schemas of schemas.
const KINDS: [(&str, &str, &str); 8] = [
    ("", "v1", "pods"),
    ("", "v1", "services"),
    ("", "v1", "configmaps"),
    ("apps", "v1", "deployments"),
    ("apps", "v1", "controllerrevisions"),
    ("networking.k8s.io", "v1", "networkpolicies"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("coordination.k8s.io", "v1", "leases"),
];

static NODES: LazyLock<Vec<Node>> = LazyLock::new(|| {
    let node = |(group, version, plural): &(&str, &str, &str)| {
        schema::of(corral_kinds::all::resource(group, version, plural).expect("served"))
    };
    KINDS.iter().map(node).collect()
});

/// The kind that a part of an input names by its number.
fn node(part: &[u8]) -> Option<&'static Node> {
    let index: usize = std::str::from_utf8(part).ok()?.parse().ok()?;
    NODES.get(index)
}

/// Reads a part of an input as bodies are read.
fn tree(part: &[u8]) -> Option<Value> {
    let decoded = decode::decode_text(part, Format::Json).ok()?;
    Some(decoded.value)
}

/// The parts of an input; the last one has whatever is left.
fn parts<const N: usize>(data: &[u8]) -> Option<[&[u8]; N]> {
    let mut lines = data.splitn(N, |byte| *byte == b'\n');
    let parts: Vec<&[u8]> = lines.by_ref().collect();
    parts.try_into().ok()
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What was read is no deeper than may be, and is read from its own JSON as it is.
fn is_sound(decoded: &Decoded) {
    assert!(depth(&decoded.value) <= decode::DEPTH_MAX);
    let text = decoded.value.to_string();
    let again = decode::decode_text(text.as_bytes(), Format::Json).expect("what was written");
    assert!(again.duplicates.is_empty());
    assert_eq!(again.value, decoded.value);
}

/// JSON whose escapes are read as UTF-16, as Go does: half a pair of surrogates is U+FFFD.
fn with_whole_pairs(mut json: &[u8]) -> Vec<u8> {
    fn escape(json: &[u8]) -> Option<(u16, &[u8])> {
        let (digits, rest) = json.strip_prefix(b"\\u")?.split_at_checked(4)?;
        let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
        Some((u16::from_str_radix(digits, 16).ok()?, rest))
    }
    let mut whole = Vec::with_capacity(json.len());
    while !json.is_empty() {
        let mut units = Vec::new();
        while let Some((unit, rest)) = escape(json) {
            units.push(unit);
            json = rest;
        }
        for unit in String::from_utf16_lossy(&units).encode_utf16() {
            whole.extend(format!("\\u{unit:04x}").bytes());
        }
        // Of another escape the second byte begins none.
        let n = if json.starts_with(b"\\") { 2 } else { 1 };
        let (other, rest) = json.split_at(n.min(json.len()));
        whole.extend(other);
        json = rest;
    }
    whole
}

/// A body in JSON.
pub fn json(data: &[u8]) {
    let plain = serde_json::from_slice::<Value>(&with_whole_pairs(data));
    match decode::decode_text(data, Format::Json) {
        Ok(decoded) => {
            is_sound(&decoded);
            let plain = plain.expect("what is JSON here is JSON elsewhere");
            assert_eq!(decoded.value, plain);
        }
        Err(_) => {
            let opened = data.iter().filter(|byte| matches!(byte, b'[' | b'{'));
            let may_be_deep = opened.count() > decode::DEPTH_MAX;
            assert!(
                plain.is_err() || may_be_deep,
                "what is JSON elsewhere is JSON here"
            );
        }
    }
    for node in NODES.iter() {
        checked(node, data, Format::Json);
    }
}

/// A body in YAML.
pub fn yaml(data: &[u8]) {
    if let Ok(decoded) = decode::decode_text(data, Format::Yaml) {
        is_sound(&decoded);
        checked(&NODES[0], data, Format::Yaml);
    }
}

/// Reads an object of a kind; what passed its schema passes it again without a change.
fn checked(node: &Node, data: &[u8], format: Format) {
    let Ok(mut decoded) = decode::decode(data, format, node) else {
        return;
    };
    if node.check(&mut decoded.value).is_ok() {
        let mut again = decoded.value.clone();
        let report = node.check(&mut again).expect("it has passed");
        assert_eq!(report.unknown, Vec::<String>::new());
        assert_eq!(again, decoded.value);
    }
}

/// The number of a kind, and a message.
pub fn protobuf(data: &[u8]) {
    let _ = protobuf::envelope(data);
    let Some((index, raw)) = data.split_first() else {
        return;
    };
    let node = &NODES[usize::from(*index) % NODES.len()];
    let Ok(value) = protobuf::decode(node, raw) else {
        return;
    };
    let layout = Layout::of_node(node).expect("it has messages");
    let mut encoder = Encoder::new();
    let text = value.to_string();
    // What a message can say and JSON cannot (no time, no number) is refused.
    let Ok(message) = encoder.message(&layout, text.as_bytes()) else {
        return;
    };
    let message = message.to_vec();
    let again = protobuf::decode(node, &message).expect("what was written is read");
    let text = again.to_string();
    let twice = encoder.message(&layout, text.as_bytes());
    let twice = twice.expect("what was read is written");
    assert_eq!(message, twice);
}

/// The number of a kind, an object, and a patch of it.
pub fn patches(data: &[u8]) {
    let Some([kind, object, patch]) = parts(data) else {
        return;
    };
    let (Some(node), Some(object)) = (node(kind), tree(object)) else {
        return;
    };
    if let Ok(patched) = patch::json_patch(&object, patch) {
        // Room for the copies, and for the patch itself.
        let most = object.to_string().len() + patch.len() + patch::COPIED_BYTES_MAX;
        assert!(patched.to_string().len() <= most * 2);
        assert!(depth(&patched) <= decode::DEPTH_MAX);
    }
    let Some(patch) = tree(patch) else { return };
    if let Ok(merged) = patch::merge_patch(&object, &patch) {
        assert_eq!(patch::merge_patch(&merged, &patch).ok(), Some(merged));
    }
    if object.is_object() {
        // What does not fit its kind, which nothing stored does, is refused with any patch.
        let fits = node.convert(&object).is_ok();
        let same = patch::strategic_patch(node, &object, &json!({}));
        assert_eq!(same.ok().as_ref(), fits.then_some(&object));
        let _ = patch::strategic_patch(node, &object, &patch);
    }
}

/// A selector.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(selector) = LabelSelector::parse(text) {
        let shown = selector.to_string();
        let again = LabelSelector::parse(&shown).expect("what is shown is a selector");
        assert_eq!(again, selector);
        let labels: BTreeMap<String, String> = [("a", "b"), ("n", "5")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        assert_eq!(again.matches(&labels), selector.matches(&labels));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        for requirement in &selector.requirements {
            let _ = selector.required(&requirement.field);
        }
        let _ = selector.matches(|field| (field == "metadata.name").then_some("a"));
    }
}

/// An expression.
pub fn cel(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let object = json!({"s": "text", "i": 5, "d": 1.5, "l": [1, 2, 3], "m": {"a": "b"},
        "t": "2026-01-01T00:00:00Z", "o": [{"name": "a", "v": "1Gi"}]});
    let env = Env::new(Version::new(1, 36))
        .with_variable("object", Type::Dyn)
        .with_mutation();
    if let Ok(program) = env.compile(text) {
        let variables = HashMap::from([("object", CelValue::of_json(&object))]);
        let run = || {
            let mut budget = Budget::of_request();
            let value = program.evaluate(&variables, &mut budget);
            (value.map(|value| value.to_json()), budget)
        };
        assert_eq!(format!("{:?}", run()), format!("{:?}", run()));
    }
    let rule = |rule: &str| {
        json!({"type": "object", "x-kubernetes-validations": [{"rule": rule, "messageExpression": "self.s"}],
        "properties": {
            "s": {"type": "string"}, "i": {"type": "integer"}, "d": {"type": "number"},
            "l": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
            "t": {"type": "string", "format": "date-time"},
            "o": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "v": {"type": "string"}}}},
        }})
    };
    let (rules, _) = Rules::compile(&rule(text), true);
    let old = Some(&object);
    let findings = rules.validate(&FieldPath::root(), &object, old, &mut Budget::of_request());
    assert!(findings.errors.len() + findings.warnings.len() <= 2);
}

fn manager(name: &str) -> Manager {
    Manager {
        name: name.to_owned(),
        api_version: "v1".to_owned(),
        subresource: String::new(),
        status_is_apart: true,
        time: "2026-01-01T00:00:00Z".to_owned(),
    }
}

/// The number of a kind, the configuration of one, that of another, and what a third updates the outcome to.
pub fn apply(data: &[u8]) {
    let Some([kind, first, second, third]) = parts(data) else {
        return;
    };
    let Some(node) = node(kind) else { return };
    let [Some(first), Some(second)] = [first, second].map(tree) else {
        return;
    };
    fields_are_kept(&tree(third).unwrap_or_default());
    let empty = json!({"metadata": {"name": "a"}});
    let Some(one) = applied(node, &empty, &first, "one") else {
        return;
    };
    let Some(both) = applied(node, &one, &second, "two") else {
        return;
    };
    // Nobody who applies again what is there conflicts, or changes anything.
    let Some(mut updated) = tree(third).filter(|third| fits(node, third)) else {
        return;
    };
    let mut old = both;
    let stored = taken(&mut old);
    let sent = taken(&mut updated);
    let owners = Owners {
        stored: stored.as_ref(),
        sent: sent.as_ref(),
        ..Owners::default()
    };
    let writer = manager("three");
    let entries = apply::update(
        node,
        Some(&old),
        &updated,
        owners,
        &writer,
        &Views::default(),
    );
    if let Some(entries) = entries {
        entries_are_sound(&entries);
    }
}

fn taken(object: &mut Value) -> Option<Value> {
    object
        .get_mut("metadata")?
        .as_object_mut()?
        .remove("managedFields")
}

/// Whether a kind takes an object as it is.
fn fits(node: &Node, object: &Value) -> bool {
    let mut checked = object.clone();
    object.is_object()
        && object.get("metadata").is_none_or(Value::is_object)
        && node.check(&mut checked).is_ok()
        && checked == *object
}

/// Applies a configuration by force; a second time there is nothing to do, and nobody else is asked to give way.
fn applied(node: &Node, live: &Value, config: &Value, name: &str) -> Option<Value> {
    let of = &config["metadata"];
    if !fits(node, config)
        || of.get("managedFields").is_some()
        || typed::faults(node, config).is_some()
    {
        return None;
    }
    let manager = manager(name);
    let out = apply::apply(node, live, config, &manager, true, None);
    let out = out.expect("nobody is asked").object;
    let again = apply::apply(node, &out, config, &manager, false, None);
    let mut again = again.expect("it is there already").object;
    if out["metadata"].get("managedFields").is_none() {
        // An empty list is nobody's by an apply, and once nobody owns anything, whatever is there counts as updated before
        // the first apply: kube-apiserver v1.36 says the same of the second one.
        taken(&mut again);
    }
    assert_eq!(again, out);
    if let Some(entries) = out["metadata"].get("managedFields") {
        entries_are_sound(entries);
    }
    Some(out)
}

/// Entries are read as they were written.
fn entries_are_sound(entries: &Value) {
    for entry in entries.as_array().expect("a list") {
        let fields = &entry["fieldsV1"];
        let set = Set::from_fields(fields);
        assert_eq!(set.to_fields(), *fields);
        assert!(set.is_all_of(fields));
    }
}

/// What a client says that somebody owns is brought into one form.
fn fields_are_kept(fields: &Value) {
    let set = Set::from_fields(fields);
    let written = set.to_fields();
    assert_eq!(Set::from_fields(&written), set);
    assert_eq!(Set::from_fields(&written).to_fields(), written);
}
