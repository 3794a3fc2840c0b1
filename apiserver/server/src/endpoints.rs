//! Where pods reach the API: the addresses of all servers of a store, as long as they live.
//!
//! A server of a store that others may use renews a key that holds its address. Whoever sees one that is not renewed any
//! more removes it, and each makes the endpoints of the `kubernetes` Service of those that are left. Nobody's clock counts
//! but one's own: what matters is for how long a key has been seen to stay as it is.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corral_api::status::Status;
use corral_storage::{self as storage, Key, ListOptions, Operation, Revision};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::bootstrap;
use crate::cacher::storage_status;

const KEYS: &str = "/registry/claims/addresses/";
/// How often a server renews its own.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long one that is not renewed counts, as in Kubernetes.
const LIFE: Duration = Duration::from_secs(15);

/// The addresses of the servers of a store.
pub(crate) struct Endpoints {
    api: Arc<Api>,
    own: watch::Sender<Option<SocketAddr>>,
    /// The keys of servers, with the time since which they have been as they are. Held for one look at a time.
    seen: Mutex<Seen>,
}

type Seen = HashMap<Key, (Revision, Instant)>;

impl Endpoints {
    /// Of a server that does not say yet where it is.
    pub(crate) fn new(api: Arc<Api>) -> Arc<Self> {
        let own = watch::Sender::new(None);
        let seen = Mutex::default();
        Arc::new(Self { api, own, seen })
    }

    /// Tells pods that this server is reached here.
    ///
    /// # Errors
    /// When the store does not take it.
    pub(crate) async fn tell(&self, address: SocketAddr) -> Result<(), Status> {
        let before = self.own.send_replace(Some(address));
        if !self.api.storage.is_shared() {
            return bootstrap::publish(&self.api, &by_port([address])).await;
        }
        let before = before.filter(|before| *before != address);
        if let Some(key) = before.map(key_of) {
            self.remove(&key).await;
        }
        self.look().await
    }

    /// Keeps it so until told to stop, and takes the address back then.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.api.storage.is_shared() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
            if let Err(status) = self.look().await {
                tracing::warn!(error = %status.message, "endpoints of the API; tried again");
            }
        }
        if let Some(own) = self.own.send_replace(None) {
            self.remove(&key_of(own)).await;
            if let Err(status) = self.look().await {
                tracing::warn!(error = %status.message, "endpoints of the API are as they were");
            }
        }
    }

    /// Renews this server's key, and tells pods of the servers that live.
    async fn look(&self) -> Result<(), Status> {
        let mut seen = self.seen.lock().await;
        let own = *self.own.borrow();
        if let Some(own) = own {
            self.renew(key_of(own))
                .await
                .map_err(|error| storage_status(&error))?;
        }
        let page = self.api.storage.list(KEYS, ListOptions::default()).await;
        let page = page.map_err(|error| storage_status(&error))?;
        let now = Instant::now();
        seen.retain(|key, _| page.entries.iter().any(|entry| entry.key == *key));
        let mut living = Vec::new();
        for entry in page.entries {
            let before = seen.entry(entry.key.clone());
            let (revision, since) = before.or_insert((entry.revision, now));
            if *revision != entry.revision {
                (*revision, *since) = (entry.revision, now);
            }
            if now.duration_since(*since) < LIFE {
                living.extend(address_of(&entry.key));
                continue;
            }
            let remove = Operation::Delete {
                key: entry.key,
                expected: entry.revision,
            };
            // One that is renewed this very moment stays, and is found the next time.
            let _ = self.api.storage.commit(vec![remove]).await;
        }
        // Nobody is left to tell of, or to be told by.
        if living.is_empty() {
            return Ok(());
        }
        bootstrap::publish(&self.api, &by_port(living)).await
    }

    async fn renew(&self, key: Key) -> Result<(), storage::Error> {
        let value = Bytes::from_static(b"{}");
        let there = self.api.storage.get(&key).await?;
        let operation = match there.map(|entry| entry.revision) {
            Some(expected) => Operation::Update {
                key,
                value,
                expected,
            },
            None => Operation::Create { key, value },
        };
        match self.api.storage.commit(vec![operation]).await {
            // Somebody took it for dead this very moment; it is made again the next time.
            Err(storage::Error::NotFound { .. } | storage::Error::Exists { .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Without it others wait until it is old.
    async fn remove(&self, key: &Key) {
        if let Ok(Some(entry)) = self.api.storage.get(key).await {
            let remove = Operation::Delete {
                key: entry.key,
                expected: entry.revision,
            };
            let _ = self.api.storage.commit(vec![remove]).await;
        }
    }
}

fn key_of(address: SocketAddr) -> Key {
    Key::from(format!("{KEYS}{address}"))
}

fn address_of(key: &Key) -> Option<SocketAddr> {
    key.as_str().strip_prefix(KEYS)?.parse().ok()
}

/// Endpoints tell the port of many addresses at once.
fn by_port(addresses: impl IntoIterator<Item = SocketAddr>) -> BTreeMap<u16, Vec<String>> {
    let mut ports: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for address in addresses {
        let ips = ports.entry(address.port()).or_default();
        ips.push(address.ip().to_string());
    }
    for ips in ports.values_mut() {
        ips.sort();
        ips.dedup();
    }
    ports
}
