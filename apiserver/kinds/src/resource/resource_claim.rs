//! `ResourceClaim`: devices that somebody wants, and those that were given.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceAllocationResult, DeviceRequestAllocationResult,
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus,
};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::claim;
use super::rules::{self as own, ITEMS_MAX, at_most};
use crate::conditions;
use crate::core::pod_spec::validation::driver_name;
use crate::core::pod_spec::validation::scheduling::node_selector;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, Seen, at, json, text};

const USERS_MAX: usize = 256;
const BINDING_CONDITIONS_MAX: usize = 4;
const CONDITIONS_MAX: usize = 8;
const INTERFACE_LENGTH_MAX: usize = 256;
const HARDWARE_LENGTH_MAX: usize = 128;
const IPS_MAX: usize = 16;

/// `resource.k8s.io/v1 ResourceClaim`.
pub struct ResourceClaimKind;

impl Kind for ResourceClaimKind {
    type Object = ResourceClaim;

    const NAMES: Names<'static> = Names {
        group: "resource.k8s.io",
        version: "v1",
        kind: "ResourceClaim",
        plural: "resourceclaims",
        singular: "resourceclaim",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const STATUS: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("State", "Whether there are devices, and users."),
            Column::AGE,
        ]
    }

    fn cells(claim: &ResourceClaim, now: Timestamp) -> Vec<Value> {
        let deleted = claim.metadata.deletion_timestamp.is_some();
        let status = claim.status.as_ref();
        let allocated = status.is_some_and(|s| s.allocation.is_some());
        let reserved = status.and_then(|s| s.reserved_for.as_ref());
        let reserved = allocated && reserved.is_some_and(|users| !users.is_empty());
        let words = [
            ("deleted", deleted),
            ("pending", !allocated && !deleted),
            ("allocated", allocated),
            ("reserved", reserved),
        ];
        let words: Vec<&str> = words
            .iter()
            .filter(|(_, is)| *is)
            .map(|(w, _)| *w)
            .collect();
        vec![
            claim.metadata.name.clone().into(),
            words.join(",").into(),
            age(&claim.metadata, now),
        ]
    }

    fn default(object: &mut ResourceClaim) {
        claim::default(&mut object.spec);
    }

    fn prepare_create(object: &mut ResourceClaim) {
        claim::prepare(&mut object.spec);
    }

    fn validate(object: &ResourceClaim) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let kept = own::Expressions::new();
        claim::validate(&mut errors, &at("spec"), &object.spec, &kept);
        errors
    }

    fn validate_update(new: &ResourceClaim, old: &ResourceClaim) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if !rules::same_structures(&new.spec, &old.spec) {
            let detail = "field is immutable";
            errors.push(FieldError::invalid(&at("spec"), json(&new.spec), detail));
        }
        errors
    }

    fn validate_status_update(new: &ResourceClaim, old: &ResourceClaim) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let nothing = ResourceClaimStatus::default();
        let (status, was) = (
            new.status.as_ref().unwrap_or(&nothing),
            old.status.as_ref().unwrap_or(&nothing),
        );
        let path = at("status");
        let told = status.devices.as_deref().unwrap_or_default();
        let mut seen = Vec::new();
        for (index, device) in told.iter().enumerate() {
            let path = path.child("devices").index(index);
            told_of(&mut errors, &path, device, status.allocation.as_ref());
            let id = (
                &device.driver,
                &device.pool,
                &device.device,
                &device.share_id,
            );
            if seen.contains(&id) {
                errors.push(FieldError::duplicate(&path, shown(device)));
            }
            seen.push(id);
        }
        let deleted = new.metadata.deletion_timestamp.is_some();
        users(
            &mut errors,
            &path.child("reservedFor"),
            status,
            was,
            deleted,
        );
        let path = path.child("allocation");
        match (&status.allocation, &was.allocation) {
            (Some(now), Some(was)) if !rules::same(now, was) => {
                let detail = "field is immutable";
                errors.push(FieldError::invalid(&path, json(now), detail));
            }
            (Some(now), None) => {
                let devices = new.spec.devices.as_ref();
                let requests = devices.and_then(|d| d.requests.as_deref());
                let asked = claim::names_of(requests.unwrap_or_default());
                allocation(&mut errors, &path, now, &asked);
            }
            _ => {}
        }
        errors
    }

    fn warnings(_claim: &ResourceClaim) -> Vec<String> {
        vec![
            "spec: accepted, but the allocation of devices is not honoured by this server yet"
                .to_owned(),
        ]
    }
}

fn users(
    errors: &mut Errors,
    path: &FieldPath,
    status: &ResourceClaimStatus,
    was: &ResourceClaimStatus,
    deleted: bool,
) {
    let list = status.reserved_for.as_deref().unwrap_or_default();
    at_most(errors, path, list, USERS_MAX);
    let mut seen = Seen::default();
    for (index, user) in list.iter().enumerate() {
        let path = path.index(index);
        for (field, value) in [
            ("resource", &user.resource),
            ("name", &user.name),
            ("uid", &user.uid),
        ] {
            if value.is_empty() {
                errors.push(FieldError::required(&path.child(field), ""));
            }
        }
        seen.check(errors, &path, &user.uid);
    }
    if list.is_empty() {
        return;
    }
    let before = was.reserved_for.as_deref().unwrap_or_default();
    let is_new = |user: &ResourceClaimConsumerReference| !before.contains(user);
    if status.allocation.is_none() {
        let detail = "may not be specified when `allocated` is not set";
        errors.push(FieldError::forbidden(path, detail));
    } else if deleted && list.iter().any(is_new) {
        let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn allocation(
    errors: &mut Errors,
    path: &FieldPath,
    result: &AllocationResult,
    asked: &claim::Asked<'_>,
) {
    let nothing = DeviceAllocationResult::default();
    let devices = result.devices.as_ref().unwrap_or(&nothing);
    let results = devices.results.as_deref().unwrap_or_default();
    let results_path = path.child("devices.results");
    at_most(errors, &results_path, results, ITEMS_MAX);
    for (index, given) in results.iter().enumerate() {
        let path = results_path.index(index);
        claim::reference(errors, &path.child("request"), &given.request, asked);
        driver_name(errors, &path.child("driver"), &given.driver);
        own::pool(errors, &path.child("pool"), &given.pool);
        own::label(errors, &path.child("device"), &given.device);
        for (field, list) in [
            ("bindingConditions", &given.binding_conditions),
            (
                "bindingFailureConditions",
                &given.binding_failure_conditions,
            ),
        ] {
            let (path, list) = (path.child(field), list.as_deref().unwrap_or_default());
            at_most(errors, &path, list, BINDING_CONDITIONS_MAX);
            for (index, name) in list.iter().enumerate() {
                let complaints = names::qualified_name(name);
                rules::complain(errors, &path.index(index), name, complaints);
            }
        }
        binding(errors, &path, given);
        own::share(errors, &path.child("shareID"), given.share_id.as_deref());
    }
    let config = devices.config.as_deref().unwrap_or_default();
    let config_path = path.child("devices.config");
    // Those of the class and those of the claim.
    at_most(errors, &config_path, config, 2 * ITEMS_MAX);
    for (index, one) in config.iter().enumerate() {
        let path = config_path.index(index);
        let allowed = ["FromClaim", "FromClass"];
        rules::required_of(errors, &path.child("source"), &one.source, &allowed);
        let requests = one.requests.as_deref().unwrap_or_default();
        claim::references(errors, &path.child("requests"), requests, asked);
        own::opaque(errors, &path, one.opaque.as_ref());
    }
    if let Some(selector) = &result.node_selector {
        node_selector(errors, &path.child("nodeSelector"), selector);
    }
}

/// Conditions that a binding waits for come with those that end it, and are others.
fn binding(errors: &mut Errors, path: &FieldPath, given: &DeviceRequestAllocationResult) {
    let conditions = given.binding_conditions.as_deref().unwrap_or_default();
    let failures = given
        .binding_failure_conditions
        .as_deref()
        .unwrap_or_default();
    let (conditions_path, failures_path) = (
        path.child("bindingConditions"),
        path.child("bindingFailureConditions"),
    );
    let mut seen = Seen::default();
    for (index, name) in conditions.iter().enumerate() {
        seen.check(errors, &conditions_path.index(index), name);
    }
    let mut seen = Seen::default();
    for (index, name) in failures.iter().enumerate() {
        let path = failures_path.index(index);
        seen.check(errors, &path, name);
        if conditions.contains(name) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(FieldError::invalid(&path, name.as_str(), detail));
        }
    }
    if conditions.is_empty() && !failures.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.push(FieldError::invalid(&conditions_path, Value::Null, detail));
    }
    if failures.is_empty() && !conditions.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.push(FieldError::invalid(&failures_path, Value::Null, detail));
    }
}

/// A device as errors show it.
fn shown(device: &AllocatedDeviceStatus) -> Value {
    serde_json::json!({
        "Driver": device.driver, "Pool": device.pool, "Device": device.device,
        "ShareID": text(&device.share_id),
    })
}

/// What a driver tells of a device that was given.
fn told_of(
    errors: &mut Errors,
    path: &FieldPath,
    device: &AllocatedDeviceStatus,
    allocation: Option<&AllocationResult>,
) {
    driver_name(errors, &path.child("driver"), &device.driver);
    own::pool(errors, &path.child("pool"), &device.pool);
    own::label(errors, &path.child("device"), &device.device);
    own::share(errors, &path.child("shareID"), device.share_id.as_deref());
    let given = allocation.and_then(|a| a.devices.as_ref()?.results.as_ref());
    let is_it = |given: &DeviceRequestAllocationResult| {
        given.driver == device.driver
            && given.pool == device.pool
            && given.device == device.device
            && given.share_id == device.share_id
    };
    if !given.into_iter().flatten().any(is_it) {
        let detail = "must be an allocated device in the claim";
        errors.push(FieldError::invalid(path, shown(device), detail));
    }
    let said = device.conditions.as_deref().unwrap_or_default();
    let said_path = path.child("conditions");
    at_most(errors, &said_path, said, CONDITIONS_MAX);
    conditions::validate(errors, &said_path, said);
    let Some(network) = &device.network_data else {
        return;
    };
    let path = path.child("networkData");
    for (field, value, length_max) in [
        (
            "interfaceName",
            &network.interface_name,
            INTERFACE_LENGTH_MAX,
        ),
        (
            "hardwareAddress",
            &network.hardware_address,
            HARDWARE_LENGTH_MAX,
        ),
    ] {
        if text(value).len() > length_max {
            errors.push(FieldError::too_long(&path.child(field), length_max));
        }
    }
    let ips = network.ips.as_deref().unwrap_or_default();
    let path = path.child("ips");
    at_most(errors, &path, ips, IPS_MAX);
    let mut seen = Seen::default();
    for (index, ip) in ips.iter().enumerate() {
        let path = path.index(index);
        interface_address(errors, &path, ip);
        seen.check(errors, &path, ip);
    }
}

/// An address with the size of its network, such as `10.9.8.7/24`.
fn interface_address(errors: &mut Errors, path: &FieldPath, value: &str) {
    let address = value.split_once('/').filter(|_| rules::is_cidr(value));
    let Some(Ok(address)) = address.map(|(address, _)| address.parse::<std::net::IpAddr>()) else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        errors.push(FieldError::invalid(path, value, detail));
        return;
    };
    let bits = value
        .rsplit('/')
        .next()
        .and_then(|bits| bits.parse::<u8>().ok());
    let canonical = match (address.to_canonical(), bits.unwrap_or(0)) {
        // The four bytes of an address that is written in sixteen.
        (short @ std::net::IpAddr::V4(_), bits) if address.is_ipv6() && bits >= 96 => {
            format!("{short}/{}", bits - 96)
        }
        (short, bits) => format!("{short}/{bits}"),
    };
    if value != canonical {
        let detail = format!("must be in canonical form ({canonical:?})");
        errors.push(FieldError::invalid(path, value, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn claim(requests: Value) -> ResourceClaim {
        let json = serde_json::json!({"spec": {"devices": {"requests": requests}}});
        let mut claim = serde_json::from_value(json).expect("a claim");
        ResourceClaimKind::default(&mut claim);
        claim
    }

    #[test]
    fn what_is_told_of_a_device_is_checked() {
        let with = |status: Value| {
            let mut claim = claim(serde_json::json!([
                {"name": "r", "exactly": {"deviceClassName": "c"}}
            ]));
            claim.status = Some(serde_json::from_value(status).expect("a status"));
            claim
        };
        let device = serde_json::json!({"driver": "d", "pool": "p", "device": "x"});
        let mut given = device.clone();
        given["request"] = "r".into();
        given["bindingFailureConditions"] = serde_json::json!(["a", "a"]);
        let mut told = device;
        told["conditions"] = serde_json::json!([{"type": "T", "status": "True", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": ""}]);
        let new = with(serde_json::json!({
            "allocation": {"devices": {"results": [given]}}, "devices": [told],
        }));
        let old = with(serde_json::json!({}));
        let results = "status.allocation.devices.results[0]";
        assert_eq!(
            texts(&ResourceClaimKind::validate_status_update(&new, &old)),
            [
                "status.devices[0].conditions[0].reason: Required value".to_owned(),
                format!("{results}.bindingFailureConditions[1]: Duplicate value: \"a\""),
                format!(
                    "{results}.bindingConditions: Invalid value: null: bindingConditions are required to use bindingFailureConditions"
                ),
            ]
        );
    }

    #[test]
    fn a_request_is_for_one_device_of_a_class_or_the_first_of_some() {
        let right = claim(serde_json::json!([{"name": "r", "exactly": {"deviceClassName": "c"}}]));
        assert!(ResourceClaimKind::validate(&right).is_empty());
        let requests = right
            .spec
            .devices
            .and_then(|d| d.requests)
            .expect("requests");
        let exactly = requests[0].exactly.as_ref().expect("exactly");
        assert_eq!(exactly.count, Some(1));
        let wrong = claim(serde_json::json!([{"name": "r"}, {"name": "r", "exactly": {}}]));
        assert_eq!(
            texts(&ResourceClaimKind::validate(&wrong)),
            [
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].exactly.deviceClassName: Required value",
                "spec.devices.requests[1]: Duplicate value: \"r\"",
            ]
        );
    }

    #[test]
    fn nobody_uses_what_was_not_given() {
        let old = claim(serde_json::json!([]));
        let mut new = old.clone();
        let user = serde_json::json!({"resource": "pods", "name": "p", "uid": "u"});
        let status = serde_json::json!({"reservedFor": [user]});
        new.status = serde_json::from_value(status).expect("a status");
        assert_eq!(
            texts(&ResourceClaimKind::validate_status_update(&new, &old)),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        assert_eq!(
            ResourceClaimKind::cells(&old, Timestamp::UNIX_EPOCH)[1],
            "pending"
        );
    }
}
