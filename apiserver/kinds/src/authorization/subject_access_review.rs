//! `SubjectAccessReview`.

use corral_api::k8s::api::authorization::v1::SubjectAccessReview;

use crate::kind::{Kind, Names, Verbs};

/// `authorization.k8s.io/v1 SubjectAccessReview`.
pub struct SubjectAccessReviewKind;

impl Kind for SubjectAccessReviewKind {
    type Object = SubjectAccessReview;

    const NAMES: Names = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        short_names: &[],
        categories: &[],
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
