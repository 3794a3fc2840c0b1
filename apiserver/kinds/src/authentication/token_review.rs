//! `TokenReview`.

use corral_api::k8s::api::authentication::v1::TokenReview;

use crate::kind::{Kind, Names, Verbs, Words};

/// `authentication.k8s.io/v1 TokenReview`.
pub struct TokenReviewKind;

impl Kind for TokenReviewKind {
    type Object = TokenReview;

    const NAMES: Names<'static> = Names {
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
