//! The end of a definition: its objects go first, each as if a client had deleted it.

use std::sync::Arc;
use std::time::Duration;

use corral_api::status::{Status, StatusReason};
use corral_kinds::apiextensions::custom_resource_definition::{
    CLEANUP_FINALIZER, Condition, CustomResourceDefinition,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::write;
use crate::api::Api;
use crate::bootstrap;
use crate::registry::{DeleteOptions, Resource};

/// Pause before objects are deleted again after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Deletes the objects of a definition, waits until they are gone, and lets the definition go.
pub(super) async fn run(
    api: Arc<Api>,
    definition: CustomResourceDefinition,
    stop: CancellationToken,
) {
    let name = definition.metadata.name.clone().unwrap_or_default();
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = end(&api, &name, &definition) => outcome,
        };
        match outcome {
            Ok(()) => return,
            Err(failure) => {
                tracing::warn!(definition = name, error = %failure.message, "its objects are not all gone");
                let failed = terminating(true, "InstanceDeletionFailed", &failure.message);
                let _ = write(&api, &name, &|live| set_condition(live, &failed)).await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
    }
}

async fn end(api: &Api, name: &str, definition: &CustomResourceDefinition) -> Result<(), Status> {
    let last = match api.custom(name) {
        Some(custom) if definition.is("Established") => {
            let running = terminating(
                true,
                "InstanceDeletionInProgress",
                "CustomResource deletion is in progress",
            );
            write(api, name, &|live| set_condition(live, &running)).await?;
            empty(&custom.storage).await?;
            terminating(false, "InstanceDeletionCompleted", "removed all instances")
        }
        _ => terminating(false, "NeverEstablished", "resource was never established"),
    };
    let finish = |live: &mut Value| {
        set_condition(live, &last);
        if let Some(finalizers) = live["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != CLEANUP_FINALIZER);
        }
    };
    write(api, name, &finish).await
}

fn terminating(status: bool, reason: &str, message: &str) -> Condition {
    Condition {
        type_: "Terminating".to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        last_transition_time: None,
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        observed_generation: None,
    }
}

fn set_condition(live: &mut Value, condition: &Condition) {
    let conditions = live["status"]["conditions"].take();
    let mut conditions = serde_json::from_value(conditions).unwrap_or_default();
    super::status::set(&mut conditions, condition.clone(), Timestamp::now());
    live["status"]["conditions"] = json!(conditions);
}

/// Deletes every object and waits until none is left: those with finalizers go when their holders let them.
async fn empty(resource: &Resource) -> Result<(), Status> {
    let mut changes = resource.cacher.changes();
    let _held = resource.cacher.hold();
    let mut asked = std::collections::HashSet::new();
    resource.cacher.fresh().await?;
    loop {
        changes.borrow_and_update();
        let snapshot = resource.cacher.snapshot();
        if snapshot.objects.is_empty() {
            return Ok(());
        }
        for stored in snapshot.objects.values() {
            if !asked.insert(stored.key.clone()) {
                continue;
            }
            let (namespace, name) = stored.namespace_and_name(resource.cacher.prefix());
            let cx = bootstrap::context(namespace);
            match resource.delete(&cx, name, &DeleteOptions::default()).await {
                Err(status) if !status.is(StatusReason::NotFound) => return Err(status),
                _ => {}
            }
        }
        if changes.changed().await.is_err() {
            return Err(Status::unavailable("the cache has ended"));
        }
    }
}
