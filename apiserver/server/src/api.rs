//! All resources of the server, found by group and plural.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use corral_kinds::kind::Verbs;
use corral_kinds::{AnyKind, all};
use corral_storage::Storage;

use crate::admission::Admission;
use crate::registry::Resource;

/// The stored resources, and the kinds that are only asked.
pub struct Api {
    resources: HashMap<(&'static str, &'static str), Arc<Resource>>,
    /// The store below all resources.
    pub storage: Arc<dyn Storage>,
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
            .filter(|kind| kind.verbs() != Verbs::CreateOnly);
        let resources = stored
            .map(|kind| {
                let names = kind.names();
                let resource = Resource::new(*kind, storage.clone(), admission.clone());
                ((names.group, names.plural), Arc::new(resource))
            })
            .collect();
        let api = Arc::new(Self { resources, storage });
        reference.fill(&api);
        api
    }

    /// A stored resource.
    pub fn resource(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources
            .iter()
            .find(|((g, p), _)| *g == group && *p == plural)
            .map(|(_, resource)| resource)
    }

    /// A stored resource of this crate's own use.
    ///
    /// # Panics
    /// When there is no such built-in resource, which is a fault of the caller.
    pub fn core(&self, plural: &str) -> &Arc<Resource> {
        self.resource("", plural)
            .expect("a built-in resource of the core group")
    }

    /// All stored resources.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The kind behind a resource, stored or not.
    pub fn kind(group: &str, version: &str, plural: &str) -> Option<&'static dyn AnyKind> {
        all::resource(group, version, plural)
    }
}
