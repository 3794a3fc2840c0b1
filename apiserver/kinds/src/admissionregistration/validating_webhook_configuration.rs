//! `ValidatingWebhookConfiguration`: servers that may refuse writes.

use corral_api::field::FieldError;
use corral_api::k8s::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use jiff::Timestamp;
use serde_json::Value;

use super::{name_warnings, webhook};
use crate::kind::{Column, Kind, Names, Words, age};

/// `admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration`.
pub struct ValidatingWebhookConfigurationKind;

impl Kind for ValidatingWebhookConfigurationKind {
    type Object = ValidatingWebhookConfiguration;

    const NAMES: Names<'static> = Names {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        short_names: Words::Of(&[]),
        categories: Words::Of(&["api-extensions"]),
        namespaced: false,
    };
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(configuration: &mut ValidatingWebhookConfiguration) {
        let webhooks = configuration.webhooks.iter_mut().flatten();
        webhooks.for_each(webhook::default_validating);
    }

    fn validate(configuration: &ValidatingWebhookConfiguration) -> Vec<FieldError> {
        webhook::validate(&webhook::common(&configuration.webhooks), None)
    }

    fn validate_update(
        new: &ValidatingWebhookConfiguration,
        old: &ValidatingWebhookConfiguration,
    ) -> Vec<FieldError> {
        let old = webhook::common(&old.webhooks);
        webhook::validate(&webhook::common(&new.webhooks), Some(&old))
    }

    fn warnings(configuration: &ValidatingWebhookConfiguration) -> Vec<String> {
        name_warnings(configuration.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Webhooks", "How many there are."),
            Column::AGE,
        ]
    }

    fn cells(configuration: &ValidatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        let webhooks = configuration.webhooks.as_ref();
        vec![
            configuration.metadata.name.clone().into(),
            webhooks.map_or(0, Vec::len).into(),
            age(&configuration.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn configuration(webhook: Value) -> ValidatingWebhookConfiguration {
        let mut object =
            serde_json::from_value(json!({"webhooks": [webhook]})).expect("a configuration");
        ValidatingWebhookConfigurationKind::default(&mut object);
        object
    }

    #[test]
    fn a_webhook_has_defaults_and_says_what_it_is_asked_about() {
        let right = json!({
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "n", "name": "s"}},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        });
        let object = configuration(right.clone());
        assert!(ValidatingWebhookConfigurationKind::validate(&object).is_empty());
        let webhook = &object.webhooks.as_ref().expect("webhooks")[0];
        assert_eq!(webhook.timeout_seconds, Some(10));
        assert_eq!(
            webhook.client_config.service.as_ref().and_then(|s| s.port),
            Some(443)
        );
        let rules = webhook.rules.as_ref().expect("rules");
        assert_eq!(rules[0].scope.as_deref(), Some("*"));
        let mut wrong = right;
        wrong["name"] = "a.b".into();
        wrong["sideEffects"] = "Some".into();
        wrong["admissionReviewVersions"] = json!(["v2"]);
        let wrong = configuration(wrong);
        let errors = ValidatingWebhookConfigurationKind::validate(&wrong);
        assert_eq!(
            texts(&errors),
            [
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ]
        );
        // What is older than these rules may stay, but for the name.
        let errors = ValidatingWebhookConfigurationKind::validate_update(&wrong, &wrong);
        assert_eq!(errors.len(), 1, "{:?}", texts(&errors));
    }
}
