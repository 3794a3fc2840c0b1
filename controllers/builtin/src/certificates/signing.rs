//! Signs what is approved, for Kubernetes' own signers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use corral_api::k8s::ByteString;
use corral_api::k8s::api::certificates::v1::CertificateSigningRequest;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;

use super::authority::{Authority, SigningCa};
use super::request::{self, Request};
use super::{
    API_CLIENT, APPROVED, FAILED, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, NAME,
    certificate, has, with_condition,
};
use crate::context::Context;

/// How long a certificate lasts unless a shorter time is asked for.
const LIFE: Duration = Duration::from_secs(365 * 86_400);
/// The shortest life.
const LIFE_MIN: Duration = Duration::from_secs(600);

/// What is to be done.
#[derive(Debug)]
pub enum Plan {
    Nothing,
    /// Sign, for so long.
    Sign(Box<Request>, Duration),
    /// Tell why the signer does not.
    Fail(String),
}

/// Decides about a request.
pub fn plan(csr: &CertificateSigningRequest) -> Plan {
    if !has(csr, APPROVED) || has(csr, FAILED) || certificate(csr).is_some() {
        return Plan::Nothing;
    }
    let spec = &csr.spec;
    let usages = spec.usages.as_deref().unwrap_or_default();
    let Ok(asked) = Request::parse(&spec.request.0) else {
        return Plan::Nothing;
    };
    let fits = match spec.signer_name.as_str() {
        API_CLIENT => request::of_api_client(usages),
        KUBELET_CLIENT => request::of_kubelet_client(&asked, usages),
        KUBELET_SERVING => request::of_kubelet_serving(&asked, usages),
        LEGACY_UNKNOWN => Ok(()),
        _ => return Plan::Nothing,
    };
    let seconds = spec
        .expiration_seconds
        .map(|s| u64::try_from(s).unwrap_or(0));
    let life = seconds.map_or(LIFE, Duration::from_secs);
    match fits {
        Ok(()) => Plan::Sign(Box::new(asked), life.clamp(LIFE_MIN, LIFE)),
        Err(why) => Plan::Fail(why),
    }
}

struct Signing {
    requests: Objects<CertificateSigningRequest>,
    authority: Authority,
}

/// Starts the controller.
pub fn start(context: &Context, ca: &SigningCa) {
    let authority = match Authority::new(ca) {
        Ok(authority) => authority,
        Err(why) => {
            tracing::error!(why, "the CA cannot sign requests for certificates");
            return;
        }
    };
    let requests = context.objects::<CertificateSigningRequest>(NAME);
    let controller = Controller::new("csrsigning").watch(requests.cache());
    let reconciler = Signing {
        requests,
        authority,
    };
    controller.run_planned(
        reconciler,
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for Signing {
    type World = Arc<CertificateSigningRequest>;
    type Plan = Plan;

    fn observe(&self, key: &ObjectKey) -> Option<Self::World> {
        self.requests.get(key)
    }

    fn plan(&self, csr: &Self::World, _now: Timestamp) -> Plan {
        plan(csr)
    }

    async fn apply(&self, csr: &Self::World, plan: Plan, now: Timestamp) -> Result<Action, Error> {
        let changed = match plan {
            Plan::Nothing => return Ok(Action::Done),
            Plan::Fail(why) => with_condition(csr, FAILED, "SignerValidationFailure", &why),
            Plan::Sign(asked, life) => {
                let usages = csr.spec.usages.as_deref().unwrap_or_default();
                let signed = self.authority.sign(&asked, usages, life, now);
                let signed = signed.map_err(Error::Invalid)?;
                let mut csr = (**csr).clone();
                let status = csr.status.get_or_insert_default();
                status.certificate = Some(ByteString(signed.into_bytes()));
                csr
            }
        };
        let written = self.requests.replace_status(&changed).await.map(drop);
        crate::ownership::gone_is_fine(written)?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use serde_json::json;

    use super::super::authority::tests::request;
    use super::*;

    fn csr(signer: &str, request: String, usages: &[&str]) -> CertificateSigningRequest {
        let mut csr: CertificateSigningRequest = object(json!({
            "metadata": {"name": "a"},
            "spec": {
                "request": ByteString(request.into_bytes()), "signerName": signer, "usages": usages,
                "expirationSeconds": 60,
            },
        }));
        csr = with_condition(&csr, APPROVED, "r", "m");
        csr
    }

    fn why(csr: &CertificateSigningRequest) -> String {
        match plan(csr) {
            Plan::Fail(why) => why,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn clients_get_what_clients_need() {
        let asked = || request("somebody", "team", &[]);
        let right = csr(API_CLIENT, asked(), &["client auth"]);
        assert!(matches!(plan(&right), Plan::Sign(_, LIFE_MIN)));
        let wrong = csr(API_CLIENT, asked(), &["client auth", "server auth"]);
        assert_eq!(
            why(&wrong),
            "invalid usage for client certificate: server auth"
        );
        let other = csr("example.com/s", asked(), &["client auth"]);
        assert!(matches!(plan(&other), Plan::Nothing));
        let signed = CertificateSigningRequest {
            status: None,
            ..right
        };
        assert!(matches!(plan(&signed), Plan::Nothing), "not approved");
    }

    #[test]
    fn nodes_get_certificates_in_their_own_name_only() {
        let usages = ["digital signature", "client auth"];
        let asked = request("system:node:n", "system:nodes", &[]);
        assert!(matches!(
            plan(&csr(KUBELET_CLIENT, asked, &usages)),
            Plan::Sign(..)
        ));
        let asked = request("n", "system:nodes", &[]);
        assert_eq!(
            why(&csr(KUBELET_CLIENT, asked, &usages)),
            "subject common name does not begin with system:node:"
        );
        let asked = request("system:node:n", "system:nodes", &["n"]);
        assert_eq!(
            why(&csr(KUBELET_CLIENT, asked.clone(), &usages)),
            "DNS subjectAltNames are not allowed"
        );
        let usages = ["digital signature", "server auth"];
        assert!(matches!(
            plan(&csr(KUBELET_SERVING, asked, &usages)),
            Plan::Sign(..)
        ));
        let asked = request("system:node:n", "system:nodes", &[]);
        assert_eq!(
            why(&csr(KUBELET_SERVING, asked, &usages)),
            "DNS or IP subjectAltName is required"
        );
    }
}
