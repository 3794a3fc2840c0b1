//! Objects are created only in namespaces that exist and are not being deleted; some namespaces are never deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use corral_api::status::{Status, StatusCause};
use corral_kinds::{AnyKind, Object};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;

use super::{Action, Attributes};
use crate::api::Api;
use crate::bootstrap;

/// Namespaces that the cluster cannot be without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) async fn check(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Object,
) -> Result<(), Status> {
    if !attributes.kind.names().namespaced || attributes.action != Action::Create {
        return Ok(());
    }
    let name = &attributes.cx.namespace;
    let Some(namespace) = find(api, name).await? else {
        return Err(Status::not_found("", "namespaces", name));
    };
    if namespace.metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    let object_name = attributes
        .kind
        .meta(object)
        .name
        .clone()
        .unwrap_or_default();
    let why =
        format!("unable to create new content in namespace {name} because it is being terminated");
    let mut status = attributes.forbidden(&object_name, &why);
    status
        .details
        .get_or_insert_default()
        .causes
        .push(StatusCause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        });
    Err(status)
}

/// What admission asks of a namespace. Every write reads it, so that the rest is passed by.
#[derive(Deserialize)]
pub(super) struct Found {
    pub(super) metadata: FoundMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FoundMetadata {
    pub(super) annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<String>,
}

/// A namespace: from the cache first; only one that it does not know is asked of the store.
pub(super) async fn find(api: &Api, name: &str) -> Result<Option<Found>, Status> {
    let namespaces = api.core("namespaces");
    let key = namespaces.key("", name);
    let known = namespaces
        .cacher
        .peek(&key)
        .map(|stored| stored.json.clone());
    if let Some(json) = known {
        return Ok(serde_json::from_slice(&json).ok());
    }
    let entry = namespaces.fetch(&key).await?;
    Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
}

/// The same where nothing is stored: there must be the namespace.
///
/// # Errors
/// 404 for a namespace that is not there.
pub(crate) async fn check_there(api: &Api, name: &str) -> Result<(), Status> {
    match find(api, name).await? {
        Some(_) => Ok(()),
        None => Err(Status::not_found("", "namespaces", name)),
    }
}

/// NamespaceExists: nothing is written where there is no namespace.
///
/// # Errors
/// 404 for a namespace that is not there.
pub(super) async fn check_exists(api: &Api, attributes: &Attributes<'_>) -> Result<(), Status> {
    let name = &attributes.cx.namespace;
    if !attributes.kind.names().namespaced || find(api, name).await?.is_some() {
        return Ok(());
    }
    Err(Status::not_found("", "namespaces", name))
}

/// NamespaceAutoProvision: a namespace is made for whoever creates something in it.
///
/// # Errors
/// 403 when it cannot be made.
pub(super) async fn provide(
    api: &Arc<Api>,
    attributes: &Attributes<'_>,
    object: &Object,
) -> Result<(), Status> {
    let name = &attributes.cx.namespace;
    let is_creation = attributes.kind.names().namespaced && attributes.action == Action::Create;
    if !is_creation || attributes.cx.dry_run || find(api, name).await?.is_some() {
        return Ok(());
    }
    make(api.clone(), name.clone()).await.map_err(|status| {
        let of = attributes.kind.meta(object).name.clone();
        attributes.forbidden(&of.unwrap_or_default(), &status.message)
    })
}

/// Boxed, as admission is asked about the namespace in turn.
fn make(api: Arc<Api>, name: String) -> BoxFuture<'static, Result<(), Status>> {
    let namespace = json!({"metadata": {"name": name}});
    Box::pin(async move { bootstrap::create(&api, "", "namespaces", "", namespace).await })
}

pub(super) fn check_delete(kind: &dyn AnyKind, name: &str) -> Result<(), Status> {
    let names = kind.names();
    if names.group.is_empty() && names.kind == "Namespace" && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(
            "",
            "namespaces",
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
