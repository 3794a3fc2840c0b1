//! `Binding`.

use corral_api::field::FieldError;
use corral_api::k8s::api::core::v1::Binding;

use crate::kind::{Kind, Names, Verbs, Words};
use crate::rules::{Errors, at, text};

/// `v1 Binding`.
pub struct BindingKind;

impl Kind for BindingKind {
    type Object = Binding;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "Binding",
        plural: "bindings",
        singular: "binding",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const VERBS: Verbs = Verbs::CreateOnly;

    fn validate(binding: &Binding) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let kind = text(&binding.target.kind);
        if !matches!(kind, "" | "Node") {
            let allowed = ["Node", "<empty>"];
            errors.push(FieldError::not_supported(
                &at("target.kind"),
                kind,
                &allowed,
            ));
        }
        if text(&binding.target.name).is_empty() {
            errors.push(FieldError::required(&at("target.name"), ""));
        }
        errors
    }
}
