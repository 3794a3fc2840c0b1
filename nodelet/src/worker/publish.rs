//! Telling the API server: the pod's status, and that it may delete the object.

use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::{Pod, PodStatus};
use jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::sync::watch;

use super::PodView;
use crate::node::{Node, uid};
use crate::pod::Teardown;
use crate::pod::status::{settled, status};

/// The wait after a failed write; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest wait between attempts: an API server that comes back should see its pods within seconds.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The least time that a pod is seen while it ends.
const ENDING_SHOWN_MIN: Duration = Duration::from_millis(200);

/// Fields that the node alone writes: what they show goes when it does not hold any more.
const CLEARED: [&str; 4] = [
    "reason",
    "message",
    "containerStatuses",
    "initContainerStatuses",
];

/// Keeps the status of a pod's object what the machine says, until the object or the worker is gone. The object of a pod
/// that was taken apart is deleted here too: whoever watches must see first how its containers ended.
pub async fn run(
    node: Arc<Node>,
    mut view: watch::Receiver<PodView>,
    pods: watch::Receiver<Option<Arc<Pod>>>,
) {
    let host_ips = node.host_ips();
    let mut base: Option<Arc<Pod>> = None;
    let mut delay = RETRY_FIRST;
    loop {
        let state = view.borrow_and_update().state.clone();
        let Some(watched) = pods.borrow().clone() else {
            return;
        };
        let current = newer(base.take(), watched);
        let wanted = status(&state, &current, &host_ips, Timestamp::now());
        let told = same(&wanted, current.status.as_ref()) || settled(&state, &current);
        let outcome = match told {
            true => Ok(None),
            false => write(&node, &current, &wanted).await.map(Some),
        };
        match outcome {
            Ok(written) => {
                let current = written.map_or(current, Arc::new);
                if state.teardown == Teardown::Released {
                    // Whoever deletes a pod and looks should see it on its way out, as with a kubelet, even if its
                    // program ends at once.
                    let began = state.ending.as_ref().map(|ending| ending.since);
                    let shown = began.map(|began| Timestamp::now().duration_since(began));
                    let shown = shown.and_then(|shown| Duration::try_from(shown).ok());
                    tokio::time::sleep(ENDING_SHOWN_MIN.saturating_sub(shown.unwrap_or_default()))
                        .await;
                    return delete(&node, &current).await;
                }
                base = Some(current);
                delay = RETRY_FIRST;
                // A status can also change by time alone (a back-off that is over); the worker ticks then.
                if view.changed().await.is_err() {
                    return;
                }
            }
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => return,
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => {
                base = fetch(&node, &current).await;
                tokio::time::sleep(RETRY_FIRST).await;
            }
            Err(error) => {
                tracing::debug!(pod = uid(&current), %error, "a status was not written; trying again");
                base = Some(current);
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_MAX);
            }
        }
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn newer(known: Option<Arc<Pod>>, watched: Arc<Pod>) -> Arc<Pod> {
    match known {
        Some(known) if version(&known) > version(&watched) => known,
        _ => watched,
    }
}

/// Whether the object shows everything that is wanted (it may show more, which is not ours).
fn same(wanted: &PodStatus, shown: Option<&PodStatus>) -> bool {
    let Some(shown) = shown else { return false };
    // Through text, so that times have the precision that the API keeps.
    let json = |status: &PodStatus| serde_json::to_value(status).unwrap_or_default();
    let (wanted, shown) = (json(wanted), json(shown));
    let cleared = CLEARED
        .iter()
        .all(|key| wanted.get(key).is_some() || shown.get(key).is_none());
    cleared
        && wanted.as_object().is_some_and(|wanted| {
            wanted.iter().all(|(key, value)| match key.as_str() {
                "conditions" => contains_all(value, &shown[key]),
                _ => shown.get(key) == Some(value),
            })
        })
}

fn contains_all(wanted: &serde_json::Value, shown: &serde_json::Value) -> bool {
    let empty = Vec::new();
    let shown = shown.as_array().unwrap_or(&empty);
    wanted
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .all(|condition| shown.contains(condition))
}

async fn write(node: &Node, pod: &Pod, status: &PodStatus) -> Result<Pod, kube::Error> {
    let api = pods(node, pod);
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut status = serde_json::to_value(status).unwrap_or_default();
    // A merge patch removes what is null: what belongs to a state that has passed.
    for key in CLEARED {
        if status.get(key).is_none() {
            status[key] = serde_json::Value::Null;
        }
    }
    // Lists are replaced as a whole, so the write must rest on the newest object: others own conditions in it.
    let patch = json!({
        "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
        "status": status,
    });
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
}

async fn fetch(node: &Node, pod: &Pod) -> Option<Arc<Pod>> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let found = pods(node, pod).get_opt(&name).await.ok().flatten()?;
    // Another pod of the same name is not ours.
    (found.metadata.uid == pod.metadata.uid).then(|| Arc::new(found))
}

/// Deletes the object of a pod that has been taken apart. Repeated until the server agrees or the object is gone.
async fn delete(node: &Node, pod: &Pod) {
    let api = pods(node, pod);
    let name = pod.metadata.name.clone().unwrap_or_default();
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let mut delay = RETRY_FIRST;
    loop {
        match api.delete(&name, &parameters).await {
            Ok(_) => return,
            Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => return,
            Err(error) => {
                tracing::debug!(pod = uid(pod), %error, "a pod was not deleted; trying again")
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_MAX);
    }
}

fn pods(node: &Node, pod: &Pod) -> Api<Pod> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    Api::namespaced(node.client.clone(), &namespace)
}
