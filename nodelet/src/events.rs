//! Events about pods and the node, sent in the background: losing one is better than holding up a pod.

use std::collections::HashMap;

use corral_api::k8s::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use corral_api::time::Time;
use jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;

/// How many events wait for the API server; more are dropped.
const QUEUE_MAX: usize = 256;

/// How many kinds of happening are counted up instead of sent anew.
const KNOWN_MAX: usize = 1024;

/// Sends events.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    node: String,
}

impl Events {
    /// A recorder and the task that sends what is recorded.
    pub fn new(client: Client, node: &str) -> (Self, impl Future<Output = ()> + use<>) {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        (
            Self {
                queue,
                node: node.to_owned(),
            },
            send(client, receiver),
        )
    }

    /// Records something about a pod or one of its containers.
    pub fn record(
        &self,
        pod: &Pod,
        container: Option<&str>,
        warning: bool,
        reason: &str,
        message: &str,
    ) {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let init = pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        let kind = if init.clone().any(|c| Some(c.name.as_str()) == container) {
            "initContainers"
        } else {
            "containers"
        };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(namespace),
            name: Some(name),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|container| format!("spec.{kind}{{{container}}}")),
        };
        self.send(about, warning, reason, message);
    }

    /// Records trouble of the node as a whole.
    pub fn record_node(&self, reason: &str, message: &str) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            // As kubelets do: `kubectl describe node` looks for events by this.
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        self.send(about, true, reason, message);
    }

    fn send(&self, about: ObjectReference, warning: bool, reason: &str, message: &str) {
        let now = Time(Timestamp::now());
        // Objects outside of namespaces have their events in this one.
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
        let name = about.name.clone().unwrap_or_default();
        let mut event = Event {
            involved_object: about,
            type_: Some(if warning { "Warning" } else { "Normal" }.into()),
            reason: Some(reason.to_owned()),
            // The API refuses longer messages.
            message: Some(message.chars().take(1000).collect()),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        };
        event.metadata.namespace = Some(namespace);
        event.metadata.name = Some(format!("{name}.{:016x}", rand::random::<u64>()));
        if self.queue.try_send(event).is_err() {
            tracing::debug!(reason, "an event was dropped");
        }
    }
}

/// What makes two events the same: object, part of it, reason, message.
type Happening = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

async fn send(client: Client, mut receiver: mpsc::Receiver<Event>) {
    // What was sent before, so that a container that crashes for days is one event with a count.
    let mut known: HashMap<Happening, Event> = HashMap::new();
    while let Some(mut event) = receiver.recv().await {
        let key = (
            event.involved_object.uid.clone(),
            event.involved_object.field_path.clone(),
            event.reason.clone(),
            event.message.clone(),
        );
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        if let Some(earlier) = known.get(&key) {
            let count = earlier.count.unwrap_or(1) + 1;
            let name = earlier.metadata.name.clone().unwrap_or_default();
            let patch = serde_json::json!({"count": count, "lastTimestamp": event.last_timestamp});
            let patch = kube::api::Patch::Merge(patch);
            if api
                .patch(&name, &kube::api::PatchParams::default(), &patch)
                .await
                .is_ok()
            {
                event.count = Some(count);
                event.metadata.name = Some(name);
                known.insert(key, event);
                continue;
            }
        }
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, "an event was not recorded");
            continue;
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key, event);
    }
}
