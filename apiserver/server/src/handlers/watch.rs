//! WATCH: events of one resource as lines of JSON.

use std::time::Duration;

use bytes::Bytes;
use corral_api::field::{FieldError, FieldPath};
use corral_api::status::Status;
use corral_kinds::KindRef;
use corral_storage::Revision;
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, read};
use crate::cacher::watch_frame;
use crate::cacher::watcher::{self, WatchItem, WatchOptions};
use crate::negotiate::{self, Transform};
use crate::registry::{Resource, parse_revision};
use crate::response::{self, Answer};
use crate::table::{self, Include};

/// A watch without a timeout ends after this long and up to as long again, so that clients spread over servers.
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// Marks the bookmark at the end of the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

fn options(call: &Call, resource: &Resource) -> Result<WatchOptions, Status> {
    let query = &call.info.query;
    let matching = read::version_match(call)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let initial = query
        .get("sendInitialEvents")
        .map(|_| query.flag("sendInitialEvents"));
    let invalid = |error: FieldError| Status::invalid("meta.k8s.io", "ListOptions", "", &[error]);
    match (initial, matching) {
        (Some(_), Some("NotOlderThan")) | (None, None) => {}
        (Some(_), _) => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(invalid(FieldError::forbidden(
                &FieldPath::new("resourceVersionMatch"),
                why,
            )));
        }
        (None, Some(_)) => {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(invalid(FieldError::forbidden(
                &FieldPath::new("resourceVersionMatch"),
                why,
            )));
        }
    }
    let version = query
        .get("resourceVersion")
        .filter(|v| !v.is_empty())
        .map(parse_revision)
        .transpose()?;
    let from = match (version, initial) {
        (_, Some(true)) | (None | Some(Revision(0)), None) => None,
        (None | Some(Revision(0)), Some(false)) => Some(resource.cacher.snapshot().revision),
        (Some(revision), _) => Some(revision),
    };
    let timeout = match query.integer("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => TIMEOUT_MIN.mul_f64(1.0 + rand::random::<f64>()),
    };
    Ok(WatchOptions {
        predicate: read::predicate(call, resource)?,
        from,
        initial_bookmark: initial == Some(true) && bookmarks,
        bookmarks,
        timeout,
    })
}

/// WATCH.
pub(super) async fn watch(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let representation = negotiate::accept(call.headers())?;
    let options = options(call, resource)?;
    let items = watcher::watch(resource.cacher.clone(), options).await?;
    let kind = resource.kind.clone();
    let transform = representation.transform;
    let include = read::include(call);
    let stop = call.shared.stop.clone();
    let mut heading = true;
    let lines = items
        .take_until(stop.cancelled_owned())
        .take_until(resource.ended.clone().cancelled_owned())
        .map(move |item| line(&kind, transform, include, &mut heading, item));
    let mut answer = response::answer(200, "application/json", response::stream(lines));
    // Tells proxies not to hold lines back.
    answer.headers_mut().insert(
        http::header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-cache, private"),
    );
    Ok(answer)
}

fn line(
    kind: &KindRef,
    transform: Transform,
    include: Include,
    heading: &mut bool,
    item: WatchItem,
) -> Bytes {
    let (event, json) = match &item {
        WatchItem::Event(event) if transform == Transform::None => return event.frame(),
        WatchItem::Event(event) => (event.kind, &event.object.json),
        WatchItem::Derived(event, stored) => (*event, &stored.json),
        WatchItem::Bookmark(revision, end) => return bookmark(&**kind, transform, *revision, *end),
        WatchItem::Failed(status) => {
            return encode(&json!({"type": "ERROR", "object": status}));
        }
    };
    match transform {
        Transform::None => watch_frame(event, json),
        Transform::PartialMetadata => {
            encode(&json!({"type": event.as_str(), "object": table::partial(json)}))
        }
        Transform::Table => {
            let row = table::row(&**kind, json, include, Timestamp::now());
            let revision = table::partial(json)["metadata"]["resourceVersion"].clone();
            let columns = std::mem::replace(heading, false).then_some(&**kind);
            let table = table::table(columns, json!({"resourceVersion": revision}), vec![row]);
            encode(&json!({"type": event.as_str(), "object": table}))
        }
    }
}

fn encode(value: &Value) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

fn bookmark(
    kind: &dyn corral_kinds::AnyKind,
    transform: Transform,
    revision: Revision,
    end: bool,
) -> Bytes {
    let names = kind.names();
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if end {
        metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
    }
    let object = match transform {
        Transform::None => {
            json!({"kind": names.kind, "apiVersion": names.api_version(), "metadata": metadata})
        }
        Transform::PartialMetadata => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
        }
        Transform::Table => {
            let carried = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
            table::table(
                None,
                json!({"resourceVersion": revision.to_string()}),
                vec![json!({"cells": [], "object": carried})],
            )
        }
    };
    encode(&json!({"type": "BOOKMARK", "object": object}))
}
