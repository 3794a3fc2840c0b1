//! `SelfSubjectReview`.

use corral_api::k8s::api::authentication::v1::SelfSubjectReview;

use crate::kind::{Kind, Names, Verbs, Words};

/// `authentication.k8s.io/v1 SelfSubjectReview`.
pub struct SelfSubjectReviewKind;

impl Kind for SelfSubjectReviewKind {
    type Object = SelfSubjectReview;

    const NAMES: Names<'static> = Names {
        group: "authentication.k8s.io",
        version: "v1",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
