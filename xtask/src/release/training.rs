//! The work that a release is built for: what clients, nodes and controllers ask of a server all day, each a little.
//!
//! What is not done here is taken for rare, and made small rather than quick.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{APPLY, Client, JSON, MERGE, PROTOBUF, STRATEGIC, TABLE};
use crate::running::Running;

/// Objects of each kind.
const OBJECTS: usize = 800;
/// Requests at a time.
const WORKERS: usize = 16;
const CONNECTIONS: usize = 4;
/// Watches of each kind and form.
const WATCHES: usize = 10;
/// Lists of each form, beside the rest of the work.
const LISTS: usize = 8;
/// How long a server may take to serve a definition, or to make pods: counting takes time.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_PERIOD: Duration = Duration::from_millis(10);

const NAMESPACE: &str = "/api/v1/namespaces/training";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/training/leases";
const WIDGETS: &str = "/apis/training.corral.dev/v1/namespaces/training/widgets";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/training/deployments";

/// Runs the program, does the work, and ends it as an administrator would, twice: the second time it finds objects.
pub fn run(binary: &Path, directory: &Path) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let start = || anyhow::Ok(Running::start_of::<&str>(binary, "server", directory, &[])?.0);
    // What was counted is written when a process ends by itself.
    let server = start()?;
    runtime.block_on(work(&server.kubeconfig()))?;
    server.stop()?;
    let server = start()?;
    runtime.block_on(look(&server.kubeconfig()))?;
    server.stop()?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

async fn work(kubeconfig: &Path) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(kubeconfig).await?);
    }
    let client = &clients[0];
    client
        .post("/api/v1/namespaces", &named("training"))
        .await?;
    await_path(client, &format!("{NAMESPACE}/serviceaccounts/default")).await?;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    client.post(definitions, &definition()).await?;
    await_path(client, WIDGETS).await?;

    let watchers = Client::connect(kubeconfig).await?;
    let mut watches = JoinSet::new();
    let mut watch = |path: String, accept: &'static str| {
        for _ in 0..WATCHES {
            let (client, path) = (
                watchers.clone(),
                format!("{path}?watch=true&allowWatchBookmarks=true"),
            );
            watches.spawn(async move { client.watch(&path, accept).await });
        }
    };
    for accept in [JSON, PROTOBUF, TABLE] {
        watch(format!("{NAMESPACE}/pods"), accept);
    }
    watch(format!("{NAMESPACE}/configmaps"), JSON);
    watch(LEASES.to_owned(), PROTOBUF);
    watch(WIDGETS.to_owned(), JSON);

    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let client = clients[worker % CONNECTIONS].clone();
        workers.spawn(async move {
            for number in (worker..OBJECTS).step_by(WORKERS) {
                pod(&client, number).await?;
                config_map(&client, number).await?;
                lease(&client, number).await?;
                widget(&client, number).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    deployment(client).await?;
    lists(client).await?;
    watches.abort_all();
    Ok(())
}

/// What clients do that have just connected.
async fn look(kubeconfig: &Path) -> anyhow::Result<()> {
    let client = Client::connect(kubeconfig).await?;
    await_path(&client, WIDGETS).await?;
    lists(&client).await
}

/// Waits until something is served.
async fn await_path(client: &Client, path: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    while client.get(path, JSON).await.is_err() {
        ensure!(began.elapsed() < WAIT_MAX, "{path} is not served");
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    Ok(())
}

fn named(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

/// A pod's life: made, read, changed in every way, reported on by its node; some are removed.
async fn pod(client: &Client, number: usize) -> anyhow::Result<()> {
    let pods = format!("{NAMESPACE}/pods");
    let name = format!("pod-{number:05}");
    let path = format!("{pods}/{name}");
    client.post(&pods, &pod_object(&name, number)).await?;
    client.get(&path, JSON).await?;
    let annotated = json!({"metadata": {"annotations": {"training/merged": number.to_string()}}});
    client.patch(&path, MERGE, &annotated).await?;
    let image = json!({"spec": {"containers": [{"name": "main", "image": "registry.example.com/team/main:2"}]}});
    client.patch(&path, STRATEGIC, &image).await?;
    let applied = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"training/applied": "yes"}, "annotations": {"training/applied": number.to_string()}},
        "spec": {"containers": [{"name": "side", "image": "registry.example.com/team/side:2"}]},
    });
    let apply = format!("{path}?fieldManager=training&force=true");
    client.patch(&apply, APPLY, &applied).await?;
    client.patch(&apply, APPLY, &applied).await?;

    let mut live: Value = serde_json::from_slice(&client.get(&path, JSON).await?)?;
    live["status"] = pod_status("message-00001");
    let status = format!("{path}/status");
    client.put(&status, &live).await?;
    for texts in [
        ["message-00001", "message-00002"],
        ["message-00002", "message-00003"],
    ] {
        client.put_protobuf(&path, &status, texts).await?;
    }
    if number.is_multiple_of(4) {
        let types = (JSON, JSON);
        client.call(Method::DELETE, &path, types, "").await?;
    }
    Ok(())
}

fn pod_object(name: &str, number: usize) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.com/team/{name}:1"),
            "args": ["--listen=:8080", "--level=info"],
            "env": [
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "REGION", "value": "north"}, {"name": "SHARD", "value": number.to_string()},
            ],
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "shop", "slot": format!("slot-{}", number % 100), "tier": "front"},
            "annotations": {"example.com/owner": "team-a", "example.com/note": "x".repeat(400)},
        },
        "spec": {
            "nodeName": format!("node-{}", number % 20),
            "terminationGracePeriodSeconds": 0,
            "containers": [container("main"), container("side")],
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "shop", "effect": "NoSchedule"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn pod_status(message: &str) -> Value {
    let now = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.com/team/{name}:1"), "imageID": "", "ready": true,
            "restartCount": 0, "started": true, "state": {"running": {"startedAt": now}},
        })
    };
    json!({
        "phase": "Running", "message": message, "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "10.1.0.1",
        "startTime": now,
        "conditions": (["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition)),
        "containerStatuses": (["main", "side"].map(container)),
    })
}

async fn config_map(client: &Client, number: usize) -> anyhow::Result<()> {
    let name = format!("config-{number:05}");
    let path = format!("{NAMESPACE}/configmaps/{name}");
    for round in 0..2 {
        let applied = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "shop"}},
            "data": {"a.conf": "key = value\n".repeat(40), "round": round.to_string()},
        });
        let apply = format!("{path}?fieldManager=training");
        client.patch(&apply, APPLY, &applied).await?;
    }
    let mut live: Value = serde_json::from_slice(&client.get(&path, JSON).await?)?;
    live["data"]["round"] = "3".into();
    client.put(&path, &live).await?;
    Ok(())
}

/// A lease, made by its node and renewed as kubelets do.
async fn lease(client: &Client, number: usize) -> anyhow::Result<()> {
    let name = format!("lease-{number:05}");
    let path = format!("{LEASES}/{name}");
    let object = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": "holder-00001", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"},
    });
    client.post(LEASES, &object).await?;
    let mut live: Value = serde_json::from_slice(&client.get(&path, JSON).await?)?;
    live["spec"]["renewTime"] = "2026-01-01T00:00:10.000000Z".into();
    client.put(&path, &live).await?;
    for texts in [
        ["holder-00001", "holder-00002"],
        ["holder-00002", "holder-00003"],
    ] {
        client.put_protobuf(&path, &path, texts).await?;
    }
    Ok(())
}

async fn widget(client: &Client, number: usize) -> anyhow::Result<()> {
    let name = format!("widget-{number:05}");
    let path = format!("{WIDGETS}/{name}");
    let parts: Vec<Value> = (0..8)
        .map(|part| json!({"name": format!("part-{part}"), "size": part, "tags": {"a": "b", "c": "d"}}))
        .collect();
    let object = json!({
        "apiVersion": "training.corral.dev/v1", "kind": "Widget",
        "metadata": {"name": name, "labels": {"app": "shop"}},
        "spec": {"replicas": 3, "title": "a widget", "parts": parts},
    });
    client.post(WIDGETS, &object).await?;
    client.get(&path, JSON).await?;
    let patch = json!({"spec": {"title": format!("widget {number}")}});
    client.patch(&path, MERGE, &patch).await?;
    let applied = json!({
        "apiVersion": "training.corral.dev/v1", "kind": "Widget", "metadata": {"name": name},
        "spec": {"replicas": 4, "parts": [{"name": "part-1", "size": 7}]},
    });
    let apply = format!("{path}?fieldManager=training&force=true");
    client.patch(&apply, APPLY, &applied).await?;
    let status = json!({"status": {"ready": number}});
    client
        .patch(&format!("{path}/status"), MERGE, &status)
        .await?;
    Ok(())
}

/// A kind as projects define theirs: a schema with defaults, bounds, a list with keys, and a rule.
fn definition() -> Value {
    let texts: serde_json::Map<String, Value> = (0..60)
        .map(|number| {
            let text =
                json!({"type": "string", "maxLength": 100, "description": "one of many settings"});
            (format!("setting{number}"), text)
        })
        .collect();
    let part = json!({
        "type": "object", "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": 63},
            "size": {"type": "integer", "minimum": 0, "maximum": 100},
            "tags": {"type": "object", "maxProperties": 10, "additionalProperties": {"type": "string", "maxLength": 63}},
            "policy": {"type": "string", "enum": ["Always", "Never"], "default": "Always"},
        },
    });
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "x-kubernetes-validations": [{"rule": "self.replicas <= 10", "message": "too many"}],
                "properties": {
                    "replicas": {"type": "integer", "default": 1},
                    "title": {"type": "string", "pattern": "^[a-z0-9 ]+$", "maxLength": 100},
                    "parts": {
                        "type": "array", "items": part, "maxItems": 20,
                        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    },
                    "settings": {"type": "object", "properties": texts},
                },
            },
            "status": {"type": "object", "properties": {"ready": {"type": "integer"}}},
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.training.corral.dev"},
        "spec": {
            "group": "training.corral.dev", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Title", "type": "string", "jsonPath": ".spec.title"}],
            }],
        },
    })
}

/// Something for the controllers: a Deployment that is scaled.
async fn deployment(client: &Client) -> anyhow::Result<()> {
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "registry.example.com/team/web:1"}]},
    });
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 20, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    });
    client.post(DEPLOYMENTS, &object).await?;
    let path = format!("{DEPLOYMENTS}/web");
    let began = Instant::now();
    loop {
        let live: Value = serde_json::from_slice(&client.get(&path, JSON).await?)?;
        if live["status"]["replicas"] == 20 {
            return Ok(());
        }
        ensure!(began.elapsed() < WAIT_MAX, "the Deployment has no pods");
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// Everything at once, in every form, whole, by pages and by what selects it; and what clients ask first.
async fn lists(client: &Client) -> anyhow::Result<()> {
    for path in [
        "/api",
        "/apis",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/api/v1",
    ] {
        client.get(path, JSON).await?;
    }
    let pods = format!("{NAMESPACE}/pods");
    for _ in 0..LISTS {
        for accept in [JSON, PROTOBUF, TABLE] {
            client.get("/api/v1/pods", accept).await?;
            client.get(&format!("{pods}?limit=100"), accept).await?;
            let selected = format!("{pods}?labelSelector=slot%3Dslot-7&resourceVersion=0");
            client.get(&selected, accept).await?;
            let of_node = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-3";
            client.get(of_node, accept).await?;
            client.get(LEASES, accept).await?;
        }
        client.get(WIDGETS, JSON).await?;
        client.get(WIDGETS, TABLE).await?;
    }
    Ok(())
}
