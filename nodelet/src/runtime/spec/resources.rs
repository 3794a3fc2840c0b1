//! CPU and memory: what a container's cgroup gets, what the pod's gets, QoS and the order in which the kernel kills.

use corral_api::k8s::api::core::v1::{Container, PodSpec};
use corral_api::quantity::Quantity;
use serde_json::{Value, json};

use crate::cgroup::{CPU_PERIOD, Limits, quota, shares};

/// A pod's quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has equal requests and limits for CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

fn amount(container: &Container, limits: bool, name: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    let map = if limits {
        resources.limits.as_ref()
    } else {
        resources.requests.as_ref()
    };
    Quantity::from_wire(map?.get(name)?).ok()
}

/// What is requested; a limit without a request counts as one.
pub fn request(container: &Container, name: &str) -> Option<Quantity> {
    amount(container, false, name).or_else(|| limit(container, name))
}

/// What is limited.
pub fn limit(container: &Container, name: &str) -> Option<Quantity> {
    amount(container, true, name)
}

fn all(spec: &PodSpec) -> impl Iterator<Item = &Container> + Clone {
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
}

/// A pod's quality of service.
pub fn qos(spec: &PodSpec) -> Qos {
    let positive = |quantity: Option<Quantity>| quantity.filter(|quantity| !quantity.is_zero());
    let names = ["cpu", "memory"];
    let none = all(spec).all(|container| {
        names.iter().all(|name| {
            positive(amount(container, false, name)).is_none()
                && positive(limit(container, name)).is_none()
        })
    });
    if none {
        return Qos::BestEffort;
    }
    let equal = all(spec).all(|container| {
        names.iter().all(|name| {
            match (
                positive(request(container, name)),
                positive(limit(container, name)),
            ) {
                (Some(request), Some(limit)) => request == limit,
                _ => false,
            }
        })
    });
    if equal {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// How readily the kernel kills a container for memory: never the guaranteed, first those that asked for nothing.
pub fn oom_score(spec: &PodSpec, container: &Container, node_memory: i64) -> i64 {
    match qos(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requested = request(container, "memory").map_or(0, Quantity::value);
            // Between those two, in proportion to the share of the node that was asked for.
            let share =
                i64::try_from(i128::from(requested) * 1000 / i128::from(node_memory.max(1)))
                    .unwrap_or(1000);
            (1000 - share).clamp(2, 999)
        }
    }
}

/// The `resources` of a container's specification.
pub fn container_resources(container: &Container, privileged: bool) -> Value {
    let milli = |quantity: Option<Quantity>| quantity.map(Quantity::milli_value);
    let mut cpu = json!({"shares": shares(milli(request(container, "cpu")).unwrap_or(0))});
    if let Some(limit) = milli(limit(container, "cpu")).filter(|milli| *milli > 0) {
        cpu["quota"] = json!(quota(limit));
        cpu["period"] = json!(CPU_PERIOD);
    }
    let mut resources = json!({"cpu": cpu});
    if let Some(memory) = limit(container, "memory")
        .map(Quantity::value)
        .filter(|bytes| *bytes > 0)
    {
        // Memory and swap together: a limit that swap could stretch would be none.
        resources["memory"] = json!({"limit": memory, "swap": memory});
    }
    let access = if privileged {
        json!({"allow": true, "access": "rwm"})
    } else {
        json!({"allow": false, "access": "rwm"})
    };
    resources["devices"] = json!([access]);
    resources
}

/// The limits of a pod's cgroup: the sum over containers that run together, or the largest init container if that is
/// more; no limit where one container has none.
pub fn pod_limits(spec: &PodSpec) -> Limits {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let init = || spec.init_containers.iter().flatten();
    let together = || spec.containers.iter().chain(init().filter(sidecar));
    let alone = || init().filter(|container| !sidecar(container));
    let request_milli =
        |container: &Container| request(container, "cpu").map_or(0, Quantity::milli_value);
    let requested = together()
        .map(request_milli)
        .sum::<i64>()
        .max(alone().map(request_milli).max().unwrap_or(0));
    let limited = |name: &str, value: fn(Quantity) -> i64| -> Option<i64> {
        let of = |container: &Container| {
            limit(container, name)
                .map(value)
                .filter(|amount| *amount > 0)
        };
        let sum = together().map(of).sum::<Option<i64>>()?;
        let largest = alone()
            .map(of)
            .collect::<Option<Vec<i64>>>()?
            .into_iter()
            .max()
            .unwrap_or(0);
        Some(sum.max(largest)).filter(|amount| *amount > 0)
    };
    Limits {
        cpu_shares: Some(shares(requested)),
        cpu_quota: limited("cpu", Quantity::milli_value).map(quota),
        memory: limited("memory", Quantity::value).and_then(|bytes| u64::try_from(bytes).ok()),
        pids: None,
    }
}
