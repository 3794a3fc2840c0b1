//! Who uses a device that others have, to look after it, does so in a namespace that an administrator has marked.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::resource::v1::{
    ResourceClaim, ResourceClaimSpec, ResourceClaimStatus, ResourceClaimTemplate,
};
use corral_api::status::Status;
use corral_kinds::Object;

use super::pod_security::labels_of;
use super::{Action, Attributes};
use crate::api::Api;

const LABEL: &str = "resource.kubernetes.io/admin-access";
const DETAIL: &str = "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the \
                      containing namespace";

/// Refuses such a claim, or a template for such claims, in any other namespace.
///
/// # Errors
/// 422 with every request, or every result, that asks for it.
pub(super) async fn admit(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let names = attributes.resource.kind.names();
    if names.group != "resource.k8s.io" {
        return Ok(());
    }
    let claim = object.get::<ResourceClaim>();
    let template = object.get::<ResourceClaimTemplate>();
    let (path, asked, name) = match (claim, template) {
        (Some(claim), _) if attributes.action == Action::Create => {
            let path = "spec.devices.requests";
            (path, requests(&claim.spec), &claim.metadata.name)
        }
        (Some(claim), _) if attributes.subresource == "status" => {
            let before = old.and_then(Object::get::<ResourceClaim>);
            let before = before.and_then(|claim| claim.status.as_ref());
            if before.is_some_and(|status| !results(status).is_empty()) {
                return Ok(());
            }
            let asked = claim.status.as_ref().map(results).unwrap_or_default();
            let path = "status.allocation.devices.results";
            (path, asked, &claim.metadata.name)
        }
        (_, Some(template)) if attributes.action == Action::Create => {
            let path = "spec.devices.requests";
            let asked = requests(&template.spec.spec);
            (path, asked, &template.metadata.name)
        }
        _ => return Ok(()),
    };
    if asked.is_empty() {
        return Ok(());
    }
    let labels = labels_of(api, &attributes.cx.namespace).await?;
    if labels.is_some_and(|labels| labels.get(LABEL).is_some_and(|value| value == "true")) {
        return Ok(());
    }
    let path = FieldPath::new(path);
    let errors: Vec<FieldError> = asked
        .into_iter()
        .map(|index| FieldError::forbidden(&path.index(index).child("adminAccess"), DETAIL))
        .collect();
    let name = name.as_deref().unwrap_or("");
    Err(Status::invalid(names.group, names.kind, name, &errors))
}

/// The requests that ask for it.
fn requests(spec: &ResourceClaimSpec) -> Vec<usize> {
    let requests = spec.devices.iter().flat_map(|d| &d.requests).flatten();
    let asks = requests.enumerate().filter(|(_, request)| {
        let exactly = request.exactly.as_ref();
        exactly.is_some_and(|exactly| exactly.admin_access == Some(true))
    });
    asks.map(|(index, _)| index).collect()
}

/// The results that grant it.
fn results(status: &ResourceClaimStatus) -> Vec<usize> {
    let devices = status.allocation.iter().flat_map(|a| &a.devices);
    let results = devices.flat_map(|d| &d.results).flatten().enumerate();
    let grants = results.filter(|(_, result)| result.admin_access == Some(true));
    grants.map(|(index, _)| index).collect()
}
