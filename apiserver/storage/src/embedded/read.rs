//! Reads of one consistent snapshot: a redb read transaction with the revisions that belong to it.

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use super::layout::{
    HISTORY, Indexed, META, META_COMPACTED, META_REVISION, Place, Record, VERSIONS, decode_record,
    entry, indexed, split_version_key, version_key,
};
use crate::validate::prefix_end;
use crate::{
    Entry, Error, Key, LIST_ENTRIES_MAX, ListOptions, Page, Revision, Version, WatchEvent,
};

/// Bytes after which a page of a list ends, so that large values cannot make a page of gigabytes.
const LIST_BYTES_MAX: usize = 64 << 20;

/// Most history records that one step of a replay looks at.
const REPLAY_RECORDS_MAX: usize = 1_000;

/// Bytes of values after which a step of a replay ends.
const REPLAY_BYTES_MAX: usize = 4 << 20;

/// What can fail while reading: the file, or the question.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("cannot read the store's file")]
    Redb(#[from] redb::Error),
    #[error("the store's file holds a record that makes no sense: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Answer(#[from] Error),
}

impl ReadError {
    /// What the caller is told; what is wrong with the file goes to the log.
    pub(super) fn into_answer(self) -> Error {
        match self {
            Self::Answer(answer) => answer,
            Self::Redb(_) | Self::Malformed(_) => {
                tracing::error!(error = ?self, "a read of the store failed");
                Error::Unavailable("the store's file could not be read".to_owned())
            }
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for ReadError {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}
from_redb!(redb::StorageError, redb::TableError, redb::TransactionError);

/// A snapshot, with the tables that reads need.
pub(super) struct Snapshot {
    history: ReadOnlyTable<(u64, u32), &'static [u8]>,
    versions: ReadOnlyTable<&'static [u8], u32>,
    /// The newest revision.
    pub(super) revision: u64,
    /// The oldest revision that may be read.
    pub(super) compacted: u64,
}

/// A step of a replay.
pub(super) struct Replayed {
    pub(super) events: Vec<WatchEvent>,
    /// Every event up to and including this revision is in this step or was before it.
    pub(super) position: u64,
    /// Whether the snapshot holds nothing more.
    pub(super) finished: bool,
}

impl Snapshot {
    pub(super) fn new(read: &ReadTransaction) -> Result<Self, ReadError> {
        let meta = read.open_table(META)?;
        let number = |name| -> Result<u64, ReadError> {
            Ok(meta.get(name)?.map_or(0, |value| value.value()))
        };
        Ok(Self {
            history: read.open_table(HISTORY)?,
            versions: read.open_table(VERSIONS)?,
            revision: number(META_REVISION)?,
            compacted: number(META_COMPACTED)?,
        })
    }

    /// Refuses revisions outside what is kept.
    pub(super) fn check(&self, asked: u64) -> Result<(), Error> {
        if asked > self.revision {
            return Err(Error::Future {
                asked: Revision(asked),
                current: Revision(self.revision),
            });
        }
        if asked < self.compacted {
            return Err(Error::Compacted {
                asked: Revision(asked),
                oldest: Revision(self.compacted),
            });
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        match newest(&self.versions, key.as_str())? {
            Some(version) if !version.tombstone => {
                Ok(Some(self.value_at(key.clone(), version.place)?))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn list(&self, prefix: &str, options: &ListOptions) -> Result<Page, ReadError> {
        let at = options.revision.map_or(self.revision, |asked| asked.0);
        self.check(at)?;
        let limit = match options.limit {
            0 => LIST_ENTRIES_MAX,
            limit => limit.min(LIST_ENTRIES_MAX),
        };
        let mut page = PageBuilder {
            snapshot: self,
            limit,
            entries: Vec::new(),
            bytes: 0,
        };
        let more = self.scan(prefix, options.after.as_ref(), at, &mut page)?;
        Ok(Page {
            entries: page.entries,
            revision: Revision(at),
            more,
        })
    }

    /// Walks the index over a prefix and offers the version of each key that was live at `at`. Returns whether the
    /// page was full before the end.
    fn scan(
        &self,
        prefix: &str,
        after: Option<&Key>,
        at: u64,
        page: &mut PageBuilder<'_>,
    ) -> Result<bool, ReadError> {
        let start = list_start(prefix, after);
        let end = prefix_end(prefix);
        let range = match &end {
            Some(end) if *end <= start => return Ok(false),
            Some(end) => self.versions.range(start.as_slice()..end.as_slice())?,
            None => self.versions.range(start.as_slice()..)?,
        };
        let mut candidate: Option<(String, Indexed)> = None;
        for item in range {
            let (version, value) = item?;
            let (key, revision) =
                split_version_key(version.value()).ok_or(ReadError::Malformed("version index"))?;
            let same = candidate.as_ref().is_some_and(|(at, _)| at == key);
            if !same
                && let Some((key, version)) = candidate.take()
                && !page.offer(&key, version)?
            {
                return Ok(true);
            }
            if revision <= at {
                let version = indexed(revision, value.value());
                match &mut candidate {
                    Some((_, newest)) => *newest = version,
                    None => candidate = Some((key.to_owned(), version)),
                }
            }
        }
        match candidate {
            Some((key, version)) => Ok(!page.offer(&key, version)?),
            None => Ok(false),
        }
    }

    pub(super) fn history(&self, key: &Key) -> Result<Vec<Version>, ReadError> {
        let range = self.versions.range(
            version_key(key.as_str(), 0).as_slice()
                ..=version_key(key.as_str(), u64::MAX).as_slice(),
        )?;
        let mut found = Vec::new();
        for item in range {
            let (version, value) = item?;
            let (_, revision) =
                split_version_key(version.value()).ok_or(ReadError::Malformed("version index"))?;
            found.push(indexed(revision, value.value()));
        }
        // Trimming runs behind compaction: of what is older, only the version live at that point counts.
        let first = found
            .iter()
            .rposition(|version| version.place.revision <= self.compacted)
            .map_or(0, |last| last + usize::from(found[last].tombstone));
        found[first..]
            .iter()
            .map(|version| {
                let value = match version.tombstone {
                    true => None,
                    false => Some(self.value_at(key.clone(), version.place)?.value),
                };
                Ok(Version {
                    revision: Revision(version.place.revision),
                    value,
                })
            })
            .collect()
    }

    /// Events of a prefix after a revision, a bounded step of them that ends with a whole transaction.
    pub(super) fn replay(&self, prefix: &str, after: u64) -> Result<Replayed, ReadError> {
        self.check(after)?;
        let mut step = Replayed {
            events: Vec::new(),
            position: after,
            finished: true,
        };
        let mut bytes = 0;
        for (seen, item) in self.history.range((after + 1, 0)..)?.enumerate() {
            let (place, record) = item?;
            let (revision, _) = place.value();
            if revision != step.position {
                if seen >= REPLAY_RECORDS_MAX || bytes >= REPLAY_BYTES_MAX {
                    step.finished = false;
                    return Ok(step);
                }
                step.position = revision;
            }
            let record =
                decode_record(record.value()).ok_or(ReadError::Malformed("history record"))?;
            if record.key.starts_with(prefix) {
                bytes += record.value.map_or(0, <[u8]>::len);
                step.events.push(self.event(&record, revision)?);
            }
        }
        step.position = self.revision;
        Ok(step)
    }

    fn event(&self, record: &Record<'_>, revision: u64) -> Result<WatchEvent, ReadError> {
        let key = Key::from(record.key);
        let previous = record
            .previous
            .map(|place| self.value_at(key.clone(), place))
            .transpose()?;
        Ok(match (record.value, previous) {
            (Some(value), previous) => WatchEvent::Put {
                entry: entry(key, value, revision),
                previous,
            },
            (None, Some(previous)) => WatchEvent::Delete {
                key,
                revision: Revision(revision),
                previous,
            },
            (None, None) => return Err(ReadError::Malformed("removal of nothing")),
        })
    }

    fn value_at(&self, key: Key, place: Place) -> Result<Entry, ReadError> {
        value_at(&self.history, key, place)
    }
}

/// Collects the entries of a page.
struct PageBuilder<'a> {
    snapshot: &'a Snapshot,
    limit: usize,
    entries: Vec<Entry>,
    bytes: usize,
}

impl PageBuilder<'_> {
    /// Takes the version if it is live; false when the page is full already.
    fn offer(&mut self, key: &str, version: Indexed) -> Result<bool, ReadError> {
        if version.tombstone {
            return Ok(true);
        }
        if self.entries.len() == self.limit || self.bytes >= LIST_BYTES_MAX {
            return Ok(false);
        }
        let entry = self.snapshot.value_at(Key::from(key), version.place)?;
        self.bytes += entry.value.len();
        self.entries.push(entry);
        Ok(true)
    }
}

fn list_start(prefix: &str, after: Option<&Key>) -> Vec<u8> {
    let start = prefix.as_bytes().to_vec();
    let Some(after) = after else { return start };
    // Behind every version of `after`, which all continue with a NUL, and before any longer key.
    let mut behind = after.as_str().as_bytes().to_vec();
    behind.push(1);
    start.max(behind)
}

/// The newest version of a key, removals included.
pub(super) fn newest(
    versions: &impl ReadableTable<&'static [u8], u32>,
    key: &str,
) -> Result<Option<Indexed>, ReadError> {
    let first = version_key(key, 0);
    let last = version_key(key, u64::MAX);
    let Some(found) = versions
        .range(first.as_slice()..=last.as_slice())?
        .next_back()
    else {
        return Ok(None);
    };
    let (version, value) = found?;
    let (_, revision) =
        split_version_key(version.value()).ok_or(ReadError::Malformed("version index"))?;
    Ok(Some(indexed(revision, value.value())))
}

/// The value of a live version.
pub(super) fn value_at(
    history: &impl ReadableTable<(u64, u32), &'static [u8]>,
    key: Key,
    place: Place,
) -> Result<Entry, ReadError> {
    let record = history
        .get((place.revision, place.operation))?
        .ok_or(ReadError::Malformed("a version without its record"))?;
    let value = decode_record(record.value())
        .and_then(|record| record.value)
        .ok_or(ReadError::Malformed("a version without its value"))?;
    Ok(entry(key, value, place.revision))
}
