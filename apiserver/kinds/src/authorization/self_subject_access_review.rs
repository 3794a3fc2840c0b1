//! `SelfSubjectAccessReview`.

use corral_api::field::FieldError;
use corral_api::k8s::api::authorization::v1::SelfSubjectAccessReview;

use super::rules;
use crate::kind::{Kind, Names, Verbs, Words};

/// `authorization.k8s.io/v1 SelfSubjectAccessReview`.
pub struct SelfSubjectAccessReviewKind;

impl Kind for SelfSubjectAccessReviewKind {
    type Object = SelfSubjectAccessReview;

    const NAMES: Names<'static> = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::CreateOnly;

    fn validate(review: &SelfSubjectAccessReview) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let resource = review.spec.resource_attributes.as_ref();
        let path = review.spec.non_resource_attributes.as_ref();
        rules::one_of(&mut errors, resource, path);
        rules::selectors(&mut errors, resource);
        rules::no_metadata(&mut errors, &review.metadata, "must be empty");
        errors
    }
}
