//! Requests for certificates: they tell who asks, and only those who may approve or sign for a signer do so.

use corral_api::k8s::api::certificates::v1::CertificateSigningRequest;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use corral_api::status::Status;
use corral_kinds::Object;
use corral_kinds::certificates::request;

use super::plugins::Plugins;
use super::{Action, Attributes};
use crate::authn::{MASTERS, User};
use crate::authz::{Access, Authorizer};

const GROUP: &str = "certificates.k8s.io";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

pub(super) fn admit(attributes: &Attributes<'_>, object: &mut Object, old: Option<&Object>) {
    let Some(csr) = object.get_mut::<CertificateSigningRequest>() else {
        return;
    };
    match (attributes.action, old.and_then(Object::get)) {
        (Action::Create, _) => asked_by(csr, &attributes.cx.user),
        (Action::Update, Some(old)) if !attributes.subresource.is_empty() => {
            times(csr, old, Time(attributes.cx.now));
        }
        _ => {}
    }
}

/// What a client says of itself does not count.
fn asked_by(csr: &mut CertificateSigningRequest, user: &User) {
    let spec = &mut csr.spec;
    spec.username = Some(user.name.clone());
    spec.uid = Some(user.uid.clone()).filter(|uid| !uid.is_empty());
    spec.groups = Some(user.groups.clone()).filter(|groups| !groups.is_empty());
    spec.extra = Some(user.extra.clone()).filter(|extra| !extra.is_empty());
}

/// Conditions that come without their times get them.
fn times(csr: &mut CertificateSigningRequest, old: &CertificateSigningRequest, now: Time) {
    let before = old.status.as_ref().and_then(|s| s.conditions.as_ref());
    let conditions = csr.status.iter_mut().flat_map(|s| &mut s.conditions);
    for condition in conditions.flatten() {
        condition.last_update_time.get_or_insert(now.clone());
        if condition.last_transition_time.is_none() {
            let mut before = before.into_iter().flatten();
            let same = before.find(|was| {
                was.type_ == condition.type_
                    && was.status == condition.status
                    && was.last_transition_time.is_some()
            });
            let since = same.and_then(|was| was.last_transition_time.clone());
            condition.last_transition_time = Some(since.unwrap_or_else(|| now.clone()));
        }
    }
}

/// Checks a request that is about to be stored.
pub(super) async fn check(
    authorizer: &Authorizer,
    plugins: &Plugins,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let Some(csr) = object.get::<CertificateSigningRequest>() else {
        return Ok(());
    };
    let name = csr.metadata.name.as_deref().unwrap_or_default();
    if attributes.action == Action::Create {
        if !plugins.run("CertificateSubjectRestriction") {
            return Ok(());
        }
        return restrict_subject(attributes, name, csr);
    }
    let Some(old) = old.and_then(Object::get::<CertificateSigningRequest>) else {
        return Ok(());
    };
    // The signer is that of the stored request, whatever the update says.
    let signer = old.spec.signer_name.as_str();
    let verb = match attributes.subresource {
        "approval" if plugins.run("CertificateApproval") => "approve",
        "status" if plugins.run("CertificateSigning") && status_changes(csr, old) => "sign",
        _ => return Ok(()),
    };
    if may(authorizer, &attributes.cx.user, verb, signer).await {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(attributes.forbidden(name, &why))
}

fn status_changes(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> bool {
    let (new, old) = (
        new.status.clone().unwrap_or_default(),
        old.status.clone().unwrap_or_default(),
    );
    let conditions = |list: Option<Vec<_>>| list.unwrap_or_default();
    let certificate = |bytes: Option<corral_api::k8s::ByteString>| bytes.unwrap_or_default();
    certificate(new.certificate) != certificate(old.certificate)
        || conditions(new.conditions) != conditions(old.conditions)
}

/// Whether a user may do something for a signer, or for all signers of its domain.
async fn may(authorizer: &Authorizer, user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let access = Access {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Default::default()
        };
        if authorizer.allows(user, &access).await {
            return true;
        }
    }
    false
}

/// Nobody becomes a master by a certificate that somebody approved without looking.
fn restrict_subject(
    attributes: &Attributes<'_>,
    name: &str,
    csr: &CertificateSigningRequest,
) -> Result<(), Status> {
    if csr.spec.signer_name != API_CLIENT {
        return Ok(());
    }
    let groups = request::organizations(&csr.spec.request.0)
        .map_err(|why| attributes.forbidden(name, &format!("failed to parse CSR: {why}")))?;
    if groups.iter().any(|group| group == MASTERS) {
        let why = format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed");
        return Err(attributes.forbidden(name, &why));
    }
    Ok(())
}
