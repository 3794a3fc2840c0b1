//! Events for people: the same thing again raises a count, many alike become one, and no object can flood the API.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Event, EventSource, ObjectReference};
use corral_api::time::Time;
use jiff::Timestamp;
use kube::core::Request;
use kube::core::params::{Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::{Clock, Error, Tasks};

/// Events that wait to be written; more than that are dropped, because events are a courtesy.
const PENDING_MAX: usize = 1024;
/// Events remembered to count repetitions.
const REMEMBERED_MAX: usize = 4096;
/// More different messages than this with one reason about one object are combined into one event.
const SIMILAR_MAX: usize = 10;
/// How long messages count as similar.
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// An object may cause this many event writes at once …
const BURST_MAX: f64 = 25.0;
/// … and one more in this time.
const REFILL: Duration = Duration::from_secs(300);
/// The longest message that the API accepts.
const MESSAGE_LENGTH_MAX: usize = 1024;
/// Tries per event before it is given up.
const ATTEMPTS_MAX: u32 = 3;

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things as they should be.
    Normal,
    /// Something to look at.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something to tell about an object.
#[derive(Debug, Clone)]
struct Note {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Writes events in the background; clones share the queue and its limits.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Note>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl Recorder {
    /// A recorder that signs as `component`.
    pub fn new(
        client: Client,
        component: &str,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(PENDING_MAX);
        let writer = Writer {
            client,
            component: component.to_owned(),
            metrics: metrics.clone(),
            memory: Memory::default(),
        };
        tasks.spawn(format!("events {component}"), writer.run(receiver));
        Self {
            sender,
            clock,
            metrics: metrics.clone(),
        }
    }

    /// Tells something about an object. Never waits; when too much waits already the event is dropped.
    pub fn note<K>(&self, about: &K, kind: EventType, reason: &str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        let mut about_ref = about.object_ref(&());
        about_ref
            .resource_version
            .clone_from(&about.meta().resource_version);
        self.note_ref(about_ref, kind, reason, message);
    }

    /// As [`Self::note`], about a reference.
    pub fn note_ref(
        &self,
        about: ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        if message.len() > MESSAGE_LENGTH_MAX {
            let cut = (0..=MESSAGE_LENGTH_MAX)
                .rev()
                .find(|n| message.is_char_boundary(*n));
            message.truncate(cut.unwrap_or(0));
        }
        let note = Note {
            about,
            kind,
            reason: reason.to_owned(),
            message,
            at: self.clock.now(),
        };
        if self.sender.try_send(note).is_err() {
            self.metrics.event_dropped("queue");
        }
    }

    /// Things as they should be.
    pub fn normal<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.note(about, EventType::Normal, reason, message);
    }

    /// Something to look at.
    pub fn warning<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.note(about, EventType::Warning, reason, message);
    }
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    about: String,
    kind: EventType,
    reason: String,
    message: String,
}

struct Written {
    name: String,
    count: i32,
    used: Instant,
}

struct Similar {
    since: Instant,
    messages: usize,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// What is remembered to count, combine and limit. One task owns it.
#[derive(Default)]
struct Memory {
    written: HashMap<Identity, Written>,
    similar: HashMap<(String, String), Similar>,
    buckets: HashMap<String, Bucket>,
}

impl Memory {
    /// Counts different messages; past the limit they share one text and so one event.
    fn combine(&mut self, note: &mut Note, now: Instant) {
        let identity = identity_of(note);
        if self.written.contains_key(&identity) {
            return;
        }
        let key = (identity.about, note.reason.clone());
        let similar = self.similar.entry(key).or_insert(Similar {
            since: now,
            messages: 0,
        });
        if now.duration_since(similar.since) > SIMILAR_WINDOW {
            *similar = Similar {
                since: now,
                messages: 0,
            };
        }
        similar.messages += 1;
        if similar.messages > SIMILAR_MAX {
            note.message = format!("(combined from similar events): {}", note.message);
        }
    }

    fn is_combined(note: &Note) -> bool {
        note.message.starts_with("(combined from similar events): ")
    }

    fn may_write(&mut self, about: &str, now: Instant) -> bool {
        let fresh = Bucket {
            tokens: BURST_MAX,
            filled: now,
        };
        let bucket = self.buckets.entry(about.to_owned()).or_insert(fresh);
        let refill = now.duration_since(bucket.filled).as_secs_f64() / REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + refill).min(BURST_MAX);
        bucket.filled = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    /// Forgets the older half once there is too much.
    fn shrink(&mut self) {
        if self.written.len() > REMEMBERED_MAX {
            let mut ages: Vec<_> = self.written.values().map(|w| w.used).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.written.retain(|_, written| written.used > middle);
        }
        if self.similar.len() > REMEMBERED_MAX {
            self.similar
                .retain(|_, similar| similar.since.elapsed() < SIMILAR_WINDOW);
        }
        if self.buckets.len() > REMEMBERED_MAX {
            self.buckets
                .retain(|_, bucket| bucket.filled.elapsed() < REFILL);
        }
    }
}

fn identity_of(note: &Note) -> Identity {
    // Combined events are one whatever their last message was.
    let message = if Memory::is_combined(note) {
        String::new()
    } else {
        note.message.clone()
    };
    Identity {
        about: about_of(&note.about),
        kind: note.kind,
        reason: note.reason.clone(),
        message,
    }
}

fn about_of(about: &ObjectReference) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    [
        &about.kind,
        &about.namespace,
        &about.name,
        &about.uid,
        &about.field_path,
    ]
    .map(part)
    .join("/")
}

struct Writer {
    client: Client,
    component: String,
    metrics: Metrics,
    memory: Memory,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            self.take(note).await;
        }
    }

    async fn take(&mut self, mut note: Note) {
        let now = Instant::now();
        self.memory.shrink();
        self.memory.combine(&mut note, now);
        if !self.memory.may_write(&about_of(&note.about), now) {
            self.metrics.event_dropped("rate");
            return;
        }
        for attempt in 0..ATTEMPTS_MAX {
            match self.write(&note).await {
                Ok(()) => return,
                Err(error) if error.status().is_some() => {
                    tracing::debug!(reason = note.reason, %error, "event refused");
                    self.metrics.event_dropped("refused");
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(1 << attempt)).await,
            }
        }
        self.metrics.event_dropped("unreachable");
    }

    async fn write(&mut self, note: &Note) -> Result<(), Error> {
        let identity = identity_of(note);
        if let Some(known) = self.memory.written.get_mut(&identity) {
            let patch = json!({
                "count": known.count + 1,
                "lastTimestamp": Time(note.at),
                "message": note.message,
            });
            let request = Request::new(Event::url_path(&(), Some(namespace_of(note))));
            let request =
                request.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch))?;
            match self
                .client
                .request::<Event>(request)
                .await
                .map_err(Error::from)
            {
                Ok(_) => {
                    known.count += 1;
                    known.used = Instant::now();
                    return Ok(());
                }
                // The event has expired: begin again.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.event(note);
        let name = event.metadata.name.clone().unwrap_or_default();
        let request = Request::new(Event::url_path(&(), Some(namespace_of(note))));
        let request = request.create(&PostParams::default(), serde_json::to_vec(&event)?)?;
        self.client.request::<Event>(request).await?;
        self.memory.written.insert(
            identity,
            Written {
                name,
                count: 1,
                used: Instant::now(),
            },
        );
        Ok(())
    }

    fn event(&self, note: &Note) -> Event {
        let mut event = Event {
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: None,
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(String::new()),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            count: Some(1),
            type_: Some(note.kind.as_str().to_owned()),
            ..Event::default()
        };
        let about = note.about.name.as_deref().unwrap_or_default();
        let unique = rand::random::<u64>();
        event.metadata.name = Some(format!("{about}.{unique:016x}"));
        event.metadata.namespace = Some(namespace_of(note).to_owned());
        event
    }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace_of(note: &Note) -> &str {
    note.about
        .namespace
        .as_deref()
        .filter(|ns| !ns.is_empty())
        .unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let about = ObjectReference {
            uid: Some("u".into()),
            ..ObjectReference::default()
        };
        let (reason, message) = ("R".to_owned(), message.to_owned());
        Note {
            about,
            kind: EventType::Normal,
            reason,
            message,
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_similar_messages_become_one_event() {
        let mut memory = Memory::default();
        let now = Instant::now();
        let combined = (0..15).filter(|n| {
            let mut note = note(&format!("m{n}"));
            memory.combine(&mut note, now);
            Memory::is_combined(&note)
        });
        assert_eq!(combined.count(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_cannot_flood_the_api() {
        let mut memory = Memory::default();
        let allowed = (0..100)
            .filter(|_| memory.may_write("pod", Instant::now()))
            .count();
        assert_eq!(allowed, 25);
        tokio::time::advance(REFILL).await;
        assert!(memory.may_write("pod", Instant::now()));
        assert!(!memory.may_write("pod", Instant::now()));
    }
}
