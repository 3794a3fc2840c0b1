//! `LocalSubjectAccessReview`.

use corral_api::field::FieldError;
use corral_api::k8s::api::authorization::v1::LocalSubjectAccessReview;

use super::rules;
use crate::kind::{Kind, Names, Verbs, Words};
use crate::rules::{at, json, text};

/// `authorization.k8s.io/v1 LocalSubjectAccessReview`.
pub struct LocalSubjectAccessReviewKind;

impl Kind for LocalSubjectAccessReviewKind {
    type Object = LocalSubjectAccessReview;

    const NAMES: Names<'static> = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const VERBS: Verbs = Verbs::CreateOnly;

    fn validate(review: &LocalSubjectAccessReview) -> Vec<FieldError> {
        let mut errors = Vec::new();
        rules::subject(&mut errors, &review.spec);
        let mut metadata = review.metadata.clone();
        let own = metadata.namespace.take().unwrap_or_default();
        rules::no_metadata(&mut errors, &metadata, "must be empty except for namespace");
        if let Some(resource) = &review.spec.resource_attributes {
            let asked = text(&resource.namespace);
            if asked != own {
                let path = at("spec.resourceAttributes.namespace");
                let detail = "must match metadata.namespace";
                errors.push(FieldError::invalid(&path, asked, detail));
            }
        }
        if let Some(path) = &review.spec.non_resource_attributes {
            let place = at("spec.nonResourceAttributes");
            let detail = "disallowed on this kind of request";
            errors.push(FieldError::invalid(&place, json(path), detail));
        }
        errors
    }
}
