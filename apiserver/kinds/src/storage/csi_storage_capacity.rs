//! `CSIStorageCapacity`: how much a driver can still give, and where.

use corral_api::field::FieldError;
use corral_api::k8s::api::storage::v1::CSIStorageCapacity;
use corral_api::names;
use corral_api::quantity::Quantity;

use crate::core::node::labels;
use crate::kind::{Kind, Names, Words};
use crate::rules::{self, Errors, at};

/// `storage.k8s.io/v1 CSIStorageCapacity`.
pub struct CsiStorageCapacityKind;

impl Kind for CsiStorageCapacityKind {
    type Object = CSIStorageCapacity;

    const NAMES: Names<'static> = Names {
        group: "storage.k8s.io",
        version: "v1",
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };

    fn validate(capacity: &CSIStorageCapacity) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if let Some(selector) = &capacity.node_topology {
            rules::label_selector(&mut errors, &at("nodeTopology"), selector);
        }
        let class = capacity.storage_class_name.as_str();
        let complaints = names::dns1123_subdomain(class);
        rules::complain(&mut errors, &at("storageClassName"), class, complaints);
        if let Some(wire) = &capacity.capacity
            && Quantity::from_wire(wire).is_ok_and(Quantity::is_negative)
        {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(
                &at("capacity"),
                wire.0.as_str(),
                detail,
            ));
        }
        errors
    }

    fn validate_update(new: &CSIStorageCapacity, old: &CSIStorageCapacity) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        if !rules::same(&new.node_topology, &old.node_topology)
            || new.node_topology.is_some() != old.node_topology.is_some()
        {
            let value = new.node_topology.as_ref();
            errors.push(FieldError {
                value: Some(value.map_or_else(|| "null".to_owned(), rules::selector_words)),
                ..rules::invalid_unshown(&at("nodeTopology"), "field is immutable")
            });
        }
        let path = at("storageClassName");
        let (new, old) = (&new.storage_class_name, &old.storage_class_name);
        rules::immutable(&mut errors, &path, new, old);
        errors
    }

    fn warnings(capacity: &CSIStorageCapacity) -> Vec<String> {
        let mut warnings =
            vec!["capacity: accepted, but not honoured by this server yet".to_owned()];
        let selector = capacity.node_topology.as_ref();
        let expressions = selector.and_then(|s| s.match_expressions.as_ref());
        for (index, expression) in expressions.into_iter().flatten().enumerate() {
            if let Some(instead) = labels::deprecated(&expression.key) {
                let key = &expression.key;
                warnings.push(format!(
                    "nodeTopology.matchExpressions[{index}].key: {key} is {instead}"
                ));
            }
        }
        let labels = selector.and_then(|s| s.match_labels.as_ref());
        for key in labels.into_iter().flatten().map(|(key, _)| key) {
            if let Some(instead) = labels::deprecated(key) {
                warnings.push(format!("nodeTopology.matchLabels.{key}: {instead}"));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn what_was_asked_stays_and_the_answer_changes() {
        let capacity = |json: Value| -> CSIStorageCapacity {
            serde_json::from_value(json).expect("a capacity")
        };
        let old = capacity(serde_json::json!({"storageClassName": "a", "capacity": "1Gi"}));
        let new = capacity(serde_json::json!({"storageClassName": "a", "capacity": "2Gi"}));
        assert!(CsiStorageCapacityKind::validate_update(&new, &old).is_empty());
        let new = capacity(serde_json::json!({"storageClassName": "b", "capacity": "-1"}));
        assert_eq!(
            texts(&CsiStorageCapacityKind::validate_update(&new, &old)),
            [
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
                "storageClassName: Invalid value: \"b\": field is immutable",
            ]
        );
    }
}
