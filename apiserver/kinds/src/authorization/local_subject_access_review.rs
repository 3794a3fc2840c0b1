//! `LocalSubjectAccessReview`.

use corral_api::k8s::api::authorization::v1::LocalSubjectAccessReview;

use crate::kind::{Kind, Names, Verbs};

/// `authorization.k8s.io/v1 LocalSubjectAccessReview`.
pub struct LocalSubjectAccessReviewKind;

impl Kind for LocalSubjectAccessReviewKind {
    type Object = LocalSubjectAccessReview;

    const NAMES: Names = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
