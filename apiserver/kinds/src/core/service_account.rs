//! `ServiceAccount`.

use corral_api::k8s::api::core::v1::{ObjectReference, ServiceAccount};
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Words, age};

/// `v1 ServiceAccount`.
pub struct ServiceAccountKind;

impl Kind for ServiceAccountKind {
    type Object = ServiceAccount;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: Words::Of(&["sa"]),
        categories: Words::Of(&[]),
        namespaced: true,
    };

    fn prepare_create(account: &mut ServiceAccount) {
        keep_only_names(account);
    }

    fn prepare_update(new: &mut ServiceAccount, _old: &ServiceAccount) {
        keep_only_names(new);
    }

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

/// Secrets are referred to by name, and are in the account's namespace.
fn keep_only_names(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference {
            name: secret.name.take(),
            ..ObjectReference::default()
        };
    }
}
