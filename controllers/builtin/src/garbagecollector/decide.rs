//! What is to be done with one object, given its owners and dependents. Pure.

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::params::PropagationPolicy;

use super::{FOREGROUND, ORPHAN};

/// How an owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerState {
    /// There, and not waiting for its dependents.
    Solid,
    /// There, but in foreground deletion: it waits for its dependents to go.
    Waiting,
    /// Gone.
    Absent,
}

/// An object that names the one in question as its owner.
#[derive(Debug, Clone)]
pub struct Dependent {
    pub uid: String,
    /// Whether the owner's foreground deletion waits for it.
    pub blocks: bool,
    pub deleting: bool,
    /// Whether it is itself in foreground deletion.
    pub waiting: bool,
    pub finalized: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Nothing,
    /// Look at these dependents.
    Wake(Vec<String>),
    Delete(PropagationPolicy),
    /// Some owners are left; these references stay.
    KeepOwners(Vec<OwnerReference>),
    /// Two objects in foreground deletion wait for each other: let the owner go without waiting.
    Unblock(Vec<OwnerReference>),
    DropFinalizer(&'static str),
    /// Take the owner's reference out of these.
    Orphan(Vec<String>),
}

/// The state of an owner that is there.
pub fn state_of_present(meta: &ObjectMeta) -> OwnerState {
    if meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND) {
        OwnerState::Waiting
    } else {
        OwnerState::Solid
    }
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == name)
}

pub fn decide(
    meta: &ObjectMeta,
    owners: &[(OwnerReference, OwnerState)],
    dependents: &[Dependent],
) -> Decision {
    if meta.deletion_timestamp.is_some() {
        return of_deleted(meta, dependents);
    }
    let count = |state| owners.iter().filter(|(_, s)| *s == state).count();
    let (solid, waiting) = (count(OwnerState::Solid), count(OwnerState::Waiting));
    if owners.is_empty() || solid == owners.len() {
        return Decision::Nothing;
    }
    if solid > 0 {
        let kept = owners
            .iter()
            .filter(|(_, state)| *state == OwnerState::Solid);
        return Decision::KeepOwners(kept.map(|(owner, _)| owner.clone()).collect());
    }
    if waiting > 0 && !dependents.is_empty() {
        let blocking = |(owner, state): &(OwnerReference, OwnerState)| {
            *state == OwnerState::Waiting && owner.block_owner_deletion == Some(true)
        };
        if dependents.iter().any(|dependent| dependent.waiting) && owners.iter().any(blocking) {
            let freed = owners.iter().map(|(owner, _)| owner.clone());
            let freed = freed.map(|owner| OwnerReference {
                block_owner_deletion: Some(false),
                ..owner
            });
            return Decision::Unblock(freed.collect());
        }
        return Decision::Delete(PropagationPolicy::Foreground);
    }
    Decision::Delete(if has_finalizer(meta, ORPHAN) {
        PropagationPolicy::Orphan
    } else if has_finalizer(meta, FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

fn of_deleted(meta: &ObjectMeta, dependents: &[Dependent]) -> Decision {
    if has_finalizer(meta, ORPHAN) {
        return Decision::Orphan(
            dependents
                .iter()
                .map(|dependent| dependent.uid.clone())
                .collect(),
        );
    }
    if !has_finalizer(meta, FOREGROUND) {
        return Decision::Nothing;
    }
    let blocking: Vec<_> = dependents
        .iter()
        .filter(|dependent| dependent.blocks)
        .collect();
    if blocking.is_empty() {
        return Decision::DropFinalizer(FOREGROUND);
    }
    let waits = blocking
        .iter()
        .filter(|dependent| !dependent.deleting || dependent.finalized);
    let wake: Vec<_> = waits.map(|dependent| dependent.uid.clone()).collect();
    if wake.is_empty() {
        Decision::Nothing
    } else {
        Decision::Wake(wake)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn states() -> impl Strategy<Value = Vec<(OwnerReference, OwnerState)>> {
        let state = prop_oneof![
            Just(OwnerState::Solid),
            Just(OwnerState::Waiting),
            Just(OwnerState::Absent)
        ];
        prop::collection::vec(state, 0..5).prop_map(|states| {
            let numbered = states.into_iter().enumerate();
            let reference = |n: usize| OwnerReference {
                uid: n.to_string(),
                ..OwnerReference::default()
            };
            numbered.map(|(n, state)| (reference(n), state)).collect()
        })
    }

    proptest! {
        #[test]
        fn nothing_with_a_solid_owner_is_ever_deleted(owners in states()) {
            let decision = decide(&ObjectMeta::default(), &owners, &[]);
            let solid = owners.iter().any(|(_, state)| *state == OwnerState::Solid);
            let deletes = matches!(decision, Decision::Delete(_));
            prop_assert_eq!(deletes, !owners.is_empty() && !solid);
        }

        #[test]
        fn keeping_owners_settles_the_object(owners in states()) {
            if let Decision::KeepOwners(kept) = decide(&ObjectMeta::default(), &owners, &[]) {
                let left: Vec<_> = owners.into_iter().filter(|(o, _)| kept.contains(o)).collect();
                prop_assert_eq!(decide(&ObjectMeta::default(), &left, &[]), Decision::Nothing);
            }
        }
    }
}
