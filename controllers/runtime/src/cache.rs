//! A typed cache of one kind with secondary indexes.
//!
//! The reflector is the only writer besides [`Cache::record_write`], which puts the answers to one's own writes in.
//! An answer is taken only if its revision is newer than everything that the watch has delivered: then the watch is
//! certain to deliver that revision later, in order, so that the cache can neither lose nor keep what it should not.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, RwLock};

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::key::{Object, ObjectKey, revision_of, uid_of};

/// Extracts the values under which an object is found in an index.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

/// The index by the uid of every owner, present in every cache.
pub const BY_OWNER: &str = "owner";
/// The index by namespace, present in every cache.
pub const BY_NAMESPACE: &str = "namespace";

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K> {
    /// The object appeared or changed.
    Applied {
        /// What was cached before.
        old: Option<Arc<K>>,
        /// What is cached now.
        new: Arc<K>,
    },
    /// The object is gone; its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The present object, or the last state of a deleted one.
    pub fn latest(&self) -> &Arc<K> {
        match self {
            Self::Applied { new, .. } => new,
            Self::Deleted(last) => last,
        }
    }

    /// Every state that the change touches: the one before and the one after.
    pub fn states(&self) -> impl Iterator<Item = &Arc<K>> {
        let (first, second) = match self {
            Self::Applied { old, new } => (old.as_ref(), Some(new)),
            Self::Deleted(last) => (Some(last), None),
        };
        first.into_iter().chain(second)
    }
}

type Tell<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Listener<K> {
    /// The listener is told until this is cancelled, and then dropped.
    scope: CancellationToken,
    tell: Tell<K>,
}

struct Index<K> {
    name: &'static str,
    values: IndexFn<K>,
    keys: HashMap<String, BTreeSet<ObjectKey>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

struct Contents<K> {
    objects: HashMap<ObjectKey, Arc<K>>,
    indexes: Vec<Index<K>>,
    /// The newest revision that the watch has delivered.
    revision: u64,
}

struct Shared<K> {
    /// Guards the objects and their indexes; held for lookups and single changes only.
    contents: RwLock<Contents<K>>,
    /// Guards the order of changes: whoever changes the contents holds it until every listener has been told, so that a
    /// new listener gets the contents and then each later change exactly once.
    listeners: Mutex<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
    /// Takes away what nobody reads, before an object is kept.
    trim: fn(&mut K),
}

/// A shared cache; clones see the same objects.
///
/// It holds as many objects as the server has of the kind; the server bounds that, and `trim` bounds their size.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
    /// How long listeners that are added through this handle listen.
    scope: CancellationToken,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            scope: self.scope.clone(),
        }
    }
}

impl<K: Object> Default for Cache<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Object> Cache<K> {
    /// An empty cache with the indexes by owner and by namespace.
    pub fn new() -> Self {
        Self::trimmed(|_| ())
    }

    /// An empty cache that keeps of each object what `trim` leaves. Managed fields are never kept: they are large, and
    /// only the server has use for them.
    pub fn trimmed(trim: fn(&mut K)) -> Self {
        let contents = Contents {
            objects: HashMap::new(),
            indexes: Vec::new(),
            revision: 0,
        };
        let cache = Self {
            shared: Arc::new(Shared {
                contents: RwLock::new(contents),
                listeners: Mutex::new(Vec::new()),
                synced: watch::Sender::new(false),
                trim,
            }),
            scope: CancellationToken::new(),
        };
        cache.add_index(BY_OWNER, |object| owner_uids(object.meta()));
        cache.add_index(BY_NAMESPACE, |object| {
            object.meta().namespace.iter().cloned().collect()
        });
        cache
    }

    /// The same cache; those who listen through this handle do so until `scope` is cancelled.
    #[must_use]
    pub fn during(&self, scope: CancellationToken) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            scope,
        }
    }

    /// Adds an index over present and future objects; a second one of the same name is ignored.
    pub fn add_index(&self, name: &'static str, values: IndexFn<K>) {
        let mut contents = self.write();
        if contents.indexes.iter().any(|index| index.name == name) {
            return;
        }
        let mut index = Index {
            name,
            values,
            keys: HashMap::new(),
        };
        for (key, object) in &contents.objects {
            index.insert(key, object);
        }
        contents.indexes.push(index);
    }

    /// Calls back for every object there is and then for every change, until the scope of this handle ends
    /// ([`Self::during`]). The listener runs on the reflector's task: it
    /// must be quick, may read this cache, and must not write to it.
    pub fn listen(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .expect("listeners do not panic");
        let present: Vec<_> = self.read().objects.values().cloned().collect();
        for new in present {
            listener(&Change::Applied { old: None, new });
        }
        listeners.push(Listener {
            scope: self.scope.clone(),
            tell: Box::new(listener),
        });
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// Everything, in no particular order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// The keys of everything.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().objects.keys().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that an index has under a value, ordered by key.
    ///
    /// # Panics
    /// When there is no such index: that is a mistake in the program.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let contents = self.read();
        let index = contents.indexes.iter().find(|index| index.name == name);
        let index = index.expect("an index is added before it is asked");
        let keys = index.keys.get(value).into_iter().flatten();
        keys.filter_map(|key| contents.objects.get(key).cloned())
            .collect()
    }

    /// The objects with an owner of this uid.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(BY_OWNER, uid)
    }

    /// The objects of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by_index(BY_NAMESPACE, namespace)
    }

    /// Resolves when the first list is in.
    pub async fn wait_for_sync(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// The newest revision that the watch has delivered.
    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    /// Puts the server's answer to a write in, unless the watch is past it already.
    pub fn record_write(&self, object: K) -> Arc<K> {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .expect("listeners do not panic");
        let object = self.kept(object);
        if revision_of(object.meta()).is_some_and(|revision| revision > self.revision()) {
            self.put(&mut listeners, Arc::clone(&object));
        }
        object
    }

    /// Takes an object out that the server has just said is gone. A late event may show it again for a moment.
    pub fn record_deletion(&self, key: &ObjectKey, uid: &str) {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .expect("listeners do not panic");
        if self
            .get(key)
            .is_some_and(|object| uid_of(object.meta()) == uid)
        {
            self.take(&mut listeners, key);
        }
    }

    /// Replaces everything by a list as of a revision.
    pub fn replace(&self, items: Vec<K>, revision: u64) {
        let items = items.into_iter().map(|item| self.kept(item)).collect();
        self.replace_kept(items, revision);
    }

    pub(crate) fn replace_kept(&self, items: Vec<Arc<K>>, revision: u64) {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .expect("listeners do not panic");
        let listed: HashMap<_, _> = items
            .into_iter()
            .map(|item| (ObjectKey::of(item.meta()), item))
            .collect();
        // A list is never older than what the watch has delivered, unless the server was set back to an older state.
        let set_back = revision < self.revision();
        if set_back {
            self.keys()
                .iter()
                .for_each(|key| self.take(&mut listeners, key));
        }
        // What is cached at a newer revision than the list is one's own write, which the watch will yet deliver.
        let gone: Vec<_> = {
            let contents = self.read();
            let stale = |object: &Arc<K>| revision_of(object.meta()).is_none_or(|r| r <= revision);
            let missing = contents
                .objects
                .iter()
                .filter(|(key, _)| !listed.contains_key(*key));
            missing
                .filter(|(_, object)| stale(object))
                .map(|(key, _)| key.clone())
                .collect()
        };
        for key in gone {
            self.take(&mut listeners, &key);
        }
        for object in listed.into_values() {
            self.put(&mut listeners, object);
        }
        self.write().revision = revision;
        self.shared.synced.send_replace(true);
    }

    /// Takes in an object from the watch.
    pub fn apply(&self, object: K) {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .expect("listeners do not panic");
        self.progress(revision_of(object.meta()).unwrap_or(0));
        let object = self.kept(object);
        self.put(&mut listeners, object);
    }

    /// Takes out an object at the watch's word.
    pub fn delete(&self, last: K) {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .expect("listeners do not panic");
        let revision = revision_of(last.meta()).unwrap_or(0);
        self.progress(revision);
        let key = ObjectKey::of(last.meta());
        // An object of the same name that we created after this deletion stays.
        let newer = |object: &Arc<K>| {
            uid_of(object.meta()) != uid_of(last.meta())
                && revision_of(object.meta()).is_some_and(|r| r > revision)
        };
        if self.get(&key).is_some_and(|object| !newer(&object)) {
            self.take(&mut listeners, &key);
        }
    }

    /// Notes that the watch has got as far as a revision.
    pub fn progress(&self, revision: u64) {
        let mut contents = self.write();
        contents.revision = contents.revision.max(revision);
    }

    /// Drops everything and tells listeners that it is gone; for kinds that are no longer served.
    pub fn clear(&self) {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .expect("listeners do not panic");
        for key in self.keys() {
            self.take(&mut listeners, &key);
        }
    }

    /// An object as this cache keeps it.
    pub(crate) fn kept(&self, mut object: K) -> Arc<K> {
        object.meta_mut().managed_fields = None;
        (self.shared.trim)(&mut object);
        Arc::new(object)
    }

    fn put(&self, listeners: &mut Vec<Listener<K>>, new: Arc<K>) {
        let key = ObjectKey::of(new.meta());
        let old = {
            let mut contents = self.write();
            let old = contents.objects.get(&key).cloned();
            if old
                .as_ref()
                .is_some_and(|old| is_as_new(old.meta(), new.meta()))
            {
                return;
            }
            for index in &mut contents.indexes {
                if let Some(old) = &old {
                    index.remove(&key, old);
                }
                index.insert(&key, &new);
            }
            contents.objects.insert(key, Arc::clone(&new));
            old
        };
        let change = Change::Applied { old, new };
        tell(listeners, &change);
    }

    fn take(&self, listeners: &mut Vec<Listener<K>>, key: &ObjectKey) {
        let last = {
            let mut contents = self.write();
            let Some(last) = contents.objects.remove(key) else {
                return;
            };
            for index in &mut contents.indexes {
                index.remove(key, &last);
            }
            last
        };
        let change = Change::Deleted(last);
        tell(listeners, &change);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Contents<K>> {
        self.shared
            .contents
            .read()
            .expect("index functions do not panic")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Contents<K>> {
        self.shared
            .contents
            .write()
            .expect("index functions do not panic")
    }
}

fn tell<K>(listeners: &mut Vec<Listener<K>>, change: &Change<K>) {
    listeners.retain(|listener| !listener.scope.is_cancelled());
    listeners
        .iter()
        .for_each(|listener| (listener.tell)(change));
}

/// Whether what is cached is at least as new as what arrives, so that the watch's echo of one's own write is no change.
fn is_as_new(cached: &ObjectMeta, arriving: &ObjectMeta) -> bool {
    match (revision_of(cached), revision_of(arriving)) {
        (Some(cached), Some(arriving)) => cached >= arriving,
        _ => {
            cached.resource_version.is_some()
                && cached.resource_version == arriving.resource_version
        }
    }
}

fn owner_uids(meta: &ObjectMeta) -> Vec<String> {
    meta.owner_references
        .iter()
        .flatten()
        .map(|owner| owner.uid.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use corral_api::k8s::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("ns".into());
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(revision.to_string());
        object
    }

    #[test]
    fn own_writes_are_seen_at_once_and_never_outlive_a_deletion() {
        let cache = Cache::new();
        cache.replace(vec![object("a", "1", 5)], 5);
        cache.record_write(object("b", "2", 7));
        assert_eq!(cache.len(), 2);
        cache.delete(object("b", "2", 9));
        assert_eq!(cache.len(), 1);
        // The answer to a create arrives after the watch has delivered creation and deletion.
        cache.record_write(object("b", "2", 7));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_relist_keeps_own_writes_that_are_newer_than_it() {
        let cache = Cache::new();
        cache.replace(vec![object("a", "1", 5)], 5);
        cache.record_write(object("b", "2", 7));
        cache.replace(vec![], 6);
        assert_eq!(cache.keys(), vec![ObjectKey::new("ns", "b")]);
        cache.replace(vec![], 8);
        assert!(cache.is_empty());
    }

    #[test]
    fn a_late_deletion_does_not_remove_the_successor_of_the_same_name() {
        let cache = Cache::new();
        cache.replace(vec![object("a", "1", 5)], 5);
        cache.record_deletion(&ObjectKey::new("ns", "a"), "1");
        cache.record_write(object("a", "2", 9));
        cache.delete(object("a", "1", 7));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_listener_is_dropped_when_its_scope_ends() {
        let cache = Cache::new();
        cache.replace(vec![object("a", "1", 5)], 5);
        let (scope, heard) = (CancellationToken::new(), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&heard);
        cache
            .during(scope.clone())
            .listen(move |_: &Change<ConfigMap>| *count.lock().expect("not poisoned") += 1);
        cache.apply(object("a", "1", 6));
        scope.cancel();
        cache.apply(object("a", "1", 7));
        assert_eq!(*heard.lock().expect("not poisoned"), 2);
        assert_eq!(Arc::strong_count(&heard), 1, "nothing is kept for it");
    }

    #[test]
    fn listeners_get_the_present_and_each_change_once() {
        let cache = Cache::new();
        cache.replace(vec![object("a", "1", 5)], 5);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        cache.listen(move |change: &Change<ConfigMap>| {
            let deleted = matches!(change, Change::Deleted(_));
            let name = change.latest().metadata.name.clone();
            log.lock()
                .expect("not poisoned")
                .push((name.expect("named"), deleted));
        });
        cache.record_write(object("b", "2", 7));
        cache.apply(object("b", "2", 7));
        cache.delete(object("a", "1", 8));
        let seen = seen.lock().expect("not poisoned").clone();
        assert_eq!(
            seen,
            [
                ("a".into(), false),
                ("b".into(), false),
                ("a".to_owned(), true)
            ]
        );
    }
}
