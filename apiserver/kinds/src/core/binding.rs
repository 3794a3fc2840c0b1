//! `Binding`.

use corral_api::k8s::api::core::v1::Binding;

use crate::kind::{Kind, Names, Verbs};

/// `v1 Binding`.
pub struct BindingKind;

impl Kind for BindingKind {
    type Object = Binding;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Binding",
        plural: "bindings",
        singular: "binding",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
