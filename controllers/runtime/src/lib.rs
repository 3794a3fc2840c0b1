//! The library that Corral's controllers are made of, and that third parties write theirs with.
//!
//! A controller is level-triggered: watches only wake keys, and everything that a decision rests on is read from
//! caches when the key is worked on.
//!
//! ```text
//!  API server ──list/watch──▶ reflector ──▶ Cache<K> ──changes──▶ WorkQueue ──key──▶ Handler
//!       ▲                                     ▲  ▲                                     │
//!       │                     own writes ─────┘  └────────── observe ◀─────────────────┤
//!       └───────────────────────── Objects<K> (every write guarded) ◀──── apply ◀── plan (pure)
//! ```
//!
//! What is promised:
//! - One watch per kind and process ([`CacheFactory`]), with indexes ([`Cache::add_index`]).
//! - A cache contains one's own writes at once: the answer to a write is put into the cache if its resourceVersion is
//!   newer than what the watch has delivered ([`Cache::record_write`]). That replaces creation expectations: a plan
//!   made after a write never misses the object that was written.
//! - A key is worked on by one worker at a time, waits once however often it is woken, and backs off by itself
//!   ([`WorkQueue`]).
//! - Every write carries the resourceVersion or uid that it was computed from ([`Objects`]).
//! - Nothing is unbounded: queues, events and their aggregation have named limits.
//!
//! What it is not: a framework that hides the API. A [`Reconciler`] is three functions, and whoever wants less writes a
//! [`Handler`].
//!
//! Reading order: [`key`], [`cache`], [`reflector`], [`factory`], [`objects`], [`queue`], [`controller`], then
//! [`events`], [`leader`], [`metrics`], [`tasks`], [`placement`], [`trim`]; [`testing`] for tests.

#![warn(missing_docs)]

pub mod backoff;
pub mod burst;
pub mod cache;
pub mod clock;
pub mod controller;
pub mod error;
pub mod events;
pub mod factory;
pub mod key;
pub mod leader;
pub mod metrics;
pub mod objects;
pub mod placement;
pub mod queue;
pub mod reflector;
pub mod tasks;
pub mod testing;
pub mod trim;

pub use cache::{Cache, Change};
pub use clock::{Clock, SystemClock};
pub use controller::{Action, Controller, Handler, Reconciler};
pub use error::Error;
pub use events::Recorder;
pub use factory::CacheFactory;
pub use key::{Object, ObjectKey};
pub use metrics::Metrics;
pub use objects::Objects;
pub use queue::WorkQueue;
pub use tasks::Tasks;
