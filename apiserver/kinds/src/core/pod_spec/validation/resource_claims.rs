//! Claims to devices: those of a pod, and their use by its containers.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{PodResourceClaim, PodSpec, ResourceClaim};
use corral_api::names;
use serde_json::{Map, Value};

use super::Owner;
use super::annotations::MIRROR;
use crate::rules::{self, Errors, Seen, at, text};

/// `resourceClaims`.
pub(super) fn of_pod(errors: &mut Errors, path: &FieldPath, spec: &PodSpec, owner: Owner<'_>) {
    let annotations = match owner {
        Owner::Pod(meta) => meta.annotations.as_ref(),
        Owner::Template => None,
    };
    let mirrored = annotations.is_some_and(|a| a.contains_key(MIRROR));
    let mut seen = Seen::default();
    for (index, claim) in spec.resource_claims.iter().flatten().enumerate() {
        if mirrored {
            let detail = "static pods do not support resource claims";
            errors.push(FieldError::forbidden(&at(""), detail));
            continue;
        }
        let path = path.index(index);
        let name_path = path.child("name");
        if claim.name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else if seen.has(&claim.name) {
            errors.push(FieldError::duplicate(&name_path, claim.name.as_str()));
        } else {
            let complaints = names::dns1123_label(&claim.name);
            rules::complain(errors, &name_path, &claim.name, complaints);
            seen.check(errors, &name_path, &claim.name);
        }
        target(errors, &path, claim);
    }
}

fn target(errors: &mut Errors, path: &FieldPath, claim: &PodResourceClaim) {
    let (name, template) = (
        &claim.resource_claim_name,
        &claim.resource_claim_template_name,
    );
    let detail = match (name, template) {
        (Some(_), Some(_)) => Some(
            "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
        ),
        (None, None) => {
            Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
        }
        _ => None,
    };
    if let Some(detail) = detail {
        errors.push(FieldError::invalid(path, shown(claim), detail));
    }
    for (field, name) in [
        ("resourceClaimName", name),
        ("resourceClaimTemplateName", template),
    ] {
        if let Some(name) = name {
            let complaints = names::dns1123_subdomain(name);
            rules::complain(errors, &path.child(field), name, complaints);
        }
    }
}

/// The claim as Kubernetes shows it here: by the names of its own code, not of the API.
fn shown(claim: &PodResourceClaim) -> Value {
    let fields = [
        ("Name", Value::from(claim.name.as_str())),
        (
            "ResourceClaimName",
            Value::from(claim.resource_claim_name.clone()),
        ),
        (
            "ResourceClaimTemplateName",
            Value::from(claim.resource_claim_template_name.clone()),
        ),
    ];
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// `resources.claims` of a container: each names a claim of the pod, or one request of it, once.
pub(super) fn of_container(
    errors: &mut Errors,
    path: &FieldPath,
    claims: &[ResourceClaim],
    spec: &PodSpec,
) {
    let of_pod = spec.resource_claims.iter().flatten();
    let known: BTreeSet<&str> = of_pod
        .map(|c| c.name.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    let mut used: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        let (name, request) = (claim.name.as_str(), text(&claim.request));
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        if used.contains(&(name, "")) {
            errors.push(FieldError::duplicate(&path, name));
        } else {
            if !request.is_empty() {
                let complaints = names::dns1123_label(request);
                rules::complain(errors, &path.child("request"), request, complaints);
            }
            if used.contains(&(name, request)) {
                errors.push(FieldError::duplicate(&path, format!("{name}/{request}")));
            } else if request.is_empty() {
                for _part in used.iter().filter(|(claim, _)| *claim == name) {
                    errors.push(FieldError::duplicate(&path, name));
                }
            }
            used.insert((name, request));
        }
        if !known.contains(name) {
            errors.push(unknown(&path, name, &known));
        }
    }
}

fn unknown(path: &FieldPath, name: &str, known: &BTreeSet<&str>) -> FieldError {
    let list = "must be one of the names in pod.spec.resourceClaims";
    let detail = if known.is_empty() {
        format!("{list} which is empty")
    } else {
        let known: Vec<&str> = known.iter().copied().collect();
        format!("{list}: {}", known.join(", "))
    };
    FieldError {
        detail,
        ..FieldError::not_found(path, name)
    }
}
