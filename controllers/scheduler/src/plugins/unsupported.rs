//! Turns away pods that ask for what is not honoured yet, in words that name it. Preferences that are not honoured
//! (soft spread, preferred pod affinity) do not turn a pod away: they never promise anything.

use corral_api::k8s::api::core::v1::PodSpec;

use super::PreFilter;
use crate::requests::PodInfo;

/// The plugin.
pub struct Unsupported;

impl PreFilter for Unsupported {
    fn name(&self) -> &'static str {
        "Unsupported"
    }

    fn pre_filter(&self, pod: &PodInfo) -> Result<(), String> {
        match unsupported(pod.spec()) {
            Some(what) => Err(format!("this scheduler does not support {what} yet")),
            None => Ok(()),
        }
    }
}

/// What a pod requires that is not honoured.
pub fn unsupported(spec: &PodSpec) -> Option<&'static str> {
    let affinity = spec.affinity.as_ref();
    let together = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let any = |terms: Option<bool>| terms == Some(true);
    if any(together.map(|t| {
        t.required_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .count()
            > 0
    })) {
        return Some("required pod affinity");
    }
    if any(apart.map(|t| {
        t.required_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .count()
            > 0
    })) {
        return Some("required pod anti-affinity");
    }
    let spread = spec.topology_spread_constraints.iter().flatten();
    if spread
        .into_iter()
        .any(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
    {
        return Some("topology spread constraints with whenUnsatisfiable: DoNotSchedule");
    }
    let mut volumes = spec.volumes.iter().flatten();
    if volumes.any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
    {
        return Some("persistent volume claims");
    }
    if spec
        .resource_claims
        .as_ref()
        .is_some_and(|claims| !claims.is_empty())
    {
        return Some("resource claims");
    }
    spec.scheduling_group
        .is_some()
        .then_some("scheduling groups")
}
