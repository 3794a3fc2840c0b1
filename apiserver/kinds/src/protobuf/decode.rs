//! Protobuf of clients, read into JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Malformed;
use super::layout::{Item, Layout, Shape};
use crate::schema::{DefinitionRef, Node, Other};

/// Deepest nesting of messages.
const DEPTH_MAX: usize = 64;

pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self
                .0
                .split_first()
                .ok_or(Malformed("unexpected end of the message"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is longer than ten bytes"))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self
            .0
            .split_at_checked(n)
            .ok_or(Malformed("unexpected end of the message"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number =
            u32::try_from(tag >> 3).map_err(|_| Malformed("a field number is out of range"))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().unwrap_or_default(),
            )),
            2 => {
                let length = usize::try_from(self.varint()?)
                    .map_err(|_| Malformed("a length is out of range"))?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(
                self.take(4)?.try_into().unwrap_or_default(),
            )),
            _ => return Err(Malformed("a field has a wire type that is not used")),
        };
        Ok(Some((number, wire)))
    }
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("a field that holds bytes has another wire type")),
        }
    }

    fn integer(self) -> Result<i64, Malformed> {
        match self {
            Self::Varint(n) | Self::Fixed64(n) => Ok(n.cast_signed()),
            Self::Fixed32(n) => Ok(i64::from(n.cast_signed())),
            Self::Bytes(_) => Err(Malformed(
                "a field that holds a number has another wire type",
            )),
        }
    }

    pub(super) fn text(self) -> Result<String, Malformed> {
        let text = std::str::from_utf8(self.bytes()?);
        text.map(str::to_owned)
            .map_err(|_| Malformed("a text is not UTF-8"))
    }
}

/// Reads the message of an object whose shape is `node`.
///
/// # Errors
/// [`Malformed`] when it is not one.
pub fn decode(node: &Node, raw: &[u8]) -> Result<Value, Malformed> {
    message(node, raw, 0)
}

fn message(node: &Node, raw: &[u8], depth: usize) -> Result<Value, Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed("messages are nested too deeply"));
    }
    let Node::Struct { definition, .. } = node else {
        return Err(Malformed("a message stands where there is none"));
    };
    let layout = definition.layout();
    let mut map = Map::new();
    fields(layout, &layout.order, node, raw, depth, &mut map)?;
    Ok(Value::Object(map))
}

fn fields(
    layout: &Layout,
    items: &[Item],
    owner: &Node,
    raw: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), Malformed> {
    let mut reader = Reader(raw);
    while let Some((number, wire)) = reader.next()? {
        match Layout::numbered(items, number) {
            // Fields of a newer version are passed over, as protobuf has it.
            None => {}
            Some(Item::Inline { items, .. }) => {
                fields(layout, items, owner, wire.bytes()?, depth + 1, out)?;
            }
            Some(Item::Field { slot, .. }) => {
                let name = &*layout.fields[*slot].name;
                let Some(field) = owner.field(name) else {
                    continue;
                };
                match &layout.fields[*slot].shape {
                    Shape::MicroTime => {
                        let micros = corral_api::time::format_micros;
                        out.insert(name.to_owned(), time(wire.bytes()?, micros)?);
                    }
                    Shape::ListMessage(_) => {
                        out.insert(name.to_owned(), value(&field.node, wire, depth)?);
                    }
                    _ => add(&field.node, name, wire, depth, out)?,
                }
            }
        }
    }
    Ok(())
}

fn add(
    node: &Node,
    name: &str,
    wire: Wire<'_>,
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), Malformed> {
    match node {
        Node::List { item, .. } => {
            let entry = out.entry(name).or_insert_with(|| json!([]));
            let Value::Array(items) = entry else {
                return Ok(());
            };
            match (&**item, wire) {
                // Numbers may come packed.
                (Node::Integer { .. }, Wire::Bytes(packed)) => {
                    let mut reader = Reader(packed);
                    while !reader.0.is_empty() {
                        items.push(reader.varint()?.cast_signed().into());
                    }
                }
                (item, wire) => items.push(value(item, wire, depth)?),
            }
        }
        Node::Map { value: inner, .. } => {
            let entry = out.entry(name).or_insert_with(|| json!({}));
            let Value::Object(map) = entry else {
                return Ok(());
            };
            let (key, item) = map_entry(inner, wire.bytes()?, depth)?;
            map.insert(key, item);
        }
        _ => {
            let value = value(node, wire, depth)?;
            out.insert(name.to_owned(), value);
        }
    }
    Ok(())
}

fn map_entry(node: &Node, raw: &[u8], depth: usize) -> Result<(String, Value), Malformed> {
    let mut key = String::new();
    let mut item = match node {
        Node::String | Node::Bytes => Value::String(String::new()),
        _ => Value::Null,
    };
    let mut reader = Reader(raw);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => key = wire.text()?,
            2 => {
                item = match node {
                    // A list as the value of a map is a message of its items.
                    Node::List { item, .. } => list_message(item, wire.bytes()?, depth)?,
                    _ => value(node, wire, depth)?,
                }
            }
            _ => {}
        }
    }
    Ok((key, item))
}

fn list_message(item: &Node, raw: &[u8], depth: usize) -> Result<Value, Malformed> {
    let mut items = Vec::new();
    let mut reader = Reader(raw);
    while let Some((_, wire)) = reader.next()? {
        items.push(value(item, wire, depth)?);
    }
    Ok(Value::Array(items))
}

fn value(node: &Node, wire: Wire<'_>, depth: usize) -> Result<Value, Malformed> {
    Ok(match node {
        Node::String => wire.text()?.into(),
        Node::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Node::Boolean => (wire.integer()? != 0).into(),
        Node::Integer { bits: 32 } => {
            // Negative numbers come sign-extended to 64 bits.
            let n = wire.integer()?;
            i32::try_from(n)
                .map_err(|_| Malformed("a number is out of range"))?
                .into()
        }
        Node::Integer { .. } => wire.integer()?.into(),
        Node::Number => match wire {
            Wire::Fixed64(bits) => f64::from_bits(bits).into(),
            other => other.integer()?.into(),
        },
        Node::Time => time(wire.bytes()?, corral_api::time::format_seconds)?,
        Node::Quantity => inner_text(wire.bytes()?, 1)?.into(),
        Node::IntOrString => int_or_string(wire.bytes()?)?,
        Node::StructOr { definition, other } => {
            struct_or(definition, *other, wire.bytes()?, depth)?
        }
        Node::Any | Node::Deduced => {
            let mut reader = Reader(wire.bytes()?);
            let mut found = Value::Null;
            while let Some((number, wire)) = reader.next()? {
                if number == 1 {
                    found = serde_json::from_slice(wire.bytes()?)
                        .map_err(|_| Malformed("raw JSON does not parse"))?;
                }
            }
            found
        }
        Node::Struct { .. } => message(node, wire.bytes()?, depth + 1)?,
        Node::List { item, .. } => list_message(item, wire.bytes()?, depth + 1)?,
        Node::Map { .. } => return Err(Malformed("a map stands where there is none")),
    })
}

/// The message of a struct or of what stands in its place: a list follows the struct, a flag comes before it.
fn struct_or(
    definition: &DefinitionRef,
    other: Other,
    raw: &[u8],
    depth: usize,
) -> Result<Value, Malformed> {
    let structure = Node::Struct {
        definition: definition.clone(),
        atomic: false,
    };
    let own = if other == Other::List { 1 } else { 2 };
    let (mut found, mut list, mut flag) = (None, Vec::new(), false);
    let mut reader = Reader(raw);
    while let Some((number, wire)) = reader.next()? {
        if number == own {
            found = Some(message(&structure, wire.bytes()?, depth + 1)?);
        } else if other == Other::List {
            list.push(message(&structure, wire.bytes()?, depth + 1)?);
        } else {
            flag = wire.integer()? != 0;
        }
    }
    Ok(match (found, other) {
        (Some(found), _) => found,
        (None, Other::List) => list.into(),
        (None, Other::Boolean) => flag.into(),
    })
}

fn inner_text(raw: &[u8], wanted: u32) -> Result<String, Malformed> {
    let mut reader = Reader(raw);
    let mut text = String::new();
    while let Some((number, wire)) = reader.next()? {
        if number == wanted {
            text = wire.text()?;
        }
    }
    Ok(text)
}

fn int_or_string(raw: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    let mut reader = Reader(raw);
    while let Some((field, wire)) = reader.next()? {
        match field {
            1 => is_text = wire.integer()? == 1,
            2 => number = wire.integer()?,
            3 => text = wire.text()?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// Seconds and nanoseconds; the zero time of Go is no time.
fn time(raw: &[u8], format: impl Fn(jiff::Timestamp) -> String) -> Result<Value, Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(raw);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => seconds = wire.integer()?,
            2 => nanos = wire.integer()?,
            _ => {}
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| Malformed("a time is out of range"))?;
    let at =
        jiff::Timestamp::new(seconds, nanos).map_err(|_| Malformed("a time is out of range"))?;
    Ok(format(at).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::envelope;
    use crate::{all, schema};

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let tag = u16::from(number) << 3 | 2;
        let mut out = vec![
            u8::try_from(tag & 0x7f).expect("seven bits") | 0x80,
            u8::try_from(tag >> 7).expect("few"),
        ];
        out.push(u8::try_from(bytes.len()).expect("short"));
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn a_pod_with_an_embedded_volume_source_is_read() {
        let node = schema::of(all::resource("", "v1", "pods").expect("served"));
        let meta = [
            field(1, b"web"),
            field(11, &[field(1, b"app"), field(2, b"x")].concat()),
        ]
        .concat();
        let source = field(19, &field(1, &field(1, b"cm")));
        let volume = [field(1, b"v"), field(2, &source)].concat();
        let port = [field(1, b"http"), vec![3 << 3, 80]].concat();
        let container = [field(1, b"c"), field(2, b"image"), field(6, &port)].concat();
        let spec = [field(1, &volume), field(2, &container), vec![4 << 3, 30]].concat();
        let pod = [field(1, &meta), field(2, &spec)].concat();
        assert_eq!(
            decode(&node, &pod).expect("well formed"),
            json!({
                "metadata": {"name": "web", "labels": {"app": "x"}},
                "spec": {
                    "volumes": [{"name": "v", "configMap": {"name": "cm"}}],
                    "containers": [{"name": "c", "image": "image", "ports": [{"name": "http", "containerPort": 80}]}],
                    "terminationGracePeriodSeconds": 30,
                },
            })
        );
    }

    #[test]
    fn times_have_the_form_of_their_kind() {
        let lease = all::resource("coordination.k8s.io", "v1", "leases").expect("served");
        let node = schema::of(lease);
        let whole_second = [1 << 3, 100];
        let meta = field(8, &whole_second);
        let spec = field(3, &whole_second);
        let body = [field(1, &meta), field(2, &spec)].concat();
        let mut value = decode(&node, &body).expect("well formed");
        assert_eq!(
            value["metadata"]["creationTimestamp"],
            "1970-01-01T00:01:40Z"
        );
        assert_eq!(value["spec"]["acquireTime"], "1970-01-01T00:01:40.000000Z");
        assert_eq!(
            node.check(&mut value).map(|report| report.unknown),
            Ok(Vec::new())
        );
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let node = schema::of(all::resource("", "v1", "pods").expect("served"));
        assert!(decode(&node, &[10, 5, 1]).is_err());
        assert!(envelope(b"{}").is_err());
    }
}
