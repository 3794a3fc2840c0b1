//! WATCH: events of one resource, as lines of JSON or frames of protobuf.

use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use corral_api::field::{FieldError, FieldPath};
use corral_api::status::Status;
use corral_kinds::protobuf::{self, Layout};
use corral_kinds::{AnyKind, KindRef};
use corral_storage::Revision;
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Call, read};
use crate::cacher::watch_frame;
use crate::cacher::watcher::{self, WatchItem, WatchOptions};
use crate::decode::Format;
use crate::flow::Brief;
use crate::metrics::Events;
use crate::negotiate::{Representation, Transform};
use crate::registry::{Resource, parse_revision};
use crate::response::{self, Answer};
use crate::table::{self, Include};
use crate::wire::{self, Shown};

mod websocket;

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
        .transpose()
        // Not the client's fault, as Kubernetes sees it here, though it is in a LIST.
        .map_err(|refused| Status::unexpected(refused.message))?;
    let from = match (version, initial) {
        (_, Some(true)) | (None | Some(Revision(0)), None) => None,
        (None | Some(Revision(0)), Some(false)) => Some(resource.cacher.snapshot().revision),
        (Some(revision), _) => Some(revision),
    };
    let timeout = match query.integer("timeoutSeconds")? {
        // Less than no time is none.
        Some(seconds) if seconds != 0 => Duration::from_secs(seconds.max(0).unsigned_abs()),
        _ => TIMEOUT_MIN.mul_f64(1.0 + rand::random::<f64>()),
    };
    Ok(WatchOptions {
        predicate: read::predicate(call, resource)?,
        from,
        initial_bookmark: initial == Some(true) && bookmarks,
        bookmarks,
        timeout,
        begins: None,
        stop: call.shared.stop.clone(),
        ended: resource.ended.clone(),
    })
}

/// WATCH.
pub(super) async fn watch(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let representation = call.representation(resource)?;
    let resource = read::shown_of(resource, representation.transform);
    if resource.cacher.is_on_demand() {
        resource.cacher.started().await?;
    }
    let mut options = options(call, resource)?;
    let seat = call
        .begins
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    options.begins = seat.map(|seat| Box::new(Brief::new(seat)) as Box<dyn Send>);
    let items = watcher::watch(resource.cacher.clone(), options).await?;
    let mut teller = Teller::new(call, resource, representation)?;
    // Kubernetes shows no event as a list, and ends such a watch at the first one.
    let told = representation.transform != Transform::PartialMetadataList;
    let frames = items
        .take_while(move |_| std::future::ready(told))
        .map(move |item| teller.frame(item));
    if crate::websocket::is_wanted(call.headers()) {
        let messages = frames.map(move |frame| match representation.format {
            // A message has a length of its own.
            Format::Protobuf => Message::binary(frame.slice(protobuf::FRAME_LENGTH..)),
            _ => Message::text(String::from_utf8_lossy(&frame).into_owned()),
        });
        return websocket::send(call, Box::pin(messages));
    }
    let media_type = match representation.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => Format::Json.media_type(),
    };
    let mut answer = response::answer(200, media_type, response::stream(frames));
    // Tells proxies not to hold lines back.
    answer.headers_mut().insert(
        http::header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-cache, private"),
    );
    Ok(answer)
}

/// Tells events in the representation that one client wants.
struct Teller {
    kind: KindRef,
    representation: Representation,
    include: Include,
    /// Messages, where the client takes protobuf.
    shown: Option<Shown>,
    /// Whether the next table is the first, which has a heading.
    heading: bool,
    counts: Events,
}

impl Teller {
    fn new(
        call: &Call,
        resource: &Resource,
        representation: Representation,
    ) -> Result<Self, Status> {
        let include = read::include(call)?;
        let names = resource.kind.names();
        let shown = match (representation.format, representation.transform) {
            (Format::Protobuf, Transform::None) => {
                Layout::of_node(resource.schema()).map(|layout| Shown::whole(layout, &names))
            }
            // Metadata have one form, whatever they are of.
            (Format::Protobuf, _) => Some(Shown::metadata(representation.meta_version)),
            _ => None,
        };
        Ok(Self {
            kind: resource.kind.clone(),
            representation,
            include,
            shown,
            heading: true,
            counts: call
                .shared
                .metrics
                .events(names.group, names.plural, names.version),
        })
    }

    fn frame(&mut self, item: WatchItem) -> Bytes {
        let frame = self.tell(item);
        self.counts.told(frame.len());
        frame
    }

    fn tell(&mut self, item: WatchItem) -> Bytes {
        let transform = self.representation.transform;
        let (event, json) = match &item {
            WatchItem::Event(event) if transform == Transform::None => {
                return match &self.shown {
                    None => event.frame(),
                    Some(shown) => event
                        .message_frame(|| message(shown, event.kind.as_str(), &event.object.json)),
                };
            }
            WatchItem::Event(event) => (event.kind, &event.object.json),
            WatchItem::Derived(event, stored) => (*event, &stored.json),
            WatchItem::Bookmark(revision, end) => return self.bookmark(*revision, *end),
            WatchItem::Failed(status) => return self.failed(status),
        };
        if let Some(shown) = &self.shown {
            return message(shown, event.as_str(), json);
        }
        match transform {
            Transform::None => watch_frame(event, json),
            Transform::PartialMetadata | Transform::PartialMetadataList => {
                let partial = read::versioned(table::partial(json), self.representation);
                encode(&json!({"type": event.as_str(), "object": partial}))
            }
            Transform::Table => self.table(event.as_str(), json, self.include),
        }
    }

    fn table(&mut self, event: &str, json: &[u8], include: Include) -> Bytes {
        let row = table::row(&*self.kind, json, include, Timestamp::now());
        let revision = table::partial(json)["metadata"]["resourceVersion"].clone();
        let first = std::mem::replace(&mut self.heading, false);
        let columns = first.then_some(&*self.kind);
        let table = table::table(columns, json!({"resourceVersion": revision}), vec![row]);
        let table = read::versioned(table, self.representation);
        encode(&json!({"type": event, "object": table}))
    }

    fn failed(&self, status: &Status) -> Bytes {
        match &self.shown {
            Some(_) => failure(status),
            None => encode(&json!({"type": "ERROR", "object": status})),
        }
    }

    fn bookmark(&mut self, revision: Revision, end: bool) -> Bytes {
        let object = bookmark(&*self.kind, self.representation, revision, end);
        if self.representation.transform == Transform::Table {
            // The cells of an object that has nothing, and its metadata also for those who want no objects.
            let include = match self.include {
                Include::None => Include::Metadata,
                other => other,
            };
            return self.table("BOOKMARK", object.to_string().as_bytes(), include);
        }
        match &self.shown {
            Some(shown) => message(shown, "BOOKMARK", object.to_string().as_bytes()),
            None => encode(&json!({"type": "BOOKMARK", "object": object})),
        }
    }
}

/// An event in protobuf; what cannot be told is an error to the client, as an unreadable object is in Kubernetes.
fn message(shown: &Shown, event: &str, json: &[u8]) -> Bytes {
    let frame = shown.event(event, json);
    frame.unwrap_or_else(|status| failure(&status))
}

fn failure(status: &Status) -> Bytes {
    let json = serde_json::to_vec(status).unwrap_or_default();
    let object = wire::object(&json).unwrap_or_default();
    protobuf::watch_frame("ERROR", &object).into()
}

fn encode(value: &Value) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

fn bookmark(
    kind: &dyn AnyKind,
    representation: Representation,
    revision: Revision,
    end: bool,
) -> Value {
    let names = kind.names();
    let version = representation.meta_version;
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if end {
        metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
    }
    match representation.transform {
        Transform::None | Transform::Table => {
            json!({"kind": names.kind, "apiVersion": names.api_version(), "metadata": metadata})
        }
        Transform::PartialMetadata | Transform::PartialMetadataList => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": metadata})
        }
    }
}
