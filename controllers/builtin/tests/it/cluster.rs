//! A cluster for tests: the API in memory, the controllers, and a node that runs whatever pods there are.

use std::sync::Arc;

use corral_api::k8s::api::core::v1::Pod;
use corral_controllers::{ControllersConfig, Name};
use corral_runtime::testing::World;
use corral_runtime::{Cache, Change};
use prometheus::Registry;
use serde_json::{Value, json};

pub struct Cluster {
    pub world: World,
}

pub const PODS: &str = "/api/v1/pods";

impl Cluster {
    /// Starts these controllers.
    pub fn start(names: &[Name]) -> Self {
        let world = World::new();
        let client = world.client.clone();
        let config = ControllersConfig {
            clients: Arc::new(move |_| client.clone()),
            caches: Some(world.factory.clone()),
            registry: Registry::new(),
            shutdown: world.tasks.shutdown().clone(),
            root_ca: Some("test certificate".into()),
            signing_ca: None,
            cluster_cidr: Some("10.244.0.0/16".into()),
            enabled: names.iter().copied().collect(),
            clock: Arc::clone(&world.clock) as Arc<dyn corral_runtime::Clock>,
        };
        world
            .tasks
            .spawn("controllers", corral_controllers::start(config));
        Self { world }
    }

    /// Starts a node that makes every pod ready, unless its image is `broken`, and ends those that are deleted.
    pub fn run_pods(&self) {
        let pods: Cache<Pod> = self.world.factory.cache();
        let (sender, mut changed) = tokio::sync::mpsc::channel::<Arc<Pod>>(1024);
        pods.listen(move |change| {
            if let Change::Applied { new, .. } = change {
                sender
                    .try_send(Arc::clone(new))
                    .expect("the test's node keeps up");
            }
        });
        let api = Arc::clone(&self.world.api);
        self.world.tasks.spawn("node", async move {
            while let Some(pod) = changed.recv().await {
                act(&api, &pod);
            }
        });
    }

    pub async fn wait_until(
        &self,
        condition: impl FnMut(&corral_runtime::testing::FakeApi) -> bool,
    ) {
        let waiting = self.world.api.wait_until(condition);
        tokio::time::timeout(std::time::Duration::from_secs(3600), waiting)
            .await
            .expect("in time");
    }
}

fn act(api: &corral_runtime::testing::FakeApi, pod: &Pod) {
    let meta = &pod.metadata;
    let (namespace, name) = (
        meta.namespace.as_deref().expect("has one"),
        meta.name.as_deref().expect("has one"),
    );
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let exists = api
        .objects(PODS)
        .iter()
        .any(|other| other["metadata"]["uid"] == json!(meta.uid));
    if !exists {
        return;
    }
    let image = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .and_then(|c| c.image.as_deref());
    let unset = pod
        .status
        .as_ref()
        .is_none_or(|status| status.phase.is_none());
    if meta.deletion_timestamp.is_some() {
        if meta.finalizers.as_ref().is_none_or(Vec::is_empty) {
            api.remove(&path);
        }
    } else if unset && image == Some("finishes") {
        api.merge(&path, json!({"status": {"phase": "Succeeded"}}));
    } else if unset && image == Some("fails") {
        api.merge(&path, json!({"status": {"phase": "Failed"}}));
    } else if unset && image != Some("broken") {
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2023-01-01T00:00:00Z"});
        let address = format!(
            "10.0.0.{}",
            meta.uid
                .as_deref()
                .and_then(|u| u.strip_prefix("uid-"))
                .unwrap_or("1")
        );
        let status = json!({"phase": "Running", "conditions": [ready], "podIP": address, "podIPs": [{"ip": address}]});
        api.merge(
            &path,
            json!({"spec": {"nodeName": "node"}, "status": status}),
        );
    }
}

pub fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "ns"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    })
}
