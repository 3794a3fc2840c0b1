//! The `eviction` subresource: a pod deleted on behalf of somebody who moves load away, and marked as disrupted first,
//! so that a Job's failure policy can tell it from a failure of its own.

use corral_api::status::Status;
use serde_json::{Value, json};

use super::Call;
use super::subresource::set_condition;
use crate::registry::{DeleteOptions, Ownership, Part, Resource, WriteContext, metadata};
use crate::response::Answer;

const CONDITION: &str = "DisruptionTarget";
const REASON: &str = "EvictionByEvictionAPI";
const MESSAGE: &str = "Eviction API: evicting";

/// Evicts a pod. Nothing limits disruptions until PodDisruptionBudgets are served.
pub(super) async fn evict(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let mut cx = call.write_context()?;
    let body = call.decoded_kind("policy", "v1", "Eviction")?.value;
    let sent = body["metadata"]["name"].as_str().unwrap_or("");
    if !sent.is_empty() && sent != call.info.name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let mut options: DeleteOptions = match body.get("deleteOptions") {
        Some(options) if !options.is_null() => serde_json::from_value(options.clone())
            .map_err(|e| Status::bad_request(format!("deleteOptions cannot be read: {e}")))?,
        _ => DeleteOptions::default(),
    };
    cx.dry_run |= options
        .dry_run
        .as_ref()
        .is_some_and(|d| d.iter().any(|v| v == "All"));
    if !cx.dry_run {
        let version = mark(resource, &cx, &call.info.name, &options).await?;
        let wanted = options
            .preconditions
            .as_mut()
            .and_then(|preconditions| preconditions.resource_version.as_mut());
        if let Some(wanted) = wanted {
            // The mark itself made a new version; the asked-for one was checked with it.
            *wanted = version;
        }
    }
    resource.delete(&cx, &call.info.name, &options).await?;
    let status = Status {
        code: 201,
        ..Status::success(None)
    };
    super::status_answer(call, &status)
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
