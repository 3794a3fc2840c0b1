//! A transaction as one etcd `Txn`, and the contract's error for one that did not hold.

use etcd_client::{
    Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::time::timeout;

use super::error::{plain, to_revision};
use super::lease::Leases;
use super::{Etcd, REQUEST_TIMEOUT};
use crate::{Error, Operation, Revision, validate};

/// Applies a transaction.
pub(super) async fn commit(
    etcd: &Etcd,
    leases: &Leases,
    transaction: &[Operation],
) -> Result<Revision, Error> {
    validate::transaction(transaction)?;
    let lease = leases.of(etcd, transaction).await?;
    let options = |operation: &Operation| {
        let lease = lease.filter(|_| leases.is_for(operation));
        lease.map(|lease| PutOptions::new().with_lease(lease))
    };
    let write = |operation: &Operation| write(operation, options(operation));
    let txn = Txn::new()
        .when(transaction.iter().map(compare).collect::<Vec<_>>())
        .and_then(transaction.iter().filter_map(write).collect::<Vec<_>>())
        .or_else(transaction.iter().map(look).collect::<Vec<_>>());
    let response = timeout(REQUEST_TIMEOUT, etcd.kv_client().txn(txn))
        .await
        .map_err(|_| Error::Unavailable("etcd did not answer in time".to_owned()))?
        .map_err(|error| {
            // An etcd that was set back to an earlier state does not know it.
            leases.forget();
            plain(&error)
        })?;
    if !response.succeeded() {
        return Err(first_failure(transaction, &response));
    }
    let revision = response.header().map_or(0, |header| header.revision());
    Ok(to_revision(revision))
}

/// etcd's `mod_revision` of an absent key is 0.
fn compare(operation: &Operation) -> Compare {
    let expected = match operation {
        Operation::Create { .. } => 0,
        // 0 would mean "absent" to etcd; no key can be at it, nor at what is beyond etcd's numbers.
        Operation::Update { expected, .. } | Operation::Delete { expected, .. } => {
            match expected.0 {
                0 => i64::MAX,
                revision => number(revision),
            }
        }
        Operation::Check { expected, .. } => number(expected.0),
    };
    Compare::mod_revision(operation.key().as_str(), CompareOp::Equal, expected)
}

fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn write(operation: &Operation, options: Option<PutOptions>) -> Option<TxnOp> {
    match operation {
        Operation::Create { key, value } | Operation::Update { key, value, .. } => {
            Some(TxnOp::put(key.as_str(), value.to_vec(), options))
        }
        Operation::Delete { key, .. } => Some(TxnOp::delete(key.as_str(), None)),
        Operation::Check { .. } => None,
    }
}

/// What is read, in the same etcd transaction, when the comparison failed.
fn look(operation: &Operation) -> TxnOp {
    let options = GetOptions::new().with_keys_only();
    TxnOp::get(operation.key().as_str(), Some(options))
}

fn first_failure(transaction: &[Operation], response: &TxnResponse) -> Error {
    transaction
        .iter()
        .zip(response.op_responses())
        .find_map(|(operation, found)| {
            let TxnOpResponse::Get(found) = found else {
                return None;
            };
            let current = found.kvs().first().map(|kv| to_revision(kv.mod_revision()));
            validate::precondition(operation, current).err()
        })
        .unwrap_or_else(|| {
            Error::Unavailable("etcd refused a transaction whose conditions hold".to_owned())
        })
}
