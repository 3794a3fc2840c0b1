//! The webhooks that there are, taken from their configurations: in the order of the names of these.

use std::sync::Arc;

use corral_api::k8s::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use corral_kinds::admissionregistration::webhook::from_validating;

use super::plural;
use crate::admission::derived::Derived;
use crate::admission::expressions::Conditions;
use crate::admission::matching::Criteria;
use crate::admission::request::Phase;
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
    /// What it is asked about.
    pub criteria: Criteria,
    /// What must hold of a request besides.
    pub conditions: Conditions,
}

/// The webhooks of one kind.
#[derive(Default)]
pub struct Hooks(Derived<1, Vec<Arc<Hook>>>);

impl Hooks {
    /// The webhooks as the cache knows them.
    pub fn current(&self, api: &Api, phase: Phase) -> Arc<Vec<Arc<Hook>>> {
        let group = "admissionregistration.k8s.io";
        let Some(resource) = api.resource(group, plural(phase)) else {
            return Arc::default();
        };
        let objects = resource.cacher.snapshot().objects;
        if objects.is_empty() {
            return Arc::default();
        }
        self.0.of([objects], |[objects], _| {
            objects
                .values()
                .flat_map(|stored| of(stored, phase))
                .collect()
        })
    }
}

fn of(stored: &Stored, phase: Phase) -> Vec<Arc<Hook>> {
    let json = &stored.json;
    let (meta, webhooks) = match phase {
        Phase::Mutating => match serde_json::from_slice::<MutatingWebhookConfiguration>(json) {
            Ok(read) => (read.metadata, read.webhooks.unwrap_or_default()),
            Err(_) => return Vec::new(),
        },
        Phase::Validating => match serde_json::from_slice::<ValidatingWebhookConfiguration>(json) {
            Ok(read) => {
                let webhooks = read.webhooks.into_iter().flatten();
                (read.metadata, webhooks.map(from_validating).collect())
            }
            Err(_) => return Vec::new(),
        },
    };
    let configuration = meta.name.unwrap_or_default();
    let hooks = webhooks.into_iter().enumerate().map(|(index, webhook)| {
        Arc::new(Hook {
            uid: format!("{configuration}/{}/{index}", webhook.name),
            criteria: Criteria::of_webhook(
                webhook.rules.as_deref().unwrap_or_default(),
                webhook.match_policy.as_deref(),
                webhook.namespace_selector.as_ref(),
                webhook.object_selector.as_ref(),
            ),
            conditions: Conditions::of_webhook(
                webhook.match_conditions.as_deref().unwrap_or_default(),
            ),
            configuration: configuration.clone(),
            webhook,
        })
    });
    hooks.collect()
}
