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

/// How admission finds the resources that it looks at; filled once they exist.
#[derive(Clone, Default)]
pub struct ApiRef(Arc<OnceLock<Weak<Api>>>);

impl ApiRef {
    /// The resources, while the server lives.
    pub fn get(&self) -> Option<Arc<Api>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl Api {
    /// All built-in resources over a store.
    pub fn new(
        storage: Arc<dyn Storage>,
        make_admission: impl FnOnce(ApiRef) -> Admission,
    ) -> Arc<Self> {
        let reference = ApiRef::default();
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
        // Set here and nowhere else, so it cannot be set already.
        let _ = reference.0.set(Arc::downgrade(&api));
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
