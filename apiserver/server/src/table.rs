//! `Table` and `PartialObjectMetadata`: what clients ask for instead of the object.

use corral_kinds::AnyKind;
use jiff::Timestamp;
use serde_json::{Value, json};

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
    let cells = match kind.decode_slice(object) {
        Ok(decoded) => kind.cells(&decoded, now),
        Err(_) => Vec::new(),
    };
    let carried = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(object),
        Include::Object => serde_json::from_slice(object).unwrap_or(Value::Null),
    };
    let mut row = json!({"cells": cells});
    if !carried.is_null() {
        row["object"] = carried;
    }
    row
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
    #[derive(serde::Deserialize)]
    struct Envelope {
        #[serde(default)]
        metadata: Value,
    }
    let envelope: Envelope = serde_json::from_slice(object).unwrap_or(Envelope {
        metadata: Value::Null,
    });
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": envelope.metadata,
    })
}
