//! The embedded store: one redb file behind one group-commit thread.
//!
//! ```text
//!   commit ─▶ bounded queue ─▶ writer thread: check all, write all, one fsync ─▶ hub ─▶ watchers ; callers
//!   get, list, history, replay ─▶ redb read transactions (MVCC; never wait for the writer)
//!   window thread: revision by time ─▶ writer: logical compaction at once, trimming in slices with later commits
//! ```
//!
//! No value is held in memory beyond redb's small page cache and what watchers have not read yet.
//!
//! Reading order: [`layout`] (tables), [`writer`], [`read`], [`watch`], [`compaction`], [`file`], [`import`].

mod compaction;
mod file;
mod import;
mod layout;
mod metrics;
mod read;
mod watch;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, ReadableDatabase, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

pub use self::file::is_there;
pub use self::import::Import;
pub use self::metrics::EmbeddedMetrics;

use self::compaction::Retention;
use self::file::Directory;
use self::read::{ReadError, Snapshot};
use self::watch::Hub;
use self::writer::{Counters, QUEUE_MAX, Request, Writer};
use crate::{
    Entry, Error, HISTORY_REVISIONS_MIN, HISTORY_WINDOW, Key, ListOptions, Page, Revision, Storage,
    Transaction, Version, WatchStream, validate,
};

/// Events that a watcher may be behind before it is ended: about a second of the busiest writers.
pub const WATCH_BUFFER_EVENTS: usize = 16_384;

/// Disk space that writes leave free, so that the store itself always has room to commit, trim and recover.
pub const FREE_BYTES_MIN: u64 = 8 << 20;

/// Where and how an embedded store keeps its data.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The directory; created if need be, and locked while the store is open.
    pub directory: PathBuf,
    /// Age up to which history is kept.
    pub history_window: Duration,
    /// Least number of revisions that are kept, whatever their age.
    pub history_revisions_min: u64,
    /// Events that a watcher may be behind before it is ended.
    pub watch_buffer_events: usize,
    /// Disk space that writes leave free; 0 leaves it to the file system to refuse.
    pub free_bytes_min: u64,
    /// Whether a write is acknowledged only once the disk has it. Without, a loss of power may take the store with it.
    pub synced: bool,
}

impl EmbeddedConfig {
    /// The defaults, in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            history_window: HISTORY_WINDOW,
            history_revisions_min: HISTORY_REVISIONS_MIN,
            watch_buffer_events: WATCH_BUFFER_EVENTS,
            free_bytes_min: FREE_BYTES_MIN,
            synced: true,
        }
    }
}

/// A store in a directory of this machine. Dropping it waits for the last commit and releases the directory; its
/// watches end then.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// `None` only while dropping.
    requests: Option<mpsc::Sender<Request>>,
    /// Dropping it stops the window thread.
    stop: Option<std_mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads, reads and watches of one store share.
#[derive(Debug)]
pub(in crate::embedded) struct Shared {
    directory: Directory,
    /// Guards the open file. Readers hold it while they read; the writer takes it alone to open the file again or
    /// to close it. `None` when closed, or broken beyond reopening for now.
    database: RwLock<Option<Database>>,
    hub: Arc<Hub>,
    metrics: EmbeddedMetrics,
    free_bytes_min: u64,
}

impl EmbeddedStore {
    /// Opens the store in the directory, creating it if there is none.
    ///
    /// # Errors
    /// [`Error::Open`] when the directory is in use, or holds a file that is damaged or not a store; such a file is
    /// not written to.
    pub fn open(config: EmbeddedConfig, metrics: EmbeddedMetrics) -> Result<Arc<Self>, Error> {
        let EmbeddedConfig {
            directory,
            history_window,
            history_revisions_min,
            watch_buffer_events,
            free_bytes_min,
            synced,
        } = config;
        let directory = Directory::lock(&directory, synced)?;
        let database = directory.open()?;
        let counters =
            writer::counters(&database).map_err(|error| Error::Open(format!("{error:?}")))?;
        let shared = Arc::new(Shared {
            directory,
            database: RwLock::new(Some(database)),
            hub: Arc::new(Hub::new(
                counters.revision,
                watch_buffer_events.max(1),
                metrics.clone(),
            )),
            metrics,
            free_bytes_min,
        });
        shared.measure_file();
        let retention = Retention {
            window: history_window,
            revisions_min: history_revisions_min,
        };
        Self::start(shared, counters, retention)
            .map_err(|error| Error::Open(format!("cannot start a thread: {error}")))
    }

    fn start(
        shared: Arc<Shared>,
        counters: Counters,
        retention: Retention,
    ) -> std::io::Result<Arc<Self>> {
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let (stop, stopped) = std_mpsc::channel();
        let writer = Writer::new(shared.clone(), counters);
        let window = compaction::spawn(&shared, &requests, retention, stopped)?;
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))?;
        Ok(Arc::new(Self {
            shared,
            requests: Some(requests),
            stop: Some(stop),
            threads: vec![window, writer],
        }))
    }

    /// Hands a request to the writer and waits for its answer.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let gone = || Error::Unavailable("the store's writer has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The answer of a read; an I/O error makes the writer open the file again.
    fn settle<T>(&self, outcome: Result<T, ReadError>) -> Result<T, Error> {
        if let (Err(ReadError::Redb(_)), Some(requests)) = (&outcome, &self.requests) {
            // A full queue has requests in it that find out for themselves.
            let _ = requests.try_send(Request::Reopen);
        }
        outcome.map_err(ReadError::into_answer)
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.requests = None;
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Runs a read on the newest snapshot.
    fn read<T>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(not_open)?;
        let transaction = database.begin_read()?;
        read(&Snapshot::new(&transaction)?)
    }

    /// Reads off the async threads, for what may take long.
    async fn read_blocking<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Snapshot) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let shared = self.clone();
        tokio::task::spawn_blocking(move || shared.read(read))
            .await
            .unwrap_or(Err(ReadError::Malformed(
                "a record that stopped the reader",
            )))
    }

    fn begin_write(&self) -> Result<WriteTransaction, ReadError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Ok(database.as_ref().ok_or_else(not_open)?.begin_write()?)
    }

    fn counters(&self) -> Result<Counters, ReadError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        writer::counters(database.as_ref().ok_or_else(not_open)?)
    }

    fn is_open(&self) -> bool {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.is_some()
    }

    /// Opens the file again after an I/O error. Waits for reads under way: their pages may be written to afterwards.
    fn reopen(&self) -> Result<(), Error> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // The old handle holds redb's own lock on the file.
        *database = None;
        *database = Some(self.directory.reopen()?);
        Ok(())
    }

    fn close_file(&self) {
        *self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn close(&self) {
        self.hub.close();
        self.close_file();
        self.directory.unlock();
    }

    /// Disk space for writes. When it cannot be asked for, the write itself will tell.
    fn free_bytes(&self) -> u64 {
        fs2::available_space(self.directory.path()).unwrap_or(u64::MAX)
    }

    fn measure_file(&self) {
        if let Ok(metadata) = std::fs::metadata(self.directory.data_file()) {
            let length = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
            self.metrics.file_bytes.set(length);
        }
    }
}

fn not_open() -> ReadError {
    ReadError::Answer(Error::Unavailable("the store is not open".to_owned()))
}

#[async_trait]
impl Storage for EmbeddedStore {
    /// Reads on the calling thread: a few pages, nearly always in memory, cost less than a change of threads.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.settle(self.shared.read(|snapshot| snapshot.get(key)))
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error> {
        let prefix = prefix.to_owned();
        let read = move |snapshot: &Snapshot| snapshot.list(&prefix, &options);
        self.settle(self.shared.read_blocking(read).await)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        let bytes = validate::transaction(&transaction)?;
        self.ask(|reply| Request::Commit {
            transaction,
            bytes,
            reply,
        })
        .await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        watch::open(self.shared.clone(), prefix, from).await
    }

    async fn request_progress(&self) -> Result<(), Error> {
        let current = self.current_revision().await?;
        self.shared.hub.request_progress(current.0);
        Ok(())
    }

    async fn history(&self, key: &Key) -> Result<Vec<Version>, Error> {
        let key = key.clone();
        let read = move |snapshot: &Snapshot| snapshot.history(&key);
        self.settle(self.shared.read_blocking(read).await)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.ask(|reply| Request::Compact {
            revision: revision.0,
            reply,
        })
        .await
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        self.settle(self.shared.read(|snapshot| Ok(Revision(snapshot.revision))))
    }

    async fn health(&self) -> Result<(), Error> {
        self.ask(|reply| Request::Probe { reply }).await
    }
}
