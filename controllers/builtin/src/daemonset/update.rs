//! Rolling update of a DaemonSet: old pods give way within maxUnavailable, or new ones come up beside them within
//! maxSurge. Pure.

use std::sync::Arc;

use corral_api::int_or_string::{IntOrString, Rounding, scaled};
use corral_api::k8s::api::apps::v1::DaemonSetSpec;
use corral_api::k8s::api::core::v1::Pod;
use jiff::Timestamp;

use super::{Place, Plan, is_updated};
use crate::pods;

/// Surge and unavailability, in pods; nothing when updates are left to whoever deletes pods.
pub fn limits(spec: &DaemonSetSpec, desired: i32) -> Option<(i32, i32)> {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let up = |value: Option<IntOrString>, default: i32| {
        scaled(
            &value.unwrap_or(IntOrString::Int(default)),
            desired,
            Rounding::Up,
        )
        .unwrap_or(default)
    };
    let surge = up(rolling.max_surge, 0);
    let unavailable = up(rolling.max_unavailable, 1);
    Some(if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    })
}

/// Pods of one node beyond the one that it shall have: all but the oldest; with surge, all but the oldest of each kind.
pub fn doubles(living: &[Arc<Pod>], spec: &DaemonSetSpec, hash: &str) -> Vec<Arc<Pod>> {
    let staying: Vec<_> = living
        .iter()
        .filter(|pod| !pods::is_deleted(&pod.metadata))
        .collect();
    let surging = limits(spec, 100).is_some_and(|(surge, _)| surge > 0);
    let (new, old): (Vec<&Arc<Pod>>, Vec<_>) =
        staying.into_iter().partition(|pod| is_updated(pod, hash));
    if surging {
        return new
            .into_iter()
            .skip(1)
            .chain(old.into_iter().skip(1))
            .cloned()
            .collect();
    }
    // A pod of the present template is worth more than an older one of the last.
    new.into_iter().chain(old).skip(1).cloned().collect()
}

/// Plans the next step of an update; only called when every node has what it shall have.
pub fn plan(plan: &mut Plan, places: &[Place], spec: &DaemonSetSpec, now: Timestamp) {
    let desired = plan.status.desired_number_scheduled;
    let Some((surge, unavailable)) = limits(spec, desired) else {
        return;
    };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let available = |pod: &Arc<Pod>| {
        pods::is_available(pod, min_ready, now) && !pods::is_deleted(&pod.metadata)
    };
    let wanted: Vec<_> = places.iter().filter(|place| place.wanted).collect();
    if surge > 0 {
        return surge_step(plan, &wanted, surge, &available);
    }
    let missing = wanted
        .iter()
        .filter(|place| !place.pods.iter().any(available))
        .count();
    let mut budget = usize::try_from(unavailable)
        .unwrap_or(0)
        .saturating_sub(missing);
    for place in wanted {
        let old = place
            .pods
            .iter()
            .filter(|pod| !is_updated(pod, &plan.hash) && !pods::is_deleted(&pod.metadata));
        for pod in old {
            if !available(pod) {
                // Not available anyway: replacing it costs nothing.
                plan.delete.push(Arc::clone(pod));
            } else if budget > 0 {
                budget -= 1;
                plan.delete.push(Arc::clone(pod));
            }
        }
    }
}

fn surge_step(
    plan: &mut Plan,
    wanted: &[&Place],
    surge: i32,
    available: &dyn Fn(&Arc<Pod>) -> bool,
) {
    let mut budget = usize::try_from(surge).unwrap_or(0);
    let mut healthy = Vec::new();
    for place in wanted {
        let (new, old): (Vec<&Arc<Pod>>, Vec<_>) = place
            .pods
            .iter()
            .partition(|pod| is_updated(pod, &plan.hash));
        match (new.first(), old.first()) {
            (Some(new), Some(_)) if available(new) => {
                let staying = old.iter().filter(|pod| !pods::is_deleted(&pod.metadata));
                plan.delete.extend(staying.map(|pod| Arc::clone(pod)));
            }
            (Some(_), Some(_)) => budget = budget.saturating_sub(1),
            (None, Some(old)) if available(old) => healthy.push(place.name.clone()),
            (None, Some(_)) => plan.create.push(place.name.clone()),
            _ => {}
        }
    }
    plan.create.extend(healthy.into_iter().take(budget));
}
