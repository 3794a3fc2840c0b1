//! `SelfSubjectAccessReview`.

use corral_api::k8s::api::authorization::v1::SelfSubjectAccessReview;

use crate::kind::{Kind, Names, Verbs};

/// `authorization.k8s.io/v1 SelfSubjectAccessReview`.
pub struct SelfSubjectAccessReviewKind;

impl Kind for SelfSubjectAccessReviewKind {
    type Object = SelfSubjectAccessReview;

    const NAMES: Names = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        short_names: &[],
        categories: &[],
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
