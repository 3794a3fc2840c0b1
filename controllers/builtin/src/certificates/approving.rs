//! Approves the requests of nodes for their own client certificates, of whoever has the right to that.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use corral_api::k8s::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use corral_api::k8s::api::certificates::v1::CertificateSigningRequest;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;
use kube::api::{Api, PostParams};

use super::request::{self, Request};
use super::{APPROVED, DENIED, KUBELET_CLIENT, NAME, certificate, has, with_condition};
use crate::context::Context;

/// When a right that is missing now is looked for again.
const RETRY: Duration = Duration::from_secs(60);

/// Which right, as a subresource that may be created, approves a request, and what is said then.
pub type Right = (&'static str, &'static str);

const SELF: Right = (
    "selfnodeclient",
    "Auto approving self kubelet client certificate after SubjectAccessReview.",
);
const ANY: Right = (
    "nodeclient",
    "Auto approving kubelet client certificate after SubjectAccessReview.",
);

/// The rights that would do, the narrower one first.
pub fn plan(csr: &CertificateSigningRequest) -> Vec<Right> {
    let decided = has(csr, APPROVED) || has(csr, DENIED) || certificate(csr).is_some();
    if decided || csr.spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    let Ok(asked) = Request::parse(&csr.spec.request.0) else {
        return Vec::new();
    };
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    if request::of_kubelet_client(&asked, usages).is_err() {
        return Vec::new();
    }
    let own = csr.spec.username.as_deref() == Some(asked.common_name.as_str());
    if own { vec![SELF, ANY] } else { vec![ANY] }
}

struct Approving {
    requests: Objects<CertificateSigningRequest>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let requests = context.objects::<CertificateSigningRequest>(NAME);
    let controller = Controller::new("csrapproving").watch(requests.cache());
    controller.run_planned(
        Approving { requests },
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for Approving {
    type World = Arc<CertificateSigningRequest>;
    type Plan = Vec<Right>;

    fn observe(&self, key: &ObjectKey) -> Option<Self::World> {
        self.requests.get(key)
    }

    fn plan(&self, csr: &Self::World, _now: Timestamp) -> Vec<Right> {
        plan(csr)
    }

    async fn apply(
        &self,
        csr: &Self::World,
        plan: Vec<Right>,
        _now: Timestamp,
    ) -> Result<Action, Error> {
        if plan.is_empty() {
            return Ok(Action::Done);
        }
        for (subresource, message) in plan {
            if self.may(csr, subresource).await? {
                let approved = with_condition(csr, APPROVED, "AutoApproved", message);
                let written = self.requests.replace_subresource("approval", &approved);
                crate::ownership::gone_is_fine(written.await.map(drop))?;
                return Ok(Action::Done);
            }
        }
        Ok(Action::After(RETRY))
    }
}

impl Approving {
    /// Whether whoever made the request has the right.
    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, Error> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: csr.spec.username.clone(),
                uid: csr.spec.uid.clone(),
                groups: csr.spec.groups.clone(),
                extra: csr.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(self.requests.client().clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

#[cfg(test)]
mod tests {
    use corral_api::k8s::ByteString;
    use corral_runtime::testing::object;
    use serde_json::json;

    use super::super::authority::tests::request;
    use super::*;

    #[test]
    fn a_node_that_asks_for_itself_needs_the_narrower_right() {
        let csr = |user: &str, name: &str| -> CertificateSigningRequest {
            object(json!({"metadata": {"name": "a"}, "spec": {
                "request": ByteString(request(name, "system:nodes", &[]).into_bytes()),
                "signerName": KUBELET_CLIENT, "usages": ["digital signature", "client auth"],
                "username": user,
            }}))
        };
        let node = "system:node:n";
        assert_eq!(plan(&csr(node, node)), [SELF, ANY]);
        assert_eq!(plan(&csr("somebody", node)), [ANY]);
        assert!(plan(&csr("somebody", "somebody")).is_empty());
        let denied = with_condition(&csr(node, node), DENIED, "r", "m");
        assert!(plan(&denied).is_empty());
    }
}
