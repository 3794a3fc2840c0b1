//! `Table` and `PartialObjectMetadata`: what clients ask for instead of the object.

use bytes::{BufMut, BytesMut};
use corral_kinds::AnyKind;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object::{decode_row, metadata_of};

/// The version of what a Table carries.
const VERSION: &str = "meta.k8s.io/v1";

/// Which part of each object a Table carries (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    /// Metadata.
    #[default]
    Metadata,
    /// Nothing.
    None,
    /// All.
    Object,
}

/// The heading of a kind's tables.
pub fn columns(kind: &dyn AnyKind) -> Value {
    let columns = kind.columns().into_iter().map(|c| {
        json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
    });
    columns.collect()
}

/// A row of an object; an object that cannot be read has only its name.
pub fn row(kind: &dyn AnyKind, object: &[u8], include: Include, now: Timestamp) -> Value {
    let mut out = BytesMut::new();
    write_row(kind, object, include, now, &mut out);
    serde_json::from_slice(&out).unwrap_or_default()
}

/// The same, as text.
pub fn write_row(
    kind: &dyn AnyKind,
    object: &[u8],
    include: Include,
    now: Timestamp,
    out: &mut BytesMut,
) {
    let mut cells = match decode_row(kind, object) {
        Ok(decoded) => kind.cells(&decoded, now),
        Err(_) => Vec::new(),
    };
    // Each row begins with a name. Bookmarks have none.
    if let Some(name @ Value::Null) = cells.first_mut() {
        *name = "".into();
    }
    out.extend_from_slice(b"{\"cells\":");
    serde_json::to_writer(out.writer(), &cells).expect("cells are JSON, and memory takes it");
    match include {
        Include::None => out.extend_from_slice(b",\"object\":null"),
        Include::Metadata => {
            out.extend_from_slice(b",\"object\":");
            write_partial(VERSION, object, out);
        }
        Include::Object => {
            out.extend_from_slice(b",\"object\":");
            out.extend_from_slice(object);
        }
    }
    out.extend_from_slice(b"}");
}

/// A Table of a kind as far as its rows.
pub fn head(kind: &dyn AnyKind, version: &str, metadata: &Value) -> String {
    let columns = columns(kind);
    format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\
        \"columnDefinitions\":{columns},\"rows\":["
    )
}

/// A Table of rows. Events of a watch after the first leave the heading out.
pub fn table(kind: Option<&dyn AnyKind>, metadata: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": kind.map_or(Value::Null, columns),
        "rows": rows,
    })
}

/// `PartialObjectMetadata` of an object.
pub fn partial(object: &[u8]) -> Value {
    let mut out = BytesMut::new();
    write_partial(VERSION, object, &mut out);
    serde_json::from_slice(&out).unwrap_or_default()
}

/// The same, as text, in a version of its group.
pub fn write_partial(version: &str, object: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    match metadata_of(object) {
        Some(range) => out.extend_from_slice(&object[range]),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}");
}
