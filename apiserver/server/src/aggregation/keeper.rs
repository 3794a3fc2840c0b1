//! Whether those who serve parts of the API are there: each is asked by a task of its own, so that one that is slow holds up
//! no other. What is found out is the condition of its APIService.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::core::v1::Service;
use corral_api::k8s::api::discovery::v1::EndpointSlice;
use corral_api::k8s::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use corral_api::status::{Status, StatusReason};
use corral_kinds::apiregistration::api_service::is_built_in;
use corral_storage::Revision;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Facts, GROUP, Remote, facts, proxy, registration};
use crate::Shared;
use crate::api::Api;
use crate::bootstrap;
use crate::object::Stored;
use crate::registry::{Ownership, Part, WriteContext};

/// How long a server may take to tell its resources.
const CHECK_TIME: Duration = Duration::from_secs(5);
/// How often in a row it is asked before it counts as gone.
const ATTEMPTS: usize = 3;
/// How often a server that is there is asked again.
const PERIOD: Duration = Duration::from_secs(30);
/// How often one that is not.
const PERIOD_FAILING: Duration = Duration::from_secs(5);
/// Pause between two looks however much changes: endpoints of other Services do so all the time.
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes of an answer of which only the code counts.
const CHECK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a look at a server has found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Found {
    fn missing(reason: &'static str, message: String) -> Self {
        Self {
            status: "False",
            reason,
            message,
        }
    }

    fn passed() -> Self {
        Self {
            status: "True",
            reason: "Passed",
            message: "all checks passed".to_owned(),
        }
    }

    fn local() -> Self {
        Self {
            status: "True",
            reason: "Local",
            message: "Local APIServices are always available".to_owned(),
        }
    }
}

/// Keeps the conditions of APIServices, and those of the kinds that clients have described.
pub(crate) async fn run(shared: Arc<Shared>) {
    let api = shared.api.clone();
    let Some(services) = api.resource(GROUP, "apiservices") else {
        return;
    };
    let Some(definitions) = api.resource("apiextensions.k8s.io", "customresourcedefinitions")
    else {
        return;
    };
    let (mut changes, mut described) = (services.cacher.changes(), definitions.cacher.changes());
    let mut tasks: HashMap<String, (Arc<Remote>, DropGuard)> = HashMap::new();
    let mut locals = BTreeSet::new();
    loop {
        changes.borrow_and_update();
        described.borrow_and_update();
        if let Err(status) = registration::pass(&api).await {
            tracing::warn!(error = %status.message, "APIServices are not as definitions say");
        }
        match local(&api).await {
            Ok(now) => {
                let metrics = &shared.aggregation.metrics;
                now.iter()
                    .for_each(|name| metrics.observe(name, true, true, ""));
                locals
                    .difference(&now)
                    .for_each(|name| metrics.forget(name));
                locals = now;
            }
            Err(status) => tracing::debug!(error = %status.message, "tried again"),
        }
        let known = shared.aggregation.known(&api);
        tasks.retain(|name, (remote, _)| {
            let stays = known
                .remotes()
                .any(|now| now.name == *name && same(now, remote));
            if !stays {
                shared.aggregation.metrics.forget(name);
                shared.aggregation.forget(remote);
            }
            stays
        });
        for remote in known.remotes() {
            tasks.entry(remote.name.clone()).or_insert_with(|| {
                let stop = shared.stop.child_token();
                tokio::spawn(keep(shared.clone(), remote.clone(), stop.clone()));
                (remote.clone(), stop.drop_guard())
            });
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = described.changed() => if changed.is_err() { return },
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Whether two say the same of who serves a version.
fn same(a: &Remote, b: &Remote) -> bool {
    (&a.service, &a.bundle, a.insecure) == (&b.service, &b.bundle, b.insecure)
}

/// What this server serves itself is always there. Answers the names of it.
async fn local(api: &Api) -> Result<BTreeSet<String>, Status> {
    let mut names = BTreeSet::new();
    let Some(services) = api.resource(GROUP, "apiservices") else {
        return Ok(names);
    };
    for stored in services.cacher.snapshot().objects.values() {
        let service: APIService = serde_json::from_slice(&stored.json).map_err(Status::internal)?;
        let spec = service.spec.unwrap_or_default();
        if spec.service.is_some() && !is_built_in(&spec) {
            continue;
        }
        let name = service.metadata.name.unwrap_or_default();
        write(api, &name, &Found::local()).await?;
        names.insert(name);
    }
    Ok(names)
}

/// Looks at one server until told to stop.
async fn keep(shared: Arc<Shared>, remote: Arc<Remote>, stop: CancellationToken) {
    let api = shared.api.clone();
    let slices = api.resource("discovery.k8s.io", "endpointslices");
    let Some(slices) = slices else { return };
    let (mut services, mut endpoints) = (
        api.core("services").cacher.changes(),
        slices.cacher.changes(),
    );
    let place = (remote.group.clone(), remote.version.clone());
    let mut before = None;
    loop {
        services.borrow_and_update();
        endpoints.borrow_and_update();
        let ground = ground(&api, &remote);
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = look(&shared, &remote) => found,
        };
        let there = found.status == "True";
        let was = before.replace(there).unwrap_or(true);
        let metrics = &shared.aggregation.metrics;
        metrics.observe(&remote.name, there, was, found.reason);
        let known = shared.aggregation.facts(&place.0, &place.1);
        let told = match there {
            true => facts::ask(&shared.aggregation, &api, &remote, &known).await,
            false => Facts {
                current: false,
                ..(*known).clone()
            },
        };
        shared.aggregation.learn(place.clone(), told);
        if let Err(status) = write(&api, &remote.name, &found).await {
            tracing::warn!(name = remote.name, error = %status.message, "its condition is not written");
        }
        let period = if there { PERIOD } else { PERIOD_FAILING };
        let again = tokio::time::Instant::now() + period;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(again) => break,
                _ = services.changed() => {}
                _ = endpoints.changed() => {}
            }
            if self::ground(&api, &remote) != ground {
                break;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

/// On what a server stands: the revisions of its Service and its endpoints.
fn ground(api: &Api, remote: &Remote) -> Vec<Revision> {
    let (namespace, name, _) = &remote.service;
    let services = api.core("services");
    let service = services.cacher.peek(&services.key(namespace, name));
    let slices = stored_slices(api, namespace, name);
    let all = service.into_iter().chain(slices);
    all.map(|stored| stored.revision).collect()
}

/// Whether a server is there, in the words of Kubernetes.
async fn look(shared: &Shared, remote: &Remote) -> Found {
    if let Some(missing) = without_asking(&shared.api, remote) {
        return missing;
    }
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(CHECK_TIME, check(shared, remote)).await {
            Ok(Ok(())) => return Found::passed(),
            Ok(Err(why)) => last = why,
            // One that keeps silent is not asked again at once: it has had its time.
            Err(_) => {
                let url = url(shared, remote).await;
                last = format!(
                    "failing or missing response from {url}: Get {url:?}: context deadline exceeded \
                     (Client.Timeout exceeded while awaiting headers)"
                );
                break;
            }
        }
    }
    Found::missing("FailedDiscoveryCheck", last)
}

async fn url(shared: &Shared, remote: &Remote) -> String {
    let address = proxy::address(&shared.api, remote).await;
    let host = address.map_or_else(|_| super::links::server_name(remote), |a| a.to_string());
    format!("https://{host}{}", remote.path())
}

async fn check(shared: &Shared, remote: &Remote) -> Result<(), String> {
    let url = url(shared, remote).await;
    let path = remote.path();
    let asked = shared.aggregation.ask(
        &shared.api,
        remote,
        &path,
        "application/json",
        CHECK_BYTES_MAX,
    );
    let failing = |why: String| format!("failing or missing response from {url}: {why}");
    let (status, ..) = asked.await.map_err(failing)?;
    if !status.is_success() {
        let code = status.as_u16();
        return Err(failing(format!("bad status from {url}: {code}")));
    }
    Ok(())
}

/// What is missing of the Service or its endpoints.
fn without_asking(api: &Api, remote: &Remote) -> Option<Found> {
    let (namespace, name, port) = &remote.service;
    let services = api.core("services");
    let stored = services.cacher.peek(&services.key(namespace, name));
    let service: Option<Service> =
        stored.and_then(|stored| serde_json::from_slice(&stored.json).ok());
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Found::missing("ServiceNotFound", message));
    };
    let spec = service.spec.unwrap_or_default();
    if spec.type_.as_deref().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let mut ports = spec.ports.iter().flatten();
    let Some(found) = ports.find(|known| known.port == i32::from(*port)) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Found::missing("ServicePortError", message));
    };
    let port_name = found.name.as_deref().unwrap_or_default();
    let slices = slices(api, namespace, name);
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Found::missing("EndpointsNotFound", message));
    }
    let serves = |slice: &EndpointSlice| {
        let mut endpoints = slice.endpoints.iter().flatten();
        let ready = endpoints.any(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|c| c.ready) != Some(false)
        });
        let mut ports = slice.ports.iter().flatten();
        ready && ports.any(|p| p.name.as_deref() == Some(port_name) && p.port.is_some())
    };
    if slices.iter().any(serves) {
        return None;
    }
    let message = format!(
        "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
    );
    Some(Found::missing("MissingEndpoints", message))
}

fn slices(api: &Api, namespace: &str, service: &str) -> Vec<EndpointSlice> {
    let stored = stored_slices(api, namespace, service);
    let read = stored.into_iter();
    read.filter_map(|stored| serde_json::from_slice(&stored.json).ok())
        .collect()
}

fn stored_slices(api: &Api, namespace: &str, service: &str) -> Vec<Arc<Stored>> {
    let Some(resource) = api.resource("discovery.k8s.io", "endpointslices") else {
        return Vec::new();
    };
    let snapshot = resource.cacher.snapshot();
    let prefix = resource.key(namespace, "");
    let of_service = snapshot
        .below(&prefix)
        .filter(|stored| stored.label("kubernetes.io/service-name") == Some(service));
    of_service.cloned().collect()
}

/// Writes the condition of an APIService, unless that is what it says.
async fn write(api: &Api, name: &str, found: &Found) -> Result<(), Status> {
    let Some(resource) = api.resource(GROUP, "apiservices") else {
        return Ok(());
    };
    let live = resource.cacher.peek(&resource.key("", name));
    let says = |live: &Value| {
        let conditions = live["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| {
            condition["type"] == "Available"
                && condition["status"] == found.status
                && condition["reason"] == found.reason
                && condition["message"] == found.message.as_str()
        })
    };
    if live
        .and_then(|live| live.value().ok())
        .is_some_and(|live| says(&live))
    {
        return Ok(());
    }
    let now = corral_api::time::format_seconds(Timestamp::now());
    let change = |live: &Value| {
        let mut next = live.clone();
        if let Some(metadata) = next["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        let before = live["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let since = before
            .iter()
            .find(|c| c["type"] == "Available" && c["status"] == found.status)
            .map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
        let mut conditions: Vec<Value> = before
            .into_iter()
            .filter(|c| c["type"] != "Available")
            .collect();
        conditions.push(
            json!({"type": "Available", "status": found.status, "reason": found.reason,
            "message": found.message, "lastTransitionTime": since}),
        );
        next["status"]["conditions"] = conditions.into();
        Ok((next, Ownership::Update))
    };
    let cx = WriteContext {
        manager: "kube-apiserver".to_owned(),
        ..bootstrap::context("")
    };
    let written = resource
        .update(&cx, name, Part::Status, "status", &change)
        .await;
    match written {
        Err(status) if status.is(StatusReason::NotFound) => Ok(()),
        other => other.map(drop),
    }
}
