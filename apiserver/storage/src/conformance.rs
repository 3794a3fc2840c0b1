//! The contract's own tests: every backend, and what stands above one, passes them.
//!
//! Each rule is one function that takes a fresh store. [`storage_conformance!`](crate::storage_conformance) makes one
//! `#[tokio::test]` of each:
//!
//! ```text
//!   corral_storage::storage_conformance!(make);   // async fn make() -> (Arc<dyn Storage>, impl Any)
//! ```
//!
//! The second value is dropped after the rule: a directory, a server process. Rules panic when they are broken.

pub mod reads;
pub mod watches;
pub mod writes;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use crate::{Entry, Error, Key, Operation, Revision, Storage, WatchEvent, WatchStream};

/// Longest wait for an event that must come.
const EVENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes a test of every rule.
#[macro_export]
macro_rules! storage_conformance {
    ($make:path) => {
        $crate::storage_conformance!(@rules $make, writes,
            a_created_key_is_there,
            a_key_is_created_once,
            an_update_needs_the_current_revision,
            a_delete_needs_the_current_revision,
            a_deleted_key_can_be_created_again,
            a_transaction_has_one_revision,
            a_transaction_that_fails_leaves_nothing,
            the_first_failing_operation_is_named,
            checks_alone_write_nothing,
            a_check_guards_a_write,
            what_is_too_large_or_senseless_is_refused,
            revisions_increase_under_concurrent_writers,
            one_of_many_creators_wins
        );
        $crate::storage_conformance!(@rules $make, reads,
            a_list_is_ordered_and_keeps_to_its_prefix,
            pages_of_one_revision_are_one_list,
            a_list_at_an_old_revision_is_the_past,
            a_list_of_nothing_has_a_revision,
            the_future_cannot_be_read,
            compacted_history_cannot_be_read,
            current_values_survive_compaction,
            history_tells_versions_oldest_first,
            history_begins_where_compaction_left,
            a_healthy_store_says_so
        );
        $crate::storage_conformance!(@rules $make, watches,
            a_watch_begins_with_progress,
            a_watch_reports_writes_with_what_they_replaced,
            a_watch_keeps_to_its_prefix,
            a_watch_of_everything_sees_everything,
            a_watch_resumes_from_an_old_revision,
            a_watch_joins_the_present_without_gap_or_repetition,
            events_of_a_transaction_come_in_its_order,
            progress_can_be_asked_for,
            progress_comes_after_what_it_covers,
            a_watch_from_before_compaction_is_refused,
            a_watch_from_the_future_is_refused
        );
    };
    (@rules $make:path, $module:ident, $($rule:ident),*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $rule() {
                    let (store, _guard) = $make().await;
                    $crate::conformance::$module::$rule(store).await;
                }
            )*
        }
    };
}

/// A `Create` from texts.
pub fn create(key: &str, value: &str) -> Operation {
    Operation::Create {
        key: Key::from(key),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

/// An `Update` from texts.
pub fn update(key: &str, value: &str, expected: Revision) -> Operation {
    Operation::Update {
        key: Key::from(key),
        value: Bytes::copy_from_slice(value.as_bytes()),
        expected,
    }
}

/// A `Delete` from a text.
pub fn delete(key: &str, expected: Revision) -> Operation {
    Operation::Delete {
        key: Key::from(key),
        expected,
    }
}

/// A `Check` from a text.
pub fn check(key: &str, expected: Revision) -> Operation {
    Operation::Check {
        key: Key::from(key),
        expected,
    }
}

/// An entry from texts.
pub fn entry(key: &str, value: &str, revision: Revision) -> Entry {
    Entry {
        key: Key::from(key),
        value: Bytes::copy_from_slice(value.as_bytes()),
        revision,
    }
}

/// Commits what must succeed.
pub async fn commit(store: &dyn Storage, operations: Vec<Operation>) -> Revision {
    store
        .commit(operations)
        .await
        .expect("the transaction holds")
}

/// The next item of a watch, whatever it is.
///
/// # Panics
/// When none comes in time.
pub async fn next_item(watch: &mut WatchStream) -> Option<Result<WatchEvent, Error>> {
    tokio::time::timeout(EVENT_TIMEOUT, watch.next())
        .await
        .expect("an event comes in time")
}

/// The next event that is not a progress.
pub async fn next_event(watch: &mut WatchStream) -> WatchEvent {
    loop {
        match next_item(watch).await.expect("the watch goes on") {
            Ok(WatchEvent::Progress(_)) => {}
            Ok(event) => return event,
            Err(error) => panic!("the watch ended: {error}"),
        }
    }
}

/// Reads up to a progress at or above `revision`, and returns the events before it.
pub async fn events_until(watch: &mut WatchStream, revision: Revision) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    loop {
        match next_item(watch).await.expect("the watch goes on") {
            Ok(WatchEvent::Progress(reached)) if reached >= revision => return events,
            Ok(WatchEvent::Progress(_)) => {}
            Ok(event) => events.push(event),
            Err(error) => panic!("the watch ended: {error}"),
        }
    }
}

/// The revision of an event.
pub fn revision_of(event: &WatchEvent) -> Revision {
    match event {
        WatchEvent::Put { entry, .. } => entry.revision,
        WatchEvent::Delete { revision, .. } | WatchEvent::Progress(revision) => *revision,
    }
}
