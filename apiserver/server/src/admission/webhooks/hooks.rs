//! The webhooks that there are, taken from their configurations: in the order of the names of these.

use std::sync::{Arc, Mutex};

use corral_api::k8s::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use corral_api::selector::LabelSelector;
use corral_kinds::admissionregistration::webhook::from_validating;
use corral_storage::Key;

use super::Kind;
use crate::api::Api;
use crate::object::Stored;

/// Seconds that a webhook has where its configuration does not say.
pub const TIMEOUT_SECONDS_DEFAULT: i32 = 10;

/// One webhook.
pub struct Hook {
    /// The name of its configuration.
    pub configuration: String,
    /// Tells it from all others.
    pub uid: String,
    /// Its configuration, in the form that both kinds have.
    pub webhook: MutatingWebhook,
    /// Namespaces whose objects it is asked about.
    pub namespaces: LabelSelector,
    /// Objects that it is asked about.
    pub objects: LabelSelector,
}

/// The webhooks of one kind, read anew when a configuration has changed.
#[derive(Default)]
pub struct Hooks(Mutex<Read>);

/// What was read, and from which versions of which configurations.
#[derive(Default)]
struct Read {
    from: Vec<(Key, u64)>,
    hooks: Arc<[Arc<Hook>]>,
}

impl Hooks {
    /// The webhooks as the cache knows them.
    pub fn current(&self, api: &Api, kind: Kind) -> Arc<[Arc<Hook>]> {
        let group = "admissionregistration.k8s.io";
        let Some(resource) = api.resource(group, kind.plural()) else {
            return Arc::default();
        };
        let snapshot = resource.cacher.snapshot();
        if snapshot.objects.is_empty() {
            return Arc::default();
        }
        let version = |stored: &Arc<Stored>| (stored.key.clone(), stored.revision.0);
        let mut read = self.0.lock().expect("no panic under the lock");
        let same = read.from.len() == snapshot.objects.len()
            && snapshot
                .objects
                .values()
                .zip(&read.from)
                .all(|(stored, from)| version(stored) == *from);
        if !same {
            read.from = snapshot.objects.values().map(version).collect();
            let hooks = snapshot
                .objects
                .values()
                .flat_map(|stored| of(stored, kind));
            read.hooks = hooks.collect();
        }
        read.hooks.clone()
    }
}

fn of(stored: &Stored, kind: Kind) -> Vec<Arc<Hook>> {
    let json = &stored.json;
    let (meta, webhooks) = match kind {
        Kind::Mutating => match serde_json::from_slice::<MutatingWebhookConfiguration>(json) {
            Ok(read) => (read.metadata, read.webhooks.unwrap_or_default()),
            Err(_) => return Vec::new(),
        },
        Kind::Validating => match serde_json::from_slice::<ValidatingWebhookConfiguration>(json) {
            Ok(read) => {
                let webhooks = read.webhooks.into_iter().flatten();
                (read.metadata, webhooks.map(from_validating).collect())
            }
            Err(_) => return Vec::new(),
        },
    };
    let configuration = meta.name.unwrap_or_default();
    let hooks = webhooks.into_iter().enumerate().map(|(index, webhook)| {
        // What cannot be read selects nothing; such a selector does not pass validation.
        let selector =
            |given| LabelSelector::from_object(given).unwrap_or_else(|_| LabelSelector::nothing());
        let everything =
            |given: Option<_>| given.map_or_else(LabelSelector::everything, |g| selector(Some(g)));
        Arc::new(Hook {
            uid: format!("{configuration}/{}/{index}", webhook.name),
            namespaces: everything(webhook.namespace_selector.as_ref()),
            objects: everything(webhook.object_selector.as_ref()),
            configuration: configuration.clone(),
            webhook,
        })
    });
    hooks.collect()
}
