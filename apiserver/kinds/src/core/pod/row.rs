//! The row of a Pod in a table: what `kubectl get pods` says of it.

use corral_api::k8s::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodReadinessGate,
    PodSpec, PodStatus,
};
use corral_api::meta::ObjectMeta;
use corral_api::time::{Time, human_duration};
use jiff::Timestamp;
use serde::de::Error;
use serde_json::Value;

use crate::kind::{Column, age};
use crate::scan::{Malformed, Scanner};
use crate::table;

/// Columns.
pub fn columns() -> Vec<Column> {
    vec![
        Column::NAME,
        Column::text("Ready", "Containers that are ready, of how many."),
        Column::text("Status", "What the pod is doing, in one word."),
        Column::text(
            "Restarts",
            "How often its containers were restarted, and when last.",
        ),
        Column::AGE,
        Column::text("IP", "The pod's address.").wide(),
        Column::text("Node", "The node that runs it.").wide(),
        Column::text("Nominated Node", "The node that preemption makes room on.").wide(),
        Column::text("Readiness Gates", "Extra conditions met, of how many.").wide(),
    ]
}

/// Decodes of a stored pod what [`cells`] looks at. The rest of it, which is most, is passed over: there are many pods, and
/// tables of them are asked for all day.
///
/// # Errors
/// When the bytes are not JSON of a pod.
pub fn decode(json: &[u8]) -> Result<Pod, serde_json::Error> {
    let mut pod = Pod::default();
    let mut status = None;
    let mut scanner = Scanner::new(json);
    let read = scanner.each_field(|scanner, key| {
        match key {
            b"metadata" => read_metadata(scanner, &mut pod.metadata)?,
            b"spec" => read_spec(scanner, pod.spec.get_or_insert_default())?,
            b"status" => status = Some(scanner.range()?),
            _ => drop(scanner.skip()?),
        }
        Ok(())
    });
    read.map_err(serde_json::Error::custom)?;
    if let Some(status) = status {
        pod.status = serde_json::from_slice(&json[status])?;
    }
    Ok(pod)
}

fn read_metadata(scanner: &mut Scanner<'_>, metadata: &mut ObjectMeta) -> Result<(), Malformed> {
    scanner.each_field(|scanner, key| {
        match key {
            b"name" => metadata.name = Some(scanner.string()?),
            b"creationTimestamp" => metadata.creation_timestamp = Some(read_time(scanner)?),
            b"deletionTimestamp" => metadata.deletion_timestamp = Some(read_time(scanner)?),
            _ => drop(scanner.skip()?),
        }
        Ok(())
    })
}

fn read_time(scanner: &mut Scanner<'_>) -> Result<Time, Malformed> {
    let at = scanner.string()?.parse();
    at.map(Time).map_err(|_| Malformed("a time does not parse"))
}

fn read_spec(scanner: &mut Scanner<'_>, spec: &mut PodSpec) -> Result<(), Malformed> {
    scanner.each_field(|scanner, key| match key {
        b"containers" => scanner.each_item(|scanner| {
            spec.containers.push(Container::default());
            scanner.skip().map(drop)
        }),
        b"initContainers" => {
            let containers = spec.init_containers.get_or_insert_default();
            scanner.each_item(|scanner| {
                containers.push(read_init_container(scanner)?);
                Ok(())
            })
        }
        b"nodeName" => {
            spec.node_name = Some(scanner.string()?);
            Ok(())
        }
        b"readinessGates" => {
            let gates = spec.readiness_gates.get_or_insert_default();
            scanner.each_item(|scanner| {
                let mut condition_type = String::new();
                scanner.each_field(|scanner, key| {
                    match key {
                        b"conditionType" => condition_type = scanner.string()?,
                        _ => drop(scanner.skip()?),
                    }
                    Ok(())
                })?;
                gates.push(PodReadinessGate { condition_type });
                Ok(())
            })
        }
        _ => scanner.skip().map(drop),
    })
}

fn read_init_container(scanner: &mut Scanner<'_>) -> Result<Container, Malformed> {
    let mut container = Container::default();
    scanner.each_field(|scanner, key| {
        match key {
            b"name" => container.name = scanner.string()?,
            b"restartPolicy" => container.restart_policy = Some(scanner.string()?),
            _ => drop(scanner.skip()?),
        }
        Ok(())
    })?;
    Ok(container)
}

/// Cells.
pub fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let nothing = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&nothing);
    let summary = summarise(pod, status);
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| table::or_none(value.cloned().unwrap_or_default());
    let first_ip = status.pod_ips.as_ref().and_then(|ips| ips.first());
    vec![
        pod.metadata.name.clone().into(),
        format!("{}/{}", summary.n_ready, summary.n_containers).into(),
        summary.reason.into(),
        summary.restarts.text(now).into(),
        age(&pod.metadata, now),
        text(first_ip.map(|ip| &ip.ip).or(status.pod_ip.as_ref())).into(),
        text(spec.and_then(|s| s.node_name.as_ref())).into(),
        text(status.nominated_node_name.as_ref()).into(),
        readiness_gates(pod, status).into(),
    ]
}

#[derive(Default, Clone, Copy)]
struct Restarts {
    n: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &ContainerStatus) {
        self.n += status.restart_count;
        let ended = status
            .last_state
            .as_ref()
            .and_then(|s| s.terminated.as_ref()?.finished_at.as_ref());
        self.last = self.last.max(ended.map(|t| t.0));
    }

    fn text(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.n != 0 => {
                let ago = human_duration(now.as_second() - last.as_second());
                format!("{} ({ago} ago)", self.n)
            }
            _ => self.n.to_string(),
        }
    }
}

struct Summary {
    reason: String,
    n_ready: usize,
    n_containers: usize,
    restarts: Restarts,
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a str> {
    let conditions = status.conditions.iter().flatten();
    conditions
        .filter(|c| c.type_ == type_)
        .map(|c| c.status.as_str())
        .next()
}

fn is_gated(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated"))
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn summarise(pod: &Pod, status: &PodStatus) -> Summary {
    let phase = status.phase.as_deref().unwrap_or_default();
    let own_reason = status.reason.as_deref().filter(|r| !r.is_empty());
    let reason = if is_gated(status) {
        "SchedulingGated"
    } else {
        own_reason.unwrap_or(phase)
    };
    let init: Vec<&Container> = pod
        .spec
        .iter()
        .flat_map(|s| s.init_containers.iter().flatten())
        .collect();
    let n_sidecars = init.iter().filter(|c| is_sidecar(c)).count();
    let mut summary = Summary {
        reason: reason.to_owned(),
        n_ready: 0,
        n_containers: pod.spec.as_ref().map_or(0, |s| s.containers.len()) + n_sidecars,
        restarts: Restarts::default(),
    };
    let (initializing, sidecar_restarts) = init_containers(&mut summary, &init, status);
    if !initializing || condition(status, "Initialized") == Some("True") {
        summary.restarts = sidecar_restarts;
        main_containers(&mut summary, status);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if own_reason == Some("NodeLost") {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Looks at init containers up to the first that is not done; whether there is one, and the sidecars' restarts.
fn init_containers(
    summary: &mut Summary,
    init: &[&Container],
    status: &PodStatus,
) -> (bool, Restarts) {
    let mut sidecar_restarts = Restarts::default();
    let statuses = status.init_container_statuses.iter().flatten();
    for (index, container) in statuses.enumerate() {
        summary.restarts.add(container);
        let sidecar = init
            .iter()
            .any(|c| c.name == container.name && is_sidecar(c));
        if sidecar {
            sidecar_restarts.add(container);
        }
        let state = state(container);
        let waiting = waiting_reason(state).filter(|r| *r != "PodInitializing");
        match &state.terminated {
            Some(ended) if ended.exit_code == 0 => continue,
            _ if sidecar && container.started == Some(true) => {
                summary.n_ready += usize::from(container.ready);
                continue;
            }
            Some(ended) => summary.reason = format!("Init:{}", terminated_reason(ended)),
            None => {
                summary.reason = match waiting {
                    Some(reason) => format!("Init:{reason}"),
                    None => format!("Init:{index}/{}", init.len()),
                }
            }
        }
        return (true, sidecar_restarts);
    }
    (false, sidecar_restarts)
}

/// The first container that has something to say decides, so they are looked at from the last to the first.
fn main_containers(summary: &mut Summary, status: &PodStatus) {
    let mut has_running = false;
    let mut failure = None;
    for container in status.container_statuses.iter().flatten().rev() {
        summary.restarts.add(container);
        let state = state(container);
        if let Some(reason) = waiting_reason(state) {
            summary.reason = reason.to_owned();
        } else if let Some(ended) = &state.terminated {
            summary.reason = terminated_reason(ended);
            if ended.exit_code != 0 {
                failure = Some(summary.reason.clone());
            }
        } else if container.ready && state.running.is_some() {
            has_running = true;
            summary.n_ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if has_running && condition(status, "Ready") == Some("True") {
            summary.reason = "Running".to_owned();
        } else if let Some(failure) = failure {
            summary.reason = failure;
        } else if has_running {
            summary.reason = "NotReady".to_owned();
        }
    }
}

fn state(container: &ContainerStatus) -> &ContainerState {
    static NONE: ContainerState = ContainerState {
        running: None,
        terminated: None,
        waiting: None,
    };
    container.state.as_ref().unwrap_or(&NONE)
}

fn waiting_reason(state: &ContainerState) -> Option<&str> {
    let reason = state.waiting.as_ref()?.reason.as_deref();
    reason.filter(|r| !r.is_empty())
}

fn terminated_reason(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref(), ended.signal.unwrap_or(0)) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, 0) => format!("ExitCode:{}", ended.exit_code),
        (_, signal) => format!("Signal:{signal}"),
    }
}

fn readiness_gates(pod: &Pod, status: &PodStatus) -> String {
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_ref());
    let Some(gates) = gates.filter(|g| !g.is_empty()) else {
        return table::or_none(String::new());
    };
    let n_true = gates
        .iter()
        .filter(|g| condition(status, &g.condition_type) == Some("True"))
        .count();
    format!("{n_true}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(pod: Value) -> String {
        let read = decode(pod.to_string().as_bytes()).expect("a pod");
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let now = "2026-01-01T00:10:00Z".parse().expect("a time");
        assert_eq!(cells(&read, now), cells(&pod, now));
        let cells: Vec<String> = cells(&pod, now)
            .iter()
            .map(|c| c.as_str().unwrap_or_default().to_owned())
            .collect();
        cells.join(" | ")
    }

    fn pod(status: Value) -> Value {
        json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]},
            "status": status,
        })
    }

    #[test]
    fn a_pod_says_what_it_is_doing() {
        let running =
            json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
        let crashed = json!({
            "name": "a", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}},
        });
        let init_waits = json!({"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}});
        let init_failed = json!({"name": "i", "state": {"terminated": {"exitCode": 2}}});
        let init_done =
            json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        for (status, expected) in [
            (json!({"phase": "Pending"}), "web | 0/1 | Pending | 0 | 10m"),
            (
                json!({"phase": "Running", "containerStatuses": [running], "initContainerStatuses": [init_done]}),
                "web | 1/1 | Running | 0 | 10m",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [crashed]}),
                "web | 0/1 | CrashLoopBackOff | 3 (5m ago) | 10m",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [init_waits]}),
                "web | 0/1 | Init:0/1 | 0 | 10m",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [init_failed]}),
                "web | 0/1 | Init:ExitCode:2 | 0 | 10m",
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "state":
                    {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                "web | 0/1 | Completed | 0 | 10m",
            ),
        ] {
            let row = row(pod(status));
            assert!(row.starts_with(expected), "{row}");
            assert!(
                row.ends_with("| <none> | <none> | <none> | <none>"),
                "{row}"
            );
        }
    }

    #[test]
    fn nodes_addresses_and_gates_are_told() {
        let mut placed = pod(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}],
            "nominatedNodeName": "other", "conditions": [{"type": "ready.example", "status": "True"}]}));
        placed["spec"]["nodeName"] = "node-1".into();
        placed["spec"]["readinessGates"] =
            json!([{"conditionType": "ready.example"}, {"conditionType": "more.example"}]);
        let row = row(placed);
        assert!(row.ends_with("| 10.0.0.9 | node-1 | other | 1/2"), "{row}");
    }

    #[test]
    fn a_pod_that_is_deleted_is_terminating_until_it_ended() {
        let mut deleted = pod(json!({"phase": "Running"}));
        deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:09:00Z".into();
        assert!(row(deleted.clone()).contains("| Terminating |"));
        deleted["status"]["phase"] = "Failed".into();
        assert!(row(deleted).contains("| Failed |"));
    }

    #[test]
    fn sidecars_count_as_containers() {
        let mut with_sidecar = pod(json!({"phase": "Running",
            "initContainerStatuses": [{"name": "i", "ready": true, "started": true, "restartCount": 1, "state": {"running": {}}}],
            "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}));
        with_sidecar["spec"]["initContainers"][0]["restartPolicy"] = "Always".into();
        assert!(row(with_sidecar).starts_with("web | 2/2 | Running | 1 |"));
    }
}
