//! A store over another one that keeps chosen values encrypted, in the bytes that kube-apiserver writes.
//!
//! ```text
//!   commit ──▶ the first provider of the key's resource seals ──▶ inner store
//!   get, list, watch, history ◀── whichever provider's prefix is there opens ◀── inner store
//! ```
//!
//! Keys, revisions and everything else of the contract are the inner store's. A value that was stored before it was
//! to be encrypted is still read. One that nobody can open ends what would have answered it with
//! [`Error::Unreadable`]: a list never leaves out what it cannot read, because somebody would take it for deleted.
//!
//! No key is ever logged, shown by `Debug`, or part of an error.
//!
//! Reading order: this file, [`transformer`] (which provider), [`cipher`] and [`secretbox`] (what it does), [`kms`]
//! (keys that a plugin holds), [`metrics`].

mod cipher;
pub mod kms;
pub mod metrics;
mod secretbox;
mod transformer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

pub use self::metrics::EncryptionMetrics;
pub use self::transformer::Transformers;
use crate::{
    Entry, Error, Key, ListOptions, Operation, Page, Revision, Storage, Transaction, Version,
    WatchEvent, WatchStream, validate,
};

/// How long transformers that were replaced go on for those who use them already, beside the time of their plugins.
const REPLACED_LIFE_MIN: Duration = Duration::from_secs(10);

/// What servers of one store must be able to read.
const AGREEMENT_WORD: &[u8] = b"{}";
/// How often another server that starts at the same time may come first.
const AGREEMENT_ATTEMPTS_MAX: usize = 8;

/// A key with the name that stored values carry.
#[derive(Clone)]
pub struct NamedKey {
    /// The name.
    pub name: String,
    /// The key.
    pub secret: Vec<u8>,
}

impl fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A plugin that holds keys, spoken to as version 2 of Kubernetes' KMS API says.
#[derive(Debug, Clone)]
pub struct KmsConfig {
    /// The name that stored values carry.
    pub name: String,
    /// Where it listens: `unix:///run/kms.sock`.
    pub endpoint: String,
    /// How long it may take to answer.
    pub timeout: Duration,
}

/// One way to keep values.
#[derive(Debug, Clone)]
pub enum Provider {
    /// As they are.
    Identity,
    /// AES-GCM.
    AesGcm(Vec<NamedKey>),
    /// AES-CBC.
    AesCbc(Vec<NamedKey>),
    /// XSalsa20 and Poly1305.
    Secretbox(Vec<NamedKey>),
    /// Keys that a plugin has encrypted.
    Kms(KmsConfig),
}

/// Resources, and the providers of their values: the first writes, all read.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `secrets`, `deployments.apps`, `*.` (the core group), `*.apps`, `*.*`.
    pub resources: Vec<String>,
    /// In the order in which they are tried.
    pub providers: Vec<Provider>,
}

/// Tells the resource of a key of the store, as `secrets` or `deployments.apps`; `None` for what is no resource.
pub type ResourceOf = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Why a value was not sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) text: String,
    /// The code of the plugin's answer, if it was the plugin.
    pub(crate) code: Option<&'static str>,
}

impl Failure {
    fn of(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: None,
        }
    }
}

/// A store whose values are encrypted in another one.
pub struct EncryptedStore {
    inner: Arc<dyn Storage>,
    reader: Reader,
}

/// What opens values; streams keep one.
#[derive(Clone)]
struct Reader {
    transformers: Arc<ArcSwap<Transformers>>,
    resource_of: Arc<ResourceOf>,
}

impl EncryptedStore {
    /// A store over `inner`.
    pub fn new(
        inner: Arc<dyn Storage>,
        transformers: Transformers,
        resource_of: Arc<ResourceOf>,
    ) -> Arc<Self> {
        let transformers = Arc::new(ArcSwap::from_pointee(transformers));
        Arc::new(Self {
            inner,
            reader: Reader {
                transformers,
                resource_of,
            },
        })
    }

    /// Goes on with other transformers. What is under way ends with those that it began with.
    pub fn replace(&self, transformers: Transformers) {
        let old = self.reader.transformers.swap(Arc::new(transformers));
        let life = REPLACED_LIFE_MIN + 2 * old.timeouts();
        tokio::spawn(async move {
            tokio::time::sleep(life).await;
            drop(old);
        });
    }

    /// Makes sure that whoever wrote to this store with keys for a resource had some of these. Who comes first leaves a
    /// sealed word at `key`; the others must open it, and seal it with their first key.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when the keys are others.
    pub async fn agree_on_keys(&self, resource: &str, key: Key) -> Result<(), Error> {
        let transformers = self.reader.transformers.load_full();
        for _ in 0..AGREEMENT_ATTEMPTS_MAX {
            let there = self.inner.get(&key).await?;
            let expected = there.as_ref().map(|entry| entry.revision);
            if let Some(entry) = there {
                let opened = transformers.open(Some(resource), &key, entry.value).await;
                match opened {
                    Ok((_, false)) => return Ok(()),
                    Ok((_, true)) => {}
                    Err(failure) => return Err(unreadable(key, entry.revision, failure)),
                }
            }
            let word = Bytes::from_static(AGREEMENT_WORD);
            let value = transformers.seal(Some(resource), &key, word).await;
            let value = value.map_err(|failure| Error::Sealing(failure.text))?;
            let key = key.clone();
            let operation = match expected {
                None => Operation::Create { key, value },
                Some(expected) => Operation::Update {
                    key,
                    value,
                    expected,
                },
            };
            match self.inner.commit(vec![operation]).await {
                Ok(_) => return Ok(()),
                // Another server starts beside this one.
                Err(Error::Exists { .. } | Error::Conflict { .. } | Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unavailable(
            "other servers change the agreement on keys".to_owned(),
        ))
    }

    async fn seal(&self, key: &Key, value: Bytes) -> Result<Bytes, Error> {
        let transformers = self.reader.transformers.load_full();
        let resource = (self.reader.resource_of)(key.as_str());
        let sealed = transformers.seal(resource.as_deref(), key, value).await;
        sealed.map_err(|failure| Error::Sealing(failure.text))
    }
}

impl Reader {
    async fn open(&self, key: &Key, value: Bytes) -> Result<(Bytes, bool), Failure> {
        let transformers = self.transformers.load_full();
        let resource = (self.resource_of)(key.as_str());
        transformers.open(resource.as_deref(), key, value).await
    }

    async fn entry(&self, entry: Entry) -> Result<Entry, Error> {
        let Entry {
            key,
            value,
            revision,
        } = entry;
        match self.open(&key, value).await {
            Ok((value, _)) => Ok(Entry {
                key,
                value,
                revision,
            }),
            Err(failure) => Err(unreadable(key, revision, failure)),
        }
    }

    async fn event(&self, event: WatchEvent) -> Result<WatchEvent, Error> {
        Ok(match event {
            WatchEvent::Put { entry, previous } => WatchEvent::Put {
                entry: self.entry(entry).await?,
                previous: match previous {
                    Some(previous) => Some(self.entry(previous).await?),
                    None => None,
                },
            },
            WatchEvent::Delete {
                key,
                revision,
                previous,
            } => WatchEvent::Delete {
                key,
                revision,
                previous: self.entry(previous).await?,
            },
            WatchEvent::Progress(revision) => WatchEvent::Progress(revision),
        })
    }
}

fn unreadable(key: Key, revision: Revision, failure: Failure) -> Error {
    Error::Unreadable {
        key,
        revision,
        why: format!(
            "data from the storage is not transformable revision=0: {}",
            failure.text
        ),
    }
}

#[async_trait]
impl Storage for EncryptedStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        match self.inner.get(key).await? {
            Some(entry) => Ok(Some(self.reader.entry(entry).await?)),
            None => Ok(None),
        }
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error> {
        let mut page = self.inner.list(prefix, options).await?;
        for entry in &mut page.entries {
            *entry = self.reader.entry(entry.clone()).await?;
        }
        Ok(page)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        // The bounds are about what the caller stores; the inner store has room for what is added to it.
        validate::transaction(&transaction)?;
        let mut sealed = Vec::with_capacity(transaction.len());
        for operation in transaction {
            sealed.push(match operation {
                Operation::Create { key, value } => Operation::Create {
                    value: self.seal(&key, value).await?,
                    key,
                },
                Operation::Update {
                    key,
                    value,
                    expected,
                } => Operation::Update {
                    value: self.seal(&key, value).await?,
                    key,
                    expected,
                },
                other => other,
            });
        }
        self.inner.commit(sealed).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let events = self.inner.watch(prefix, from).await?;
        let state = Some((events, self.reader.clone()));
        let opened = futures::stream::unfold(state, |state| async move {
            let (mut events, reader) = state?;
            let event = match events.next().await? {
                Ok(event) => reader.event(event).await,
                Err(error) => Err(error),
            };
            // After an error the stream ends, whosever it was.
            let rest = event.is_ok().then_some((events, reader));
            Some((event, rest))
        });
        Ok(Box::pin(opened))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }

    async fn history(&self, key: &Key) -> Result<Vec<Version>, Error> {
        let mut versions = self.inner.history(key).await?;
        for version in &mut versions {
            if let Some(value) = version.value.take() {
                let opened = self.reader.open(key, value).await;
                let (value, _) =
                    opened.map_err(|failure| unreadable(key.clone(), version.revision, failure))?;
                version.value = Some(value);
            }
        }
        Ok(versions)
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
        let resource = (self.reader.resource_of)(key.as_str());
        if !self.reader.transformers.load().covers(resource.as_deref()) {
            return self.inner.is_stale(key).await;
        }
        let Some(entry) = self.inner.get(key).await? else {
            return Ok(false);
        };
        match self.reader.open(key, entry.value).await {
            Ok((_, stale)) => Ok(stale || self.inner.is_stale(key).await?),
            Err(failure) => Err(unreadable(entry.key, entry.revision, failure)),
        }
    }

    async fn checks(&self) -> Vec<(String, Result<(), String>)> {
        let mut checks = self.inner.checks().await;
        let transformers = self.reader.transformers.load_full();
        checks.extend(transformers.checks().await);
        checks
    }
}
