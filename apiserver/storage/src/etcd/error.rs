//! What etcd's errors mean in the terms of the contract.

use etcd_client::Error as EtcdError;

use crate::{Error, Revision, TRANSACTION_BYTES_MAX};

/// What an etcd error says, before the revisions that the contract's errors carry are known.
#[derive(Debug)]
pub(super) enum Meaning {
    Compacted,
    Future,
    NoSpace,
    RequestTooLarge,
    /// The response is larger than what this client takes.
    ResponseTooLarge,
    Unavailable(String),
}

/// Reads an error. etcd tells most of them apart by text only.
pub(super) fn meaning(error: &EtcdError) -> Meaning {
    let EtcdError::GRpcStatus(status) = error else {
        return Meaning::Unavailable(error.to_string());
    };
    let text = status.message();
    if text.contains("required revision has been compacted") {
        Meaning::Compacted
    } else if text.contains("required revision is a future revision") {
        Meaning::Future
    } else if text.contains("database space exceeded") {
        Meaning::NoSpace
    } else if text.contains("request is too large") || text.contains("message larger than max") {
        Meaning::RequestTooLarge
    } else if text.contains("decoded message length too large") || text.contains("message length") {
        Meaning::ResponseTooLarge
    } else {
        Meaning::Unavailable(text.to_owned())
    }
}

/// The contract's error where revisions play no part.
pub(super) fn plain(error: &EtcdError) -> Error {
    match meaning(error) {
        Meaning::NoSpace => Error::NoSpace("etcd's quota is used up".to_owned()),
        Meaning::RequestTooLarge => Error::TooLarge {
            what: "transaction size in bytes, as etcd counts it",
            size: TRANSACTION_BYTES_MAX + 1,
            max: TRANSACTION_BYTES_MAX,
        },
        Meaning::Unavailable(text) => Error::Unavailable(text),
        Meaning::Compacted | Meaning::Future | Meaning::ResponseTooLarge => {
            Error::Unavailable(error.to_string())
        }
    }
}

/// etcd's revisions are positive signed numbers.
pub(super) fn to_revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// Our revision as etcd's parameter. There 0 means "newest"; 1 is the state of an empty store.
pub(super) fn to_etcd(revision: Revision) -> i64 {
    i64::try_from(revision.0.max(1)).unwrap_or(i64::MAX)
}
