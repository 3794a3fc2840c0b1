//! `SelfSubjectRulesReview`.

use corral_api::k8s::api::authorization::v1::SelfSubjectRulesReview;

use crate::kind::{Kind, Names, Verbs};

/// `authorization.k8s.io/v1 SelfSubjectRulesReview`.
pub struct SelfSubjectRulesReviewKind;

impl Kind for SelfSubjectRulesReviewKind {
    type Object = SelfSubjectRulesReview;

    const NAMES: Names = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        short_names: &[],
        categories: &[],
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
