//! All resources of the server, found by group, version and plural: those of this program, and those that clients have
//! described.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, RwLock, Weak};

use corral_kinds::custom::kind::{CustomKind, Described};
use corral_kinds::kind::Verbs;
use corral_kinds::{KindRef, all};
use corral_storage::Storage;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::Admission;
use crate::cacher::Cacher;
use crate::conversion::Conversion;
use crate::registry::Resource;

/// The stored resources, and the kinds that are only asked.
pub struct Api {
    /// In the order of the list of kinds.
    built_in: Vec<Arc<Resource>>,
    /// Positions in `built_in` by group and plural; a resource in several versions has several, the preferred one first.
    places: HashMap<&'static str, HashMap<&'static str, Vec<usize>>>,
    /// By the name of their definitions.
    custom: RwLock<imbl::OrdMap<String, Arc<Custom>>>,
    admission: Arc<Admission>,
    /// The store below all resources.
    pub storage: Arc<dyn Storage>,
}

/// How the objects of a definition get from one version into another.
pub struct Converting {
    /// Who does it.
    pub conversion: Arc<Conversion>,
    /// Whether the store keeps all objects in one version.
    pub uniform: bool,
}

/// The resource of a CustomResourceDefinition, as it is served now.
pub struct Custom {
    /// One for each version that is served, in the order of preference.
    pub versions: Vec<Arc<Resource>>,
    /// The one in whose version the store keeps objects, served or not.
    pub storage: Arc<Resource>,
    /// What of the definition it was made from.
    pub made_from: String,
    /// Ends the caches and their watchers.
    _running: DropGuard,
}

impl Custom {
    /// Takes no new objects any more.
    pub fn close(&self) {
        for resource in self.versions.iter().chain([&self.storage]) {
            resource.closed.store(true, Ordering::Release);
        }
    }
}

/// How admission finds what it looks at and is itself a part of; filled once that exists.
pub struct Late<T>(Arc<OnceLock<Weak<T>>>);

impl<T> Clone for Late<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Late<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Late<T> {
    /// The value, while the server lives.
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.get().and_then(Weak::upgrade)
    }

    /// Fills it; a second value is not taken.
    pub fn fill(&self, value: &Arc<T>) {
        let _ = self.0.set(Arc::downgrade(value));
    }
}

impl Api {
    /// All built-in resources over a store.
    pub fn new(
        storage: Arc<dyn Storage>,
        make_admission: impl FnOnce(Late<Self>) -> Admission,
    ) -> Arc<Self> {
        let reference = Late::default();
        let admission = Arc::new(make_admission(reference.clone()));
        let stored = all::RESOURCES
            .iter()
            .filter(|kind| !matches!(kind.verbs(), Verbs::CreateOnly | Verbs::ReadOnly));
        let mut built_in = Vec::new();
        let mut places: HashMap<_, HashMap<_, Vec<usize>>> = HashMap::new();
        for kind in stored.copied() {
            let names = kind.names();
            let group = places.entry(names.group).or_default();
            let versions = group.entry(names.plural).or_default();
            versions.push(built_in.len());
            let resource = Resource::new(kind, storage.clone(), admission.clone());
            built_in.push(Arc::new(resource));
        }
        let api = Arc::new(Self {
            built_in,
            places,
            custom: RwLock::default(),
            admission,
            storage,
        });
        reference.fill(&api);
        api
    }

    fn places(&self, group: &str, plural: &str) -> &[usize] {
        let places = self.places.get(group).and_then(|group| group.get(plural));
        places.map_or(&[], Vec::as_slice)
    }

    /// A built-in stored resource, in its preferred version.
    pub fn resource(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let first = self.places(group, plural).first()?;
        self.built_in.get(*first)
    }

    /// A stored resource, whoever describes it.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let is_meant = |resource: &&Arc<Resource>| resource.kind.names().version == version;
        let mut built_in = self.places(group, plural).iter();
        if let Some(found) = built_in.find_map(|place| self.built_in.get(*place).filter(is_meant)) {
            return Some(found.clone());
        }
        let custom = self.custom(&format!("{plural}.{group}"))?;
        custom.versions.iter().find(is_meant).cloned()
    }

    /// A stored resource of this crate's own use.
    ///
    /// # Panics
    /// When there is no such built-in resource, which is a fault of the caller.
    pub fn core(&self, plural: &str) -> &Arc<Resource> {
        self.resource("", plural)
            .expect("a built-in resource of the core group")
    }

    /// A built-in object as the cache has it; `None` where there is none, or where it cannot be read as this type.
    pub fn cached<T: DeserializeOwned>(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<T> {
        let resource = self.resource(group, plural)?;
        let stored = resource.cacher.peek(&resource.key(namespace, name))?;
        serde_json::from_slice(&stored.json).ok()
    }

    /// All built-in stored resources.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.built_in.iter()
    }

    /// All stored resources of clients, in all their versions.
    pub fn custom_resources(&self) -> Vec<Arc<Resource>> {
        let custom = self.read().clone();
        let versions = custom.values().flat_map(|custom| &custom.versions);
        versions.cloned().collect()
    }

    /// The kind behind a resource, stored or not.
    pub fn kind(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        if let Some(kind) = all::resource(group, version, plural) {
            return Some(kind.into());
        }
        let found = self.find(group, version, plural)?;
        Some(found.kind.clone())
    }

    /// Every kind that has a resource: first those of this program, in their order, then those of clients by name.
    pub fn kinds(&self) -> Vec<KindRef> {
        let built_in = all::RESOURCES.iter().map(|kind| KindRef::BuiltIn(*kind));
        let custom = self.custom_resources();
        let custom = custom.iter().map(|resource| resource.kind.clone());
        built_in.chain(custom).collect()
    }

    /// The resource of a definition, if it is served.
    pub fn custom(&self, definition: &str) -> Option<Arc<Custom>> {
        self.read().get(definition).cloned()
    }

    /// Serves the resource of a definition, in place of what the definition described before. Watchers of that end.
    /// Without a version that the store keeps objects in there is nothing to serve.
    pub fn serve(
        &self,
        definition: &str,
        made_from: String,
        kinds: Vec<Described>,
        converting: Option<Converting>,
        stop: &CancellationToken,
    ) {
        let stop = stop.child_token();
        let run = |cacher: &Arc<Cacher>| {
            tokio::spawn(cacher.clone().run(stop.clone()));
        };
        let storage_kind = kinds.iter().find(|described| described.stored);
        let storage_kind = storage_kind.map(|described| KindRef::Custom(described.kind.clone()));
        // Metadata are the same in every version, so that whoever wants no more needs no conversion.
        let bare = converting
            .as_ref()
            .zip(storage_kind)
            .map(|(converting, kind)| {
                let conversion = converting.uniform.then(|| converting.conversion.clone());
                let bare = Cacher::on_demand(kind, self.storage.clone(), conversion);
                run(&bare);
                bare
            });
        let start = |kind: Arc<CustomKind>, is_stored: bool| {
            let kind = KindRef::Custom(kind);
            let (store, admission) = (self.storage.clone(), self.admission.clone());
            let mut resource = Resource::new(kind.clone(), store, admission);
            resource.ended = stop.clone();
            if let (Some(converting), Some(bare)) = (&converting, &bare) {
                let conversion = converting.conversion.clone();
                let shared = is_stored && converting.uniform;
                resource.convert(conversion, bare.clone(), shared);
                if shared {
                    return Arc::new(resource);
                }
            }
            run(&resource.cacher);
            Arc::new(resource)
        };
        let (mut versions, mut storage) = (Vec::new(), None);
        for described in kinds.into_iter().filter(|kind| kind.served || kind.stored) {
            let resource = start(described.kind, described.stored);
            if described.stored {
                storage = Some(resource.clone());
            }
            if described.served {
                versions.push(resource);
            }
        }
        let Some(storage) = storage else { return };
        let custom = Custom {
            versions,
            storage,
            made_from,
            _running: stop.drop_guard(),
        };
        self.write().insert(definition.to_owned(), Arc::new(custom));
    }

    /// Serves the resource of a definition no longer.
    pub fn withdraw(&self, definition: &str) {
        self.write().remove(definition);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, imbl::OrdMap<String, Arc<Custom>>> {
        self.custom.read().expect("no panic under the lock")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, imbl::OrdMap<String, Arc<Custom>>> {
        self.custom.write().expect("no panic under the lock")
    }
}
