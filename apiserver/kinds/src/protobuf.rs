//! Kubernetes protobuf: the wire format that Go clients speak for built-in kinds, from and to JSON.
//!
//! There is no second set of types: the schema of a kind says what each field is, and the table of facts which number
//! it has. A few types have a form of their own (times, quantities, numbers-or-texts, raw JSON).
//!
//! [`decode`](decode()) makes a tree of a client's message; [`Encoder`] makes a message of stored JSON, without a tree.

mod decode;
mod encode;
mod known;
mod layout;

use decode::Reader;

pub use decode::decode;
pub use encode::Encoder;
pub use layout::Layout;

pub use crate::scan::Malformed;

/// The four bytes before every Kubernetes protobuf body.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The envelope around an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// The object's message.
    pub raw: &'a [u8],
}

/// Reads the envelope.
///
/// # Errors
/// [`Malformed`] for anything else.
pub fn envelope(body: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let rest = body.strip_prefix(MAGIC).ok_or(Malformed(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
    ))?;
    let mut out = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
    };
    let mut reader = Reader(rest);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => {
                let mut inner = Reader(wire.bytes()?);
                while let Some((number, wire)) = inner.next()? {
                    match number {
                        1 => out.api_version = wire.text()?,
                        2 => out.kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => out.raw = wire.bytes()?,
            _ => {}
        }
    }
    Ok(out)
}

/// How many bytes a number takes.
pub fn varint_size(value: u64) -> usize {
    (64 - value.max(1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a number as protobuf has it.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field that is text or a message. Its number is below 16.
pub fn put_sized(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What stands before the message of an object of `size` bytes.
pub fn head(api_version: &str, kind: &str, size: usize) -> Vec<u8> {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_sized(&mut type_meta, 1, api_version.as_bytes());
    put_sized(&mut type_meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_sized(&mut out, 1, &type_meta);
    out.push(2 << 3 | 2);
    put_varint(&mut out, size as u64);
    out
}

/// What stands after the message of an object: no encoding and no type of its content.
pub const TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

/// An object with its envelope.
///
/// # Errors
/// [`Malformed`] when the JSON is not of that shape.
pub fn encode(
    layout: &Layout,
    api_version: &str,
    kind: &str,
    json: &[u8],
) -> Result<Vec<u8>, Malformed> {
    let mut encoder = Encoder::new();
    let message = encoder.message(layout, json)?;
    Ok(enclose(api_version, kind, message))
}

/// A message with its envelope.
pub fn enclose(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = head(api_version, kind, message.len());
    out.extend_from_slice(message);
    out.extend_from_slice(TAIL);
    out
}

/// Bytes of the length before a frame of a watch.
pub const FRAME_LENGTH: usize = 4;

/// An event of a watch: its length, its type and its object, which has an envelope of its own.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    put_sized(&mut raw, 1, object);
    let mut out = Vec::with_capacity(raw.len() + event.len() + 16);
    out.extend_from_slice(&[0; FRAME_LENGTH]);
    put_sized(&mut out, 1, event.as_bytes());
    put_sized(&mut out, 2, &raw);
    let length = u32::try_from(out.len() - FRAME_LENGTH).unwrap_or(u32::MAX);
    out[..FRAME_LENGTH].copy_from_slice(&length.to_be_bytes());
    out
}
