//! What every backend refuses alike: bounds, before it looks at anything stored, and preconditions that do not hold.

use std::collections::HashSet;

use crate::{
    Error, KEY_BYTES_MAX, Key, Operation, Revision, TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX, VALUE_BYTES_MAX, VALUE_OVERHEAD_BYTES_MAX,
};

/// How every value begins that a layer above the store has encrypted, as in Kubernetes. Such a value was within the
/// bounds before.
pub(crate) const ENCRYPTED_PREFIX: &[u8] = b"k8s:enc:";

/// Checks the shape of a transaction and returns how many bytes its keys and values have.
pub(crate) fn transaction(operations: &[Operation]) -> Result<usize, Error> {
    at_most(
        "number of operations in a transaction",
        operations.len(),
        TRANSACTION_OPERATIONS_MAX,
    )?;
    let mut bytes = 0;
    let mut allowance = 0;
    let mut seen = HashSet::with_capacity(operations.len());
    for operation in operations {
        let key = operation.key();
        check_key(key)?;
        if !seen.insert(key.as_str()) {
            return Err(Error::Invalid(format!("key {key} appears twice")));
        }
        bytes += key.as_str().len();
        if let Operation::Create { value, .. } | Operation::Update { value, .. } = operation {
            let encrypted = value.starts_with(ENCRYPTED_PREFIX);
            let overhead = if encrypted {
                VALUE_OVERHEAD_BYTES_MAX
            } else {
                0
            };
            allowance = allowance.max(overhead);
            let max = VALUE_BYTES_MAX + overhead;
            at_most("value size in bytes", value.len(), max)?;
            bytes += value.len();
        }
    }
    let max = TRANSACTION_BYTES_MAX + allowance;
    at_most("transaction size in bytes", bytes, max)?;
    Ok(bytes)
}

/// Whether the transaction changes nothing.
pub(crate) fn only_checks(operations: &[Operation]) -> bool {
    operations
        .iter()
        .all(|operation| matches!(operation, Operation::Check { .. }))
}

/// Whether the operation may happen to a key that is at `current`.
pub(crate) fn precondition(operation: &Operation, current: Option<Revision>) -> Result<(), Error> {
    let key = operation.key();
    let expected = match operation {
        Operation::Create { .. } => Revision(0),
        Operation::Update { expected, .. }
        | Operation::Delete { expected, .. }
        | Operation::Check { expected, .. } => *expected,
    };
    let absent_wanted = match operation {
        Operation::Create { .. } => true,
        Operation::Check { expected, .. } => expected.0 == 0,
        Operation::Update { .. } | Operation::Delete { .. } => false,
    };
    match current {
        None if absent_wanted => Ok(()),
        None => Err(Error::NotFound { key: key.clone() }),
        Some(current) if absent_wanted => Err(Error::Exists {
            key: key.clone(),
            current,
        }),
        Some(current) if current == expected => Ok(()),
        Some(current) => Err(Error::Conflict {
            key: key.clone(),
            expected,
            current,
        }),
    }
}

fn check_key(key: &Key) -> Result<(), Error> {
    let text = key.as_str();
    at_most("key size in bytes", text.len(), KEY_BYTES_MAX)?;
    if text.is_empty() {
        return Err(Error::Invalid("a key is empty".to_owned()));
    }
    if text.contains('\0') {
        // The embedded store ends keys with NUL in its version index.
        return Err(Error::Invalid(format!("key {text:?} contains a NUL")));
    }
    Ok(())
}

fn at_most(what: &'static str, size: usize, max: usize) -> Result<(), Error> {
    if size > max {
        return Err(Error::TooLarge { what, size, max });
    }
    Ok(())
}

/// The smallest text bound above every key that starts with `prefix`; `None` when there is none.
pub(crate) fn prefix_end(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return Some(end);
        }
        end.pop();
    }
    None
}
