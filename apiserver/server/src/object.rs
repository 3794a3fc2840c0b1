//! Objects as the server keeps them: bytes outside, a small index inside.
//!
//! The store holds canonical JSON without `resourceVersion`, because the revision is known only once the write has
//! happened; [`with_revision`] splices it in when an object leaves the store. Canonical means that `apiVersion`,
//! `kind` and `metadata` come first, so that the splice and the index read only the beginning.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use corral_kinds::scan::Scanner;
use corral_kinds::{AnyKind, KindRef, Object};
use corral_storage::{Entry, Key, Revision};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

const METADATA: &[u8] = b"\"metadata\":{";

/// An object with its revision, its JSON as clients see it, and what selects it.
#[derive(Debug)]
pub struct Stored {
    /// Key in the store.
    pub key: Key,
    /// Revision of the last write.
    pub revision: Revision,
    /// The object's JSON, `resourceVersion` included.
    pub json: Bytes,
    /// Labels: keys, each followed by its value, in order of the keys.
    pub labels: Texts,
    /// What the labels may be, told without looking at them.
    pub label_marks: Marks,
    /// Values of the kind's selectable fields, in the order of [`Shape::fields`].
    pub fields: Texts,
    names: Arc<[String]>,
    /// Bytes of its protobuf message, 0 until somebody has counted.
    message_size: AtomicU32,
}

/// Short texts in one allocation. Every object of a cluster has a dozen of them, so that an allocation each would
/// take as much memory as the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts(Box<[u8]>);

impl Texts {
    fn pack<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        let length: usize = texts.clone().map(|text| 4 + text.len()).sum();
        // Neither more nor less: an allocation that is made smaller mostly keeps its place, and with it its size.
        let mut out = Vec::with_capacity(length);
        for text in texts {
            out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        Self(out.into_boxed_slice())
    }

    /// The texts, in the order in which they were packed.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let (text, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = tail;
            std::str::from_utf8(text).ok()
        })
    }
}

/// Labels as a set of bits: a text that is not marked is not there, one that is marked may be. To look at the labels of a
/// hundred thousand objects takes mostly waiting for memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks(u64);

impl Marks {
    /// Marks of labels, given as [`Stored::labels`] are.
    pub fn of<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut marks = Self::default();
        for (key, value) in labels {
            marks = marks.with_key(key).with_label(key, value);
        }
        marks
    }

    /// These and those of a key.
    #[must_use]
    pub fn with_key(self, key: &str) -> Self {
        Self(self.0 | Self::bit(Self::hash(Self::SEED, key.as_bytes())))
    }

    /// These and those of a label with its value, without those of the key alone.
    #[must_use]
    pub fn with_label(self, key: &str, value: &str) -> Self {
        let hash = Self::hash(Self::SEED, key.as_bytes());
        let hash = Self::hash(Self::hash(hash, b"="), value.as_bytes());
        // Two bits of a hash are as good as two hashes.
        Self(self.0 | Self::bit(hash) | Self::bit(hash.rotate_left(32)))
    }

    /// Whether all of these are among others.
    pub fn are_in(self, others: Self) -> bool {
        self.0 & others.0 == self.0
    }

    /// Where FNV-1a begins.
    const SEED: u64 = 0xcbf2_9ce4_8422_2325;

    fn hash(seed: u64, bytes: &[u8]) -> u64 {
        bytes.iter().fold(seed, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// One of the 64 bits, by the upper bits of a hash, which depend on all of the text.
    fn bit(hash: u64) -> u64 {
        1 << (hash >> 58)
    }
}

/// What of a kind's objects is kept beside their bytes.
pub struct Shape {
    /// The kind.
    pub kind: KindRef,
    /// The fields that field selectors may name.
    pub fields: Arc<[String]>,
    /// Whether somebody else may have written the bytes. They are looked at in full then: what is no JSON of an object
    /// would spoil every list that it is in.
    pub foreign: bool,
}

impl Shape {
    /// The shape of a kind's objects, which this program wrote.
    pub fn new(kind: impl Into<KindRef>) -> Self {
        let kind = kind.into();
        let fields = kind.selectable_field_names().into_iter();
        Self {
            fields: fields.map(str::to_owned).collect(),
            kind,
            foreign: false,
        }
    }
}

/// Why bytes of the store are not an object.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the value at {key} is not an object of its kind: {why}")]
pub struct Corrupt {
    key: Key,
    why: String,
}

impl Stored {
    /// Reads what a store answers.
    ///
    /// # Errors
    /// [`Corrupt`] when the value is not JSON of the kind.
    pub fn from_entry(shape: &Shape, entry: &Entry) -> Result<Self, Corrupt> {
        Self::from_parts(shape, entry.key.clone(), &entry.value, entry.revision)
    }

    /// Like [`Stored::from_entry`], at another revision: the last state of an object at the revision of its removal.
    ///
    /// # Errors
    /// [`Corrupt`] when the value is not JSON of the kind.
    pub fn from_parts(
        shape: &Shape,
        key: Key,
        value: &Bytes,
        revision: Revision,
    ) -> Result<Self, Corrupt> {
        let corrupt = |error: serde_json::Error| Corrupt {
            key: key.clone(),
            why: error.to_string(),
        };
        let own = own_form(&*shape.kind, value).map_err(corrupt)?;
        Self::from_own(shape, key.clone(), &own, revision)
    }

    /// Like [`Stored::from_parts`], of what is in its kind's own form.
    ///
    /// # Errors
    /// [`Corrupt`] when the value is not JSON of the kind.
    pub fn from_own(
        shape: &Shape,
        key: Key,
        value: &Bytes,
        revision: Revision,
    ) -> Result<Self, Corrupt> {
        let corrupt = |why: String| Corrupt {
            key: key.clone(),
            why,
        };
        if shape.foreign {
            let whole: Result<IgnoredAny, _> = serde_json::from_slice(value);
            whole.map_err(|error| corrupt(error.to_string()))?;
        }
        let index = shape.kind.index(value);
        let index = index.map_err(|error| corrupt(error.to_string()))?;
        Ok(Self {
            revision,
            json: with_revision(value, revision),
            labels: Texts::pack(
                index
                    .labels
                    .iter()
                    .flat_map(|(key, value)| [&**key, &**value]),
            ),
            label_marks: Marks::of(index.labels.iter().map(|(key, value)| (&**key, &**value))),
            fields: Texts::pack(index.fields.iter().map(|value| &**value)),
            names: shape.fields.clone(),
            message_size: AtomicU32::new(0),
            key,
        })
    }

    /// The last state of an object that was removed, or is no longer selected, at the revision of that change.
    pub fn at_revision(&self, revision: Revision, json: Bytes) -> Self {
        Self {
            key: self.key.clone(),
            revision,
            json,
            labels: self.labels.clone(),
            label_marks: self.label_marks,
            fields: self.fields.clone(),
            names: self.names.clone(),
            message_size: AtomicU32::new(0),
        }
    }

    /// Bytes of its protobuf message, if they have been counted.
    pub fn message_size(&self) -> Option<u32> {
        Some(self.message_size.load(Ordering::Relaxed)).filter(|size| *size > 0)
    }

    /// Keeps how many bytes its protobuf message has: a list must tell its length before its items.
    pub fn remember_message_size(&self, size: u32) {
        self.message_size.store(size, Ordering::Relaxed);
    }

    /// Its labels, in order of the keys.
    pub fn label_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.labels.iter();
        std::iter::from_fn(move || texts.next().zip(texts.next()))
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let mut pairs = self.label_pairs();
        pairs.find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The value of a field that selectors may name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let index = self.names.iter().position(|n| *n == name)?;
        self.fields.iter().nth(index)
    }

    /// The object as a tree.
    ///
    /// # Errors
    /// Never for what [`Stored::from_entry`] made; the type tells that parsing happens.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }

    /// Namespace (empty for cluster-scoped objects) and name, read off the key.
    pub fn namespace_and_name(&self, prefix: &str) -> (&str, &str) {
        let rest = self.key.as_str().strip_prefix(prefix).unwrap_or("");
        rest.split_once('/').unwrap_or(("", rest))
    }
}

/// What Kubernetes calls the objects of a kind in Go; messages name it.
pub fn go_type(kind: &dyn AnyKind, suffix: &str) -> String {
    let names = kind.names();
    if kind.is_custom() {
        return format!("*unstructured.Unstructured{suffix}");
    }
    // The packages of inner types are called by the first label of the group; both kinds of events are one.
    let package = match names.group.split('.').next() {
        None | Some("" | "events") => "core",
        Some(label) => label,
    };
    format!("*{package}.{}{suffix}", names.kind)
}

/// The kind's own form of stored bytes: the bytes themselves, unless the store keeps another kind's form.
///
/// # Errors
/// When the bytes are not JSON.
pub fn own_form(kind: &dyn AnyKind, value: &Bytes) -> Result<Bytes, serde_json::Error> {
    match kind.own_form(value)? {
        None => Ok(value.clone()),
        Some(own) => Ok(canonical(own)),
    }
}

/// The bytes that the store keeps for an object in its kind's own form.
///
/// # Errors
/// When the bytes are not JSON.
pub fn stored_form(kind: &dyn AnyKind, value: &Bytes) -> Result<Bytes, serde_json::Error> {
    if !kind.converts() {
        return Ok(value.clone());
    }
    Ok(canonical(kind.to_stored(serde_json::from_slice(value)?)))
}

/// The canonical bytes of an object: without `resourceVersion`, the type and metadata first.
pub fn canonical(mut value: Value) -> Bytes {
    let empty = Map::new();
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    let map = value.as_object().unwrap_or(&empty);
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    let first = ["apiVersion", "kind", "metadata"];
    let head = first.iter().filter_map(|key| map.get_key_value(*key));
    let tail = map.iter().filter(|(key, _)| !first.contains(&key.as_str()));
    for (index, (key, item)) in head.chain(tail).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_json(&mut out, key);
        out.push(b':');
        write_json(&mut out, item);
    }
    out.push(b'}');
    out.into()
}

fn write_json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("a tree of JSON serialises into memory");
}

/// Where the metadata of a stored object are, braces included; they come early, and nothing after them is read.
pub fn metadata_of(json: &[u8]) -> Option<Range<usize>> {
    let start = find(json, METADATA)? + METADATA.len() - 1;
    let range = Scanner::new(&json[start..]).range().ok()?;
    Some(start..start + range.end)
}

/// Where the owners of the fields of a stored object are told.
fn managed_fields_of(json: &[u8]) -> Option<Range<usize>> {
    let start = find(json, METADATA)? + METADATA.len() - 1;
    let mut managed = None;
    let read = Scanner::new(&json[start..]).each_field(|scanner, key| {
        let range = scanner.range()?;
        if key == b"managedFields" {
            managed = Some(start + range.start..start + range.end);
        }
        Ok(())
    });
    read.ok().and(managed)
}

/// Decodes of a stored object what its cells in a table tell: not the owners of its fields, which are half of the work, nor
/// what the kind knows to be needless.
///
/// # Errors
/// When the bytes are not JSON of the kind.
pub fn decode_row(kind: &dyn AnyKind, json: &[u8]) -> Result<Object, serde_json::Error> {
    if let Some(read) = kind.decode_row(json) {
        return read;
    }
    const KEY: &[u8] = b"\"managedFields\":";
    let cut = managed_fields_of(json).and_then(|managed| {
        let start = managed.start.checked_sub(KEY.len())?;
        // Its name, at least, comes after.
        let is_followed = json.get(managed.end) == Some(&b',');
        let is_ours = json[start..].starts_with(KEY) && is_followed && !kind.is_custom();
        is_ours.then(|| [&json[..start], &json[managed.end + 1..]].concat())
    });
    match cut {
        Some(rest) => kind.decode_slice(&rest),
        None => kind.decode_slice(json),
    }
}

/// The JSON of a stored object with its `resourceVersion`.
pub fn with_revision(json: &Bytes, revision: Revision) -> Bytes {
    let Some((before, after)) = around_revision(json) else {
        return json.clone();
    };
    let field = revision_field(revision, after);
    // As one piece of just its length: most objects are kept for as long as they are.
    [before, field.as_bytes(), after].concat().into()
}

/// Whether this is the JSON of a stored object with its `resourceVersion`.
pub fn is_with_revision(whole: &[u8], json: &[u8], revision: Revision) -> bool {
    let Some((before, after)) = around_revision(json) else {
        return whole == json;
    };
    let rest = whole.strip_prefix(before);
    let field = rest.and_then(|rest| rest.strip_suffix(after));
    field.is_some_and(|field| field == revision_field(revision, after).as_bytes())
}

/// What comes before a stored object's `resourceVersion`, and what after it.
fn around_revision(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = find(json, METADATA)? + METADATA.len();
    Some(json.split_at(at))
}

fn revision_field(revision: Revision, after: &[u8]) -> String {
    let comma = if after.first() == Some(&b'}') {
        ""
    } else {
        ","
    };
    format!("\"resourceVersion\":\"{revision}\"{comma}")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

#[cfg(test)]
mod tests {
    use corral_kinds::all;
    use serde_json::json;

    use super::*;

    #[test]
    fn owners_are_passed_by_wherever_they_stand() {
        let kind = all::kind("", "v1", "ConfigMap").expect("a kind");
        let owner = json!({"manager": "managedFields\":[", "fieldsV1": {"f:data": {}}});
        for metadata in [
            json!({"name": "a", "managedFields": [owner], "labels": {"managedFields": "x"}}),
            json!({"name": "a", "managedFields": []}),
            json!({"managedFields": [owner]}),
            json!({"name": "a"}),
        ] {
            let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
                "data": {"managedFields": "{}"}});
            let json = with_revision(&canonical(value.clone()), Revision(7));
            let range = metadata_of(&json).expect("metadata");
            let found: Value = serde_json::from_slice(&json[range]).expect("an object");
            let mut expected = metadata.clone();
            expected["resourceVersion"] = "7".into();
            assert_eq!(found, expected);
            let object = decode_row(kind, &json).expect("an object");
            let decoded = kind.encode(&object).expect("JSON");
            assert_eq!(decoded["metadata"]["name"], metadata["name"]);
            assert_eq!(decoded["metadata"]["labels"], metadata["labels"]);
            assert_eq!(decoded["data"], value["data"]);
        }
    }

    #[test]
    fn the_revision_is_spliced_into_canonical_bytes() {
        let value = json!({"data": {"metadata": "x"}, "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": "a", "resourceVersion": "7"}});
        let bytes = canonical(value);
        assert_eq!(
            bytes,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"metadata":"x"}}"#
        );
        let whole = with_revision(&bytes, Revision(12));
        assert_eq!(
            whole,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"12","name":"a"},"data":{"metadata":"x"}}"#
        );
        assert!(is_with_revision(&whole, &bytes, Revision(12)));
        assert!(!is_with_revision(&whole, &bytes, Revision(13)));
        assert!(!is_with_revision(&whole, &whole, Revision(12)));
        let other = Bytes::from(String::from_utf8_lossy(&bytes).replace("\"x\"", "\"y\""));
        assert!(!is_with_revision(&whole, &other, Revision(12)));
    }
}
