//! `SubjectAccessReview`.

use corral_api::field::FieldError;
use corral_api::k8s::api::authorization::v1::SubjectAccessReview;

use super::rules;
use crate::kind::{Kind, Names, Verbs, Words};

/// `authorization.k8s.io/v1 SubjectAccessReview`.
pub struct SubjectAccessReviewKind;

impl Kind for SubjectAccessReviewKind {
    type Object = SubjectAccessReview;

    const NAMES: Names<'static> = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::CreateOnly;

    fn validate(review: &SubjectAccessReview) -> Vec<FieldError> {
        let mut errors = Vec::new();
        rules::subject(&mut errors, &review.spec);
        rules::no_metadata(&mut errors, &review.metadata, "must be empty");
        errors
    }
}
