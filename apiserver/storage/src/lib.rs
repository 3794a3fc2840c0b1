//! The storage contract: what the API server needs of a store, and the two stores that give it.
//!
//! A store keeps a map from [`Key`] to bytes under one global, strictly increasing [`Revision`]. It knows nothing
//! of kinds, JSON or HTTP. Writes are [`Transaction`]s: one or more operations with preconditions, applied wholly
//! or not at all at one revision. The past is kept for a window, so that a list can be read at an old revision and
//! a watch can be resumed from it.
//!
//! ```text
//!   commit ──▶ [ group commit ] ──▶ revision R ──▶ watchers of each prefix, in order of revision
//!   get/list ─▶ a consistent snapshot at R (or at an older revision inside the window)
//! ```
//!
//! Reading order: this file (the contract), [`embedded`] (redb behind one group-commit thread), [`etcd`],
//! [`encrypted`] and [`prefixed`] (layers over either), [`migrate`], [`conformance`] (the suite that every backend passes; the server's cacher passes its read half).

#![warn(missing_docs)]

pub mod conformance;
pub mod embedded;
pub mod encrypted;
pub mod etcd;
pub mod migrate;
pub mod prefixed;
mod validate;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

/// Largest value that a store accepts. etcd's default request limit is 1.5 MiB and Kubernetes documents 1 MiB to
/// 1.5 MiB for objects; a bound of our own makes both backends refuse alike.
pub const VALUE_BYTES_MAX: usize = 1_500_000;

/// Bytes that a layer may add to a value beyond [`VALUE_BYTES_MAX`], such as the envelope of an encrypted one: a name
/// of a key or a plugin, a key of at most 1 KiB and its id of as much, annotations of at most 32 KiB.
pub const VALUE_OVERHEAD_BYTES_MAX: usize = 40 * 1024;

/// Most operations in one transaction. etcd's default is 128; both backends refuse alike.
pub const TRANSACTION_OPERATIONS_MAX: usize = 128;

/// Most bytes of all keys and values of one transaction together. It leaves room for the framing of an etcd request
/// (1.5 MiB by default).
pub const TRANSACTION_BYTES_MAX: usize = 1_520_000;

/// Longest key. Kubernetes keys are a few names of at most 253 bytes each.
pub const KEY_BYTES_MAX: usize = 4_096;

/// Most entries that one call of [`Storage::list`] returns; longer ranges are paged.
pub const LIST_ENTRIES_MAX: usize = 10_000;

/// Default of the least number of revisions that compaction keeps, whatever their age: none, as in Kubernetes, so that a
/// continue token expires on a server that nobody writes to as well.
pub const HISTORY_REVISIONS_MIN: u64 = 0;

/// Default age up to which history is kept: what kube-apiserver keeps at least. Clients wait for twice as long until a
/// token has surely expired.
pub const HISTORY_WINDOW: Duration = Duration::from_secs(300);

/// A position in the store's history. 0 is "before everything"; the first write has a revision above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key such as `/registry/pods/default/web-0`. Ordered bytewise; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// A key from its text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// One key's value at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The stored bytes.
    pub value: Bytes,
    /// The revision of the transaction that wrote this value.
    pub revision: Revision,
}

/// One operation of a transaction, with its precondition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Writes a key that must be absent.
    Create {
        /// The key to write.
        key: Key,
        /// Its value.
        value: Bytes,
    },
    /// Writes a key that must be at `expected`.
    Update {
        /// The key to write.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// The revision that the key must be at.
        expected: Revision,
    },
    /// Removes a key that must be at `expected`.
    Delete {
        /// The key to remove.
        key: Key,
        /// The revision that the key must be at.
        expected: Revision,
    },
    /// Changes nothing, but the key must be at `expected` ([`Revision`] 0: must be absent). Conflict-free claims
    /// stand on this: a write that holds only while something else is as it was read.
    Check {
        /// The key to look at.
        key: Key,
        /// The revision that the key must be at; 0 for "absent".
        expected: Revision,
    },
}

impl Operation {
    /// The key that the operation is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Create { key, .. }
            | Self::Update { key, .. }
            | Self::Delete { key, .. }
            | Self::Check { key, .. } => key,
        }
    }
}

/// Operations that are applied wholly or not at all, at one revision. No key may appear twice.
pub type Transaction = Vec<Operation>;

/// How to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Read as of this revision; the newest if `None`.
    pub revision: Option<Revision>,
    /// At most this many entries (and never more than [`LIST_ENTRIES_MAX`]); 0 means the maximum. A page may hold
    /// fewer, because its bytes are bounded too: only [`Page::more`] says whether there is another.
    pub limit: usize,
    /// Only keys strictly greater than this one: the last key of the page before.
    pub after: Option<Key>,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// Entries in the order of their keys.
    pub entries: Vec<Entry>,
    /// The revision at which the page was read.
    pub revision: Revision,
    /// Whether there are keys behind the last entry.
    pub more: bool,
}

/// Something that a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was written.
    Put {
        /// The new value.
        entry: Entry,
        /// What it replaced, if the key was there.
        previous: Option<Entry>,
    },
    /// A key was removed.
    Delete {
        /// The key.
        key: Key,
        /// The revision of the removal.
        revision: Revision,
        /// What was there before.
        previous: Entry,
    },
    /// Every event of the prefix up to and including this revision has been delivered on this watch.
    Progress(Revision),
}

/// Events in order of revision, each exactly once. After an `Err` the stream ends; [`Error::Compacted`] and
/// [`Error::WatchTooSlow`] mean "list again, then watch from there".
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Error>> + Send>>;

/// One past version of a key, oldest first in [`Storage::history`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The revision of the write.
    pub revision: Revision,
    /// The value written; `None` for a removal.
    pub value: Option<Bytes>,
}

/// What can go wrong in a store.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A `Create`, or a `Check` for absence, found the key there.
    #[error("key {key} exists at revision {current}")]
    Exists {
        /// The key.
        key: Key,
        /// The revision that it is at.
        current: Revision,
    },
    /// An `Update`, `Delete` or `Check` found the key absent.
    #[error("key {key} not found")]
    NotFound {
        /// The key.
        key: Key,
    },
    /// An `Update`, `Delete` or `Check` found the key at another revision.
    #[error("key {key} is at revision {current}, expected {expected}")]
    Conflict {
        /// The key.
        key: Key,
        /// The revision that the operation asked for.
        expected: Revision,
        /// The revision that it is at.
        current: Revision,
    },
    /// The revision asked for is older than the history that is kept.
    #[error("revision {asked} has been compacted, the oldest is {oldest}")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {asked} is in the future, the newest is {current}")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// A watcher did not read fast enough and its buffer is full.
    #[error("the watch fell behind and was ended")]
    WatchTooSlow,
    /// A value or transaction is over its bound.
    #[error("{what} is {size}, at most {max} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// A transaction that makes no sense, such as one that names a key twice.
    #[error("invalid transaction: {0}")]
    Invalid(String),
    /// A value is there, but nobody can make sense of it.
    #[error("the value of {key} at revision {revision} cannot be read: {why}")]
    Unreadable {
        /// The key.
        key: Key,
        /// The revision that it is at, so that it can be removed.
        revision: Revision,
        /// Why, in Kubernetes' words.
        why: String,
    },
    /// A value could not be encrypted, so nothing was written.
    #[error("the value cannot be encrypted: {0}")]
    Sealing(String),
    /// No room to write. Reads and watches go on; the write may be tried again when there is room.
    #[error("no space left to store the write: {0}")]
    NoSpace(String),
    /// The store cannot be opened: in use by another process, truncated, or not a Corral store. The text says what
    /// to do.
    #[error("cannot open the store: {0}")]
    Open(String),
    /// The store does not answer; whether a write happened may be unknown.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// A versioned map. See the crate's documentation for what it promises.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The newest value of a key. Linearizable: it sees every write acknowledged before the call.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    /// Keys that start with `prefix`, as of one revision. Linearizable when no revision is named.
    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error>;

    /// Applies all operations at one new revision, durably, or none of them. When several preconditions fail, the
    /// error is about the first operation in the transaction that fails.
    ///
    /// A transaction of `Check`s alone writes nothing and answers the current revision.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error>;

    /// Events of keys that start with `prefix`, of all transactions *after* `from`. A transaction's events come in
    /// the order of its operations and carry one revision.
    ///
    /// The stream begins with a `Progress` once it is established, so that the caller knows where it stands.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error>;

    /// Asks for a [`WatchEvent::Progress`] on every watch, at or above the revision current now.
    async fn request_progress(&self) -> Result<(), Error>;

    /// Versions of a key inside the window, oldest first.
    async fn history(&self, key: &Key) -> Result<Vec<Version>, Error>;

    /// Forgets history before `revision`: afterwards lists and watches from an older revision fail with
    /// [`Error::Compacted`]. Never blocks writers. Compacting what is already compacted does nothing.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// The revision of the newest transaction.
    async fn current_revision(&self) -> Result<Revision, Error>;

    /// Whether the store answers and can write.
    async fn health(&self) -> Result<(), Error>;

    /// Whether the bytes of a key are other than a write of the same value would leave: encrypted by a key that is on
    /// its way out, or not yet. Who writes the same value then should not leave it out.
    async fn is_stale(&self, _key: &Key) -> Result<bool, Error> {
        Ok(false)
    }

    /// Whether other servers may use the store at the same time.
    fn is_shared(&self) -> bool {
        false
    }

    /// Checks of what the store needs besides itself, by the names under which health endpoints show them.
    async fn checks(&self) -> Vec<(String, Result<(), String>)> {
        Vec::new()
    }
}
