//! `Eviction`.

use corral_api::k8s::api::policy::v1::Eviction;

use crate::kind::{Kind, Names, Verbs, Words};

/// `policy/v1 Eviction`.
pub struct EvictionKind;

impl Kind for EvictionKind {
    type Object = Eviction;

    const NAMES: Names<'static> = Names {
        group: "policy",
        version: "v1",
        kind: "Eviction",
        plural: "evictions",
        singular: "eviction",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
