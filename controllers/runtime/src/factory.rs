//! Each kind is watched once per process: whoever asks for a kind's cache gets the same one.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use tokio_util::sync::CancellationToken;

use crate::cache::Change;
use crate::key::Object;
use crate::metrics::Metrics;
use crate::reflector::Reflector;
use crate::{Cache, Objects, Tasks};

/// An object of which only the metadata is known.
pub type Metadata = PartialObjectMeta<DynamicObject>;

/// A change of an object of any kind, seen by its metadata.
#[derive(Debug)]
pub enum MetadataChange<'a> {
    /// It appeared or changed.
    Applied(&'a ObjectMeta),
    /// It is gone.
    Deleted(&'a ObjectMeta),
}

/// Calls back for changes of metadata.
pub type MetadataListener = Arc<dyn Fn(MetadataChange<'_>) + Send + Sync>;

/// What the factory keeps of a typed cache to serve metadata from it.
trait MetadataSource: Send + Sync {
    fn listen_metadata(&self, scope: CancellationToken, listener: MetadataListener);
    fn as_any(&self) -> &(dyn Any + Send + Sync);
    fn is_synced(&self) -> bool;
}

impl<K: Object> MetadataSource for Cache<K> {
    fn listen_metadata(&self, scope: CancellationToken, listener: MetadataListener) {
        self.during(scope).listen(move |change| match change {
            Change::Applied { new, .. } => listener(MetadataChange::Applied(new.meta())),
            Change::Deleted(last) => listener(MetadataChange::Deleted(last.meta())),
        });
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn is_synced(&self) -> bool {
        self.is_synced()
    }
}

struct Dynamic {
    cache: Cache<Metadata>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Caches {
    typed: HashMap<TypeId, Box<dyn MetadataSource>>,
    /// Which type caches a collection, by path.
    paths: HashMap<String, TypeId>,
    dynamic: HashMap<String, Dynamic>,
    /// What is not kept of a type: functions from `&mut K`.
    trims: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl Caches {
    fn trim_of<K: Object>(&self) -> fn(&mut K) {
        let trim = self.trims.get(&TypeId::of::<K>());
        let trim = trim.and_then(|trim| trim.downcast_ref::<fn(&mut K)>());
        trim.copied().unwrap_or(|_| ())
    }
}

/// Makes and shares caches. Clones share.
#[derive(Clone)]
pub struct CacheFactory {
    client: Client,
    metrics: Metrics,
    tasks: Tasks,
    /// Guards the table of caches; never held while waiting.
    caches: Arc<Mutex<Caches>>,
    /// How long those who listen through this handle do so.
    scope: CancellationToken,
}

impl CacheFactory {
    /// A factory whose watches use `client` and run in `tasks`.
    pub fn new(client: Client, metrics: Metrics, tasks: Tasks) -> Self {
        Self {
            client,
            metrics,
            tasks,
            caches: Arc::default(),
            scope: CancellationToken::new(),
        }
    }

    /// The same caches for the term of a leader: whoever listens to them through this handle does so until `scope` is
    /// cancelled, while the caches stay and are ready for the next term.
    #[must_use]
    pub fn during(&self, scope: CancellationToken) -> Self {
        Self {
            scope,
            ..self.clone()
        }
    }

    /// Keeps of a kind only what `trim` leaves. Whoever puts caches together for several users must know what all of
    /// them read, and say so before the first one asks for the kind.
    #[must_use]
    pub fn trimming<K: Object>(self, trim: fn(&mut K)) -> Self {
        let mut caches = self
            .caches
            .lock()
            .expect("no panic while the table is held");
        caches.trims.insert(TypeId::of::<K>(), Box::new(trim));
        drop(caches);
        self
    }

    /// The counters that the factory was made with, for controllers that share it.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The cache of a kind; its watch starts at the first call.
    pub fn cache<K>(&self) -> Cache<K>
    where
        K: Object<DynamicType = ()>,
    {
        let mut caches = self
            .caches
            .lock()
            .expect("no panic while the table is held");
        if let Some(known) = caches.typed.get(&TypeId::of::<K>()) {
            let cache = known.as_any().downcast_ref::<Cache<K>>();
            let cache = cache.expect("the table is keyed by type");
            return cache.during(self.scope.clone());
        }
        let path = K::url_path(&(), None);
        let trim = caches.trim_of::<K>();
        let cache = Cache::<K>::trimmed(trim);
        caches
            .typed
            .insert(TypeId::of::<K>(), Box::new(cache.clone()));
        caches.paths.insert(path.clone(), TypeId::of::<K>());
        drop(caches);
        let reflector = Reflector {
            client: self.client.clone(),
            path: path.clone(),
            fields: None,
            metadata_only: false,
            metrics: self.metrics.clone(),
        };
        self.tasks
            .spawn(format!("reflector {path}"), reflector.run(cache.clone()));
        cache.during(self.scope.clone())
    }

    /// A cache of its own of those objects of a kind that a field selector finds: for whoever needs one object of each
    /// namespace and not the memory of all of them.
    pub fn selected<K>(&self, fields: &'static str) -> Cache<K>
    where
        K: Object<DynamicType = ()>,
    {
        let path = K::url_path(&(), None);
        let cache = Cache::<K>::new();
        let reflector = Reflector {
            client: self.client.clone(),
            path: path.clone(),
            fields: Some(fields),
            metadata_only: false,
            metrics: self.metrics.clone(),
        };
        let (scope, kept) = (self.scope.clone(), cache.clone());
        self.tasks
            .spawn(format!("reflector {path} {fields}"), async move {
                scope.run_until_cancelled(reflector.run(kept)).await;
            });
        cache
    }

    /// The cache of a kind together with a client to write it.
    pub fn objects<K>(&self, client: &Client) -> Objects<K>
    where
        K: Object<DynamicType = ()> + serde::Serialize,
    {
        Objects::new(client.clone(), self.cache::<K>())
    }

    /// Listens to the metadata of any kind: on the typed cache if there is one, on a metadata-only watch otherwise.
    pub fn listen_metadata(&self, resource: &ApiResource, listener: MetadataListener) {
        let path = collection_path(resource);
        let mut caches = self
            .caches
            .lock()
            .expect("no panic while the table is held");
        if let Some(known) = caches.paths.get(&path) {
            let known = caches.typed.get(known).expect("every path names a cache");
            known.listen_metadata(self.scope.clone(), listener);
            return;
        }
        let cache = match caches.dynamic.get(&path) {
            Some(known) => known.cache.clone(),
            None => self.start_dynamic(&mut caches, path),
        };
        drop(caches);
        cache.listen_metadata(self.scope.clone(), listener);
    }

    fn start_dynamic(&self, caches: &mut Caches, path: String) -> Cache<Metadata> {
        let cache = Cache::<Metadata>::trimmed(trim_metadata);
        let stop = CancellationToken::new();
        let reflector = Reflector {
            client: self.client.clone(),
            path: path.clone(),
            fields: None,
            metadata_only: true,
            metrics: self.metrics.clone(),
        };
        let (token, name, kept) = (
            stop.clone(),
            format!("metadata reflector {path}"),
            cache.clone(),
        );
        self.tasks.spawn(name, async move {
            token.run_until_cancelled(reflector.run(kept)).await;
        });
        caches.dynamic.insert(
            path,
            Dynamic {
                cache: cache.clone(),
                stop,
            },
        );
        cache
    }

    /// Whether the metadata of a kind is known completely.
    pub fn is_metadata_synced(&self, resource: &ApiResource) -> bool {
        let path = collection_path(resource);
        let caches = self
            .caches
            .lock()
            .expect("no panic while the table is held");
        if let Some(known) = caches
            .paths
            .get(&path)
            .and_then(|known| caches.typed.get(known))
        {
            return known.is_synced();
        }
        caches
            .dynamic
            .get(&path)
            .is_some_and(|known| known.cache.is_synced())
    }

    /// Ends the metadata watch of a kind that is no longer served; its objects count as gone.
    pub fn forget_metadata(&self, resource: &ApiResource) {
        let path = collection_path(resource);
        let mut caches = self
            .caches
            .lock()
            .expect("no panic while the table is held");
        let known = caches.dynamic.remove(&path);
        drop(caches);
        if let Some(known) = known {
            known.stop.cancel();
            known.cache.clear();
        }
    }
}

/// The path of a kind's collection over all namespaces.
pub fn collection_path(resource: &ApiResource) -> String {
    use kube::Resource;
    DynamicObject::url_path(resource, None)
}

/// Keeps what says who owns what.
fn trim_metadata(object: &mut Metadata) {
    object.metadata.annotations = None;
    object.metadata.labels = None;
}
