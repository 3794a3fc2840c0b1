//! An embedded store made of another store's entries, with their revisions.
//!
//! It is filled beside its place and moved there when it is complete, so that a server never opens half of one.

use std::fs::{self, File};
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable};

use super::file::{Directory, NEW_FILE, open_error};
use super::layout::{
    HISTORY, META, META_COMPACTED, META_REVISION, META_TRIMMED, REVISION_WHEN_NEW, Record,
    VERSIONS, version_key, version_value,
};
use crate::{Entry, Error, Revision};

/// A store that is being filled.
pub struct Import {
    directory: Directory,
    database: Database,
}

impl Import {
    /// Begins a store in a directory, which is locked until it is complete.
    ///
    /// # Errors
    /// [`Error::Open`] when the directory is in use, or has a store in which something was written.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        let directory = Directory::lock(path, true)?;
        let data = directory.data_file();
        let there = data.try_exists();
        if there.map_err(|error| open_error(&data, &error.to_string()))? {
            let database = directory.open()?;
            let counters = super::writer::counters(&database);
            let counters = counters.map_err(|error| open_error(&data, &format!("{error:?}")))?;
            if counters.revision > REVISION_WHEN_NEW {
                return Err(Error::Open(format!(
                    "{} is not empty: it is at revision {}. Move it away, or choose another data directory",
                    data.display(),
                    counters.revision
                )));
            }
        }
        let new = directory.new_file()?;
        let database = directory.initialised(&new)?;
        Ok(Self {
            directory,
            database,
        })
    }

    /// Adds entries, each of another key.
    ///
    /// # Errors
    /// [`Error::Open`] when they cannot be written.
    pub fn add(&mut self, entries: &[Entry]) -> Result<(), Error> {
        self.write(entries)
            .map_err(|error| open_error(self.directory.path(), &error.to_string()))
    }

    fn write(&mut self, entries: &[Entry]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut history = write.open_table(HISTORY)?;
            let mut versions = write.open_table(VERSIONS)?;
            for entry in entries {
                let revision = entry.revision.0;
                let operation = next_operation(&history, revision)?;
                let record = Record {
                    key: entry.key.as_str(),
                    value: Some(&entry.value),
                    previous: None,
                };
                let mut space =
                    history.insert_reserve((revision, operation), record.encoded_len())?;
                record.encode(space.as_mut());
                drop(space);
                versions.insert(
                    version_key(record.key, revision).as_slice(),
                    version_value(operation, false),
                )?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Puts the store into its place. It goes on at `current`, and knows nothing of before.
    ///
    /// # Errors
    /// [`Error::Open`] when it cannot be written, or an entry is newer than that.
    pub fn finish(self, current: Revision) -> Result<(), Error> {
        let Self {
            directory,
            database,
        } = self;
        let failed = |why: &str| open_error(directory.path(), why);
        let newest = newest(&database).map_err(|error| failed(&error.to_string()))?;
        if newest > current.0 {
            return Err(failed(&format!(
                "an entry is at revision {newest}, which is after {current}"
            )));
        }
        count(&database, current.0).map_err(|error| failed(&error.to_string()))?;
        drop(database);
        fs::rename(directory.path().join(NEW_FILE), directory.data_file())
            .and_then(|()| File::open(directory.path())?.sync_all())
            .map_err(|error| failed(&error.to_string()))
    }
}

/// The number of the next of several entries that were written together.
fn next_operation(
    history: &impl ReadableTable<(u64, u32), &'static [u8]>,
    revision: u64,
) -> Result<u32, redb::Error> {
    let mut range = history.range((revision, 0)..=(revision, u32::MAX))?;
    Ok(match range.next_back() {
        Some(last) => last?.0.value().1 + 1,
        None => 0,
    })
}

fn newest(database: &Database) -> Result<u64, redb::Error> {
    let read = database.begin_read()?;
    let history = read.open_table(HISTORY)?;
    let last = history.last()?;
    Ok(last.map_or(0, |(place, _)| place.value().0))
}

fn count(database: &Database, current: u64) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        for name in [META_REVISION, META_COMPACTED, META_TRIMMED] {
            meta.insert(name, current)?;
        }
    }
    write.commit()?;
    Ok(())
}
