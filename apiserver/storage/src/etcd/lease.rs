//! Keys that live for a time: etcd removes them with their lease, whether or not a server runs by then.
//!
//! A lease costs etcd more than a key, so that keys of about the same end share one, as in kube-apiserver.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::error::plain;
use super::{Etcd, REQUEST_TIMEOUT};
use crate::{Error, Operation};

/// How much longer than it must a key may live, so that others can share its lease: at most so long, and so many hundredths
/// of its life.
const REUSE_MAX: Duration = Duration::from_secs(60);
const REUSE_HUNDREDTHS: u32 = 5;
/// Most keys of a lease: etcd removes all of them at once.
const KEYS_MAX: usize = 1000;

/// Keys that live for a time after they were written last.
#[derive(Debug, Clone)]
pub struct ShortLived {
    /// What they begin with.
    pub prefix: String,
    /// How long.
    pub life: Duration,
}

/// The lease that is given out.
#[derive(Debug)]
struct Held {
    id: i64,
    ends: Instant,
    n_keys: usize,
}

/// Leases of short-lived keys.
#[derive(Debug)]
pub(super) struct Leases {
    short_lived: Option<ShortLived>,
    /// Guards nothing else; not held while etcd is asked, so that some may ask for one at the same time.
    held: Mutex<Option<Held>>,
}

impl Leases {
    pub(super) fn new(short_lived: Option<ShortLived>) -> Self {
        Self {
            short_lived,
            held: Mutex::new(None),
        }
    }

    /// The lease for what a transaction writes of short-lived keys; none if it writes none.
    pub(super) async fn of(
        &self,
        etcd: &Etcd,
        transaction: &[Operation],
    ) -> Result<Option<i64>, Error> {
        let writes = transaction.iter().filter(|op| self.is_for(op));
        let (Some(short_lived), n_keys @ 1..) = (&self.short_lived, writes.count()) else {
            return Ok(None);
        };
        let reuse = (short_lived.life / 100 * REUSE_HUNDREDTHS).min(REUSE_MAX);
        let now = Instant::now();
        if let Some(id) = self.reused(now + short_lived.life, n_keys) {
            return Ok(Some(id));
        }
        let life = short_lived.life + reuse;
        let seconds = life.as_secs().max(1).cast_signed();
        let mut leases = etcd.client.lease_client();
        let granted = timeout(REQUEST_TIMEOUT, leases.grant(seconds, None)).await;
        let granted =
            granted.map_err(|_| Error::Unavailable("etcd did not answer in time".to_owned()))?;
        let id = granted.map_err(|error| plain(&error))?.id();
        let ends = now + life;
        *self.lock() = Some(Held { id, ends, n_keys });
        Ok(Some(id))
    }

    /// Whether an operation writes a short-lived key.
    pub(super) fn is_for(&self, operation: &Operation) -> bool {
        let is_write = matches!(
            operation,
            Operation::Create { .. } | Operation::Update { .. }
        );
        let begins = |of: &ShortLived| operation.key().as_str().starts_with(&of.prefix);
        is_write && self.short_lived.as_ref().is_some_and(begins)
    }

    /// Gives up a lease that may be gone.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    /// The lease that is held, if it lasts until then and has room.
    fn reused(&self, ends_min: Instant, n_keys: usize) -> Option<i64> {
        let mut held = self.lock();
        let held = held.as_mut()?;
        held.n_keys += n_keys;
        (held.ends > ends_min && held.n_keys <= KEYS_MAX).then_some(held.id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
