//! The APIServices of what this server serves itself: one for each version of each group, made at start. They tell
//! clients in which order groups and versions are preferred.

use std::collections::BTreeSet;

use corral_api::status::{Status, StatusReason};
use corral_kinds::all;
use serde_json::json;

use crate::api::Api;
use crate::bootstrap::{at_once, context};
use crate::decode::Decoded;

const GROUP: &str = "apiregistration.k8s.io";
/// Tells that the server made the object as it started.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Group and version with the priorities that Kubernetes gives them, of the group and within it.
const PRIORITIES: &[(&str, &str, i32, i32)] = &[
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v1", 17500, 15),
    ("autoscaling", "v2", 17500, 30),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
];

/// Makes what is missing.
///
/// # Errors
/// When the store does not take it.
pub async fn ensure(api: &Api) -> Result<(), Status> {
    let Some(resource) = api.resource(GROUP, "apiservices") else {
        return Ok(());
    };
    let kinds = all::RESOURCES.iter().map(|kind| kind.names());
    let served: BTreeSet<_> = kinds.map(|names| (names.group, names.version)).collect();
    let own = PRIORITIES
        .iter()
        .filter(|(group, version, ..)| served.contains(&(*group, *version)));
    let made = own.map(async |(group, version, group_priority, version_priority)| {
        let name = format!("{version}.{group}");
        if resource.cacher.peek(&resource.key("", &name)).is_some() {
            return Ok(());
        }
        let mut spec = json!({
            "version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority,
        });
        if !group.is_empty() {
            spec["group"] = (*group).into();
        }
        let service =
            json!({"metadata": {"name": name, "labels": {AUTOMANAGED: "onstart"}}, "spec": spec});
        match resource.create(&context(""), Decoded::of(service)).await {
            Err(status) if !status.is(StatusReason::AlreadyExists) => Err(status),
            _ => Ok(()),
        }
    });
    at_once(made).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_that_is_served_has_priorities() {
        for kind in all::RESOURCES {
            let names = kind.names();
            // This group is the one that tells of the others.
            let known = PRIORITIES
                .iter()
                .any(|(g, v, ..)| (*g, *v) == (names.group, names.version));
            assert!(known || names.group == GROUP, "{}", names.api_version());
        }
    }
}
