//! The quality-of-service class of a pod.

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::{PodSpec, ResourceRequirements};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::quantity::Quantity;

const COUNTED: [&str; 2] = ["cpu", "memory"];

type Totals = BTreeMap<&'static str, Quantity>;

fn positive(list: Option<&BTreeMap<String, Wire>>) -> Totals {
    let list = list.into_iter().flatten();
    list.filter_map(|(name, wire)| {
        let name = COUNTED.into_iter().find(|c| c == name)?;
        let quantity = Quantity::from_wire(wire).ok()?;
        (quantity > Quantity::units(0)).then_some((name, quantity))
    })
    .collect()
}

fn add(totals: &mut Totals, more: &Totals) {
    for (name, quantity) in more {
        let total = totals.entry(name).or_default();
        *total = *total + *quantity;
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &PodSpec) -> &'static str {
    let (mut requests, mut limits) = (Totals::new(), Totals::new());
    let mut all_limited = true;
    let mut take = |resources: Option<&ResourceRequirements>| {
        add(
            &mut requests,
            &positive(resources.and_then(|r| r.requests.as_ref())),
        );
        let limited = positive(resources.and_then(|r| r.limits.as_ref()));
        all_limited &= limited.len() == COUNTED.len();
        add(&mut limits, &limited);
    };
    let pod_level = spec.resources.as_ref().filter(|r| {
        !positive(r.requests.as_ref()).is_empty() || !positive(r.limits.as_ref()).is_empty()
    });
    match pod_level {
        Some(resources) => take(Some(resources)),
        None => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .for_each(|c| take(c.resources.as_ref())),
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let guaranteed = all_limited
        && requests.len() == limits.len()
        && requests
            .iter()
            .all(|(name, quantity)| limits.get(name) == Some(quantity));
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(resources: serde_json::Value) -> &'static str {
        let spec = serde_json::json!({"containers": [{"name": "a", "resources": resources}]});
        class(&serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let both = serde_json::json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(class_of(serde_json::json!({})), "BestEffort");
        assert_eq!(
            class_of(serde_json::json!({"requests": {"cpu": "1"}})),
            "Burstable"
        );
        assert_eq!(
            class_of(serde_json::json!({"requests": both, "limits": both})),
            "Guaranteed"
        );
        let less = serde_json::json!({"cpu": "500m", "memory": "1Gi"});
        assert_eq!(
            class_of(serde_json::json!({"requests": less, "limits": both})),
            "Burstable"
        );
    }
}
