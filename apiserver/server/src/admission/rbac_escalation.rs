//! Nobody gives rights that they do not have: neither by writing a role nor by binding one.
//!
//! Whoever may `escalate` a role, or `bind` one, is trusted to know what they do. Members of `system:masters` have
//! all rights, so nothing is ever uncovered for them.

use corral_api::k8s::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef,
};
use corral_api::status::Status;
use corral_kinds::Object;

use super::{Action, Attributes};
use crate::authn::{MASTERS, User};
use crate::authz::{Access, Authorizer, coverage, rbac};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a role or a binding that is about to be stored.
///
/// # Errors
/// 403 when it gives rights that the writer does not have.
pub async fn check(
    authorizer: &Authorizer,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let names = attributes.kind.names();
    let user = &attributes.cx.user;
    if names.group != GROUP || user.is_in(MASTERS) {
        return Ok(());
    }
    let meta = attributes.kind.meta(object);
    let name = meta.name.as_deref().unwrap_or("");
    let namespace = attributes.cx.namespace.as_str();
    if let Some(old) = old
        && attributes.action == Action::Update
        && !attributes.is_made_anew
        && only_ends(attributes, object, old)
    {
        return Ok(());
    }
    let may = async |verb: &str, resource: &str, name: &str| {
        let access = Access {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        authorizer.allows(user, &access).await
    };
    let (rules, aggregates) = if let Some(role) = object.get::<Role>() {
        (role.rules.clone().unwrap_or_default(), false)
    } else if let Some(role) = object.get::<ClusterRole>() {
        let before = old.and_then(|old| old.get::<ClusterRole>());
        let aggregates = aggregates(role) || before.is_some_and(aggregates);
        (role.rules.clone().unwrap_or_default(), aggregates)
    } else if let Some(reference) = role_of(object) {
        let resource = if reference.kind == "Role" {
            "roles"
        } else {
            "clusterroles"
        };
        if may("bind", resource, &reference.name).await {
            return Ok(());
        }
        let rules = authorizer.rbac.role(&reference, namespace);
        // Kubernetes names the resource that is written, and not the one that is missing.
        let rules = rules.ok_or_else(|| Status::not_found(GROUP, names.plural, &reference.name))?;
        return confirm(authorizer, attributes, name, &rules);
    } else {
        return Ok(());
    };
    if may("escalate", names.plural, name).await {
        return Ok(());
    }
    confirm(authorizer, attributes, name, &rules)?;
    // What such a role will gather nobody knows, so its writer must have everything.
    if aggregates && !has_everything(authorizer, user, namespace) {
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return Err(attributes.forbidden(name, why));
    }
    Ok(())
}

fn aggregates(role: &ClusterRole) -> bool {
    let selectors = role
        .aggregation_rule
        .as_ref()
        .and_then(|rule| rule.cluster_role_selectors.as_ref());
    selectors.is_some_and(|selectors| !selectors.is_empty())
}

fn has_everything(authorizer: &Authorizer, user: &User, namespace: &str) -> bool {
    let held = authorizer.rbac.rules(user, namespace);
    coverage::uncovered(&held, &crate::authz::rbac::full_authority()).is_empty()
}

fn role_of(object: &Object) -> Option<RoleRef> {
    let cluster = || {
        let binding = object.get::<ClusterRoleBinding>();
        binding.map(|binding| binding.role_ref.clone())
    };
    let binding = object.get::<RoleBinding>();
    binding
        .map(|binding| binding.role_ref.clone())
        .or_else(cluster)
}

/// Whether an update does no more than the garbage collector must be able to: it changes owners and finalizers. An object that
/// was put without what the server gave it is another one.
fn only_ends(attributes: &Attributes<'_>, object: &Object, old: &Object) -> bool {
    let rest = |object: &Object| {
        let mut value = attributes.kind.encode(object).ok()?;
        if let Some(metadata) = value["metadata"].as_object_mut() {
            for field in [
                "ownerReferences",
                "finalizers",
                "managedFields",
                "resourceVersion",
                "generation",
            ] {
                metadata.remove(field);
            }
        }
        Some(value)
    };
    matches!((rest(object), rest(old)), (Some(a), Some(b)) if a == b)
}

fn confirm(
    authorizer: &Authorizer,
    attributes: &Attributes<'_>,
    name: &str,
    wanted: &[PolicyRule],
) -> Result<(), Status> {
    let user = &attributes.cx.user;
    let held = authorizer.rbac.rules(user, &attributes.cx.namespace);
    let missing = coverage::uncovered(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    // Of roles that are not there Kubernetes tells as if they were of the kind that is written.
    let plural = attributes.kind.names().plural;
    let unresolved = authorizer.rbac.missing(user, &attributes.cx.namespace);
    let unresolved = unresolved.iter().map(|missing| {
        let name = &missing.name;
        format!("{plural}.{GROUP} {name:?} not found")
    });
    let unresolved = rbac::unresolved(&unresolved.collect::<Vec<_>>());
    let unresolved = unresolved.map(|errors| format!("; resolution errors: [{errors}]"));
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}{}",
        user.name,
        coverage::quoted(&user.groups),
        coverage::describe(&missing),
        unresolved.unwrap_or_default()
    );
    Err(attributes.forbidden(name, &why))
}
