//! The objects that a policy is evaluated with: its parameters.

use std::sync::Arc;

use corral_api::gvk::GroupVersion;
use corral_api::k8s::api::admissionregistration::v1::{ParamKind, ParamRef};
use corral_api::selector::LabelSelector;
use serde_json::Value;

use super::compiled::{Binding, Policy};
use crate::admission::matching::labels;
use crate::api::Api;
use crate::object::Stored;
use crate::registry::Resource;

/// Where the parameters of a policy are.
pub struct Source(Option<Arc<Resource>>);

impl Source {
    /// Of a policy.
    ///
    /// # Errors
    /// When there is no such kind.
    pub fn of(api: &Api, policy: &Policy) -> Result<Self, String> {
        let Some(kind) = &policy.params else {
            return Ok(Self(None));
        };
        let found = find(api, kind).ok_or_else(|| {
            let version = kind.api_version.as_deref().unwrap_or_default();
            let version = match version.contains('/') {
                true => version.to_owned(),
                false => format!("/{version}"),
            };
            let kind = kind.kind.as_deref().unwrap_or_default();
            format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'")
        })?;
        Ok(Self(Some(found)))
    }

    /// The parameters for a request in a namespace: the policy is evaluated once with each. One that is `None` is for an
    /// evaluation without parameters.
    ///
    /// # Errors
    /// When the binding makes no sense for the kind or the request, or wants parameters that are not there.
    pub async fn collect(
        &self,
        binding: &Binding,
        namespace: &str,
    ) -> Result<Vec<Option<Value>>, String> {
        let (Some(resource), Some(reference)) = (&self.0, &binding.params) else {
            return Ok(vec![None]);
        };
        let namespace = in_namespace(resource, reference, namespace)?;
        let found = match (reference.name.as_deref(), &reference.selector) {
            (Some(name), _) if !name.is_empty() => one(resource, namespace, name).await?,
            (_, Some(selector)) => {
                let selector = LabelSelector::from_object(Some(selector));
                many(resource, namespace, &selector.map_err(|e| e.to_string())?)
            }
            _ => return Err("one of name or selector must be provided".to_owned()),
        };
        let denies = reference.parameter_not_found_action.as_deref() == Some("Deny");
        if found.is_empty() && denies {
            let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return Err(why.to_owned());
        }
        Ok(found.into_iter().map(Some).collect())
    }
}

fn find(api: &Api, kind: &ParamKind) -> Option<Arc<Resource>> {
    let version = GroupVersion::parse(kind.api_version.as_deref().unwrap_or_default()).ok()?;
    let wanted = kind.kind.as_deref().unwrap_or_default();
    let mut all = api.resources().cloned().chain(api.custom_resources());
    all.find(|resource| {
        let names = resource.kind.names();
        names.kind == wanted && names.group == version.group && names.version == version.version
    })
}

/// The namespace of the parameters; empty where they have none.
fn in_namespace<'a>(
    resource: &Resource,
    reference: &'a ParamRef,
    of_request: &'a str,
) -> Result<&'a str, String> {
    let given = reference.namespace.as_deref().unwrap_or_default();
    match (resource.kind.names().namespaced, given, of_request) {
        (false, "", _) => Ok(""),
        (false, ..) => {
            Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned())
        }
        (true, "", "") => Err(
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                .to_owned(),
        ),
        (true, "", namespace) | (true, namespace, _) => Ok(namespace),
    }
}

/// One by its name; none if it is not there.
async fn one(resource: &Resource, namespace: &str, name: &str) -> Result<Vec<Value>, String> {
    let key = resource.key(namespace, name);
    let json = match resource.cacher.peek(&key) {
        Some(stored) => Some(stored.json.clone()),
        // The cache may be late.
        None => {
            let entry = resource.fetch(&key).await;
            entry
                .map_err(|status| status.message)?
                .map(|entry| entry.value)
        }
    };
    let read = |json| serde_json::from_slice(json).map_err(|e: serde_json::Error| e.to_string());
    let value: Option<Value> = json.as_deref().map(read).transpose()?;
    Ok(value
        .map(|value| shown(resource, value))
        .into_iter()
        .collect())
}

fn many(resource: &Resource, namespace: &str, selector: &LabelSelector) -> Vec<Value> {
    let prefix = resource.cacher.prefix();
    let snapshot = resource.cacher.snapshot();
    let in_namespace = |stored: &&Arc<Stored>| stored.namespace_and_name(prefix).0 == namespace;
    let found = snapshot.objects.values().filter(in_namespace);
    let found = found.filter_map(|stored| stored.value().ok());
    found
        .filter(|value| selector.matches(&labels(value)))
        .map(|value| shown(resource, value))
        .collect()
}

/// As the kind's version has it.
fn shown(resource: &Resource, value: Value) -> Value {
    resource.kind.from_stored(value)
}
