//! Nobody learns by a policy what they may not read: whoever names parameters must be able to read them.

use corral_api::field::{FieldError, FieldPath};
use corral_api::gvk::GroupVersion;
use corral_api::k8s::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ParamKind, ParamRef,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use corral_api::status::Status;
use corral_kinds::Object;

use super::Attributes;
use crate::api::Api;
use crate::authn::{MASTERS, User};
use crate::authz::{Access, Authorizer};

const GROUP: &str = "admissionregistration.k8s.io";

/// Checks a policy or a binding that is about to be stored.
///
/// # Errors
/// 422 when it names parameters that the writer may not read.
pub(super) async fn check(
    api: &Api,
    authorizer: &Authorizer,
    attributes: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    let user = &attributes.cx.user;
    let names = attributes.kind.names();
    if names.group != GROUP || !attributes.subresource.is_empty() || user.is_in(MASTERS) {
        return Ok(());
    }
    let unchanged = |named: &Named| old.and_then(named_by).is_some_and(|old| old == *named);
    let Some(named) = named_by(object).filter(|named| !unchanged(named)) else {
        return Ok(());
    };
    let refused = match &named {
        Named::Kind(kind) => refused_kind(api, authorizer, user, kind).await,
        Named::Objects(policy, reference) => {
            let mutating = names.kind.starts_with("Mutating");
            let kind = kind_of_policy(api, policy, mutating);
            refused_objects(api, authorizer, user, policy, kind.as_ref(), reference).await
        }
    };
    let Some(why) = refused else { return Ok(()) };
    let field = match named {
        Named::Kind(_) => "spec.paramKind",
        Named::Objects(..) => "spec.paramRef",
    };
    let error = FieldError::forbidden(&FieldPath::new(field), why);
    let meta = attributes.kind.meta(object);
    let name = meta.name.as_deref().unwrap_or_default();
    Err(Status::invalid(names.group, names.kind, name, &[error]))
}

/// The parameters that an object names.
#[derive(PartialEq)]
enum Named {
    Kind(ParamKind),
    /// Of a policy.
    Objects(String, ParamRef),
}

fn named_by(object: &Object) -> Option<Named> {
    if let Some(policy) = object.get::<ValidatingAdmissionPolicy>() {
        return policy.spec.as_ref()?.param_kind.clone().map(Named::Kind);
    }
    if let Some(policy) = object.get::<MutatingAdmissionPolicy>() {
        return policy.spec.as_ref()?.param_kind.clone().map(Named::Kind);
    }
    if let Some(binding) = object.get::<ValidatingAdmissionPolicyBinding>() {
        let reference = binding.spec.param_ref.clone()?;
        return Some(Named::Objects(binding.spec.policy_name.clone(), reference));
    }
    let spec = object
        .get::<MutatingAdmissionPolicyBinding>()?
        .spec
        .as_ref()?;
    let policy = spec.policy_name.clone().unwrap_or_default();
    Some(Named::Objects(policy, spec.param_ref.clone()?))
}

/// Access to a kind; to everything where it cannot be told which resource that is.
fn access(api: &Api, verb: &str, kind: Option<&ParamKind>) -> (Access, bool) {
    let mut access = Access {
        verb: verb.to_owned(),
        group: "*".to_owned(),
        version: "*".to_owned(),
        resource: "*".to_owned(),
        ..Default::default()
    };
    let Some(kind) = kind else {
        return (access, true);
    };
    let version = kind.api_version.as_deref().unwrap_or_default();
    let Ok(version) = GroupVersion::parse(version) else {
        return (access, false);
    };
    let wanted = kind.kind.as_deref().unwrap_or_default();
    let all = api.kinds();
    let found = all.iter().map(|kind| kind.names()).find(|names| {
        names.kind == wanted && names.group == version.group && names.version == version.version
    });
    access.group = version.group.clone();
    access.version = version.version.clone();
    if let Some(names) = found {
        access.resource = names.plural.to_owned();
    }
    (access, found.is_some())
}

async fn refused_kind(
    api: &Api,
    authorizer: &Authorizer,
    user: &User,
    kind: &ParamKind,
) -> Option<String> {
    let (mut access, _) = access(api, "get", Some(kind));
    access.name = "*".to_owned();
    access.namespace = "*".to_owned();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let allowed = authorizer.allows(user, &access).await;
    (!allowed).then(|| {
        format!(
            "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
            shown(user),
            text(&kind.kind),
            text(&kind.api_version)
        )
    })
}

async fn refused_objects(
    api: &Api,
    authorizer: &Authorizer,
    user: &User,
    policy: &str,
    kind: Option<&Option<ParamKind>>,
    reference: &ParamRef,
) -> Option<String> {
    let name = reference.name.clone().unwrap_or_default();
    let verb = if name.is_empty() { "list" } else { "get" };
    let (mut access, resolved) = access(api, verb, kind.and_then(Option::as_ref));
    access.name = name;
    access.namespace = reference.namespace.clone().unwrap_or_default();
    if authorizer.allows(user, &access).await {
        return None;
    }
    let (user, lack) = (shown(user), format!("does not have {verb:?} permission"));
    let least = "to determine minimum required permissions and user";
    let all = "for all groups, versions and resources";
    Some(match kind {
        None => format!("unable to get policy {policy} {least} {user} {lack} {all}"),
        Some(Some(kind)) if !resolved => {
            let kind = format!(
                "&ParamKind{{APIVersion:{},Kind:{},}}",
                kind.api_version.as_deref().unwrap_or_default(),
                kind.kind.as_deref().unwrap_or_default()
            );
            format!("unable to resolve paramKind {kind} {least} {user} {lack} {all}")
        }
        Some(_) => format!("user {user} {lack} on the object referenced by paramRef"),
    })
}

/// The kind of a policy's parameters, if there is such a policy.
fn kind_of_policy(api: &Api, name: &str, mutating: bool) -> Option<Option<ParamKind>> {
    let plural = if mutating {
        "mutatingadmissionpolicies"
    } else {
        "validatingadmissionpolicies"
    };
    let resource = api.resource(GROUP, plural)?;
    let value = resource
        .cacher
        .peek(&resource.key("", name))?
        .value()
        .ok()?;
    Some(serde_json::from_value(value["spec"]["paramKind"].clone()).ok())
}

/// A user as Go prints one.
fn shown(user: &User) -> String {
    format!(
        "&{{{} {} [{}] map[]}}",
        user.name,
        user.uid,
        user.groups.join(" ")
    )
}
