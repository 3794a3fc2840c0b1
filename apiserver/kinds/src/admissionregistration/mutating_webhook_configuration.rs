//! `MutatingWebhookConfiguration`: servers that may change objects before they are written.

use corral_api::field::FieldError;
use corral_api::k8s::api::admissionregistration::v1::MutatingWebhookConfiguration;
use jiff::Timestamp;
use serde_json::Value;

use super::{name_warnings, webhook};
use crate::kind::{Column, Kind, Names, Words, age};

/// `admissionregistration.k8s.io/v1 MutatingWebhookConfiguration`.
pub struct MutatingWebhookConfigurationKind;

impl Kind for MutatingWebhookConfigurationKind {
    type Object = MutatingWebhookConfiguration;

    const NAMES: Names<'static> = Names {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        short_names: Words::Of(&[]),
        categories: Words::Of(&["api-extensions"]),
        namespaced: false,
    };
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(configuration: &mut MutatingWebhookConfiguration) {
        let webhooks = configuration.webhooks.iter_mut().flatten();
        webhooks.for_each(webhook::default_mutating);
    }

    fn validate(configuration: &MutatingWebhookConfiguration) -> Vec<FieldError> {
        webhook::validate(&configuration.webhooks.clone().unwrap_or_default(), None)
    }

    fn validate_update(
        new: &MutatingWebhookConfiguration,
        old: &MutatingWebhookConfiguration,
    ) -> Vec<FieldError> {
        let old = old.webhooks.clone().unwrap_or_default();
        webhook::validate(&new.webhooks.clone().unwrap_or_default(), Some(&old))
    }

    fn warnings(configuration: &MutatingWebhookConfiguration) -> Vec<String> {
        name_warnings(configuration.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Webhooks", "How many there are."),
            Column::AGE,
        ]
    }

    fn cells(configuration: &MutatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        let webhooks = configuration.webhooks.as_ref();
        vec![
            configuration.metadata.name.clone().into(),
            webhooks.map_or(0, Vec::len).into(),
            age(&configuration.metadata, now),
        ]
    }
}
