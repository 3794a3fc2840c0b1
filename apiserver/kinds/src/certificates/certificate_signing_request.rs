//! `CertificateSigningRequest`: somebody asks a signer for a certificate, somebody else approves.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::ByteString;
use corral_api::k8s::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use corral_api::names;
use corral_api::time::human_duration;
use jiff::Timestamp;
use serde_json::Value;

use super::request;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, Seen, at, json, text};
use crate::selectable::SelectableField;
use crate::table;

/// The signer of a time when requests did not name one.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const EXPIRATION_SECONDS_MIN: i32 = 600;
const DOMAIN_LENGTH_MAX: usize = names::DNS_SUBDOMAIN_LENGTH_MAX;
const SIGNER_LENGTH_MAX: usize =
    2 * names::DNS_SUBDOMAIN_LENGTH_MAX + names::DNS_LABEL_LENGTH_MAX + 2;
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// `certificates.k8s.io/v1 CertificateSigningRequest`.
pub struct CertificateSigningRequestKind;

impl Kind for CertificateSigningRequestKind {
    type Object = CertificateSigningRequest;

    const NAMES: Names<'static> = Names {
        group: "certificates.k8s.io",
        version: "v1",
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: Words::Of(&["csr"]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const STATUS: bool = true;
    const APPROVAL: bool = true;
    const NAME_RULE: fn(&str) -> Vec<String> = names::path_segment;
    const SELECTABLE_FIELDS: &'static [SelectableField] =
        &[SelectableField::text("spec.signerName")];

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::AGE,
            Column::text("SignerName", "Who is asked."),
            Column::text("Requestor", "Who asks."),
            Column::text("RequestedDuration", "How long the certificate shall last."),
            Column::text("Condition", "What became of it."),
        ]
    }

    fn cells(csr: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        let seconds = csr.spec.expiration_seconds;
        let duration = seconds.map(|seconds| human_duration(i64::from(seconds)));
        vec![
            csr.metadata.name.clone().into(),
            age(&csr.metadata, now),
            table::or_none(csr.spec.signer_name.clone()).into(),
            text(&csr.spec.username).into(),
            table::or_none(duration.unwrap_or_default()).into(),
            state(csr).into(),
        ]
    }

    fn prepare_update(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        new.spec = old.spec.clone();
    }

    fn prepare_status_update(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        // What was decided stays as it is; a signer that sends it back without its times has not changed it.
        for type_ in [APPROVED, DENIED] {
            let was: Vec<_> = of_type(old, type_).cloned().collect();
            if of_type(new, type_).count() != was.len() {
                continue;
            }
            let conditions = new.status.iter_mut().flat_map(|s| &mut s.conditions);
            let kept = conditions.flatten().filter(|c| c.type_ == type_);
            for (condition, was) in kept.zip(was) {
                *condition = was;
            }
        }
    }

    fn prepare_approval_update(
        new: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) {
        let conditions = new.status.take().and_then(|s| s.conditions);
        new.spec = old.spec.clone();
        new.status.clone_from(&old.status);
        new.status.get_or_insert_default().conditions = conditions;
    }

    fn validate(csr: &CertificateSigningRequest) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (spec, path) = (&csr.spec, at("spec"));
        let given = spec.request.0.as_slice();
        if let Err(why) = request::check(given) {
            let path = path.child("request");
            errors.push(FieldError::invalid(&path, json(&spec.request), why));
        }
        usages(&mut errors, &path.child("usages"), spec.usages.as_deref());
        let signer = spec.signer_name.as_str();
        let signer_path = path.child("signerName");
        if signer == LEGACY_SIGNER {
            let detail = "the legacy signerName is not allowed via this API version";
            errors.push(FieldError::invalid(&signer_path, signer, detail));
        } else {
            signer_name(&mut errors, &signer_path, signer);
        }
        if let Some(seconds) = spec.expiration_seconds
            && seconds < EXPIRATION_SECONDS_MIN
        {
            let path = path.child("expirationSeconds");
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.push(FieldError::invalid(&path, seconds, detail));
        }
        conditions(&mut errors, &at("status.conditions"), csr);
        errors
    }

    fn validate_update(
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        decisions_stay(&mut errors, new, old);
        errors
    }

    fn validate_status_update(
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        let (now, was) = (certificate(new), certificate(old));
        let path = at("status.certificate");
        if now != was
            && !now.is_empty()
            && let Err(why) = request::check_certificates(now)
        {
            errors.push(FieldError::invalid(&path, "<certificate data>", why));
        }
        nothing_is_taken_away(&mut errors, new, old);
        decisions_stay(&mut errors, new, old);
        if now != was && !was.is_empty() {
            let detail = "updates may not modify existing certificate content";
            errors.push(FieldError::forbidden(&path, detail));
        }
        errors
    }

    fn validate_approval_update(
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        nothing_is_taken_away(&mut errors, new, old);
        errors
    }
}

fn certificate(csr: &CertificateSigningRequest) -> &[u8] {
    let certificate = csr.status.as_ref().and_then(|s| s.certificate.as_ref());
    certificate.map_or(&[], |ByteString(bytes)| bytes)
}

fn all_conditions(
    csr: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    let status = csr.status.iter();
    status.flat_map(|s| s.conditions.iter().flatten())
}

fn of_type<'a>(
    csr: &'a CertificateSigningRequest,
    type_: &'a str,
) -> impl Iterator<Item = &'a CertificateSigningRequestCondition> {
    all_conditions(csr).filter(move |c| c.type_ == type_)
}

/// What became of a request, in a word or more.
fn state(csr: &CertificateSigningRequest) -> String {
    let has = |type_| of_type(csr, type_).next().is_some();
    let decided = if has(DENIED) {
        DENIED
    } else if has(APPROVED) {
        APPROVED
    } else {
        "Pending"
    };
    let failed = if has(FAILED) { ",Failed" } else { "" };
    let issued = if certificate(csr).is_empty() {
        ""
    } else {
        ",Issued"
    };
    format!("{decided}{failed}{issued}")
}

fn usages(errors: &mut Errors, path: &FieldPath, usages: Option<&[String]>) {
    let usages = usages.unwrap_or_default();
    if usages.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for (index, usage) in usages.iter().enumerate() {
        rules::supported(errors, &path.index(index), usage, USAGES);
    }
    let mut seen = Seen::default();
    for (index, usage) in usages.iter().enumerate() {
        seen.check(errors, &path.index(index), usage);
    }
}

/// `example.com/name`.
fn signer_name(errors: &mut Errors, path: &FieldPath, signer: &str) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let parts: Vec<&str> = signer.split('/').collect();
    let [domain, name] = parts[..] else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, signer, detail));
        return;
    };
    if domain.len() > DOMAIN_LENGTH_MAX {
        errors.push(FieldError::too_long(path, DOMAIN_LENGTH_MAX));
    }
    first_wrong_label(errors, path, domain, names::dns1123_label);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, detail));
    }
    first_wrong_label(errors, path, name, names::dns1123_subdomain);
    if signer.len() > SIGNER_LENGTH_MAX {
        errors.push(FieldError::too_long(path, SIGNER_LENGTH_MAX));
    }
}

fn first_wrong_label(
    errors: &mut Errors,
    path: &FieldPath,
    part: &str,
    rule: fn(&str) -> Vec<String>,
) {
    let labels = part.split('.').map(|label| (label, rule(label)));
    let mut wrong = labels.filter(|(_, complaints)| !complaints.is_empty());
    let Some((label, complaints)) = wrong.next() else {
        return;
    };
    for complaint in complaints {
        let detail = format!("validating label {label:?}: {complaint}");
        errors.push(FieldError::invalid(path, part, detail));
    }
}

fn conditions(errors: &mut Errors, path: &FieldPath, csr: &CertificateSigningRequest) {
    let mut seen = Seen::default();
    for (index, condition) in all_conditions(csr).enumerate() {
        let item = path.index(index);
        let type_ = condition.type_.as_str();
        if type_.is_empty() {
            errors.push(FieldError::required(&item.child("type"), ""));
        }
        let allowed: &[&str] = match type_ {
            APPROVED | DENIED | FAILED => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        let status = condition.status.as_str();
        rules::required_of(errors, &item.child("status"), status, allowed);
        let opposite = match type_ {
            APPROVED => DENIED,
            DENIED => APPROVED,
            _ => "",
        };
        if !opposite.is_empty() && seen.has(opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(path, type_, detail));
        }
        seen.check(errors, &item.child("type"), type_);
    }
}

/// What was decided is not taken back.
fn nothing_is_taken_away(
    errors: &mut Errors,
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
) {
    for type_ in [APPROVED, DENIED, FAILED] {
        if of_type(new, type_).count() < of_type(old, type_).count() {
            let detail = format!("updates may not remove a condition of type {type_:?}");
            errors.push(FieldError::forbidden(&at("status.conditions"), detail));
        }
    }
}

/// Only an approval decides.
fn decisions_stay(
    errors: &mut Errors,
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
) {
    for type_ in [APPROVED, DENIED] {
        let now: Vec<_> = of_type(new, type_).collect();
        let was: Vec<_> = of_type(old, type_).collect();
        let what = match now.len().cmp(&was.len()) {
            std::cmp::Ordering::Greater => "add",
            std::cmp::Ordering::Equal if now != was => "modify",
            _ => continue,
        };
        let detail = format!("updates may not {what} a condition of type {type_:?}");
        errors.push(FieldError::forbidden(&at("status.conditions"), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    /// A request of `CN=somebody, O=team`.
    const REQUEST: &str = include_str!("request.pem");

    fn csr(change: Value) -> CertificateSigningRequest {
        let request = ByteString(REQUEST.as_bytes().to_vec());
        let mut json = serde_json::json!({
            "spec": {"request": request, "signerName": "example.com/s", "usages": ["client auth"]},
        });
        for (key, value) in change.as_object().into_iter().flatten() {
            json["spec"][key] = value.clone();
        }
        serde_json::from_value(json).expect("a request")
    }

    fn with_condition(type_: &str) -> CertificateSigningRequest {
        let mut csr = csr(Value::Null);
        let status = csr.status.get_or_insert_default();
        status.conditions = Some(vec![CertificateSigningRequestCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            ..Default::default()
        }]);
        csr
    }

    #[test]
    fn a_request_is_signed_by_its_key() {
        assert!(CertificateSigningRequestKind::validate(&csr(Value::Null)).is_empty());
        let groups = request::organizations(REQUEST.as_bytes());
        assert_eq!(groups, Ok(vec!["team".to_owned()]));
        let mut tampered = csr(Value::Null);
        let at = tampered.spec.request.0.len() - 50;
        let byte = &mut tampered.spec.request.0[at];
        *byte = if *byte == b'A' { b'B' } else { b'A' };
        assert_eq!(CertificateSigningRequestKind::validate(&tampered).len(), 1);
    }

    #[test]
    fn signers_have_a_domain_and_a_name() {
        for (signer, n_errors) in [
            ("example.com/a.b", 0),
            ("plain", 1),
            ("short/a", 1),
            ("a.b/", 1),
        ] {
            let csr = csr(serde_json::json!({"signerName": signer}));
            let errors = CertificateSigningRequestKind::validate(&csr);
            assert_eq!(errors.len(), n_errors, "{signer}: {errors:?}");
        }
    }

    #[test]
    fn only_an_approval_decides_and_no_decision_is_taken_back() {
        let (open, approved) = (csr(Value::Null), with_condition(APPROVED));
        let errors = CertificateSigningRequestKind::validate_status_update(&approved, &open);
        assert_eq!(
            texts(&errors),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        assert!(
            CertificateSigningRequestKind::validate_approval_update(&approved, &open).is_empty()
        );
        assert_eq!(
            texts(&CertificateSigningRequestKind::validate_approval_update(
                &open, &approved
            )),
            [
                "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
            ]
        );
        assert_eq!(state(&approved), "Approved");
    }
}
