//! The one thread that writes: everything that waits becomes one redb transaction, one fsync.
//!
//! Each transaction of a batch is checked against the state that those before it leave, inside the redb transaction,
//! before any of its own operations is written; so one that fails leaves nothing behind. Nobody is answered, neither
//! with success nor with a failed precondition, before the batch is durable: a conflict with a write that was never
//! committed would be a lie.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{ReadableDatabase, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::compaction;
use super::layout::{
    HISTORY, META, META_COMPACTED, META_REVISION, META_TRIMMED, Place, Record, VERSIONS,
    version_key, version_value,
};
use super::read::{ReadError, newest, value_at};
use crate::{Entry, Error, Key, Operation, Revision, Transaction, WatchEvent, validate};

/// Requests that may wait for the thread. Beyond it callers wait for a place.
pub(super) const QUEUE_MAX: usize = 1_024;

/// Transactions in one batch. It bounds how long the first of them waits for the last to be applied.
const BATCH_TRANSACTIONS_MAX: usize = 512;

/// Writers from which on a batch waits for as many as the last one had. Fewer lose more by waiting than they save.
const COMPANY_MIN: usize = 3;

/// How long it waits at a time. It sleeps and does not wait for each request: to be woken for each is what sharing
/// saves.
const COMPANY_PAUSE: Duration = Duration::from_micros(500);

/// How often it does so. Together this is what a disk takes for a batch or two: to wait for it is better than to have
/// just missed the last one.
const COMPANY_PAUSES_MAX: usize = 4;

/// Bytes in one batch, which redb holds in memory until it is durable.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// A removal needs a few pages itself, and makes room later: it may use the last of the reserve.
const REMOVAL_RESERVE_DIVISOR: u64 = 4;

/// Disk space that a batch may need for each byte that it writes: pages are copied, and rounded up.
const SPACE_PER_BYTE: u64 = 4;

/// What callers ask of the thread.
pub(super) enum Request {
    Commit {
        transaction: Transaction,
        bytes: usize,
        reply: oneshot::Sender<Result<Revision, Error>>,
    },
    Compact {
        revision: u64,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Compact in the background.
    Forget { revision: u64 },
    /// Is everything well?
    Probe {
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// A reader met an I/O error: redb refuses everything until it is opened again.
    Reopen,
}

/// Revisions as they are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) revision: u64,
    pub(super) compacted: u64,
    pub(super) trimmed: u64,
}

/// The thread's state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    counters: Counters,
    /// After a slice could not be written: wait for the next compaction instead of trying at once.
    trim_paused: bool,
    /// Writes in the last batch.
    company: usize,
}

struct Commit {
    transaction: Transaction,
    bytes: usize,
    reply: oneshot::Sender<Result<Revision, Error>>,
}

/// Everything that is answered together.
#[derive(Default)]
struct Batch {
    commits: Vec<Commit>,
    bytes: usize,
    compacts: Vec<(u64, oneshot::Sender<Result<(), Error>>)>,
    forget: u64,
    probes: Vec<oneshot::Sender<Result<(), Error>>>,
    reopen: bool,
}

/// What was waiting for a batch.
enum Filled {
    Nothing,
    Some,
    /// More than there is room for, perhaps.
    Full,
    /// Nobody can ask any more.
    Closed,
}

/// What a batch did, not yet durable.
struct Applied {
    counters: Counters,
    outcomes: Vec<Result<Revision, Error>>,
    events: Vec<WatchEvent>,
}

/// A batch that did not go through.
struct Failed {
    error: ReadError,
    /// What would have been, if it is durable all the same.
    applied: Option<Applied>,
}

impl Failed {
    fn before_commit(error: ReadError) -> Box<Self> {
        Box::new(Self {
            error,
            applied: None,
        })
    }
}

struct Tables<'t> {
    history: Table<'t, (u64, u32), &'static [u8]>,
    versions: Table<'t, &'static [u8], u32>,
}

impl Batch {
    fn add(&mut self, request: Request) {
        match request {
            Request::Commit {
                transaction,
                bytes,
                reply,
            } => {
                self.bytes += bytes;
                self.commits.push(Commit {
                    transaction,
                    bytes,
                    reply,
                });
            }
            Request::Compact { revision, reply } => self.compacts.push((revision, reply)),
            Request::Forget { revision } => self.forget = self.forget.max(revision),
            Request::Probe { reply } => self.probes.push(reply),
            Request::Reopen => self.reopen = true,
        }
    }

    /// Takes what waits, up to the bounds.
    fn fill(&mut self, requests: &mut mpsc::Receiver<Request>) -> Filled {
        let mut some = false;
        loop {
            if self.is_full() {
                return Filled::Full;
            }
            match requests.try_recv() {
                Ok(request) => self.add(request),
                Err(mpsc::error::TryRecvError::Empty) if some => return Filled::Some,
                Err(mpsc::error::TryRecvError::Empty) => return Filled::Nothing,
                Err(mpsc::error::TryRecvError::Disconnected) => return Filled::Closed,
            }
            some = true;
        }
    }

    fn is_full(&self) -> bool {
        self.commits.len() + self.compacts.len() + self.probes.len() >= BATCH_TRANSACTIONS_MAX
            || self.bytes >= BATCH_BYTES_MAX
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, counters: Counters) -> Self {
        Self {
            shared,
            counters,
            trim_paused: false,
            company: 0,
        }
    }

    /// Serves until every sender is gone, then closes the store.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(batch) = self.gather(&mut requests) {
            self.serve(batch);
        }
        self.shared.close();
    }

    /// Waits for work and takes all there is, up to the bounds. Empty when there is only history to trim.
    ///
    /// Where several write at once they share a batch and its fsync: those who are about to ask have a turn on the
    /// processor before it is closed, for as long as that brings requests, and if the last batch had more writes, it
    /// waits a little for as many. Who writes alone waits for nobody.
    fn gather(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<Batch> {
        let mut batch = Batch::default();
        if !self.trim_due() {
            batch.add(requests.blocking_recv()?);
        }
        let mut filled = batch.fill(requests);
        let mut had_turn = self.company < 2;
        while matches!(filled, Filled::Some) || (!had_turn && matches!(filled, Filled::Nothing)) {
            had_turn = true;
            std::thread::yield_now();
            filled = batch.fill(requests);
        }
        filled = self.wait_for_company(filled, &mut batch, requests);
        self.company = batch.commits.len();
        let is_empty = batch.commits.is_empty() && batch.compacts.is_empty();
        match filled {
            Filled::Closed if is_empty => None,
            _ => Some(batch),
        }
    }

    fn wait_for_company(
        &self,
        mut filled: Filled,
        batch: &mut Batch,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Filled {
        for _ in 0..COMPANY_PAUSES_MAX {
            let is_open = matches!(filled, Filled::Nothing | Filled::Some);
            if self.company < COMPANY_MIN || batch.commits.len() >= self.company || !is_open {
                break;
            }
            std::thread::sleep(COMPANY_PAUSE);
            filled = batch.fill(requests);
        }
        filled
    }

    fn trim_due(&self) -> bool {
        self.counters.trimmed < self.counters.compacted && !self.trim_paused
    }

    fn serve(&mut self, mut batch: Batch) {
        if batch.reopen || !self.shared.is_open() {
            self.reopen_if_broken();
        }
        for probe in batch.probes.drain(..) {
            let _ = probe.send(self.probe());
        }
        self.refuse_without_space(&mut batch);
        if batch.forget > 0 || !batch.compacts.is_empty() {
            self.trim_paused = false;
        }
        let started = Instant::now();
        match self.attempt(&batch) {
            Ok(applied) => self.acknowledge(batch, applied, started),
            Err(failed) => self.recover(batch, *failed, started),
        }
    }

    /// Applies the batch and makes it durable. On failure the outcome may be open.
    fn attempt(&self, batch: &Batch) -> Result<Applied, Box<Failed>> {
        let write = self.shared.begin_write().map_err(Failed::before_commit)?;
        let applied = self.apply(&write, batch).map_err(Failed::before_commit)?;
        if applied.counters == self.counters {
            // Nothing to write: only checks, or only failures.
            drop(write);
            return Ok(applied);
        }
        match write.commit() {
            Ok(()) => Ok(applied),
            Err(error) => Err(Box::new(Failed {
                error: ReadError::Redb(error.into()),
                applied: Some(applied),
            })),
        }
    }

    fn apply(&self, write: &WriteTransaction, batch: &Batch) -> Result<Applied, ReadError> {
        let mut applied = Applied {
            counters: self.counters,
            outcomes: Vec::with_capacity(batch.commits.len()),
            events: Vec::new(),
        };
        {
            let mut tables = Tables {
                history: write.open_table(HISTORY)?,
                versions: write.open_table(VERSIONS)?,
            };
            for commit in &batch.commits {
                let next = applied.counters.revision + 1;
                let outcome = tables.transact(&commit.transaction, next, &mut applied.events)?;
                if let Ok(true) = outcome {
                    applied.counters.revision = next;
                }
                let now = Revision(applied.counters.revision);
                applied.outcomes.push(outcome.map(|_| now));
            }
        }
        let counters = &mut applied.counters;
        let asked = batch.compacts.iter().map(|(revision, _)| *revision);
        for revision in asked.chain([batch.forget]) {
            if revision <= counters.revision {
                counters.compacted = counters.compacted.max(revision);
            }
        }
        if counters.trimmed < counters.compacted && !self.trim_paused {
            counters.trimmed = compaction::trim(write, counters.trimmed, counters.compacted)?;
        }
        if *counters != self.counters {
            let mut meta = write.open_table(META)?;
            meta.insert(META_REVISION, counters.revision)?;
            if counters.compacted != self.counters.compacted {
                meta.insert(META_COMPACTED, counters.compacted)?;
            }
            if counters.trimmed != self.counters.trimmed {
                meta.insert(META_TRIMMED, counters.trimmed)?;
            }
        }
        Ok(applied)
    }

    /// Tells watchers first and callers second, so that whoever knows of a write finds it published.
    fn acknowledge(&mut self, batch: Batch, applied: Applied, started: Instant) {
        let wrote = applied.counters.revision != self.counters.revision;
        self.counters = applied.counters;
        if wrote {
            let metrics = &self.shared.metrics;
            metrics
                .batch_transactions
                .observe(batch.commits.len() as f64);
            metrics
                .commit_seconds
                .observe(started.elapsed().as_secs_f64());
            self.shared
                .hub
                .publish(&applied.events, applied.counters.revision);
        }
        for (commit, outcome) in batch.commits.into_iter().zip(applied.outcomes) {
            // A caller that went away does not want to know.
            let _ = commit.reply.send(outcome);
        }
        for (asked, reply) in batch.compacts {
            let current = self.counters.revision;
            let outcome = match asked <= current {
                true => Ok(()),
                false => Err(Error::Future {
                    asked: Revision(asked),
                    current: Revision(current),
                }),
            };
            let _ = reply.send(outcome);
        }
        let compacted = i64::try_from(self.counters.compacted).unwrap_or(i64::MAX);
        self.shared.metrics.compacted_revision.set(compacted);
    }

    /// After a failure: opens the file again, which alone tells whether the batch is in it.
    fn recover(&mut self, batch: Batch, failed: Failed, started: Instant) {
        let Failed { error, applied } = failed;
        self.shared.metrics.commit_failures.inc();
        let answer = self.describe(&error);
        tracing::error!(error = %answer, cause = ?error, "a batch could not be committed");
        self.trim_paused = true;
        if let Err(error) = self.reopen() {
            tracing::error!(%error, "the store cannot be opened again; the next request tries anew");
        } else if let Some(applied) = applied
            && self.shared.counters().ok() == Some(applied.counters)
        {
            return self.acknowledge(batch, applied, started);
        }
        for commit in batch.commits {
            let _ = commit.reply.send(Err(answer.clone()));
        }
        for (_, reply) in batch.compacts {
            let _ = reply.send(Err(answer.clone()));
        }
    }

    fn describe(&self, error: &ReadError) -> Error {
        let full = match error {
            ReadError::Redb(redb::Error::Io(error)) => is_no_space(error),
            // The first failure may have happened where redb could only take note of it.
            ReadError::Redb(redb::Error::PreviousIo) => {
                self.shared.free_bytes() < self.shared.free_bytes_min
            }
            ReadError::Answer(answer) => return answer.clone(),
            ReadError::Redb(_) | ReadError::Malformed(_) => false,
        };
        match full {
            true => no_space(self.shared.free_bytes()),
            false => Error::Unavailable("the store's file could not be written".to_owned()),
        }
    }

    fn reopen(&mut self) -> Result<(), Error> {
        self.shared.reopen()?;
        if let Ok(counters) = self.shared.counters()
            && counters.revision < self.counters.revision
        {
            self.shared.close_file();
            return Err(Error::Open(
                "the file has lost acknowledged revisions; check the disk".to_owned(),
            ));
        }
        Ok(())
    }

    fn reopen_if_broken(&mut self) {
        if self.shared.counters().is_err()
            && let Err(error) = self.reopen()
        {
            tracing::error!(%error, "the store cannot be opened again; the next request tries anew");
        }
    }

    fn probe(&self) -> Result<(), Error> {
        self.shared
            .counters()
            .map_err(|error| self.describe(&error))?;
        let free = self.shared.free_bytes();
        match free < self.shared.free_bytes_min {
            true => Err(no_space(free)),
            false => Ok(()),
        }
    }

    /// Answers the writes for which the disk has no room before redb sees them. redb stops answering after a failed
    /// write until it is opened again; this keeps it, and with it reads and watches, out of that.
    fn refuse_without_space(&self, batch: &mut Batch) {
        if batch.commits.is_empty() || self.shared.free_bytes_min == 0 {
            return;
        }
        let free = self.shared.free_bytes();
        let reserve = self.shared.free_bytes_min;
        let need = |bytes: usize| reserve + SPACE_PER_BYTE * bytes as u64;
        if free >= need(batch.bytes) {
            return;
        }
        let mut bytes = 0;
        let (kept, refused) = std::mem::take(&mut batch.commits)
            .into_iter()
            .partition(|commit| {
                if only_removes(&commit.transaction) {
                    return free >= reserve / REMOVAL_RESERVE_DIVISOR;
                }
                let fits = free >= need(bytes + commit.bytes);
                bytes += if fits { commit.bytes } else { 0 };
                fits
            });
        batch.commits = kept;
        let refused: Vec<Commit> = refused;
        for commit in refused {
            let _ = commit.reply.send(Err(no_space(free)));
        }
    }
}

impl Tables<'_> {
    /// Checks, then writes. `Ok(false)` when there was nothing to write.
    fn transact(
        &mut self,
        transaction: &[Operation],
        revision: u64,
        events: &mut Vec<WatchEvent>,
    ) -> Result<Result<bool, Error>, ReadError> {
        let mut found = Vec::with_capacity(transaction.len());
        for operation in transaction {
            let current = newest(&self.versions, operation.key().as_str())?
                .filter(|version| !version.tombstone)
                .map(|version| version.place);
            if let Err(error) =
                validate::precondition(operation, current.map(|place| Revision(place.revision)))
            {
                return Ok(Err(error));
            }
            found.push(current);
        }
        if validate::only_checks(transaction) {
            return Ok(Ok(false));
        }
        for (number, (operation, previous)) in (0..).zip(transaction.iter().zip(found)) {
            let at = Place {
                revision,
                operation: number,
            };
            self.write(operation, at, previous, events)?;
        }
        Ok(Ok(true))
    }

    fn write(
        &mut self,
        operation: &Operation,
        at: Place,
        previous: Option<Place>,
        events: &mut Vec<WatchEvent>,
    ) -> Result<(), ReadError> {
        let (key, value) = match operation {
            Operation::Create { key, value } | Operation::Update { key, value, .. } => {
                (key, Some(value))
            }
            Operation::Delete { key, .. } => (key, None),
            Operation::Check { .. } => return Ok(()),
        };
        let replaced = previous
            .map(|place| value_at(&self.history, key.clone(), place))
            .transpose()?;
        self.append(key, value.map(|value| &value[..]), at, previous)?;
        let revision = Revision(at.revision);
        let event = match (value, replaced) {
            (Some(value), previous) => WatchEvent::Put {
                entry: Entry {
                    key: key.clone(),
                    value: value.clone(),
                    revision,
                },
                previous,
            },
            (None, Some(previous)) => WatchEvent::Delete {
                key: key.clone(),
                revision,
                previous,
            },
            (None, None) => return Err(ReadError::Malformed("removal of nothing")),
        };
        events.push(event);
        Ok(())
    }

    fn append(
        &mut self,
        key: &Key,
        value: Option<&[u8]>,
        at: Place,
        previous: Option<Place>,
    ) -> Result<(), ReadError> {
        let record = Record {
            key: key.as_str(),
            value,
            previous,
        };
        let mut space = self
            .history
            .insert_reserve((at.revision, at.operation), record.encoded_len())?;
        record.encode(space.as_mut());
        drop(space);
        self.versions.insert(
            version_key(key.as_str(), at.revision).as_slice(),
            version_value(at.operation, value.is_none()),
        )?;
        Ok(())
    }
}

fn only_removes(transaction: &[Operation]) -> bool {
    transaction.iter().all(|operation| {
        matches!(
            operation,
            Operation::Delete { .. } | Operation::Check { .. }
        )
    })
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn no_space(free: u64) -> Error {
    Error::NoSpace(format!("the disk has {free} bytes left"))
}

/// Reads the counters of a database.
pub(super) fn counters(database: &impl ReadableDatabase) -> Result<Counters, ReadError> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let number =
        |name| -> Result<u64, ReadError> { Ok(meta.get(name)?.map_or(0, |value| value.value())) };
    Ok(Counters {
        revision: number(META_REVISION)?,
        compacted: number(META_COMPACTED)?,
        trimmed: number(META_TRIMMED)?,
    })
}
