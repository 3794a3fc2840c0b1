//! The etcd store: the contract on an etcd cluster, with keys and values exactly as they are.
//!
//! Several servers may share a cluster. What etcd does not offer is made of what it does: an exact error for a failed
//! transaction from reads in its `else` branch, the bounds of history from a read at the revision in question, a
//! key's past from a replay.
//!
//! A watch reads from etcd only as fast as its consumer does, so nothing piles up here; one that falls behind the
//! window ends with [`Error::Compacted`].
//!
//! Reading order: this file, [`commit`], [`watch`], [`history`], [`window`], [`lease`],
//! [`presence`], [`import`],
//! [`error`].

mod commit;
mod error;
mod history;
pub mod import;
mod lease;
mod presence;
mod watch;
mod window;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    AlarmAction, AlarmType, Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity,
    KeyValue, KvClient, TlsOptions, WatchClient, WatchOptions,
};
use tokio::sync::watch as signal;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use self::lease::ShortLived;
pub use self::presence::PRESENCE_LIFE;
pub use self::window::COMPACT_KEY;

use self::error::{Meaning, meaning, plain, to_etcd, to_revision};
use self::lease::Leases;
use self::presence::Presence;
use crate::validate::prefix_end;
use crate::{
    Entry, Error, HISTORY_REVISIONS_MIN, HISTORY_WINDOW, Key, LIST_ENTRIES_MAX, ListOptions, Page,
    Revision, Storage, Transaction, Version, WatchStream,
};

/// Largest message taken from etcd. A page that exceeds it is asked for again in smaller pieces.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Longest wait for an answer to a single request, and for a connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Keep-alive pings find a dead connection under watches that are silent.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for etcd's word on whether a revision has been compacted.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach the cluster over TLS, as PEM texts.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates.
    pub ca_certificate: Option<Vec<u8>>,
    /// Our certificate and its key.
    pub client_identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the members' certificates must have, if not the endpoint's.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The identity holds a private key.
        f.debug_struct("EtcdTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// Which cluster, and how much history to keep in it.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// URLs such as `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// TLS, if the endpoints are `https`.
    pub tls: Option<EtcdTls>,
    /// Age up to which history is kept.
    pub history_window: Duration,
    /// Least number of revisions that are kept, whatever their age.
    pub history_revisions_min: u64,
    /// Whether what is older is removed, unless another server does that. Otherwise history is left alone.
    pub compacts: bool,
    /// Keys that go by themselves.
    pub short_lived: Option<ShortLived>,
}

impl EtcdConfig {
    /// The defaults, for these endpoints.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            tls: None,
            history_window: HISTORY_WINDOW,
            history_revisions_min: HISTORY_REVISIONS_MIN,
            compacts: true,
            short_lived: None,
        }
    }
}

/// A store in an etcd cluster.
#[derive(Debug)]
pub struct EtcdStore {
    etcd: Etcd,
    leases: Leases,
    /// Each change asks every watch for its progress.
    progress: signal::Sender<u64>,
    window: Option<JoinHandle<()>>,
    /// What tells others that a server uses this store. Guarded for a change of it only.
    presence: Mutex<Option<Presence>>,
}

/// A handle on the cluster; cheap to clone.
#[derive(Clone)]
struct Etcd {
    client: Client,
    /// Whether the server answers requests for progress in order with events.
    orders_progress: bool,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects to the cluster and starts keeping its history to the window.
    ///
    /// # Errors
    /// [`Error::Open`] for a bad configuration, [`Error::Unavailable`] when no endpoint answers.
    pub async fn connect(config: EtcdConfig) -> Result<Arc<Self>, Error> {
        let EtcdConfig {
            endpoints,
            tls,
            history_window,
            history_revisions_min,
            compacts,
            short_lived,
        } = config;
        let options = connect_options(tls);
        let client = Client::connect(&endpoints, Some(options))
            .await
            .map_err(|error| Error::Open(format!("etcd at {}: {error}", endpoints.join(", "))))?;
        let status = client
            .maintenance_client()
            .status()
            .await
            .map_err(|error| plain(&error))?;
        let ordered = orders_progress(status.version());
        if !ordered {
            tracing::warn!(
                version = status.version(),
                "this etcd may report a watch's progress too early; consistent reads wait longer. \
                 Versions 3.4.25 and 3.5.8 mend it"
            );
        }
        let etcd = Etcd {
            client,
            orders_progress: ordered,
        };
        let window = || window::run(etcd.clone(), history_window, history_revisions_min);
        Ok(Arc::new(Self {
            window: compacts.then(|| tokio::spawn(window())),
            etcd,
            leases: Leases::new(short_lived),
            progress: signal::Sender::new(0),
            presence: Mutex::new(None),
        }))
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        if let Some(window) = &self.window {
            window.abort();
        }
    }
}

fn connect_options(tls: Option<EtcdTls>) -> ConnectOptions {
    let options = ConnectOptions::new()
        .with_connect_timeout(REQUEST_TIMEOUT)
        .with_keep_alive(KEEP_ALIVE_EVERY, KEEP_ALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true);
    let Some(EtcdTls {
        ca_certificate,
        client_identity,
        server_name,
    }) = tls
    else {
        return options;
    };
    let mut tls = TlsOptions::new();
    if let Some(pem) = ca_certificate {
        tls = tls.ca_certificate(Certificate::from_pem(pem));
    }
    if let Some((certificate, key)) = client_identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = server_name {
        tls = tls.domain_name(name);
    }
    options.with_tls(tls)
}

/// 3.4 from 3.4.25, 3.5 from 3.5.8, and everything newer.
fn orders_progress(version: &str) -> bool {
    let mut numbers = version
        .split(['.', '-', '+'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 25,
        (3, 5, patch) => patch >= 8,
        (major, minor, _) => (major, minor) > (3, 5),
    }
}

impl Etcd {
    fn kv_client(&self) -> KvClient {
        self.client
            .kv_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn watch_client(&self) -> WatchClient {
        self.client
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn read(
        &self,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
    ) -> Result<GetResponse, ReadFailure> {
        match timeout(REQUEST_TIMEOUT, self.kv_client().get(key, Some(options))).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(ReadFailure::Etcd(error)),
            Err(_) => Err(ReadFailure::TimedOut),
        }
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        let options = GetOptions::new().with_count_only();
        let response = self
            .read("\0", options)
            .await
            .map_err(ReadFailure::into_error)?;
        let revision = response.header().map_or(0, |header| header.revision());
        Ok(to_revision(revision))
    }

    /// Refuses revisions outside what is kept.
    async fn check_revision(&self, asked: Revision) -> Result<(), Error> {
        let options = GetOptions::new()
            .with_count_only()
            .with_revision(to_etcd(asked));
        match self.read("\0", options).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.about_revision(failure, asked).await),
        }
    }

    /// Fills in the revisions that belong into an error about one.
    async fn about_revision(&self, failure: ReadFailure, asked: Revision) -> Error {
        let ReadFailure::Etcd(error) = &failure else {
            return failure.into_error();
        };
        let error = match meaning(error) {
            Meaning::Compacted => self
                .oldest_revision()
                .await
                .map(|oldest| Error::Compacted { asked, oldest }),
            Meaning::Future => self
                .current_revision()
                .await
                .map(|current| Error::Future { asked, current }),
            _ => Err(plain(error)),
        };
        error.unwrap_or_else(|error| error)
    }

    /// The revision of the last compaction, or 0. etcd tells it only to a watch that starts before it.
    async fn oldest_revision(&self) -> Result<Revision, Error> {
        let options = GetOptions::new().with_count_only().with_revision(1);
        match self.read("\0", options).await {
            Ok(_) => return Ok(Revision(0)),
            Err(ReadFailure::Etcd(error)) if matches!(meaning(&error), Meaning::Compacted) => {}
            Err(failure) => return Err(failure.into_error()),
        }
        let options = WatchOptions::new().with_start_revision(1);
        let mut stream = self
            .watch_client()
            .watch("\0", Some(options))
            .await
            .map_err(|error| plain(&error))?;
        let silent = || Error::Unavailable("etcd did not tell its oldest revision".to_owned());
        loop {
            let response = timeout(PROBE_TIMEOUT, stream.message())
                .await
                .map_err(|_| silent())?
                .map_err(|error| plain(&error))?
                .ok_or_else(silent)?;
            if response.compact_revision() > 0 {
                return Ok(to_revision(response.compact_revision()));
            }
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        if revision.0 == 0 {
            return Ok(());
        }
        let outcome = self
            .client
            .kv_client()
            .compact(to_etcd(revision), None)
            .await;
        match outcome {
            Ok(_) => Ok(()),
            Err(error) if matches!(meaning(&error), Meaning::Compacted) => Ok(()),
            Err(error) => Err(self
                .about_revision(ReadFailure::Etcd(error), revision)
                .await),
        }
    }
}

/// Why a read did not come back.
enum ReadFailure {
    Etcd(etcd_client::Error),
    TimedOut,
}

impl ReadFailure {
    fn into_error(self) -> Error {
        match self {
            Self::Etcd(error) => plain(&error),
            Self::TimedOut => Error::Unavailable("etcd did not answer in time".to_owned()),
        }
    }
}

/// The first key of a prefix in etcd's terms, where an empty key is not allowed.
fn range_start(prefix: &str) -> Vec<u8> {
    match prefix {
        "" => vec![0],
        prefix => prefix.as_bytes().to_vec(),
    }
}

/// The end of a prefix in etcd's terms: a single NUL means "no end".
fn range_end(prefix: &str) -> Vec<u8> {
    prefix_end(prefix).unwrap_or_else(|| vec![0])
}

fn key_of(kv: &KeyValue) -> Result<Key, Error> {
    kv.key_str()
        .map(Key::from)
        .map_err(|_| Error::Unavailable("etcd holds a key that is not UTF-8".to_owned()))
}

fn value_of(kv: &KeyValue) -> Bytes {
    Bytes::copy_from_slice(kv.value())
}

fn entry_of(kv: &KeyValue) -> Result<Entry, Error> {
    Ok(Entry {
        key: key_of(kv)?,
        value: value_of(kv),
        revision: to_revision(kv.mod_revision()),
    })
}

/// Where a page starts: at the prefix, or right behind the last key of the page before.
fn page_start(prefix: &str, after: Option<&Key>) -> Vec<u8> {
    let start = range_start(prefix);
    let Some(after) = after else { return start };
    let mut behind = after.as_str().as_bytes().to_vec();
    behind.push(0);
    start.max(behind)
}

#[async_trait]
impl Storage for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let response = self
            .etcd
            .read(key.as_str(), GetOptions::new())
            .await
            .map_err(ReadFailure::into_error)?;
        response.kvs().first().map(entry_of).transpose()
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error> {
        let start = page_start(prefix, options.after.as_ref());
        let end = range_end(prefix);
        let mut limit = match options.limit {
            0 => LIST_ENTRIES_MAX,
            limit => limit.min(LIST_ENTRIES_MAX),
        };
        // An empty range is an error to etcd, and still has to say at which revision it is empty.
        let empty = end != [0] && start >= end;
        loop {
            let mut request = GetOptions::new().with_limit(limit as i64);
            request = match empty {
                true => request.with_count_only(),
                false => request.with_range(end.clone()),
            };
            if let Some(revision) = options.revision {
                request = request.with_revision(to_etcd(revision));
            }
            let key = if empty { vec![0] } else { start.clone() };
            let response = match self.etcd.read(key, request).await {
                Ok(response) => response,
                Err(ReadFailure::Etcd(error))
                    if limit > 1 && matches!(meaning(&error), Meaning::ResponseTooLarge) =>
                {
                    limit /= 2;
                    continue;
                }
                Err(failure) => {
                    let asked = options.revision.unwrap_or_default();
                    return Err(self.etcd.about_revision(failure, asked).await);
                }
            };
            let newest = to_revision(response.header().map_or(0, |header| header.revision()));
            return Ok(Page {
                entries: response
                    .kvs()
                    .iter()
                    .map(entry_of)
                    .collect::<Result<_, _>>()?,
                revision: options.revision.unwrap_or(newest),
                more: response.more(),
            });
        }
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        commit::commit(&self.etcd, &self.leases, &transaction).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        watch::open(self.etcd.clone(), self.progress.subscribe(), prefix, from).await
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.progress
            .send_modify(|requests| *requests = requests.wrapping_add(1));
        Ok(())
    }

    async fn history(&self, key: &Key) -> Result<Vec<Version>, Error> {
        history::history(&self.etcd, key).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.etcd.compact(revision).await
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        self.etcd.current_revision().await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn health(&self) -> Result<(), Error> {
        self.etcd.current_revision().await?;
        let alarms = self
            .etcd
            .client
            .maintenance_client()
            .alarm(AlarmAction::Get, AlarmType::None, None)
            .await
            .map_err(|error| plain(&error))?;
        for alarm in alarms.alarms() {
            match alarm.alarm() {
                AlarmType::None => {}
                AlarmType::Nospace => {
                    return Err(Error::NoSpace("etcd's quota is used up".to_owned()));
                }
                AlarmType::Corrupt => {
                    return Err(Error::Unavailable("an etcd member is corrupt".to_owned()));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_with_the_mended_progress_are_trusted() {
        for (version, trusted) in [
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.5.21+git", true),
            ("3.6.0-rc.1", true),
            ("3.3.27", false),
        ] {
            assert_eq!(orders_progress(version), trusted, "{version}");
        }
    }
}
