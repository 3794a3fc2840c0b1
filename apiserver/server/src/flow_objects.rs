//! The flow schemas and priority levels that every cluster has: made at start and when they are missing, brought back to
//! what they shall be unless an administrator took them over. Schemas are told whether their level is there. What all of them
//! say goes to those who give requests their turns, at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use corral_api::k8s::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use corral_api::status::{Status, StatusReason};
use corral_kinds::flowcontrol::mandatory::{self, CATCH_ALL, EXEMPT};
use corral_storage::{Key, Revision};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::Shared;
use crate::api::Api;
use crate::bootstrap::{at_once, context};
use crate::decode::Decoded;
use crate::flow::Flow;
use crate::flow::fairness::{Object, REBALANCE_PERIOD};
use crate::object::Stored;
use crate::registry::{Ownership, Part, Resource, metadata};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// Set to other than `true` by whoever takes over an object that is not mandatory.
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const DANGLING: &str = "Dangling";
/// Who owns that condition, by the name that kube-apiserver gives itself for it.
const TELLS_OF_LEVELS: &str = "api-priority-and-fairness-config-consumer-v1";
/// How often all is looked at again, as kube-apiserver does.
const PERIOD: Duration = Duration::from_secs(60);

/// Looks after the objects until told to stop, and has requests treated as they say.
pub async fn run(shared: Arc<Shared>) {
    let (api, flow, stop) = (&shared.api, &shared.flow, &shared.stop);
    let (Ok(levels), Ok(schemas)) = (resource(api, LEVELS), resource(api, SCHEMAS)) else {
        return;
    };
    let mut changes = [levels.cacher.changes(), schemas.cacher.changes()];
    let mut look = tokio::time::interval(PERIOD);
    let mut rebalance = tokio::time::interval(REBALANCE_PERIOD);
    for timer in [&mut look, &mut rebalance] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer.reset();
    }
    // Whatever has changed since the first look counts.
    let mut seen = Vec::new();
    changes[0].mark_changed();
    loop {
        let [levels_change, schemas_change] = &mut changes;
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => ensure(api).await,
            _ = rebalance.tick() => {
                if let Some(fairness) = &flow.fairness {
                    fairness.rebalance();
                }
                continue;
            }
            changed = levels_change.changed() => if changed.is_err() { return } else { Ok(()) },
            changed = schemas_change.changed() => if changed.is_err() { return } else { Ok(()) },
        };
        // Much tells of itself that is no change.
        let now = versions(&[levels, schemas]);
        let outcome = match outcome {
            Ok(()) if now != seen => match configure(api, flow) {
                Ok(levels) => tell_of_levels(api, &levels).await,
                Err(status) => Err(status),
            },
            other => other,
        };
        seen = now;
        if let Err(status) = outcome {
            let message = status.message;
            tracing::warn!(message, "flow schemas cannot be looked after");
        }
    }
}

/// Which objects there are, in which versions.
fn versions(resources: &[&Arc<Resource>]) -> Vec<(Key, Revision)> {
    let snapshots = resources.iter().map(|resource| resource.cacher.snapshot());
    snapshots
        .flat_map(|snapshot| {
            let all = snapshot.objects.values();
            let versions = all.map(|stored| (stored.key.clone(), stored.revision));
            versions.collect::<Vec<_>>()
        })
        .collect()
}

/// Has requests treated as the objects say. Answers which levels there are.
///
/// # Errors
/// When the resources are missing, which is a fault of this program.
pub fn configure(api: &Api, flow: &Flow) -> Result<BTreeSet<String>, Status> {
    let levels = objects::<PriorityLevelConfiguration, _>(resource(api, LEVELS)?, |level| {
        (level.metadata, level.spec)
    });
    let schemas = objects::<FlowSchema, _>(resource(api, SCHEMAS)?, |schema| {
        (schema.metadata, schema.spec)
    });
    let names = levels.iter().map(|level| level.name.clone()).collect();
    if let Some(fairness) = &flow.fairness {
        fairness.configure(levels, schemas);
    }
    Ok(names)
}

fn objects<K: DeserializeOwned, S>(
    resource: &Resource,
    parts: impl Fn(K) -> (ObjectMeta, Option<S>),
) -> Vec<Object<S>> {
    let snapshot = resource.cacher.snapshot();
    let read = |stored: &Arc<Stored>| {
        let (metadata, spec) = parts(serde_json::from_slice(&stored.json).ok()?);
        Some(Object {
            name: metadata.name?,
            uid: metadata.uid.unwrap_or_default(),
            spec: spec?,
        })
    };
    snapshot.objects.values().filter_map(read).collect()
}

/// Makes what is missing, and corrects what is not as it shall be.
///
/// # Errors
/// When the store does not take it.
pub async fn ensure(api: &Api) -> Result<(), Status> {
    for (plural, all) in [
        (LEVELS, mandatory::levels()),
        (SCHEMAS, mandatory::schemas()),
    ] {
        let resource = resource(api, plural)?;
        let mut ensured = Vec::new();
        for (name, spec) in all {
            ensured.push(ensure_one(resource, name, spec));
        }
        at_once(ensured).await?;
    }
    for plural in [LEVELS, SCHEMAS] {
        resource(api, plural)?.cacher.fresh().await?;
    }
    Ok(())
}

fn resource<'a>(api: &'a Api, plural: &str) -> Result<&'a Arc<Resource>, Status> {
    api.resource(GROUP, plural)
        .ok_or_else(|| Status::internal("a built-in resource is missing"))
}

async fn ensure_one(resource: &Resource, name: &str, spec: Value) -> Result<(), Status> {
    let is_mandatory = matches!(name, EXEMPT | CATCH_ALL);
    let Some(entry) = resource.fetch(&resource.key("", name)).await? else {
        let object = json!({
            "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}}, "spec": spec,
        });
        return match resource.create(&context(""), Decoded::of(object)).await {
            Err(status) if !status.is(StatusReason::AlreadyExists) => Err(status),
            _ => Ok(()),
        };
    };
    let live: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    // What administrators may change of the mandatory level, they may keep.
    let wanted = |live: &Value| {
        let mut spec = spec.clone();
        if name == EXEMPT && live["spec"]["exempt"].is_object() {
            spec["exempt"] = live["spec"]["exempt"].clone();
        }
        spec
    };
    let ours = is_mandatory || live["metadata"]["annotations"][AUTOUPDATE] == "true";
    if !ours || live["spec"] == wanted(&live) {
        return Ok(());
    }
    let change = |live: &Value| {
        let mut next = live.clone();
        next["spec"] = wanted(live);
        metadata::drop_live_version(&mut next, live);
        Ok((next, Ownership::Update))
    };
    let cx = context("");
    let written = resource.update(&cx, name, Part::Main, "", &change);
    gone_is_fine(written.await.map(drop))
}

/// Somebody may delete an object at any time; the next look makes it again.
fn gone_is_fine(outcome: Result<(), Status>) -> Result<(), Status> {
    match outcome {
        Err(status) if status.is(StatusReason::NotFound) => Ok(()),
        other => other,
    }
}

/// Tells each schema whether its level is there, which it is once requests are treated by it.
async fn tell_of_levels(api: &Api, levels: &BTreeSet<String>) -> Result<(), Status> {
    let schemas = resource(api, SCHEMAS)?;
    let snapshot = schemas.cacher.snapshot();
    for stored in snapshot.objects.values() {
        let Ok(schema) = stored.value() else { continue };
        let name = schema["metadata"]["name"].as_str().unwrap_or_default();
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str();
        let level = level.unwrap_or_default();
        let is_there = levels.contains(level);
        let told = condition(level, is_there);
        if conditions(&schema).iter().any(|have| says(have, &told)) {
            continue;
        }
        let applied = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema",
            "metadata": {"name": name},
            "status": {"conditions": [told]},
        });
        let mut cx = context("");
        cx.manager = TELLS_OF_LEVELS.to_owned();
        let written = schemas.apply(&cx, name, Part::Status, Decoded::of(applied), true);
        gone_is_fine(written.await.map(drop))?;
    }
    Ok(())
}

fn conditions(schema: &Value) -> Vec<Value> {
    let list = schema["status"]["conditions"].as_array();
    list.cloned().unwrap_or_default()
}

fn condition(level: &str, is_there: bool) -> Value {
    let (status, reason, what) = match is_there {
        true => ("False", "Found", "it exists"),
        false => ("True", "NotFound", "there is no such object"),
    };
    let but = if is_there { "and" } else { "but" };
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {but} {what}"
    );
    json!({
        "type": DANGLING, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": corral_api::time::format_seconds(Timestamp::now()),
    })
}

/// Whether a condition says the same, whenever it began.
fn says(have: &Value, told: &Value) -> bool {
    ["type", "status", "reason", "message"]
        .iter()
        .all(|field| have[field] == told[field])
}
