//! An etcd made of another store's entries, with their revisions.
//!
//! etcd numbers writes one after the other, and nobody can tell it a number. So a new one is written to until it
//! stands right before each entry's revision. These writes go to a mark, which is there from the first write to the
//! last: who finds it knows that the store is not whole. The last write takes it away.

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnResponse};
use futures::StreamExt;
use tokio::time::timeout;

use super::error::{plain, to_revision};
use super::{Etcd, EtcdStore, REQUEST_TIMEOUT, ReadFailure};
use crate::{Entry, Error, Revision};

/// Revisions at which a new etcd can have no entry: its own first one, and that of the mark.
pub const TAKEN_REVISIONS: Revision = Revision(2);

/// Writes under way at once.
const FILLERS_AT_ONCE: usize = 256;
/// Writes after which the number is looked at, and progress is told.
const FILLERS_PIECE: u64 = 4_096;
/// Writes after which etcd may forget what was before them: some megabytes, of the two gigabytes that it takes by
/// default.
const FILLERS_KEPT: u64 = 65_536;

/// Operations of a transaction within a transaction. etcd takes 128, less those of what is around it.
const NESTED_OPERATIONS: usize = 64;

/// Where the mark is, below the prefix of all keys.
pub(super) fn mark_below(prefix: &str) -> String {
    format!("{prefix}/claims/migration")
}

/// What is told when the mark is there.
pub(super) fn unfinished() -> Error {
    Error::Open(
        "a migration into this etcd was interrupted, so it is not whole: start it again with an etcd that is new"
            .to_owned(),
    )
}

/// An etcd that is being filled.
pub struct Import<'a> {
    etcd: &'a Etcd,
    mark: String,
    /// Up to where etcd was told to forget.
    compacted: u64,
}

impl EtcdStore {
    /// That no migration into this etcd is under way, or was interrupted.
    ///
    /// # Errors
    /// [`Error::Open`] when one is.
    pub async fn check_whole(&self, prefix: &str) -> Result<(), Error> {
        let mark = self.etcd.read(mark_below(prefix), GetOptions::new()).await;
        match mark.map_err(ReadFailure::into_error)?.count() {
            0 => Ok(()),
            _ => Err(unfinished()),
        }
    }

    /// That this etcd is empty, and can still have entries from `first` on.
    ///
    /// # Errors
    /// [`Error::Open`] when there are keys, or the revision is past.
    pub async fn check_empty(&self, prefix: &str, first: Revision) -> Result<(), Error> {
        self.check_whole(prefix).await?;
        let options = GetOptions::new()
            .with_range(super::range_end(""))
            .with_count_only();
        let all = self.etcd.read(super::range_start(""), options).await;
        let all = all.map_err(ReadFailure::into_error)?;
        if all.count() > 0 {
            return Err(Error::Open(format!(
                "etcd is not empty: it holds {} keys. Revisions can be kept only in an etcd that is new",
                all.count()
            )));
        }
        let current = self.etcd.current_revision().await?;
        if current.0 + 1 >= first.0 {
            return Err(Error::Open(format!(
                "etcd is at revision {current} already, and the first object is of revision {first}. Revisions can be kept \
                 only in an etcd that is new"
            )));
        }
        Ok(())
    }

    /// Begins to fill an etcd that [`Self::check_empty`] finds good.
    ///
    /// # Errors
    /// [`Error::Open`] when somebody else was faster.
    pub async fn begin_import(&self, prefix: &str) -> Result<Import<'_>, Error> {
        let import = Import {
            etcd: &self.etcd,
            mark: mark_below(prefix),
            compacted: 0,
        };
        // Of no key at all: a range without keys compares like a key that is absent.
        let nothing = Compare::create_revision("\0", CompareOp::Equal, 0).with_range("\0");
        let txn = Txn::new().when([nothing]).and_then([import.filler()]);
        match import.send(txn).await?.succeeded() {
            true => Ok(import),
            false => Err(Error::Open(
                "somebody else writes to this etcd, which was empty a moment ago".to_owned(),
            )),
        }
    }
}

impl Import<'_> {
    fn filler(&self) -> TxnOp {
        TxnOp::put(self.mark.as_str(), "", None)
    }

    async fn send(&self, txn: Txn) -> Result<TxnResponse, Error> {
        timeout(REQUEST_TIMEOUT, self.etcd.kv_client().txn(txn))
            .await
            .map_err(|_| Error::Unavailable("etcd did not answer in time".to_owned()))?
            .map_err(|error| plain(&error))
    }

    /// Writes entries of one revision, which must be the next.
    ///
    /// # Errors
    /// [`Error::Open`] when somebody else writes to this etcd.
    pub async fn put_at(&mut self, revision: Revision, entries: Vec<Entry>) -> Result<(), Error> {
        let puts: Vec<TxnOp> = entries.into_iter().map(put).collect();
        self.write_at(revision, Txn::new().and_then(puts)).await
    }

    async fn write_at(&self, revision: Revision, txn: Txn) -> Result<(), Error> {
        let answer = self.send(txn).await?;
        let reached = to_revision(answer.header().map_or(0, |header| header.revision()));
        match reached == revision {
            true => Ok(()),
            false => Err(somebody_else(reached, revision)),
        }
    }

    /// Writes until etcd is at a revision, and tells how far it is now and then.
    ///
    /// # Errors
    /// [`Error::Open`] when somebody else writes to this etcd.
    pub async fn advance(
        &mut self,
        to: Revision,
        mut told: impl FnMut(Revision) + Send,
    ) -> Result<(), Error> {
        loop {
            let current = self.etcd.current_revision().await?;
            told(current);
            if current.0 >= self.compacted + FILLERS_KEPT {
                self.etcd.compact(current).await?;
                self.compacted = current.0;
            }
            match to.0.checked_sub(current.0) {
                None => return Err(somebody_else(current, to)),
                Some(0) => return Ok(()),
                Some(missing) => self.fill(missing.min(FILLERS_PIECE)).await?,
            }
        }
    }

    async fn fill(&self, n: u64) -> Result<(), Error> {
        let mut puts = futures::stream::iter(0..n)
            .map(|_| self.send(Txn::new().and_then([self.filler()])))
            .buffer_unordered(FILLERS_AT_ONCE);
        while let Some(put) = puts.next().await {
            put?;
        }
        Ok(())
    }

    /// Ends with the entries of the newest revision, if there are any: from then on the store is whole, and knows
    /// nothing of before.
    ///
    /// # Errors
    /// [`Error::Open`] when somebody else writes to this etcd.
    pub async fn finish(mut self, revision: Revision, entries: Vec<Entry>) -> Result<(), Error> {
        let before = Revision(revision.0 - 1);
        self.advance(before, |_| {}).await?;
        // First, so that no watch from before finds something, should this end between the two.
        self.etcd.compact(before).await?;
        let mut operations = vec![TxnOp::delete(self.mark.as_str(), None)];
        let mut puts = entries.into_iter().map(put).peekable();
        // As many as one transaction may have would be one too many with the mark beside them.
        while puts.peek().is_some() {
            let some: Vec<TxnOp> = puts.by_ref().take(NESTED_OPERATIONS).collect();
            operations.push(TxnOp::txn(Txn::new().and_then(some)));
        }
        self.write_at(revision, Txn::new().and_then(operations))
            .await?;
        self.etcd.compact(revision).await
    }
}

fn put(entry: Entry) -> TxnOp {
    TxnOp::put(entry.key.as_str(), entry.value.to_vec(), None)
}

fn somebody_else(reached: Revision, wanted: Revision) -> Error {
    Error::Open(format!(
        "etcd is at revision {reached}, not at {wanted}: somebody else writes to it"
    ))
}
