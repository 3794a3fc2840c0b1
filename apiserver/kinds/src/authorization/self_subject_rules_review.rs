//! `SelfSubjectRulesReview`.

use corral_api::k8s::api::authorization::v1::SelfSubjectRulesReview;

use crate::kind::{Kind, Names, Verbs, Words};

/// `authorization.k8s.io/v1 SelfSubjectRulesReview`.
pub struct SelfSubjectRulesReviewKind;

impl Kind for SelfSubjectRulesReviewKind {
    type Object = SelfSubjectRulesReview;

    const NAMES: Names<'static> = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
