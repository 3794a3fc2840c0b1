//! What runs on the node and what it uses.

use std::fmt::Write;

use bytes::Bytes;
use corral_api::k8s::api::core::v1::Pod;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Answer, Server, typed};
use crate::cgroup::Usage;
use crate::machine;
use crate::node::uid;
use crate::pod::status::status;
use crate::worker::PodView;

pub(super) fn pods(server: &Server) -> Answer {
    let host_ips = server.node.host_ips();
    let now = Timestamp::now();
    let items: Vec<Pod> = server
        .views
        .all()
        .into_iter()
        .map(|view| {
            let mut pod = (*view.pod).clone();
            pod.status = Some(status(&view.state, &view.pod, &host_ips, now));
            pod
        })
        .collect();
    answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

pub(super) fn summary(server: &Server) -> Answer {
    let now = Timestamp::now().to_string();
    let capacity = server.node.capacity;
    let available = machine::memory_available();
    let pods: Vec<Value> = server
        .views
        .all()
        .iter()
        .map(|view| pod_summary(server, view, &now))
        .collect();
    let all = server.node.cgroups.usage_of_all();
    answer(&json!({
        "node": {
            "nodeName": server.node.name,
            "cpu": {"time": now, "usageCoreNanoSeconds": all.cpu_nanoseconds},
            "memory": {
                "time": now,
                "availableBytes": available,
                "workingSetBytes": capacity.memory.saturating_sub(available),
            },
        },
        "pods": pods,
    }))
}

fn pod_summary(server: &Server, view: &PodView, now: &str) -> Value {
    let metadata = &view.pod.metadata;
    let uid = uid(&view.pod);
    let cgroups = &server.node.cgroups;
    let containers: Vec<Value> = view
        .state
        .containers
        .iter()
        .filter_map(|container| Some((container, container.running()?)))
        .map(|(container, id)| {
            let usage = cgroups.usage(&cgroups.container(&uid, id));
            let mut stats = usage_json(&usage, now);
            stats["name"] = json!(container.name);
            stats
        })
        .collect();
    let mut stats = usage_json(&cgroups.usage(&cgroups.pod(&uid)), now);
    stats["podRef"] = json!({"name": metadata.name, "namespace": metadata.namespace, "uid": uid});
    stats["startTime"] = json!(view.state.start_time.to_string());
    stats["containers"] = json!(containers);
    stats
}

fn usage_json(usage: &Usage, now: &str) -> Value {
    json!({
        "cpu": {"time": now, "usageCoreNanoSeconds": usage.cpu_nanoseconds},
        "memory": {
            "time": now,
            "usageBytes": usage.memory_bytes,
            "workingSetBytes": usage.working_set_bytes,
        },
        "process_stats": {"process_count": usage.n_pids},
    })
}

pub(super) fn metrics(server: &Server) -> Answer {
    let mut text = String::new();
    let views = server.views.all();
    let running: usize = views
        .iter()
        .map(|view| {
            view.state
                .containers
                .iter()
                .filter(|container| container.running().is_some())
                .count()
        })
        .sum();
    for (name, help, value) in [
        (
            "corral_node_pods",
            "Pods that this node takes care of.",
            views.len(),
        ),
        (
            "corral_node_containers_running",
            "Containers that run.",
            running,
        ),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"
        );
    }
    let families = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "CPU time of a container.",
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Memory of a container without inactive file cache.",
        ),
    ];
    for (index, (name, kind, help)) in families.into_iter().enumerate() {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for view in &views {
            let uid = uid(&view.pod);
            let label = |value: &Option<String>| value.clone().unwrap_or_default();
            let (namespace, pod) = (
                label(&view.pod.metadata.namespace),
                label(&view.pod.metadata.name),
            );
            for container in &view.state.containers {
                let Some(id) = container.running() else {
                    continue;
                };
                let usage = server
                    .node
                    .cgroups
                    .usage(&server.node.cgroups.container(&uid, id));
                let value = match index {
                    0 => usage.cpu_nanoseconds as f64 / 1e9,
                    _ => usage.working_set_bytes as f64,
                };
                let container = &container.name;
                let labels =
                    format!("namespace=\"{namespace}\",pod=\"{pod}\",container=\"{container}\"");
                let _ = writeln!(text, "{name}{{{labels}}} {value}");
            }
        }
    }
    typed(StatusCode::OK, "text/plain; version=0.0.4", text.into())
}

fn answer(value: &Value) -> Answer {
    typed(
        StatusCode::OK,
        "application/json",
        Bytes::from(value.to_string()),
    )
}
