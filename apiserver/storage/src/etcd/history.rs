//! The past of one key in etcd, which has no request for it.

use std::time::Duration;

use etcd_client::{EventType, GetOptions, WatchOptions};
use tokio::time::timeout;

use super::error::{plain, to_etcd, to_revision};
use super::{Etcd, value_of};
use crate::{Error, Key, Revision, Version};

/// etcd brings a new watch up to date within about 100 ms, and then sends everything at once.
const CATCH_UP: Duration = Duration::from_millis(1_500);

/// Revisions that etcd puts into one answer of a watch that catches up; fewer mean that it has caught up.
const ANSWER_REVISIONS_MAX: usize = 1_000;

/// Versions of a key inside the window, oldest first: the one that was live at its beginning, and what a watch from
/// there on replays.
pub(super) async fn history(etcd: &Etcd, key: &Key) -> Result<Vec<Version>, Error> {
    let oldest = etcd.oldest_revision().await?;
    let current = etcd.current_revision().await?;
    let mut versions = live_at(etcd, key, oldest).await?;
    if let Some(newest) = live_at(etcd, key, current).await?.pop() {
        if versions.last() != Some(&newest) {
            versions.extend(replay(etcd, key, oldest, Some(newest.revision)).await?);
        }
    } else {
        versions.extend(replay(etcd, key, oldest, None).await?);
    }
    Ok(versions)
}

async fn live_at(etcd: &Etcd, key: &Key, at: Revision) -> Result<Vec<Version>, Error> {
    let options = GetOptions::new().with_revision(to_etcd(at));
    let response = etcd
        .kv_client()
        .get(key.as_str(), Some(options))
        .await
        .map_err(|error| plain(&error))?;
    Ok(response
        .kvs()
        .iter()
        .map(|kv| Version {
            revision: to_revision(kv.mod_revision()),
            value: Some(value_of(kv)),
        })
        .collect())
}

/// Versions after `oldest`, up to `until`, or up to the present when the key is absent now.
async fn replay(
    etcd: &Etcd,
    key: &Key,
    oldest: Revision,
    until: Option<Revision>,
) -> Result<Vec<Version>, Error> {
    let options = WatchOptions::new().with_start_revision(to_etcd(Revision(oldest.0 + 1)));
    let mut stream = etcd
        .watch_client()
        .watch(key.as_str(), Some(options))
        .await
        .map_err(|error| plain(&error))?;
    let mut versions = Vec::new();
    loop {
        let response = match timeout(CATCH_UP, stream.message()).await {
            Ok(response) => response.map_err(|error| plain(&error))?,
            // Nothing to replay.
            Err(_) if until.is_none() => return Ok(versions),
            Err(_) => return Err(incomplete()),
        };
        let Some(response) = response.filter(|response| !response.canceled()) else {
            return Err(incomplete());
        };
        if response.created() {
            continue;
        }
        for event in response.events() {
            let kv = event.kv().ok_or_else(incomplete)?;
            versions.push(Version {
                revision: to_revision(kv.mod_revision()),
                value: match event.event_type() {
                    EventType::Put => Some(value_of(kv)),
                    EventType::Delete => None,
                },
            });
        }
        let reached = versions.last().map(|version| version.revision);
        let caught_up = match until {
            Some(until) => reached >= Some(until),
            None => response.events().len() < ANSWER_REVISIONS_MAX,
        };
        if caught_up {
            return Ok(versions);
        }
    }
}

fn incomplete() -> Error {
    Error::Unavailable("etcd did not send the whole history of the key".to_owned())
}
