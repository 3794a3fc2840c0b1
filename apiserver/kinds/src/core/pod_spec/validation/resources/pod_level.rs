//! A pod's resources as a whole against those of its containers.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Container, PodSpec, ResourceRequirements};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::quantity::Quantity;

use super::HUGE_PAGES;
use crate::core::pod_spec::defaults::most_at_once;
use crate::rules::Errors;

type Amounts = Option<BTreeMap<String, Wire>>;

/// A pod has room for what its containers ask for, and no container may take more than its pod.
pub(super) fn consistent(
    errors: &mut Errors,
    path: &FieldPath,
    spec: &PodSpec,
    of_pod: &ResourceRequirements,
) {
    let requests = |c: &Container| c.resources.as_ref().and_then(|r| r.requests.clone());
    let limits = |c: &Container| c.resources.as_ref().and_then(|r| r.limits.clone());
    for (name, amount) in amounts(&of_pod.requests) {
        if let Some(sum) = most_at_once(spec, name, requests).filter(|sum| *sum > amount) {
            let path = path.child("requests").key(name);
            let detail =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(FieldError::invalid(&path, amount.to_string(), detail));
        }
    }
    let huge_pages = amounts(&of_pod.limits).filter(|(name, _)| name.starts_with(HUGE_PAGES));
    for (name, amount) in huge_pages {
        if let Some(sum) = most_at_once(spec, name, limits).filter(|sum| *sum > amount) {
            let path = path.child("limits").key(name);
            let detail =
                format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.push(FieldError::invalid(&path, amount.to_string(), detail));
        }
    }
    let of_pod: BTreeMap<&str, Quantity> = amounts(&of_pod.limits).collect();
    for (index, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.as_ref().map(|r| &r.limits);
        for (name, limit) in limits.into_iter().flat_map(amounts) {
            if let Some(most) = of_pod.get(name).filter(|most| limit > **most) {
                let path = path
                    .child("containers")
                    .index(index)
                    .key(name)
                    .child("limits");
                let detail = format!("must be less than or equal to pod limits of {most}");
                errors.push(FieldError::invalid(&path, limit.to_string(), detail));
            }
        }
    }
}

fn amounts(list: &Amounts) -> impl Iterator<Item = (&str, Quantity)> {
    let list = list.iter().flatten();
    list.filter_map(|(name, wire)| Some((name.as_str(), Quantity::from_wire(wire).ok()?)))
}
