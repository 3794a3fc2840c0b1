//! `Lease`.

use corral_api::field::FieldError;
use corral_api::k8s::api::coordination::v1::Lease;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, text};

/// `coordination.k8s.io/v1 Lease`.
pub struct LeaseKind;

impl Kind for LeaseKind {
    type Object = Lease;

    const NAMES: Names<'static> = Names {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
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

    /// Coordinated leader election is not on, and its fields are not kept.
    fn prepare_create(lease: &mut Lease) {
        if let Some(spec) = &mut lease.spec {
            spec.strategy = None;
            spec.preferred_holder = None;
        }
    }

    /// What is already there may change.
    fn prepare_update(new: &mut Lease, old: &Lease) {
        let (Some(spec), was) = (&mut new.spec, old.spec.as_ref()) else {
            return;
        };
        if was.is_none_or(|was| was.strategy.is_none()) {
            spec.strategy = None;
        }
        if was.is_none_or(|was| was.preferred_holder.is_none()) {
            spec.preferred_holder = None;
        }
    }

    fn validate(lease: &Lease) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let Some(spec) = &lease.spec else {
            return errors;
        };
        let path = at("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            let path = path.child("leaseDurationSeconds");
            errors.push(FieldError::invalid(
                &path,
                seconds,
                "must be greater than 0",
            ));
        }
        let transitions = path.child("leaseTransitions");
        rules::nonnegative_opt(&mut errors, &transitions, spec.lease_transitions);
        let strategy = text(&spec.strategy);
        if spec.strategy.is_some() {
            let path = path.child("strategy.strategy");
            if strategy.contains('/') {
                rules::complain(
                    &mut errors,
                    &path,
                    strategy,
                    names::qualified_name(strategy),
                );
            } else {
                rules::supported(&mut errors, &path, strategy, &["OldestEmulationVersion"]);
            }
        }
        if !text(&spec.preferred_holder).is_empty() && strategy.is_empty() {
            let detail = "may only be specified if `strategy` is defined";
            errors.push(FieldError::forbidden(
                &path.child("preferredHolder"),
                detail,
            ));
        }
        errors
    }
}
