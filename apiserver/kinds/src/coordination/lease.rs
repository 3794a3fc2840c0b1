//! `Lease`.

use corral_api::k8s::api::coordination::v1::Lease;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, age};

/// `coordination.k8s.io/v1 Lease`.
pub struct LeaseKind;

impl Kind for LeaseKind {
    type Object = Lease;

    const NAMES: Names = Names {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Holder", "Who holds it."),
            Column::AGE,
        ]
    }

    fn cells(lease: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone());
        vec![
            lease.metadata.name.clone().into(),
            holder.unwrap_or_default().into(),
            age(&lease.metadata, now),
        ]
    }
}
