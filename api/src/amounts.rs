//! Amounts of several resources together, and what a pod asks for and is limited to as a whole.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::quantity::Quantity;

/// Amounts by resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// Resources that a pod can have as a whole.
const OF_PODS: [&str; 2] = ["cpu", "memory"];

/// Reads the amounts of an API object. What is no quantity is left out: validation refuses it before it is stored.
pub fn read(list: Option<&BTreeMap<String, Wire>>) -> Amounts {
    let list = list.into_iter().flatten();
    list.filter_map(|(name, wire)| Some((name.clone(), Quantity::from_wire(wire).ok()?)))
        .collect()
}

/// As the amounts of an API object.
pub fn write(amounts: &Amounts) -> BTreeMap<String, Wire> {
    let amounts = amounts.iter();
    amounts
        .map(|(name, amount)| (name.clone(), amount.to_wire()))
        .collect()
}

/// Adds to each resource.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let known = total.get(name).copied();
        let sum = known.map_or(*amount, |known| known + *amount);
        total.insert(name.clone(), sum);
    }
}

/// Raises each resource to the larger amount.
fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|known| amount > known) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// Amounts as messages tell them: `cpu=1,pods=2`.
pub fn words(amounts: &Amounts) -> String {
    let words: Vec<String> = amounts.iter().map(|(n, q)| format!("{n}={q}")).collect();
    words.join(",")
}

/// What a pod asks for, without what its runtime costs.
pub fn pod_requests(spec: &PodSpec) -> Amounts {
    of_pod(spec, |resources| resources.requests.as_ref())
}

/// What a pod is limited to, without what its runtime costs.
pub fn pod_limits(spec: &PodSpec) -> Amounts {
    of_pod(spec, |resources| resources.limits.as_ref())
}

/// Containers run together, and beside the sidecars started so far each init container runs alone; what is given for the
/// pod as a whole counts in their stead.
fn of_pod(
    spec: &PodSpec,
    list: impl Fn(&ResourceRequirements) -> Option<&BTreeMap<String, Wire>>,
) -> Amounts {
    let of = |container: &Container| read(container.resources.as_ref().and_then(&list));
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut own = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut most, &own);
    }
    raise(&mut total, &most);
    let whole = read(spec.resources.as_ref().and_then(&list));
    total.extend(
        whole
            .into_iter()
            .filter(|(name, _)| OF_PODS.contains(&name.as_str())),
    );
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn init_containers_run_alone_beside_sidecars() {
        let ask = |cpu: &str| serde_json::json!({"requests": {"cpu": cpu}});
        let spec = spec(serde_json::json!({
            "containers": [{"name": "a", "resources": ask("1")}, {"name": "b", "resources": ask("500m")}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": ask("250m")},
                {"name": "i", "resources": ask("3")},
            ],
        }));
        assert_eq!(words(&pod_requests(&spec)), "cpu=3250m");
        assert_eq!(pod_limits(&spec), Amounts::new());
    }

    #[test]
    fn what_is_given_for_the_pod_counts() {
        let spec = spec(serde_json::json!({
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Mi"}}}],
            "resources": {"limits": {"cpu": "2"}},
        }));
        assert_eq!(words(&pod_limits(&spec)), "cpu=2,memory=1Mi");
    }
}
