//! How the embedded store lies in redb's tables, and nothing else.
//!
//! ```text
//!   corral.meta      name                      -> u64
//!   corral.history   revision ‖ operation      -> flags, previous version, key, value     (values live only here)
//!   corral.versions  key ‖ NUL ‖ revision      -> operation number, or TOMBSTONE with it
//! ```
//!
//! Both tables are append-like in what a write touches: a value is written once, at the end of `history`, and the
//! index gains one small entry. The newest version of a key is the last entry of its range in `versions`.

use bytes::Bytes;
use redb::TableDefinition;

use crate::etcd::import::TAKEN_REVISIONS;
use crate::{Entry, Key, Revision};

pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("corral.meta");
pub(super) const HISTORY: TableDefinition<(u64, u32), &[u8]> =
    TableDefinition::new("corral.history");
pub(super) const VERSIONS: TableDefinition<&[u8], u32> = TableDefinition::new("corral.versions");

/// Meta: marks a file as ours; the value is the format's version.
pub(super) const META_FORMAT: &str = "corral-store-format";
/// Meta: the newest revision.
pub(super) const META_REVISION: &str = "revision";
/// Meta: lists and watches from before this revision are refused.
pub(super) const META_COMPACTED: &str = "compacted";
/// Meta: up to here superseded history has been removed from the tables; runs behind `compacted`.
pub(super) const META_TRIMMED: &str = "trimmed";

/// The format that this code reads and writes.
pub(super) const FORMAT: u64 = 1;

/// Where a store begins: what is written first can be moved to an etcd, which begins a little later than 0.
pub(super) const REVISION_WHEN_NEW: u64 = TAKEN_REVISIONS.0;

/// Set in a `versions` value when the version is a removal.
const TOMBSTONE: u32 = 1 << 31;

const FLAG_PUT: u8 = 0;
const FLAG_DELETE: u8 = 1;
/// flags, previous revision, previous operation, key length.
const HEADER_BYTES: usize = 1 + 8 + 4 + 2;

/// Where a version lies in `history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) revision: u64,
    pub(super) operation: u32,
}

/// A version as the index knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Indexed {
    pub(super) place: Place,
    pub(super) tombstone: bool,
}

/// A record of `history`, borrowed from a page.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) key: &'a str,
    /// `None` for a removal.
    pub(super) value: Option<&'a [u8]>,
    /// The live version that this one replaced.
    pub(super) previous: Option<Place>,
}

impl Record<'_> {
    pub(super) fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.value.map_or(0, <[u8]>::len)
    }

    /// Writes the record into `out`, which has `encoded_len` bytes.
    pub(super) fn encode(&self, out: &mut [u8]) {
        let previous = self.previous.unwrap_or(Place {
            revision: 0,
            operation: 0,
        });
        let key_len = u16::try_from(self.key.len()).expect("keys are at most KEY_BYTES_MAX long");
        out[0] = match self.value {
            Some(_) => FLAG_PUT,
            None => FLAG_DELETE,
        };
        out[1..9].copy_from_slice(&previous.revision.to_be_bytes());
        out[9..13].copy_from_slice(&previous.operation.to_be_bytes());
        out[13..15].copy_from_slice(&key_len.to_be_bytes());
        let value_at = HEADER_BYTES + self.key.len();
        out[HEADER_BYTES..value_at].copy_from_slice(self.key.as_bytes());
        if let Some(value) = self.value {
            out[value_at..].copy_from_slice(value);
        }
    }
}

/// Reads a record; `None` if the bytes are not one.
pub(super) fn decode_record(bytes: &[u8]) -> Option<Record<'_>> {
    let header = bytes.get(..HEADER_BYTES)?;
    let revision = u64::from_be_bytes(header[1..9].try_into().ok()?);
    let operation = u32::from_be_bytes(header[9..13].try_into().ok()?);
    let key_len = usize::from(u16::from_be_bytes(header[13..15].try_into().ok()?));
    let (key, value) = bytes[HEADER_BYTES..].split_at_checked(key_len)?;
    let value = match header[0] {
        FLAG_PUT => Some(value),
        FLAG_DELETE => None,
        _ => return None,
    };
    Some(Record {
        key: std::str::from_utf8(key).ok()?,
        value,
        previous: (revision != 0).then_some(Place {
            revision,
            operation,
        }),
    })
}

/// The key of one version in `versions`.
pub(super) fn version_key(key: &str, revision: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 9);
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&revision.to_be_bytes());
    bytes
}

/// The key and revision of an entry in `versions`; `None` if the bytes are not one.
pub(super) fn split_version_key(bytes: &[u8]) -> Option<(&str, u64)> {
    let (key, rest) = bytes.split_at_checked(bytes.len().checked_sub(9)?)?;
    let revision = u64::from_be_bytes(rest[1..].try_into().ok()?);
    Some((std::str::from_utf8(key).ok()?, revision))
}

/// The value of one version in `versions`.
pub(super) fn version_value(operation: u32, tombstone: bool) -> u32 {
    operation | if tombstone { TOMBSTONE } else { 0 }
}

/// An entry of `versions`, decoded.
pub(super) fn indexed(revision: u64, value: u32) -> Indexed {
    Indexed {
        place: Place {
            revision,
            operation: value & !TOMBSTONE,
        },
        tombstone: value & TOMBSTONE != 0,
    }
}

/// An owned entry from a key and the value at a place.
pub(super) fn entry(key: Key, value: &[u8], revision: u64) -> Entry {
    Entry {
        key,
        value: Bytes::copy_from_slice(value),
        revision: Revision(revision),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = Record {
            key: "/registry/pods/a",
            value: Some(b"{}"),
            previous: Some(Place {
                revision: 7,
                operation: 3,
            }),
        };
        let mut bytes = vec![0; record.encoded_len()];
        record.encode(&mut bytes);
        let read = decode_record(&bytes).expect("just encoded");
        assert_eq!(read.key, record.key);
        assert_eq!(read.value, record.value);
        assert_eq!(read.previous, record.previous);
        assert!(decode_record(&bytes[..10]).is_none());
    }

    #[test]
    fn versions_of_a_key_are_contiguous_whatever_other_keys_there_are() {
        let mut keys = [
            version_key("/a", 2),
            version_key("/a/b", 1),
            version_key("/a", 1),
            version_key("/a\u{1}", 9),
        ];
        keys.sort();
        let read: Vec<_> = keys
            .iter()
            .map(|key| split_version_key(key).expect("well formed"))
            .collect();
        assert_eq!(read, [("/a", 1), ("/a", 2), ("/a\u{1}", 9), ("/a/b", 1)]);
    }
}
