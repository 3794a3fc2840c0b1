//! `CustomResourceDefinition`: the description of a kind by a client.
//!
//! Reading order: [`types`] (what it says), then its rules: [`rules`] (names, versions, columns), [`schema_rules`] (what a
//! schema may say), [`structural_rules`] (where it must say it), [`default_rules`] (whether its defaults are good themselves).

use corral_api::field::{FieldError, FieldPath};
use corral_api::names;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kind::{Column, Kind, Names as KindNames, Words};

mod default_rules;
mod rules;
mod schema_rules;
mod structural_rules;
pub mod types;

pub use rules::{approval, is_protected};
pub use types::{
    Condition, Conversion, CustomResourceDefinition, Names, Spec, Status, Version,
    WebhookClientConfig,
};

/// Deletes the objects of a definition before the definition itself goes.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// `apiextensions.k8s.io/v1 CustomResourceDefinition`.
pub struct CustomResourceDefinitionKind;

impl Kind for CustomResourceDefinitionKind {
    type Object = CustomResourceDefinition;

    const NAMES: KindNames<'static> = KindNames {
        group: "apiextensions.k8s.io",
        version: "v1",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: Words::Of(&["crd", "crds"]),
        categories: Words::Of(&["api-extensions"]),
        namespaced: false,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const STORAGE_VERSION: (&'static str, &'static str) = ("apiextensions.k8s.io", "v1beta1");
    const UNCONDITIONAL_UPDATE: bool = false;
    const CHECKS_FINALIZERS: bool = false;
    const NAME_RULE: fn(&str) -> Vec<String> = names::dns1123_subdomain;

    fn default(definition: &mut CustomResourceDefinition) {
        let spec = &mut definition.spec;
        let singular = spec.names.singular.get_or_insert_default();
        if singular.is_empty() {
            *singular = spec.names.kind.to_lowercase();
        }
        let list_kind = spec.names.list_kind.get_or_insert_default();
        if list_kind.is_empty() && !spec.names.kind.is_empty() {
            *list_kind = format!("{}List", spec.names.kind);
        }
        let conversion = spec.conversion.get_or_insert_with(|| Conversion {
            strategy: "None".to_owned(),
            webhook: None,
        });
        // One that says nothing is none.
        conversion.webhook.take_if(|webhook| {
            let versions = webhook.conversion_review_versions.as_deref();
            webhook.client_config.is_none() && versions.is_none_or(<[String]>::is_empty)
        });
        let client = conversion
            .webhook
            .as_mut()
            .and_then(|webhook| webhook.client_config.as_mut());
        if let Some(service) = client.and_then(|client| client.service.as_mut()) {
            service.port.get_or_insert(443);
        }
        let status = definition.status.get_or_insert_default();
        if status.stored_versions.is_empty() {
            let storage = spec.versions.iter().find(|version| version.storage);
            status
                .stored_versions
                .extend(storage.map(|version| version.name.clone()));
        }
    }

    fn prepare_create(definition: &mut CustomResourceDefinition) {
        let storage = definition
            .spec
            .versions
            .iter()
            .find(|version| version.storage);
        definition.status = Some(Status {
            stored_versions: storage
                .map(|version| version.name.clone())
                .into_iter()
                .collect(),
            ..Status::default()
        });
    }

    fn prepare_update(new: &mut CustomResourceDefinition, _old: &CustomResourceDefinition) {
        let storage = new.spec.versions.iter().find(|version| version.storage);
        let status = new.status.get_or_insert_default();
        if let Some(version) = storage
            && !status.stored_versions.contains(&version.name)
        {
            status.stored_versions.push(version.name.clone());
        }
    }

    fn validate(definition: &CustomResourceDefinition) -> Vec<FieldError> {
        rules::validate(definition)
    }

    fn validate_update(
        new: &CustomResourceDefinition,
        old: &CustomResourceDefinition,
    ) -> Vec<FieldError> {
        rules::validate_update(new, old)
    }

    fn validate_status_update(
        new: &CustomResourceDefinition,
        _old: &CustomResourceDefinition,
    ) -> Vec<FieldError> {
        rules::validate_status(new)
    }

    fn warnings(definition: &CustomResourceDefinition) -> Vec<String> {
        let versions = definition.spec.versions.iter();
        let schemas = versions.filter_map(Version::schema);
        let mut warnings = Vec::new();
        for schema in schemas {
            schema_rules::unknown_formats(schema, &mut warnings);
        }
        warnings
    }

    fn begin_deletion(value: &mut Value, now: Timestamp) -> bool {
        let now = corral_api::time::format_seconds(now);
        value["metadata"]["deletionTimestamp"] = now.as_str().into();
        let finalizers = &mut value["metadata"]["finalizers"];
        if !finalizers.is_array() {
            *finalizers = json!([]);
        }
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER)
        {
            list.push(CLEANUP_FINALIZER.into());
        }
        let conditions = value["status"]["conditions"].take();
        let mut conditions = match conditions {
            Value::Array(conditions) => conditions,
            _ => Vec::new(),
        };
        conditions.retain(|condition| condition["type"] != "Terminating");
        conditions.push(json!({
            "type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            "lastTransitionTime": now,
        }));
        value["status"]["conditions"] = conditions.into();
        true
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::date("Created At", "When the definition was created."),
        ]
    }

    fn cells(definition: &CustomResourceDefinition, _now: Timestamp) -> Vec<Value> {
        let created = definition.metadata.creation_timestamp.as_ref();
        vec![
            definition.metadata.name.clone().into(),
            created
                .map(|at| corral_api::time::format_seconds(at.0))
                .into(),
        ]
    }
}

/// The path of the schema of a version.
fn schema_path(index: usize) -> FieldPath {
    let version = FieldPath::new("spec").child("versions").index(index);
    version.child("schema").child("openAPIV3Schema")
}
