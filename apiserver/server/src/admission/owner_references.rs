//! OwnerReferencesPermissionEnforcement: whoever gives an object another owner must be able to delete it, and whoever
//! lets it hold up an owner's deletion must be able to write the owner's finalizers.

use corral_api::gvk::GroupVersion;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use corral_api::status::Status;
use corral_kinds::Object;

use super::{Action, Attributes};
use crate::api::Api;
use crate::authz::{Access, Authorizer, Decision};

/// Checks the owners of an object that is about to be stored.
///
/// # Errors
/// 403 when the writer lacks a right.
pub(super) async fn check(
    api: &Api,
    authorizer: &Authorizer,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let names = attributes.kind.names();
    if (names.group, names.plural, attributes.subresource) == ("", "pods", "status") {
        return Ok(());
    }
    let owners = |object| owners_of(attributes, object);
    let (owners, before) = (owners(object), old.map(owners).unwrap_or_default());
    if owners == before {
        return Ok(());
    }
    let user = &attributes.cx.user;
    let meta = attributes.kind.meta(object);
    let name = meta.name.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let refused = |reason: String, why: &str| {
        let why = format!("{why}: {reason}, <nil>");
        Err(attributes.forbidden(name, &why))
    };
    let deletion = Access {
        verb: "delete".to_owned(),
        group: names.group.to_owned(),
        version: names.version.to_owned(),
        resource: names.plural.to_owned(),
        subresource: attributes.subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Access::default()
    };
    if attributes.action == Action::Update {
        let (decision, reason) = authorizer.decide(user, &deletion).await;
        if decision != Decision::Allow {
            let why = "cannot set an ownerRef on a resource you can't delete";
            return refused(reason, why);
        }
    }
    let blocks = |owner: &OwnerReference| owner.block_owner_deletion == Some(true);
    let is_new = |owner: &OwnerReference| {
        let known = before.iter().rfind(|other| other.uid == owner.uid);
        known.is_none_or(|known| !blocks(known))
    };
    let blocking = owners.iter().filter(|o| blocks(o) && is_new(o));
    let blocking: Vec<&OwnerReference> = blocking.collect();
    if blocking.is_empty() {
        return Ok(());
    }
    let all = finalizers("*", "*", "*", "*");
    if authorizer.allows(user, &all).await {
        return Ok(());
    }
    for owner in blocking {
        let Some(access) = finalizers_of(api, owner, namespace) else {
            return Err(attributes.forbidden(name, &not_mapped(owner)));
        };
        let (decision, reason) = authorizer.decide(user, &access).await;
        if decision != Decision::Allow {
            let why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
            return refused(reason, why);
        }
    }
    Ok(())
}

fn owners_of(attributes: &Attributes<'_>, object: &Object) -> Vec<OwnerReference> {
    let meta = attributes.kind.meta(object);
    meta.owner_references.clone().unwrap_or_default()
}

fn finalizers(group: &str, version: &str, resource: &str, name: &str) -> Access {
    Access {
        verb: "update".to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource: "finalizers".to_owned(),
        name: name.to_owned(),
        ..Access::default()
    }
}

/// The right to write the finalizers of an owner; none for a kind that is not served.
fn finalizers_of(api: &Api, owner: &OwnerReference, namespace: &str) -> Option<Access> {
    let version = GroupVersion::parse(&owner.api_version).ok()?;
    let kinds = api.kinds();
    let found = kinds.iter().map(|kind| kind.names()).find(|names| {
        names.kind == owner.kind && names.group == version.group && names.version == version.version
    })?;
    let mut access = finalizers(&version.group, &version.version, found.plural, &owner.name);
    if found.namespaced {
        namespace.clone_into(&mut access.namespace);
    }
    Some(access)
}

fn not_mapped(owner: &OwnerReference) -> String {
    let OwnerReference {
        api_version, kind, ..
    } = owner;
    format!(
        "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}: no matches for kind {kind:?} in version {api_version:?}"
    )
}
