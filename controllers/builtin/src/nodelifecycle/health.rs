//! A node's conditions and the taints that follow from them. Pure.

use corral_api::k8s::api::core::v1::{Node, NodeCondition, NodeStatus, Pod, Taint};
use corral_api::time::{Time, truncate_to_seconds};
use jiff::Timestamp;
use serde_json::{Value, json};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that a silent node no longer vouches for.
const VOUCHED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that taint a node while they hold.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

pub fn condition<'a>(status: Option<&'a NodeStatus>, name: &str) -> Option<&'a NodeCondition> {
    status?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == name)
}

/// The status of the Ready condition; a node that has never reported is Unknown.
pub fn ready_of(status: Option<&NodeStatus>) -> &str {
    condition(status, "Ready").map_or("Unknown", |condition| condition.status.as_str())
}

/// The status of a node that is no longer heard of; nothing if it says so already.
pub fn silenced(node: &Node, now: Timestamp) -> Option<NodeStatus> {
    let mut status = node.status.clone().unwrap_or_default();
    let now = Time(truncate_to_seconds(now));
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for name in VOUCHED {
        let known = conditions
            .iter_mut()
            .find(|condition| condition.type_ == *name);
        match known {
            Some(known) if known.status != "Unknown" => {
                known.status = "Unknown".into();
                known.reason = Some("NodeStatusUnknown".into());
                known.message = Some("Kubelet stopped posting node status.".into());
                known.last_transition_time = Some(now.clone());
                changed = true;
            }
            Some(_) => {}
            None => {
                conditions.push(NodeCondition {
                    type_: (*name).into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(now.clone()),
                });
                changed = true;
            }
        }
    }
    changed.then_some(status)
}

fn taint(key: &str, effect: &str, since: Option<Time>) -> Taint {
    Taint {
        key: key.into(),
        effect: effect.into(),
        value: None,
        time_added: since,
    }
}

/// Whether a node's pods are being driven away because it fails.
pub fn is_given_up(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let mut taints = taints.into_iter().flatten();
    taints.any(|taint| taint.effect == "NoExecute" && is_ours(taint))
}

/// The taints that the node shall have; nothing if it has them. Taints that are not ours stay as they are. A node that
/// fails drives its pods away only if it `gives_up`.
pub fn taints(node: &Node, ready: &str, gives_up: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.clone().unwrap_or_default();
    let present = spec.taints.unwrap_or_default();
    let mut wanted = Vec::new();
    let cause = match ready {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    if let Some(key) = cause {
        wanted.push(taint(key, "NoSchedule", None));
        if gives_up {
            wanted.push(taint(
                key,
                "NoExecute",
                Some(Time(truncate_to_seconds(now))),
            ));
        }
    }
    for (name, key) in PRESSURES {
        if condition(node.status.as_ref(), name).is_some_and(|condition| condition.status == "True")
        {
            wanted.push(taint(key, "NoSchedule", None));
        }
    }
    if spec.unschedulable.unwrap_or(false) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule", None));
    }
    let alike = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let mut result: Vec<_> = present
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.iter().any(|wanted| alike(wanted, taint)))
        .cloned()
        .collect();
    for taint in wanted {
        if !result.iter().any(|known| alike(known, &taint)) {
            result.push(Taint {
                time_added: taint.time_added.or(Some(Time(truncate_to_seconds(now)))),
                ..taint
            });
        }
    }
    (result != present).then_some(result)
}

fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        "NoSchedule" => {
            let pressures = PRESSURES.iter().map(|(_, key)| *key);
            let mut all = [NOT_READY, UNREACHABLE, UNSCHEDULABLE]
                .into_iter()
                .chain(pressures);
            all.any(|key| key == taint.key)
        }
        _ => false,
    }
}

/// Takes the readiness off a pod whose node cannot vouch for it.
pub fn unready_patch(pod: &Pod, now: Timestamp) -> Value {
    let mut conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    for condition in conditions
        .iter_mut()
        .filter(|condition| condition.type_ == "Ready")
    {
        condition.status = "False".into();
        condition.last_transition_time = Some(Time(truncate_to_seconds(now)));
    }
    json!({"status": {"conditions": conditions}})
}
