//! The `eviction` subresource: a pod deleted on behalf of somebody who moves load away, and marked as disrupted first,
//! so that a Job's failure policy can tell it from a failure of its own. PodDisruptionBudgets are asked before.

mod budget;

use corral_api::k8s::api::core::v1::Pod;
use corral_api::status::{Status, StatusReason};
use corral_kinds::all;
use serde_json::{Value, json};

use self::budget::Verdict;
use super::subresource::{admit_other, set_condition};
use super::{Call, with_warnings};
use crate::admission::node_restriction;
use crate::authz::node;
use crate::registry::{
    DeleteOptions, Ownership, Part, Preconditions, Resource, WriteContext, metadata,
};
use crate::response::Answer;

const CONDITION: &str = "DisruptionTarget";
const REASON: &str = "EvictionByEvictionAPI";
const MESSAGE: &str = "Eviction API: evicting";

/// How often an eviction is decided anew because the pod changed meanwhile, as in Kubernetes.
const ATTEMPTS_MAX: usize = 20;

/// Evicts a pod, unless a budget says no.
pub(super) async fn evict(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let mut cx = call.write_context()?;
    let body = call.decoded_kind("policy", "v1", "Eviction")?.value;
    if let Some(me) = node::name_of(&call.user) {
        let name = &call.info.name;
        let entry = resource.fetch(&resource.key(&cx.namespace, name)).await?;
        let pod = entry.map(|entry| serde_json::from_slice(&entry.value));
        let pod: Option<Pod> = pod.transpose().map_err(Status::internal)?;
        node_restriction::pods::check_eviction(me, name, pod.as_ref())?;
    }
    let sent = body["metadata"]["name"].as_str().unwrap_or("");
    if !sent.is_empty() && sent != call.info.name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let kind = all::kind("policy", "v1", "Eviction").ok_or_else(Status::no_such_path)?;
    let body = admit_other(call, resource, &cx, kind, body).await?;
    cx.asked.admitted = true;
    let options: DeleteOptions = match body.get("deleteOptions") {
        Some(options) if !options.is_null() => serde_json::from_value(options.clone())
            .map_err(|e| Status::bad_request(format!("deleteOptions cannot be read: {e}")))?,
        _ => DeleteOptions::default(),
    };
    cx.dry_run |= options
        .dry_run
        .as_ref()
        .is_some_and(|d| d.iter().any(|v| v == "All"));
    let mut attempt = 1;
    while let Err(conflict) = decide(call, resource, &cx, &options).await? {
        if attempt == ATTEMPTS_MAX {
            return Err(conflict);
        }
        attempt += 1;
    }
    let status = Status {
        code: 201,
        ..Status::success(None)
    };
    Ok(with_warnings(
        super::status_answer(call, resource, &status)?,
        &cx,
    ))
}

/// One attempt. The inner error is a conflict after which another attempt may succeed; once a budget has been charged
/// there is none.
async fn decide(
    call: &Call,
    resource: &Resource,
    cx: &WriteContext,
    options: &DeleteOptions,
) -> Result<Result<(), Status>, Status> {
    let name = &call.info.name;
    let key = resource.key(&cx.namespace, name);
    let entry = resource
        .fetch(&key)
        .await?
        .ok_or_else(|| resource.not_found(name))?;
    let pod: Pod = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    let as_seen = || at_version(options, &entry.revision.to_string());
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some() {
        return remove(resource, cx, name, options.clone()).await.map(Ok);
    }
    let is_late =
        |status: &Status| status.is(StatusReason::Conflict) && version_of(options).is_none();
    if phase == Some("Pending") {
        // It disrupts nothing unless it becomes ready meanwhile.
        return match remove(resource, cx, name, as_seen()).await {
            Err(status) if is_late(&status) => Ok(Err(status)),
            other => other.map(Ok),
        };
    }
    match budget::take(call, cx, &pod).await? {
        Verdict::Go => remove(resource, cx, name, options.clone()).await.map(Ok),
        Verdict::GoAsSeen { budget } => match remove(resource, cx, name, as_seen()).await {
            Err(status) if is_late(&status) => Err(budget::still_processing(&budget)),
            other => other.map(Ok),
        },
    }
}

fn version_of(options: &DeleteOptions) -> Option<&String> {
    let preconditions = options.preconditions.as_ref()?;
    preconditions.resource_version.as_ref()
}

/// The options, for this version of the pod unless they name one themselves.
fn at_version(options: &DeleteOptions, version: &str) -> DeleteOptions {
    let mut options = options.clone();
    let preconditions = options
        .preconditions
        .get_or_insert_with(Preconditions::default);
    let wanted = &mut preconditions.resource_version;
    wanted.get_or_insert_with(|| version.to_owned());
    options
}

/// Marks the pod and deletes it.
async fn remove(
    resource: &Resource,
    cx: &WriteContext,
    name: &str,
    mut options: DeleteOptions,
) -> Result<(), Status> {
    if !cx.dry_run {
        let version = mark(resource, cx, name, &options).await?;
        let preconditions = options.preconditions.as_mut();
        if let Some(wanted) = preconditions.and_then(|p| p.resource_version.as_mut()) {
            // The mark itself made a new version; the asked-for one was checked with it.
            *wanted = version;
        }
    }
    resource.delete(cx, name, &options).await.map(drop)
}

/// Adds the condition, and answers the version that the pod has then.
async fn mark(
    resource: &Resource,
    cx: &WriteContext,
    name: &str,
    options: &DeleteOptions,
) -> Result<String, Status> {
    let change = |live: &Value| {
        resource.check_preconditions(name, live, options)?;
        let mut pod = live.clone();
        let old = live["status"]["conditions"]
            .as_array()
            .and_then(|conditions| conditions.iter().find(|c| c["type"] == CONDITION));
        let since = old.filter(|old| old["status"] == "True");
        let since = since.map(|old| old["lastTransitionTime"].clone());
        let now = || corral_api::time::format_seconds(cx.now).into();
        set_condition(
            &mut pod,
            json!({
                "type": CONDITION, "status": "True", "reason": REASON, "message": MESSAGE,
                "lastProbeTime": null, "lastTransitionTime": since.unwrap_or_else(now),
            }),
        );
        metadata::drop_live_version(&mut pod, live);
        Ok((pod, Ownership::Update))
    };
    let written = resource
        .update(cx, name, Part::Status, "status", &change)
        .await?;
    let pod: Value = serde_json::from_slice(&written.json).map_err(Status::internal)?;
    let version = pod["metadata"]["resourceVersion"].as_str();
    Ok(version.unwrap_or_default().to_owned())
}
