//! The servers of one etcd tell that they live: each by a key that goes with its lease, soon after the server does.
//!
//! Whoever moves the store looks at them, and a store that somebody moves is not served.

use std::sync::PoisonError;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, LeaseKeepAliveStream, LeaseKeeper, PutOptions};
use etcd_client::{Txn, TxnOp};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};

use super::error::plain;
use super::import::{mark_below, unfinished};
use super::{Etcd, EtcdStore, REQUEST_TIMEOUT, ReadFailure};
use crate::{Error, Key};

/// How long after its end a server still counts as alive.
pub const PRESENCE_LIFE: Duration = Duration::from_secs(15);
/// How often it says that it lives: some of these may be lost.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// How long until the next attempt after one that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where the keys of servers are, below the prefix of all keys.
const OURS: &str = "/claims/servers/";
/// Where kube-apiserver keeps its own, which go with a lease likewise.
const KUBERNETES: &str = "/masterleases/";

/// Tells that a server lives, until it is dropped.
#[derive(Debug)]
pub(super) struct Presence(JoinHandle<()>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl EtcdStore {
    /// Tells others that this server uses the store, as long as it does.
    ///
    /// # Errors
    /// [`Error::Open`] when a migration into this etcd is under way, or was interrupted.
    pub async fn announce(&self, prefix: &str, name: &str) -> Result<(), Error> {
        let telling = Telling {
            etcd: self.etcd.clone(),
            prefix: prefix.to_owned(),
            name: name.to_owned(),
        };
        let lease = telling.begin().await?;
        let task = tokio::spawn(telling.go_on(lease));
        // One that was announced already is announced anew.
        let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        *presence = Some(Presence(task));
        Ok(())
    }

    /// What the servers say that use the store, or did until a moment ago: keys, below the prefix.
    ///
    /// # Errors
    /// When etcd cannot be read.
    pub async fn present(&self, prefix: &str) -> Result<Vec<Key>, Error> {
        let mut keys = Vec::new();
        for kind in [OURS, KUBERNETES] {
            let options = GetOptions::new().with_prefix().with_keys_only();
            let found = self.etcd.read(format!("{prefix}{kind}"), options).await;
            let found = found.map_err(ReadFailure::into_error)?;
            for kv in found.kvs() {
                keys.push(super::key_of(kv)?);
            }
        }
        Ok(keys)
    }
}

/// A server that tells that it lives.
struct Telling {
    etcd: Etcd,
    prefix: String,
    name: String,
}

/// A lease that is kept.
struct Lease {
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Telling {
    async fn begin(&self) -> Result<Lease, Error> {
        let granted = timeout(REQUEST_TIMEOUT, self.grant()).await;
        granted.map_err(|_| Error::Unavailable("etcd did not answer in time".to_owned()))?
    }

    async fn grant(&self) -> Result<Lease, Error> {
        let mut leases = self.etcd.client.lease_client();
        let life = PRESENCE_LIFE.as_secs().cast_signed();
        let granted = leases.grant(life, None).await;
        let id = granted.map_err(|error| plain(&error))?.id();
        let key = format!("{}{OURS}{id:016x}", self.prefix);
        let options = PutOptions::new().with_lease(id);
        let mark = Compare::create_revision(mark_below(&self.prefix), CompareOp::Equal, 0);
        let txn =
            Txn::new()
                .when([mark])
                .and_then([TxnOp::put(key, self.name.as_str(), Some(options))]);
        let answer = self.etcd.kv_client().txn(txn).await;
        if !answer.map_err(|error| plain(&error))?.succeeded() {
            return Err(unfinished());
        }
        let kept = leases.keep_alive(id).await;
        let (keeper, answers) = kept.map_err(|error| plain(&error))?;
        Ok(Lease { keeper, answers })
    }

    async fn go_on(self, mut lease: Lease) {
        loop {
            lease.keep().await;
            tracing::debug!("the lease of this server in etcd is lost");
            lease = loop {
                match self.begin().await {
                    Ok(lease) => break lease,
                    Err(error) => {
                        tracing::warn!(%error, "etcd was not told that this server lives; tried again");
                        sleep(RETRY_AFTER).await;
                    }
                }
            };
        }
    }
}

impl Lease {
    /// Until the lease is gone, or nobody answers.
    async fn keep(&mut self) {
        let mut ticks = interval(RENEW_EVERY);
        loop {
            ticks.tick().await;
            if self.keeper.keep_alive().await.is_err() {
                return;
            }
            let answer = timeout(REQUEST_TIMEOUT, self.answers.message()).await;
            match answer {
                Ok(Ok(Some(answer))) if answer.ttl() > 0 => {}
                _ => return,
            }
        }
    }
}
