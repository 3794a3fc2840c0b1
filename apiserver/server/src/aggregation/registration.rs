//! The APIServices of kinds that clients have described: one for each version that is served, made and removed with it.

use std::collections::BTreeSet;

use corral_api::status::{Status, StatusReason};
use corral_kinds::apiextensions::custom_resource_definition::CustomResourceDefinition;
use serde_json::{Value, json};

use super::{GROUP, GroupVersion, PRIORITIES_DEFAULT};
use crate::api::Api;
use crate::bootstrap::context;
use crate::decode::Decoded;
use crate::registry::DeleteOptions;

/// Tells that the server keeps the object.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Makes what is missing, and removes what stands for nothing any more.
///
/// # Errors
/// When the store does not take it.
pub(super) async fn pass(api: &Api) -> Result<(), Status> {
    let Some(resource) = api.resource(GROUP, "apiservices") else {
        return Ok(());
    };
    let wanted = wanted(api);
    let snapshot = resource.cacher.snapshot();
    let mut there = BTreeSet::new();
    for stored in snapshot.objects.values() {
        let service = stored.value().map_err(Status::internal)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, spec) = (text(&service["metadata"]["name"]), &service["spec"]);
        let place = (text(&spec["group"]), text(&spec["version"]));
        let is_kept = service["metadata"]["labels"][AUTOMANAGED] == "true";
        if is_kept && !wanted.contains(&place) {
            let gone = resource
                .delete(&context(""), &name, &DeleteOptions::default())
                .await;
            match gone {
                Err(status) if !status.is(StatusReason::NotFound) => return Err(status),
                _ => {}
            }
        }
        there.insert(name);
    }
    let (of_group, of_version) = PRIORITIES_DEFAULT;
    for (group, version) in wanted {
        let name = format!("{version}.{group}");
        if there.contains(&name) {
            continue;
        }
        let service = json!({
            "metadata": {"name": name, "labels": {AUTOMANAGED: "true"}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": of_group,
                "versionPriority": of_version},
        });
        match resource.create(&context(""), Decoded::of(service)).await {
            Err(status) if !status.is(StatusReason::AlreadyExists) => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// The versions that definitions serve.
fn wanted(api: &Api) -> BTreeSet<GroupVersion> {
    let definitions = api.resource("apiextensions.k8s.io", "customresourcedefinitions");
    let snapshot = definitions.map(|definitions| definitions.cacher.snapshot().objects);
    let mut wanted = BTreeSet::new();
    for stored in snapshot.iter().flat_map(|objects| objects.values()) {
        let Ok(definition) = serde_json::from_slice::<CustomResourceDefinition>(&stored.json)
        else {
            continue;
        };
        let spec = definition.spec;
        let served = spec.versions.into_iter().filter(|version| version.served);
        wanted.extend(served.map(|version| (spec.group.clone(), version.name)));
    }
    wanted
}
