//! Moving everything from one store to another with every revision kept, so that nobody who knows a `resourceVersion`
//! is told otherwise afterwards.
//!
//! Only what is there now goes along: what was replaced or removed does not, so that watches from before begin anew.
//! Values are moved as they lie in the store; encrypted ones stay encrypted with the same keys.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;

use crate::embedded::Import;
use crate::etcd::EtcdStore;
use crate::etcd::import::TAKEN_REVISIONS;
use crate::{
    Entry, Error, Key, ListOptions, Operation, Page, Revision, Storage, TRANSACTION_OPERATIONS_MAX,
    WatchEvent,
};

/// How every encrypted value begins, in Kubernetes too.
const SEALED: &[u8] = b"k8s:enc:";
/// Entries read at a time.
const PAGE: usize = 500;

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking at what there is.
    Reading,
    /// Writing, counted in entries.
    Writing,
    /// Comparing both stores.
    Verifying,
}

/// How far it is: the stage, what is done, and of how much (0 when that is not known yet).
pub type Progress<'a> = dyn FnMut(Stage, u64, u64) + Send + 'a;

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Entries.
    pub entries: u64,
    /// The revision at which both stores are.
    pub revision: Revision,
}

/// The pages of everything below a prefix, at one revision.
struct Pages<'a> {
    store: &'a dyn Storage,
    prefix: &'a str,
    options: ListOptions,
    ended: bool,
}

impl<'a> Pages<'a> {
    fn of(store: &'a dyn Storage, prefix: &'a str) -> Self {
        Self {
            store,
            prefix,
            options: ListOptions {
                limit: PAGE,
                ..Default::default()
            },
            ended: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Page>, Error> {
        if self.ended {
            return Ok(None);
        }
        let page = self.store.list(self.prefix, self.options.clone()).await?;
        self.options.revision = Some(page.revision);
        self.options.after = page.entries.last().map(|entry| entry.key.clone());
        self.ended = !page.more;
        Ok(Some(page))
    }
}

/// How keys begin in every store but an etcd that is told otherwise.
pub const KEYS: &str = "/registry";

/// Makes an embedded store in a directory of everything in an etcd below a prefix.
///
/// # Errors
/// [`Error::Open`] when there is something in the directory already, or somebody writes to etcd meanwhile.
pub async fn to_embedded(
    source: &Arc<EtcdStore>,
    prefix: &str,
    directory: &Path,
    progress: &mut Progress<'_>,
) -> Result<Revision, Error> {
    let below = format!("{prefix}/");
    source.check_whole(prefix).await?;
    let mut import = Import::begin(directory)?;
    let mut pages = Pages::of(&**source, &below);
    let mut done = 0;
    let mut current = Revision(0);
    while let Some(page) = pages.next().await? {
        current = page.revision;
        let renamed = page.entries.into_iter().map(|e| renamed(e, prefix, KEYS));
        let entries: Vec<Entry> = renamed.collect::<Result<_, _>>()?;
        import.add(&entries)?;
        done += entries.len() as u64;
        progress(Stage::Writing, done, 0);
    }
    // What etcd itself removes, because a lease of somebody ended, is of no account.
    if let Some(key) = written_since(&**source, &below, current).await? {
        return Err(changed(&key));
    }
    import.finish(current)?;
    Ok(current)
}

/// The entry as it is called below another prefix.
fn renamed(mut entry: Entry, from: &str, to: &str) -> Result<Entry, Error> {
    if from == to {
        return Ok(entry);
    }
    let key = entry.key.as_str();
    if entry.value.starts_with(SEALED) {
        return Err(Error::Open(format!(
            "{key} is encrypted, and may be readable under this very key only: it cannot be moved from {from} to {to}. \
             Decrypt everything first (`identity` as the first provider, then write all objects anew)"
        )));
    }
    let rest = key.strip_prefix(from);
    let rest = rest.ok_or_else(|| Error::Invalid(format!("key {key} is outside {from}")))?;
    entry.key = Key::from(format!("{to}{rest}"));
    Ok(entry)
}

/// A key that was written after a revision.
async fn written_since(
    store: &dyn Storage,
    prefix: &str,
    from: Revision,
) -> Result<Option<Key>, Error> {
    let now = store.current_revision().await?;
    let mut watch = store.watch(prefix, from).await?;
    store.request_progress().await?;
    while let Some(event) = watch.next().await {
        match event? {
            WatchEvent::Put { entry, .. } => return Ok(Some(entry.key)),
            WatchEvent::Delete { .. } => {}
            WatchEvent::Progress(reached) if reached >= now => return Ok(None),
            WatchEvent::Progress(_) => store.request_progress().await?,
        }
    }
    Err(Error::Unavailable("a watch ended".to_owned()))
}

fn changed(key: &Key) -> Error {
    Error::Open(format!(
        "{key} has changed meanwhile: somebody writes to the store that is moved. Stop its servers first"
    ))
}

/// Writes everything of an embedded store, which nobody else can have open, into an etcd that is new, below a prefix.
///
/// Nothing can be at the very first revisions of an etcd. What is at those in the source is written there once more.
///
/// # Errors
/// [`Error::Open`] when something is in etcd already, or somebody else writes to it.
pub async fn to_etcd(
    source: &dyn Storage,
    target: &EtcdStore,
    prefix: &str,
    progress: &mut Progress<'_>,
) -> Result<Revision, Error> {
    let (mut index, mut current) = index(source, progress).await?;
    let later = index.partition_point(|(revision, _)| *revision <= TAKEN_REVISIONS);
    let first = index.get(later).map_or(current.0, |(later, _)| later.0);
    let first = Revision(first.max(TAKEN_REVISIONS.0 + 1));
    target.check_empty(prefix, first).await?;
    for (revision, key) in &index[..later] {
        write_again(source, key, *revision).await?;
    }
    if later > 0 {
        (index, current) = self::index(source, progress).await?;
    }
    let mut import = target.begin_import(prefix).await?;
    // Most of the work is to get from one revision to the next.
    let total = current.0;
    for group in index.chunk_by(|one, other| one.0 == other.0) {
        let revision = group[0].0;
        if group.len() > TRANSACTION_OPERATIONS_MAX {
            return Err(Error::Invalid(format!(
                "{} entries are of revision {revision}",
                group.len()
            )));
        }
        let mut entries = Vec::with_capacity(group.len());
        for (_, key) in group {
            let entry = unchanged(source, key, revision).await?;
            entries.push(renamed(entry, KEYS, prefix)?);
        }
        let before = Revision(revision.0 - 1);
        let told = |at: Revision| progress(Stage::Writing, at.0, total);
        import.advance(before, told).await?;
        if revision == current {
            import.finish(current, entries).await?;
            return Ok(current);
        }
        import.put_at(revision, entries).await?;
    }
    let before = Revision(current.0 - 1);
    let told = |at: Revision| progress(Stage::Writing, at.0, total);
    import.advance(before, told).await?;
    import.finish(current, Vec::new()).await?;
    Ok(current)
}

/// Every key with its revision, oldest first, and where the store is.
async fn index(
    source: &dyn Storage,
    progress: &mut Progress<'_>,
) -> Result<(Vec<(Revision, Key)>, Revision), Error> {
    let below = format!("{KEYS}/");
    let mut index: Vec<(Revision, Key)> = Vec::new();
    let mut current = Revision(0);
    let mut pages = Pages::of(source, &below);
    while let Some(page) = pages.next().await? {
        current = page.revision;
        let entries = page.entries.into_iter();
        index.extend(entries.map(|entry| (entry.revision, entry.key)));
        progress(Stage::Reading, index.len() as u64, 0);
    }
    if current <= TAKEN_REVISIONS && index.is_empty() {
        return Err(Error::Open(
            "the store is empty: there is nothing to move".to_owned(),
        ));
    }
    index.sort_unstable();
    Ok((index, current))
}

async fn write_again(source: &dyn Storage, key: &Key, revision: Revision) -> Result<(), Error> {
    let entry = unchanged(source, key, revision).await?;
    let operation = Operation::Update {
        key: entry.key,
        value: entry.value,
        expected: entry.revision,
    };
    source.commit(vec![operation]).await.map(|_| ())
}

async fn unchanged(source: &dyn Storage, key: &Key, revision: Revision) -> Result<Entry, Error> {
    let entry = source.get(key).await?;
    entry
        .filter(|entry| entry.revision == revision)
        .ok_or_else(|| changed(key))
}

/// Compares everything of two stores at a revision, at which the new one is: keys, values and revisions. Both have
/// keys that begin with [`KEYS`].
///
/// # Errors
/// [`Error::Open`] for the first difference.
pub async fn verify(
    source: &dyn Storage,
    target: &dyn Storage,
    revision: Revision,
    progress: &mut Progress<'_>,
) -> Result<Moved, Error> {
    let below = format!("{KEYS}/");
    let mut theirs = Pages::of(target, &below);
    let mut waiting = Vec::new().into_iter();
    let mut ours = Pages::of(source, &below);
    ours.options.revision = Some(revision);
    let mut moved = Moved {
        entries: 0,
        revision: Revision(0),
    };
    while let Some(page) = ours.next().await? {
        moved.revision = page.revision;
        for entry in page.entries {
            let mut other = waiting.next();
            if other.is_none()
                && let Some(page) = theirs.next().await?
            {
                waiting = page.entries.into_iter();
                other = waiting.next();
            }
            if other.as_ref() != Some(&entry) {
                return Err(differs(&entry, other.as_ref()));
            }
            moved.entries += 1;
        }
        progress(Stage::Verifying, moved.entries, 0);
    }
    let mut more = waiting.next();
    if more.is_none()
        && let Some(page) = theirs.next().await?
    {
        more = page.entries.into_iter().next();
    }
    if let Some(entry) = more {
        return Err(Error::Open(format!(
            "{} is only in the new store",
            entry.key
        )));
    }
    let reached = target.current_revision().await?;
    match reached == moved.revision {
        true => Ok(moved),
        false => Err(Error::Open(format!(
            "the new store is at revision {reached}, the old one was at {}",
            moved.revision
        ))),
    }
}

fn differs(entry: &Entry, other: Option<&Entry>) -> Error {
    let (key, revision) = (&entry.key, entry.revision);
    Error::Open(match other {
        Some(other) if other.key == *key && other.revision != revision => format!(
            "{key} is at revision {} in the new store, and at {revision} in the old one",
            other.revision
        ),
        Some(other) if other.key == *key => format!("{key} has another value in the new store"),
        _ => format!("{key} is not in the new store, or has changed meanwhile in the old one"),
    })
}
