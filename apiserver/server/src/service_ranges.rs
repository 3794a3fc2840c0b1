//! The range of Service addresses as a `ServiceCIDR`, and each address that is taken as an `IPAddress`.
//!
//! An IPAddress is how a Service holds its address: it is made in the transaction that creates the Service and goes in
//! the one that removes it. What an administrator deletes is made again here, as kube-apiserver does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corral_api::k8s::api::core::v1::Service;
use corral_api::k8s::api::networking::v1::IPAddress;
use corral_api::status::Status;
use corral_kinds::networking::service_cidr::DEFAULT_NAME;
use corral_storage::{self as storage, Key, Operation};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::admission::{AddressRange, adopt_node_ports};
use crate::api::Api;
use crate::bootstrap;
use crate::cacher::storage_status;
use crate::object::canonical;
use crate::registry::{Ownership, Part, metadata};

const GROUP: &str = "networking.k8s.io";
/// How often what is missing is looked for.
const PERIOD: Duration = Duration::from_secs(30);

/// Where the object of an address is.
pub(crate) fn address_key(address: &str) -> Key {
    Key::new(format!("/registry/ipaddresses/{address}"))
}

/// The object of an address that a Service has.
pub(crate) fn taken(address: &str, namespace: &str, service: &str, now: Timestamp) -> Bytes {
    let labels = json!({
        "ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    });
    canonical(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address,
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": corral_api::time::format_seconds(now),
            "labels": labels,
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    }))
}

/// Whether an address is that of a Service.
pub(crate) fn is_of(json: &[u8], namespace: &str, service: &str) -> bool {
    let Ok(address) = serde_json::from_slice::<IPAddress>(json) else {
        return false;
    };
    let parent = address.spec.parent_ref;
    parent.resource == "services"
        && parent.group.as_deref().unwrap_or("").is_empty()
        && parent.namespace.as_deref() == Some(namespace)
        && parent.name == service
}

/// Makes what is missing now and then until told to stop.
pub(crate) async fn run(api: Arc<Api>, range: AddressRange, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {
                if let Err(status) = complete(&api, range).await {
                    tracing::warn!(error = %status.message, "service ranges; tried again later");
                }
            }
        }
    }
}

/// Makes the default range and the addresses of Services that have none.
///
/// # Errors
/// When the store does not take it.
pub(crate) async fn complete(api: &Api, range: AddressRange) -> Result<(), Status> {
    default_range(api, range).await?;
    let services = api.core("services");
    let snapshot = services.cacher.snapshot();
    let prefix = services.cacher.prefix();
    for stored in snapshot.objects.values() {
        let (namespace, name) = stored.namespace_and_name(prefix);
        let service: Service = serde_json::from_slice(&stored.json).map_err(Status::internal)?;
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        let Some(address) = address.filter(|ip| !ip.is_empty() && ip != "None") else {
            continue;
        };
        let key = address_key(&address);
        let addresses = api.resource(GROUP, "ipaddresses");
        if addresses.is_some_and(|resource| resource.cacher.peek(&key).is_some()) {
            continue;
        }
        // The Service is still there as this is made: it would otherwise stay for ever.
        let holder = Operation::Check {
            key: stored.key.clone(),
            expected: stored.revision,
        };
        let value = taken(&address, namespace, name, Timestamp::now());
        let made = api
            .storage
            .commit(vec![holder, Operation::Create { key, value }]);
        match made.await {
            Ok(_)
            | Err(
                storage::Error::Exists { .. }
                | storage::Error::Conflict { .. }
                | storage::Error::NotFound { .. },
            ) => {}
            Err(error) => return Err(storage_status(&error)),
        }
    }
    adopt_node_ports(api).await
}

/// The ServiceCIDR of the server's own range, which is ready from the beginning.
async fn default_range(api: &Api, range: AddressRange) -> Result<(), Status> {
    let spec = json!({"cidrs": [range.to_string()]});
    let value = json!({"metadata": {"name": DEFAULT_NAME}, "spec": spec});
    bootstrap::create(api, GROUP, "servicecidrs", "", value).await?;
    let ranges = api
        .resource(GROUP, "servicecidrs")
        .ok_or_else(|| Status::internal("a built-in resource is missing"))?;
    let stored = ranges.fetch(&ranges.key("", DEFAULT_NAME)).await?;
    let live: Option<Value> = match stored {
        Some(entry) => Some(serde_json::from_slice(&entry.value).map_err(Status::internal)?),
        None => None,
    };
    let same = |live: &Value| live["spec"]["cidrs"] == spec["cidrs"];
    if live.is_none_or(|live| !same(&live) || is_ready_or_not(&live)) {
        return Ok(());
    }
    let change = |live: &Value| {
        let mut next = live.clone();
        next["status"]["conditions"] = json!([{
            "type": "Ready", "status": "True", "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": corral_api::time::format_seconds(Timestamp::now()),
        }]);
        metadata::drop_live_version(&mut next, live);
        Ok((next, Ownership::Update))
    };
    let cx = bootstrap::context("");
    let written = ranges.update(&cx, DEFAULT_NAME, Part::Status, "status", &change);
    written.await.map(drop)
}

/// Whether somebody has said that the range is ready, or that it is not.
fn is_ready_or_not(live: &Value) -> bool {
    let conditions = live["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] != "Unknown")
}
