//! `StorageClass`.

use std::collections::{BTreeMap, BTreeSet};

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::TopologySelectorTerm;
use corral_api::k8s::api::storage::v1::StorageClass;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::rules as own;
use crate::core::node::labels;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, text};

/// The annotation of the class that claims without one get.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Its old form.
pub const DEFAULT_CLASS_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// Whether claims without a class get this one.
pub fn is_default(class: &StorageClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    let says = |key| {
        annotations
            .and_then(|a| a.get(key))
            .is_some_and(|v| v == "true")
    };
    says(DEFAULT_CLASS) || says(DEFAULT_CLASS_BETA)
}

/// `storage.k8s.io/v1 StorageClass`.
pub struct StorageClassKind;

impl Kind for StorageClassKind {
    type Object = StorageClass;

    const NAMES: Names<'static> = Names {
        group: "storage.k8s.io",
        version: "v1",
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: Words::Of(&["sc"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Provisioner", "What makes the volumes."),
            Column::text("ReclaimPolicy", "What becomes of a volume without a claim."),
            Column::text("VolumeBindingMode", "When a volume is made."),
            Column::text("AllowVolumeExpansion", "Whether volumes may grow."),
            Column::AGE,
        ]
    }

    fn cells(class: &StorageClass, now: Timestamp) -> Vec<Value> {
        let mut name = class.metadata.name.clone().unwrap_or_default();
        if is_default(class) {
            name.push_str(" (default)");
        }
        let or = |value: &Option<String>, otherwise: &str| -> Value {
            value.as_deref().unwrap_or(otherwise).into()
        };
        vec![
            name.into(),
            class.provisioner.clone().into(),
            or(&class.reclaim_policy, "Delete"),
            or(&class.volume_binding_mode, "Immediate"),
            class.allow_volume_expansion.unwrap_or(false).into(),
            age(&class.metadata, now),
        ]
    }

    fn default(class: &mut StorageClass) {
        fill::absent(&mut class.reclaim_policy, "Delete".to_owned());
        fill::absent(&mut class.volume_binding_mode, "Immediate".to_owned());
    }

    fn validate(class: &StorageClass) -> Vec<FieldError> {
        let mut errors = Errors::new();
        own::provisioner(&mut errors, &at("provisioner"), &class.provisioner);
        own::parameters(&mut errors, &at("parameters"), class.parameters.as_ref());
        let policy = text(&class.reclaim_policy);
        if !policy.is_empty() {
            let allowed = ["Delete", "Retain"];
            rules::supported(&mut errors, &at("reclaimPolicy"), policy, &allowed);
        }
        let allowed = ["Immediate", "WaitForFirstConsumer"];
        let mode = text(&class.volume_binding_mode);
        rules::supported(&mut errors, &at("volumeBindingMode"), mode, &allowed);
        topologies(&mut errors, &at("allowedTopologies"), class);
        errors
    }

    fn validate_update(new: &StorageClass, old: &StorageClass) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        let path = at("parameters");
        if !rules::same(&new.parameters, &old.parameters) {
            rules::immutable(&mut errors, &path, &new.parameters, &old.parameters);
        }
        let path = at("provisioner");
        rules::immutable(&mut errors, &path, &new.provisioner, &old.provisioner);
        let path = at("reclaimPolicy");
        rules::immutable(&mut errors, &path, &new.reclaim_policy, &old.reclaim_policy);
        rules::immutable(
            &mut errors,
            &at("volumeBindingMode"),
            &new.volume_binding_mode,
            &old.volume_binding_mode,
        );
        errors
    }

    fn warnings(class: &StorageClass) -> Vec<String> {
        let mut warnings = vec![
            "provisioner: accepted, but volumes of claims are not honoured by this server yet"
                .to_owned(),
        ];
        for (i, term) in class.allowed_topologies.iter().flatten().enumerate() {
            for (j, label) in term.match_label_expressions.iter().flatten().enumerate() {
                if let Some(instead) = labels::deprecated(&label.key) {
                    warnings.push(format!(
                        "allowedTopologies[{i}].matchLabelExpressions[{j}].key: {instead}"
                    ));
                }
            }
        }
        warnings
    }
}

fn topologies(errors: &mut Errors, path: &FieldPath, class: &StorageClass) {
    // In Kubernetes each is compared with as many that say nothing as there are, too.
    let n_terms = class.allowed_topologies.as_ref().map_or(0, Vec::len);
    let mut seen = vec![Labels::new(); n_terms];
    for (index, term) in class.allowed_topologies.iter().flatten().enumerate() {
        let path = path.index(index);
        let labels = topology(errors, &path, term);
        let path = path.child("matchLabelExpressions");
        for _ in seen.iter().filter(|known| **known == labels) {
            errors.push(FieldError::duplicate(&path, ""));
        }
        seen.push(labels);
    }
}

/// The values by their keys.
type Labels<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn topology<'a>(
    errors: &mut Errors,
    path: &FieldPath,
    term: &'a TopologySelectorTerm,
) -> Labels<'a> {
    let mut found = Labels::new();
    let path = path.child("matchLabelExpressions");
    for (index, label) in term.match_label_expressions.iter().flatten().enumerate() {
        let path = path.index(index);
        let (key_path, values_path) = (path.child("key"), path.child("values"));
        let mut values = BTreeSet::new();
        if label.values.is_empty() {
            errors.push(FieldError::required(&values_path, ""));
        }
        for (index, value) in label.values.iter().enumerate() {
            if !values.insert(value.as_str()) {
                errors.push(FieldError::duplicate(&values_path.index(index), value));
            }
        }
        let key = label.key.as_str();
        rules::complain(errors, &key_path, key, names::qualified_name(key));
        if found.insert(key, values).is_some() {
            errors.push(FieldError::duplicate(&key_path, key));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn class(json: Value) -> StorageClass {
        let mut class = serde_json::from_value(json).expect("a class");
        StorageClassKind::default(&mut class);
        class
    }

    #[test]
    fn a_class_deletes_and_binds_at_once_unless_it_says_otherwise() {
        let class = class(serde_json::json!({"provisioner": "example.com/p"}));
        assert_eq!(class.reclaim_policy.as_deref(), Some("Delete"));
        assert_eq!(class.volume_binding_mode.as_deref(), Some("Immediate"));
        assert!(StorageClassKind::validate(&class).is_empty());
    }

    #[test]
    fn an_update_keeps_the_rules_too_and_a_topology_says_something() {
        let old = class(serde_json::json!({"provisioner": "a"}));
        let new = class(serde_json::json!({
            "provisioner": "a", "volumeBindingMode": "Never", "allowedTopologies": [{}],
        }));
        assert_eq!(
            texts(&StorageClassKind::validate_update(&new, &old)),
            [
                "volumeBindingMode: Unsupported value: \"Never\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
                "allowedTopologies[0].matchLabelExpressions: Duplicate value: \"\"",
                "volumeBindingMode: Invalid value: \"Never\": field is immutable",
            ]
        );
    }

    #[test]
    fn only_what_no_volume_depends_on_changes() {
        let old = class(serde_json::json!({"provisioner": "a", "parameters": {}}));
        let new = class(serde_json::json!({"provisioner": "a", "allowVolumeExpansion": true}));
        assert!(StorageClassKind::validate_update(&new, &old).is_empty());
        let new = class(serde_json::json!({"provisioner": "b", "reclaimPolicy": "Retain"}));
        assert_eq!(
            texts(&StorageClassKind::validate_update(&new, &old)),
            [
                "provisioner: Invalid value: \"b\": field is immutable",
                "reclaimPolicy: Invalid value: \"Retain\": field is immutable",
            ]
        );
    }
}
