//! `Namespace`.

use corral_api::field::FieldError;
use corral_api::k8s::api::core::v1::{Namespace, NamespaceStatus};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Verbs, Words, age};
use crate::rules::{self, Errors, at, text};
use crate::selectable::SelectableField;

/// The label with the namespace's own name, so that selectors can name it.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer of every namespace.
pub const FINALIZER: &str = "kubernetes";

/// Finalizers without a domain in front.
const STANDARD_FINALIZERS: &[&str] = &[FINALIZER, "orphan", "foregroundDeletion"];

/// `v1 Namespace`.
pub struct NamespaceKind;

impl Kind for NamespaceKind {
    type Object = Namespace;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: Words::Of(&["ns"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::NoDeleteCollection;
    const STATUS: bool = true;
    const NAME_RULE: fn(&str) -> Vec<String> = names::dns1123_label;
    const SELECTABLE_FIELDS: &'static [SelectableField] = &[SelectableField::text("status.phase")];

    fn default(namespace: &mut Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        if !name.is_empty() {
            let labels = namespace.metadata.labels.get_or_insert_default();
            labels.insert(NAME_LABEL.to_owned(), name);
        }
        namespace.spec.get_or_insert_default();
        fill::text(
            &mut namespace.status.get_or_insert_default().phase,
            "Active",
        );
    }

    /// The finalizer keeps the namespace until the server has taken away what is in it.
    fn prepare_create(namespace: &mut Namespace) {
        let spec = namespace.spec.get_or_insert_default();
        let finalizers = spec.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        namespace.status = Some(NamespaceStatus {
            phase: Some("Active".to_owned()),
            ..NamespaceStatus::default()
        });
        // A generated name is not known before this.
        Self::default(namespace);
    }

    /// Finalizers of the spec change through the subresource only.
    fn prepare_update(new: &mut Namespace, old: &Namespace) {
        let finalizers = old.spec.as_ref().and_then(|s| s.finalizers.clone());
        new.spec.get_or_insert_default().finalizers = finalizers;
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Status", "Whether it is in use or being removed."),
            Column::AGE,
        ]
    }

    fn cells(namespace: &Namespace, now: Timestamp) -> Vec<Value> {
        let phase = namespace.status.as_ref().and_then(|s| s.phase.clone());
        vec![
            namespace.metadata.name.clone().into(),
            phase.into(),
            age(&namespace.metadata, now),
        ]
    }

    fn validate(namespace: &Namespace) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let finalizers = namespace
            .spec
            .iter()
            .flat_map(|s| s.finalizers.iter().flatten());
        for name in finalizers {
            let path = at("spec.finalizers");
            rules::complain(&mut errors, &path, name, names::qualified_name(name));
            if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name.as_str()) {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid(&path, name.as_str(), detail));
            }
        }
        errors
    }

    fn validate_update(_new: &Namespace, _old: &Namespace) -> Vec<FieldError> {
        Vec::new()
    }

    fn validate_status_update(new: &Namespace, _old: &Namespace) -> Vec<FieldError> {
        let phase = new.status.as_ref().map_or("", |s| text(&s.phase));
        let (wanted, is_empty) = match new.metadata.deletion_timestamp {
            None => ("Active", "is empty"),
            Some(_) => ("Terminating", "is not empty"),
        };
        if phase == wanted {
            return Vec::new();
        }
        let detail = format!("may only be '{wanted}' if `deletionTimestamp` {is_empty}");
        vec![FieldError::invalid(&at("status.Phase"), phase, detail)]
    }
}
