//! Events live for an hour. In etcd they go with their leases besides; here go those of the embedded store, and those
//! that are without a lease.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use corral_storage::Operation;

/// How long an Event is kept after it was last seen, as kube-apiserver's default.
pub const EVENT_LIFE: Duration = Duration::from_secs(60 * 60);
/// How often old ones are looked for.
const PERIOD: Duration = Duration::from_secs(300);

/// Removes old Events until told to stop.
pub async fn run(api: std::sync::Arc<Api>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => sweep(&api, Timestamp::now()).await,
        }
    }
}

async fn sweep(api: &Api, now: Timestamp) {
    let snapshot = api.core("events").cacher.snapshot();
    for stored in snapshot.objects.values() {
        let Ok(event) = stored.value() else { continue };
        if last_seen(&event).is_none_or(|at| at + EVENT_LIFE > now) {
            continue;
        }
        let delete = Operation::Delete {
            key: stored.key.clone(),
            expected: stored.revision,
        };
        // One that was seen again meanwhile stays.
        let _ = api.storage.commit(vec![delete]).await;
    }
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    let paths = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ];
    paths
        .iter()
        .find_map(|path| event.pointer(path)?.as_str()?.parse().ok())
}
