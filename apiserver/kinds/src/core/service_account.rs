//! `ServiceAccount`.

use corral_api::k8s::api::core::v1::ServiceAccount;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, age};

/// `v1 ServiceAccount`.
pub struct ServiceAccountKind;

impl Kind for ServiceAccountKind {
    type Object = ServiceAccount;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        categories: &[],
        namespaced: true,
    };

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::AGE]
    }

    fn cells(account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        vec![
            account.metadata.name.clone().into(),
            age(&account.metadata, now),
        ]
    }
}
