//! Random use of a store against a model that is plain maps.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use corral_storage::conformance::{events_until, next_item};
use corral_storage::{
    Entry, Error, Key, ListOptions, Operation, Revision, Storage, Version, WatchEvent,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use crate::contract::{make_embedded, make_etcd};

const KEYS: usize = 6;
const EMBEDDED_CASES: u32 = 48;
const ETCD_CASES: u32 = 4;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Create,
    Update,
    Delete,
    Check,
}

/// Which revision an operation expects its key at.
#[derive(Debug, Clone)]
enum Expected {
    Current,
    Absent,
    Any(Index),
}

/// One use of the store. An `Index` picks among the revisions that there are by then.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(usize, Kind, Expected)>),
    List(Index, usize),
    Watch(Index),
    History(usize),
    Compact(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(Kind::Create),
        4 => Just(Kind::Update),
        2 => Just(Kind::Delete),
        1 => Just(Kind::Check),
    ];
    let expected = prop_oneof![
        8 => Just(Expected::Current),
        1 => Just(Expected::Absent),
        1 => any::<Index>().prop_map(Expected::Any),
    ];
    let operations = prop::collection::vec((0..KEYS, kind, expected), 0..4);
    prop_oneof![
        12 => operations.prop_map(Step::Commit),
        3 => (any::<Index>(), 0..5_usize).prop_map(|(at, limit)| Step::List(at, limit)),
        2 => any::<Index>().prop_map(Step::Watch),
        1 => (0..KEYS).prop_map(Step::History),
        1 => any::<Index>().prop_map(Step::Compact),
    ]
}

/// What the store should hold.
struct Model {
    prefix: String,
    /// Every revision with what was live then; the first is where the model began.
    states: Vec<(Revision, BTreeMap<Key, Entry>)>,
    events: Vec<(Revision, WatchEvent)>,
    oldest: Revision,
    writes: usize,
}

impl Model {
    fn new(prefix: String, start: Revision) -> Self {
        Self {
            prefix,
            states: vec![(start, BTreeMap::new())],
            events: Vec::new(),
            oldest: start,
            writes: 0,
        }
    }

    fn key(&self, n: usize) -> Key {
        Key::from(format!("{}/{n}", self.prefix))
    }

    /// The prefix of all its keys and of no other case's.
    fn range(&self) -> String {
        format!("{}/", self.prefix)
    }

    fn newest(&self) -> &(Revision, BTreeMap<Key, Entry>) {
        self.states.last().expect("it begins with one")
    }

    fn pick(&self, index: &Index) -> &(Revision, BTreeMap<Key, Entry>) {
        index.get(&self.states)
    }

    fn operations(&mut self, wanted: &[(usize, Kind, Expected)]) -> Vec<Operation> {
        let mut seen = HashSet::new();
        let mut operations = Vec::new();
        for (n, kind, expected) in wanted {
            if !seen.insert(*n) {
                continue;
            }
            let key = self.key(*n);
            let expected = match expected {
                Expected::Current => self
                    .newest()
                    .1
                    .get(&key)
                    .map_or(Revision(0), |e| e.revision),
                Expected::Absent => Revision(0),
                Expected::Any(index) => self.pick(index).0,
            };
            self.writes += 1;
            let value = Bytes::from(format!("value {}", self.writes));
            operations.push(match kind {
                Kind::Create => Operation::Create { key, value },
                Kind::Update => Operation::Update {
                    key,
                    value,
                    expected,
                },
                Kind::Delete => Operation::Delete { key, expected },
                Kind::Check => Operation::Check { key, expected },
            });
        }
        operations
    }

    /// The text of the error that the transaction must give, if any.
    fn failure(&self, operations: &[Operation]) -> Option<String> {
        let live = &self.newest().1;
        operations.iter().find_map(|operation| {
            let key = operation.key().clone();
            let current = live.get(&key).map(|entry| entry.revision);
            let error = match (operation, current) {
                (Operation::Create { .. }, None) => return None,
                (Operation::Check { expected, .. }, None) if expected.0 == 0 => return None,
                (_, None) => Error::NotFound { key },
                (Operation::Create { .. }, Some(current)) => Error::Exists { key, current },
                (Operation::Check { expected, .. }, Some(current)) if expected.0 == 0 => {
                    Error::Exists { key, current }
                }
                (
                    Operation::Update { expected, .. }
                    | Operation::Delete { expected, .. }
                    | Operation::Check { expected, .. },
                    Some(current),
                ) => {
                    if *expected == current {
                        return None;
                    }
                    Error::Conflict {
                        key,
                        expected: *expected,
                        current,
                    }
                }
            };
            Some(error.to_string())
        })
    }

    fn apply(&mut self, operations: &[Operation], revision: Revision) {
        let mut live = self.newest().1.clone();
        for operation in operations {
            let event = match operation {
                Operation::Create { key, value } | Operation::Update { key, value, .. } => {
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        revision,
                    };
                    let previous = live.insert(key.clone(), entry.clone());
                    WatchEvent::Put { entry, previous }
                }
                Operation::Delete { key, .. } => WatchEvent::Delete {
                    key: key.clone(),
                    revision,
                    previous: live.remove(key).expect("the precondition held"),
                },
                Operation::Check { .. } => continue,
            };
            self.events.push((revision, event));
        }
        self.states.push((revision, live));
    }

    fn history(&self, key: &Key) -> Vec<Version> {
        let mut versions: Vec<Version> = Vec::new();
        for (revision, event) in &self.events {
            let version = match event {
                WatchEvent::Put { entry, .. } if entry.key == *key => Some(entry.value.clone()),
                WatchEvent::Delete { key: removed, .. } if removed == key => None,
                _ => continue,
            };
            if *revision <= self.oldest {
                versions.clear();
                if version.is_none() {
                    continue;
                }
            }
            versions.push(Version {
                revision: *revision,
                value: version,
            });
        }
        versions
    }

    fn events_after(&self, from: Revision) -> Vec<WatchEvent> {
        let after = self.events.iter().filter(|(revision, _)| *revision > from);
        after.map(|(_, event)| event.clone()).collect()
    }
}

async fn run(store: &dyn Storage, prefix: String, steps: Vec<Step>) {
    let start = store.current_revision().await.expect("revision");
    store.compact(start).await.expect("compact");
    let mut model = Model::new(prefix, start);
    let mut live = store.watch(&model.range(), start).await.expect("watch");
    for step in steps {
        match step {
            Step::Commit(wanted) => commit(store, &mut model, &wanted).await,
            Step::List(at, limit) => list(store, &model, &at, limit).await,
            Step::Watch(from) => watch(store, &model, &from).await,
            Step::History(n) => {
                let key = model.key(n);
                let found = store.history(&key).await.expect("history");
                assert_eq!(found, model.history(&key));
            }
            Step::Compact(at) => {
                let (revision, _) = *model.pick(&at);
                store.compact(revision).await.expect("compact");
                model.oldest = model.oldest.max(revision);
            }
        }
    }
    store.request_progress().await.expect("progress");
    let seen = events_until(&mut live, model.newest().0).await;
    assert_eq!(seen, model.events_after(start));
}

async fn commit(store: &dyn Storage, model: &mut Model, wanted: &[(usize, Kind, Expected)]) {
    let operations = model.operations(wanted);
    let before = model.newest().0;
    let outcome = store.commit(operations.clone()).await;
    match model.failure(&operations) {
        Some(failure) => {
            assert_eq!(outcome.map_err(|error| error.to_string()), Err(failure));
        }
        None => {
            let revision = outcome.expect("the preconditions hold");
            let writes = operations
                .iter()
                .any(|operation| !matches!(operation, Operation::Check { .. }));
            if writes {
                assert!(revision > before);
                model.apply(&operations, revision);
            } else {
                assert_eq!(revision, before);
            }
        }
    }
}

async fn list(store: &dyn Storage, model: &Model, at: &Index, limit: usize) {
    let (revision, expected) = model.pick(at);
    let mut options = ListOptions {
        revision: Some(*revision),
        limit,
        after: None,
    };
    let mut found = Vec::new();
    loop {
        let page = match store.list(&model.range(), options.clone()).await {
            Ok(page) => page,
            Err(Error::Compacted { asked, oldest }) => {
                assert_eq!((asked, oldest), (*revision, model.oldest));
                assert!(*revision < model.oldest);
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(*revision >= model.oldest);
        assert_eq!(page.revision, *revision);
        assert!(limit == 0 || page.entries.len() <= limit);
        found.extend(page.entries);
        if !page.more {
            break;
        }
        options.after = found.last().map(|entry| entry.key.clone());
    }
    assert_eq!(found, expected.values().cloned().collect::<Vec<_>>());
}

async fn watch(store: &dyn Storage, model: &Model, from: &Index) {
    let (from, _) = *model.pick(from);
    let mut watch = match store.watch(&model.range(), from).await {
        Ok(watch) => watch,
        Err(error) => {
            assert!(matches!(error, Error::Compacted { .. }), "{error}");
            assert!(from < model.oldest);
            return;
        }
    };
    assert!(from >= model.oldest);
    let first = next_item(&mut watch)
        .await
        .expect("an event")
        .expect("no error");
    assert_eq!(first, WatchEvent::Progress(from));
    if model.newest().0 > from {
        store.request_progress().await.expect("progress");
        let seen = events_until(&mut watch, model.newest().0).await;
        assert_eq!(seen, model.events_after(from));
    }
}

/// Runs cases against one store, each under a prefix of its own.
fn check<G>(cases: u32, make: impl Future<Output = (Arc<dyn Storage>, G)>) {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let (store, guard) = runtime.block_on(make);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let case = Cell::new(0);
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 1..80), |steps| {
            case.set(case.get() + 1);
            let prefix = format!("/case-{}", case.get());
            runtime.block_on(run(&*store, prefix, steps));
            Ok(())
        })
        .expect("the store does what the model does");
    drop((store, guard));
}

#[test]
fn the_embedded_store_does_what_the_model_does() {
    check(EMBEDDED_CASES, make_embedded());
}

#[test]
fn the_etcd_store_does_what_the_model_does() {
    check(ETCD_CASES, make_etcd());
}
