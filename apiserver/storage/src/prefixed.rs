//! A store over another one whose keys begin with something else: `/registry` here, another prefix there.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;

use crate::{
    Entry, Error, Key, ListOptions, Operation, Page, Revision, Storage, Transaction, Version,
    WatchEvent, WatchStream,
};

/// A store whose keys are renamed in another one.
pub struct PrefixedStore {
    inner: Arc<dyn Storage>,
    names: Names,
}

/// How keys begin on either side.
#[derive(Clone)]
struct Names {
    here: Arc<str>,
    there: Arc<str>,
}

impl PrefixedStore {
    /// A store over `inner` in which what begins with `here` begins with `there`.
    pub fn new(inner: Arc<dyn Storage>, here: &str, there: &str) -> Arc<Self> {
        let names = Names {
            here: here.into(),
            there: there.into(),
        };
        Arc::new(Self { inner, names })
    }
}

impl Names {
    fn rename(text: &str, from: &str, to: &str) -> Result<String, Error> {
        let rest = text.strip_prefix(from);
        let rest = rest.ok_or_else(|| Error::Invalid(format!("key {text} is outside {from}")))?;
        Ok(format!("{to}{rest}"))
    }

    fn inward(&self, key: &Key) -> Result<Key, Error> {
        if key.as_str().is_empty() {
            // Renamed, it would be a key.
            return Err(Error::Invalid("a key is empty".to_owned()));
        }
        Self::rename(key.as_str(), &self.here, &self.there).map(Key::from)
    }

    fn outward(&self, key: &Key) -> Result<Key, Error> {
        Self::rename(key.as_str(), &self.there, &self.here).map(Key::from)
    }

    fn entry(&self, mut entry: Entry) -> Result<Entry, Error> {
        entry.key = self.outward(&entry.key)?;
        Ok(entry)
    }

    fn event(&self, event: WatchEvent) -> Result<WatchEvent, Error> {
        Ok(match event {
            WatchEvent::Put { entry, previous } => WatchEvent::Put {
                entry: self.entry(entry)?,
                previous: previous.map(|entry| self.entry(entry)).transpose()?,
            },
            WatchEvent::Delete {
                key,
                revision,
                previous,
            } => WatchEvent::Delete {
                key: self.outward(&key)?,
                revision,
                previous: self.entry(previous)?,
            },
            WatchEvent::Progress(revision) => WatchEvent::Progress(revision),
        })
    }

    fn operation(&self, operation: Operation) -> Result<Operation, Error> {
        Ok(match operation {
            Operation::Create { key, value } => Operation::Create {
                key: self.inward(&key)?,
                value,
            },
            Operation::Update {
                key,
                value,
                expected,
            } => Operation::Update {
                key: self.inward(&key)?,
                value,
                expected,
            },
            Operation::Delete { key, expected } => Operation::Delete {
                key: self.inward(&key)?,
                expected,
            },
            Operation::Check { key, expected } => Operation::Check {
                key: self.inward(&key)?,
                expected,
            },
        })
    }

    /// An error about a key, which has the caller's name.
    fn error(&self, error: Error) -> Error {
        let named = |key: &Key| self.outward(key).unwrap_or_else(|_| key.clone());
        match error {
            Error::Exists { key, current } => Error::Exists {
                key: named(&key),
                current,
            },
            Error::NotFound { key } => Error::NotFound { key: named(&key) },
            Error::Conflict {
                key,
                expected,
                current,
            } => Error::Conflict {
                key: named(&key),
                expected,
                current,
            },
            Error::Unreadable { key, revision, why } => Error::Unreadable {
                key: named(&key),
                revision,
                why,
            },
            other => other,
        }
    }
}

#[async_trait]
impl Storage for PrefixedStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let entry = self.inner.get(&self.names.inward(key)?).await;
        let entry = entry.map_err(|error| self.names.error(error))?;
        entry.map(|entry| self.names.entry(entry)).transpose()
    }

    async fn list(&self, prefix: &str, mut options: ListOptions) -> Result<Page, Error> {
        let prefix = Names::rename(prefix, &self.names.here, &self.names.there)?;
        if let Some(after) = &options.after {
            options.after = Some(self.names.inward(after)?);
        }
        let page = self.inner.list(&prefix, options).await;
        let mut page = page.map_err(|error| self.names.error(error))?;
        let entries = page.entries.into_iter();
        page.entries = entries
            .map(|entry| self.names.entry(entry))
            .collect::<Result<_, _>>()?;
        Ok(page)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        let operations = transaction.into_iter();
        let renamed: Result<Transaction, _> =
            operations.map(|one| self.names.operation(one)).collect();
        let outcome = self.inner.commit(renamed?).await;
        outcome.map_err(|error| self.names.error(error))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let prefix = Names::rename(prefix, &self.names.here, &self.names.there)?;
        let names = self.names.clone();
        let events = self.inner.watch(&prefix, from).await?;
        Ok(Box::pin(events.map(move |event| match event {
            Ok(event) => names.event(event),
            Err(error) => Err(names.error(error)),
        })))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }

    async fn history(&self, key: &Key) -> Result<Vec<Version>, Error> {
        let versions = self.inner.history(&self.names.inward(key)?).await;
        versions.map_err(|error| self.names.error(error))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        self.inner.current_revision().await
    }

    async fn health(&self) -> Result<(), Error> {
        self.inner.health().await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn is_stale(&self, key: &Key) -> Result<bool, Error> {
        let stale = self.inner.is_stale(&self.names.inward(key)?).await;
        stale.map_err(|error| self.names.error(error))
    }

    async fn checks(&self) -> Vec<(String, Result<(), String>)> {
        self.inner.checks().await
    }
}
