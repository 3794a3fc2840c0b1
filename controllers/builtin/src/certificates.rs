//! Requests for certificates: those of nodes for their own client certificates are approved, approved ones are signed
//! for the signers that belong to Kubernetes, and old ones are removed.

mod approving;
mod authority;
mod cleaner;
mod request;
mod signing;

use corral_api::k8s::ByteString;
use corral_api::k8s::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};

pub use approving::start as start_approving;
pub use authority::SigningCa;
pub use cleaner::start as start_cleaner;
pub use signing::start as start_signing;

/// In whose name all of them act.
const NAME: &str = "certificate-controller";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

fn conditions(
    csr: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    let status = csr.status.iter();
    status.flat_map(|s| s.conditions.iter().flatten())
}

fn has(csr: &CertificateSigningRequest, type_: &str) -> bool {
    conditions(csr).any(|c| c.type_ == type_)
}

fn certificate(csr: &CertificateSigningRequest) -> Option<&[u8]> {
    let ByteString(bytes) = csr.status.as_ref()?.certificate.as_ref()?;
    (!bytes.is_empty()).then_some(bytes)
}

/// The same request with one more condition, which is true.
fn with_condition(
    csr: &CertificateSigningRequest,
    type_: &str,
    reason: &str,
    message: &str,
) -> CertificateSigningRequest {
    let mut csr = csr.clone();
    let status = csr.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    });
    csr
}
