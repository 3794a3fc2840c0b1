//! `CSIDriver`: what a storage driver wants of the cluster.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::storage::v1::{CSIDriver, TokenRequest};
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json};
use crate::table;

/// Shortest time between two looks at what a node can hold.
const UPDATE_PERIOD_SECONDS_MIN: i64 = 10;
/// Shortest and longest life of a token.
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

/// `storage.k8s.io/v1 CSIDriver`.
pub struct CsiDriverKind;

impl Kind for CsiDriverKind {
    type Object = CSIDriver;

    const NAMES: Names<'static> = Names {
        group: "storage.k8s.io",
        version: "v1",
        kind: "CSIDriver",
        plural: "csidrivers",
        singular: "csidriver",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    /// A new one has no generation; changes of it are counted.
    const GENERATION: bool = true;

    fn columns() -> Vec<Column> {
        let flag = |name, description| Column {
            kind: "boolean".into(),
            ..Column::text(name, description)
        };
        vec![
            Column::NAME,
            flag("AttachRequired", "Whether volumes are attached to nodes."),
            flag("PodInfoOnMount", "Whether the driver is told of the pod."),
            flag("StorageCapacity", "Whether the driver tells its capacity."),
            Column::text("TokenRequests", "For whom tokens are made."),
            flag("RequiresRepublish", "Whether volumes are published again."),
            Column::text("Modes", "Which volumes the driver makes."),
            Column::AGE,
        ]
    }

    fn cells(driver: &CSIDriver, now: Timestamp) -> Vec<Value> {
        let spec = &driver.spec;
        let requests = spec.token_requests.as_ref().map(|requests| {
            let audiences: Vec<&str> = requests.iter().map(|r| r.audience.as_str()).collect();
            audiences.join(",")
        });
        let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
        vec![
            driver.metadata.name.clone().into(),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            requests.unwrap_or_else(|| "<unset>".to_owned()).into(),
            spec.requires_republish.unwrap_or(false).into(),
            table::or_none(modes.join(",")).into(),
            age(&driver.metadata, now),
        ]
    }

    fn default(driver: &mut CSIDriver) {
        let spec = &mut driver.spec;
        fill::absent(&mut spec.attach_required, true);
        fill::absent(&mut spec.pod_info_on_mount, false);
        fill::absent(&mut spec.storage_capacity, false);
        fill::absent(&mut spec.requires_republish, false);
        fill::absent(&mut spec.se_linux_mount, false);
        let policy = "ReadWriteOnceWithFSType".to_owned();
        fill::absent(&mut spec.fs_group_policy, policy);
        fill::none_if_empty(&mut spec.volume_lifecycle_modes);
        fill::absent(
            &mut spec.volume_lifecycle_modes,
            vec!["Persistent".to_owned()],
        );
    }

    fn prepare_create(driver: &mut CSIDriver) {
        driver.metadata.generation = None;
        // Its feature is alpha in v1.36.
        driver.spec.prevent_pod_scheduling_if_missing = None;
    }

    fn prepare_update(new: &mut CSIDriver, old: &CSIDriver) {
        if old.spec.prevent_pod_scheduling_if_missing.is_none() {
            new.spec.prevent_pod_scheduling_if_missing = None;
        }
    }

    fn validate(driver: &CSIDriver) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &driver.spec;
        let path = at("spec");
        if let Some(policy) = &spec.fs_group_policy {
            let allowed = ["File", "None", "ReadWriteOnceWithFSType"];
            rules::supported(&mut errors, &path.child("fsGroupPolicy"), policy, &allowed);
        }
        let requests = spec.token_requests.as_deref().unwrap_or_default();
        token_requests(&mut errors, &path.child("tokenRequests"), requests);
        for mode in spec.volume_lifecycle_modes.iter().flatten() {
            let path = path.child("volumeLifecycleModes");
            rules::supported_of(&mut errors, &path, mode, &["Persistent", "Ephemeral"]);
        }
        if let Some(period) = spec.node_allocatable_update_period_seconds
            && period < UPDATE_PERIOD_SECONDS_MIN
        {
            let path = path.child("nodeAllocatableUpdatePeriodSeconds");
            let detail = "must be greater than or equal to 10 seconds";
            errors.push(FieldError::invalid(&path, period, detail));
        }
        if let Some(given) = spec.service_account_token_in_secrets
            && requests.is_empty()
        {
            let path = path.child("serviceAccountTokenInSecrets");
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.push(FieldError::invalid(&path, given, detail));
        }
        errors
    }

    fn validate_update(new: &CSIDriver, old: &CSIDriver) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        let (new, old) = (&new.spec, &old.spec);
        // The name that Kubernetes gives it here.
        let path = at("spec.attachedRequired");
        rules::immutable(
            &mut errors,
            &path,
            &new.attach_required,
            &old.attach_required,
        );
        let path = at("spec.volumeLifecycleModes");
        let (new, old) = (&new.volume_lifecycle_modes, &old.volume_lifecycle_modes);
        rules::immutable(&mut errors, &path, new, old);
        errors
    }

    fn warnings(driver: &CSIDriver) -> Vec<String> {
        let spec = &driver.spec;
        let mut warnings = vec!["spec: accepted, but not honoured by this server yet".to_owned()];
        let requests = spec.token_requests.as_ref().is_some_and(|r| !r.is_empty());
        if requests && spec.service_account_token_in_secrets.is_none() {
            warnings.push("spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned());
        }
        warnings
    }
}

fn token_requests(errors: &mut Errors, path: &FieldPath, requests: &[TokenRequest]) {
    let mut audiences = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let path = path.index(index);
        if audiences.contains(&request.audience.as_str()) {
            let path = path.child("audience");
            errors.push(FieldError::duplicate(&path, &request.audience));
            continue;
        }
        audiences.push(&request.audience);
        let Some(seconds) = request.expiration_seconds else {
            continue;
        };
        let detail = if seconds < TOKEN_SECONDS_MIN {
            "may not specify a duration less than 10 minutes"
        } else if seconds > TOKEN_SECONDS_MAX {
            "may not specify a duration larger than 2^32 seconds"
        } else {
            continue;
        };
        let path = path.child("expirationSeconds");
        errors.push(FieldError::invalid(&path, json(&seconds), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn driver(spec: Value) -> CSIDriver {
        let json = serde_json::json!({"spec": spec});
        let mut driver = serde_json::from_value(json).expect("a driver");
        CsiDriverKind::default(&mut driver);
        driver
    }

    #[test]
    fn tokens_live_as_long_as_tokens_may() {
        let requests = serde_json::json!([
            {"audience": "a", "expirationSeconds": 599}, {"audience": "a"},
            {"audience": "b", "expirationSeconds": 600},
        ]);
        assert_eq!(
            texts(&CsiDriverKind::validate(&driver(
                serde_json::json!({"tokenRequests": requests})
            ))),
            [
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ]
        );
    }

    #[test]
    fn whether_volumes_are_attached_stays() {
        let (old, new) = (
            driver(Value::Null),
            driver(serde_json::json!({"attachRequired": false})),
        );
        assert_eq!(
            texts(&CsiDriverKind::validate_update(&new, &old)),
            ["spec.attachedRequired: Invalid value: false: field is immutable"]
        );
    }
}
