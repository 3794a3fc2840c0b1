//! `TokenRequest`.

use corral_api::k8s::api::authentication::v1::TokenRequest;

use crate::kind::{Kind, Names, Verbs, Words};

/// `authentication.k8s.io/v1 TokenRequest`.
pub struct TokenRequestKind;

impl Kind for TokenRequestKind {
    type Object = TokenRequest;

    const NAMES: Names<'static> = Names {
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        plural: "tokenrequests",
        singular: "tokenrequest",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const VERBS: Verbs = Verbs::CreateOnly;
}
