//! `CSINode`: the storage drivers of a node.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::storage::v1::{CSINode, CSINodeDriver};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::core::pod_spec::validation::driver_name;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, Seen, at, json};

const NODE_ID_LENGTH_MAX: usize = 256;

/// `storage.k8s.io/v1 CSINode`.
pub struct CsiNodeKind;

impl Kind for CsiNodeKind {
    type Object = CSINode;

    const NAMES: Names<'static> = Names {
        group: "storage.k8s.io",
        version: "v1",
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Drivers", "How many drivers the node has."),
            Column::AGE,
        ]
    }

    fn cells(node: &CSINode, now: Timestamp) -> Vec<Value> {
        vec![
            node.metadata.name.clone().into(),
            node.spec.drivers.len().into(),
            age(&node.metadata, now),
        ]
    }

    fn validate(node: &CSINode) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let mut seen = Seen::default();
        for (index, one) in node.spec.drivers.iter().enumerate() {
            let path = at("spec.drivers").index(index);
            driver(&mut errors, &path, one, &mut seen);
        }
        errors
    }

    fn validate_update(new: &CSINode, old: &CSINode) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        let bare = |driver: &CSINodeDriver| CSINodeDriver {
            allocatable: None,
            ..driver.clone()
        };
        for old in old.spec.drivers.iter().map(bare) {
            for new in new.spec.drivers.iter().map(bare) {
                if new.name == old.name && !rules::same(&new, &old) {
                    let detail = "field is immutable";
                    errors.push(FieldError::invalid(&at("spec.drivers"), json(&new), detail));
                }
            }
        }
        errors
    }
}

fn driver<'a>(
    errors: &mut Errors,
    path: &FieldPath,
    driver: &'a CSINodeDriver,
    seen: &mut Seen<'a>,
) {
    driver_name(errors, &path.child("name"), &driver.name);
    let (id, id_path) = (driver.node_id.as_str(), path.child("nodeID"));
    if id.is_empty() {
        errors.push(FieldError::required(&id_path, ""));
    }
    if id.len() > NODE_ID_LENGTH_MAX {
        let detail = format!("must be {NODE_ID_LENGTH_MAX} characters or less");
        errors.push(FieldError::invalid(&id_path, id, detail));
    }
    let count = driver.allocatable.as_ref().and_then(|a| a.count);
    rules::nonnegative_opt(errors, &path.child("allocatable").child("count"), count);
    seen.check(errors, &path.child("name"), &driver.name);
    // Kubernetes names the driver, not its keys.
    let mut keys = Seen::default();
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        keys.check(errors, path, key);
        rules::complain(errors, path, key, names::qualified_name(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn of_a_driver_that_stays_only_the_number_of_volumes_changes() {
        let node = |driver: Value| -> CSINode {
            serde_json::from_value(serde_json::json!({"spec": {"drivers": [driver]}}))
                .expect("a node")
        };
        let old = node(serde_json::json!({"name": "d", "nodeID": "n", "topologyKeys": []}));
        let new =
            node(serde_json::json!({"name": "d", "nodeID": "n", "allocatable": {"count": 5}}));
        assert!(CsiNodeKind::validate_update(&new, &old).is_empty());
        let new = node(serde_json::json!({"name": "d", "nodeID": "m"}));
        let errors = texts(&CsiNodeKind::validate_update(&new, &old));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
    }
}
