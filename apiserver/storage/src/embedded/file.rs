//! The store's directory: the lock, creating the file, and looking at a file before anything may write to it.
//!
//! ```text
//!   D/store.lock   flock held while the store is open; its text is the holder's pid
//!   D/store.redb   the data; only ever appears by rename, complete
//! ```

mod ahead;
mod guarded;
mod unsynced;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fs2::FileExt;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend};

use self::unsynced::Unsynced;
use super::layout::{
    FORMAT, HISTORY, META, META_FORMAT, META_REVISION, REVISION_WHEN_NEW, VERSIONS,
};
use crate::Error;

const LOCK_FILE: &str = "store.lock";
const DATA_FILE: &str = "store.redb";
pub(super) const NEW_FILE: &str = "store.redb.new";

/// The first bytes of every redb file.
const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// Memory that redb may use for pages. The server's cacher holds all values already, so this only has to cover the
/// inner pages of the index and what one batch writes.
pub(super) const CACHE_BYTES: usize = 16 << 20;

/// Whether there is a store in a directory, or something in its place.
pub fn is_there(directory: &Path) -> bool {
    directory.join(DATA_FILE).exists()
}

/// The directory, locked for this process.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Whether what is written is waited for until the disk has it.
    synced: bool,
    /// Holds the flock, which goes with the file's handle; `None` once unlocked.
    lock: Mutex<Option<File>>,
}

impl Directory {
    /// Creates the directory if need be and locks it.
    pub(super) fn lock(path: &Path, synced: bool) -> Result<Self, Error> {
        fs::create_dir_all(path)
            .map_err(|error| open_error(path, &format!("cannot create it: {error}")))?;
        let lock_path = path.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| open_error(&lock_path, &error.to_string()))?;
        if let Err(error) = lock.try_lock_exclusive() {
            return Err(if error.kind() == fs2::lock_contended_error().kind() {
                in_use(path, &mut lock)
            } else {
                open_error(&lock_path, &error.to_string())
            });
        }
        write_pid(&mut lock).map_err(|error| open_error(&lock_path, &error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            synced,
            lock: Mutex::new(Some(lock)),
        })
    }

    pub(super) fn data_file(&self) -> PathBuf {
        self.path.join(DATA_FILE)
    }

    /// Lets another process have the directory, although watches of this one may still hold on to it.
    pub(super) fn unlock(&self) {
        self.lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the data file, creating it if there is none. A file that is not a whole Corral store is left as it is.
    pub(super) fn open(&self) -> Result<Database, Error> {
        let path = self.data_file();
        if path
            .try_exists()
            .map_err(|error| open_error(&path, &error.to_string()))?
        {
            return self.open_known(&path);
        }
        self.create(&path)?;
        self.reopen()
    }

    /// Opens a file that is there, once it has turned out to be a whole store of ours; nothing is written to it before.
    fn open_known(&self, path: &Path) -> Result<Database, Error> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| open_error(path, &error.to_string()))?;
        check_magic(path, &mut file)?;
        ahead::read(path);
        // redb asserts some of what a damaged file can break.
        let outcome = catch_unwind(AssertUnwindSafe(|| match self.synced {
            true => examined(FileBackend::new(file)?),
            false => examined(Unsynced::new(file)?),
        }));
        match outcome {
            Ok(Ok(database)) => Ok(database),
            Ok(Err(Refusal::Format(format))) => Err(Error::Open(format!(
                "{} has format {format}, this program knows {FORMAT}; use the version of corral that wrote it",
                path.display()
            ))),
            Ok(Err(Refusal::Unwritten(error))) => Err(open_error(path, &error.to_string())),
            Ok(Err(Refusal::Unread(
                redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. },
            ))) => Err(foreign(path)),
            Ok(Err(Refusal::Unread(error))) => Err(damaged(path, &error.to_string())),
            Err(_) => Err(damaged(path, "the file is truncated or overwritten")),
        }
    }

    /// Opens a data file that this process has used before.
    pub(super) fn reopen(&self) -> Result<Database, Error> {
        let path = self.data_file();
        self.database(&path, false)
            .map_err(|error| open_error(&path, &error.to_string()))
    }

    fn database(&self, path: &Path, new: bool) -> Result<Database, redb::Error> {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        if !self.synced {
            return Ok(builder.create_with_backend(Unsynced::open(path)?)?);
        }
        Ok(match new {
            true => builder.create(path)?,
            false => builder.open(path)?,
        })
    }

    /// Where a store is made before it is put into its place; nothing is there.
    pub(super) fn new_file(&self) -> Result<PathBuf, Error> {
        let new = self.path.join(NEW_FILE);
        // What a crash during an earlier creation left: it was never a store.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(open_error(&new, &error.to_string()))
            }
            _ => Ok(new),
        }
    }

    /// An empty store in a file of its own.
    pub(super) fn initialised(&self, path: &Path) -> Result<Database, Error> {
        let database = self.database(path, true).and_then(initialise);
        database.map_err(|error| open_error(path, &error.to_string()))
    }

    fn create(&self, path: &Path) -> Result<(), Error> {
        let new = self.new_file()?;
        self.initialised(&new)?;
        fs::rename(&new, path)
            .and_then(|()| match self.synced {
                true => File::open(&self.path)?.sync_all(),
                false => Ok(()),
            })
            .map_err(|error| open_error(path, &error.to_string()))
    }
}

fn initialise(database: Database) -> Result<Database, redb::Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_REVISION, REVISION_WHEN_NEW)?;
        write.open_table(HISTORY)?;
        write.open_table(VERSIONS)?;
    }
    write.commit()?;
    Ok(database)
}

fn check_magic(path: &Path, file: &mut File) -> Result<(), Error> {
    let mut magic = [0; REDB_MAGIC.len()];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == REDB_MAGIC => Ok(()),
        Ok(()) => Err(foreign(path)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(damaged(path, "the file is truncated"))
        }
        Err(error) => Err(open_error(path, &error.to_string())),
    }
}

/// Why a file is not opened.
enum Refusal {
    /// It is of another version.
    Format(u64),
    /// It is no whole store of ours, and was not written to.
    Unread(redb::Error),
    /// What repaired it was not written, or not all of it; the next start does it again.
    Unwritten(io::Error),
}

impl<E: Into<redb::Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Unread(error.into())
    }
}

/// Opens a database whose file is written to only after it was looked at.
fn examined(backend: impl StorageBackend) -> Result<Database, Refusal> {
    let (guarded, release) = guarded::hold(backend)?;
    let mut builder = redb::Builder::new();
    let database = builder
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(guarded)?;
    let format = format_of(&database)?;
    if format != FORMAT {
        return Err(Refusal::Format(format));
    }
    release.release().map_err(Refusal::Unwritten)?;
    Ok(database)
}

fn format_of(database: &Database) -> Result<u64, redb::Error> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let format = meta.get(META_FORMAT)?.map(|value| value.value());
    // The newest values are at the end of the file, where a truncation takes first.
    read.open_table(HISTORY)?.last()?;
    read.open_table(VERSIONS)?.last()?;
    format.ok_or_else(|| redb::Error::TableDoesNotExist(META_FORMAT.to_owned()))
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())?;
    lock.flush()
}

fn in_use(path: &Path, lock: &mut File) -> Error {
    let mut pid = String::new();
    // A pid is a few bytes; whatever else the file may hold is not of interest.
    let holder = match lock.take(32).read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
        _ => "another process".to_owned(),
    };
    Error::Open(format!(
        "{} is in use by {holder}; stop it first, or choose another data directory",
        path.display()
    ))
}

fn foreign(path: &Path) -> Error {
    Error::Open(format!(
        "{} is not a Corral store and was left as it is; move it away, or choose another data directory",
        path.display()
    ))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Open(format!(
        "{} is damaged ({why}) and was left as it is; restore it from a backup, or move it away to start empty",
        path.display()
    ))
}

pub(super) fn open_error(path: &Path, why: &str) -> Error {
    Error::Open(format!("{}: {why}", path.display()))
}
