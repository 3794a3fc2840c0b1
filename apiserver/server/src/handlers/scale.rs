//! The `scale` subresource: how many there are of something, and how many there shall be, whatever its kind.

use corral_api::field::{FieldError, FieldPath};
use corral_api::status::Status;
use corral_kinds::{AnyKind, all, schema};
use serde_json::{Value, json};

use super::{Call, read, with_warnings};
use crate::apply;
use crate::decode::Decoded;
use crate::negotiate::{self, PatchType, Representation};
use crate::registry::{Ownership, Part, Resource, WriteContext, body, metadata};
use crate::request::Verb;
use crate::response::Answer;

/// Answers a request on the `scale` of an object.
pub(super) async fn handle(call: &Call, resource: &Resource, verb: Verb) -> Result<Answer, Status> {
    match verb {
        Verb::Get => get(call, resource).await,
        Verb::Update => replace(call, resource).await,
        Verb::Patch => patch(call, resource).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// The type of what is read and written here.
fn kind() -> Result<&'static dyn AnyKind, Status> {
    all::kind("autoscaling", "v1", "Scale").ok_or_else(Status::no_such_path)
}

async fn get(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let name = &call.info.name;
    let representation = call.representation_of(kind()?)?;
    let key = resource.key(&call.info.namespace, name);
    let entry = resource.fetch(&key).await?;
    let entry = entry.ok_or_else(|| resource.not_found(name))?;
    let json = crate::object::with_revision(&entry.value, entry.revision);
    let object = serde_json::from_slice(&json).map_err(Status::internal)?;
    let scale = resource.scale_of(&object)?;
    answer(call, representation, &scale)
}

async fn replace(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let cx = call.write_context()?;
    let kind = kind()?;
    let wanted = body::read(kind, &cx, call.decoded(&schema::of(kind))?)?;
    resource.check_name(&cx, &call.info.name, &wanted)?;
    let change = |live: &Value| {
        check_uid(resource, &call.info.name, &wanted, live)?;
        Ok((scaled(resource, live, &wanted)?, Ownership::Update))
    };
    write(call, resource, &cx, &change).await
}

async fn patch(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let cx = call.write_context()?;
    let (kind, name) = (kind()?, &call.info.name);
    let node = schema::of(kind);
    let (patch_type, format) = negotiate::patch_type(call.headers())?;
    let document = match patch_type {
        PatchType::Json => Value::Null,
        _ => call.decoded_patch(patch_type, format)?.value,
    };
    if patch_type == PatchType::Apply {
        let force = call.info.query.flag("force");
        let wanted = applied(resource, &cx, kind, name, &document)?;
        let change = |live: &Value| {
            let applied = apply_scale(&cx, resource, name, live, wanted, force)?;
            Ok((applied, Ownership::Applied))
        };
        return write(call, resource, &cx, &change).await;
    }
    let change = |live: &Value| {
        let current = resource.scale_to_change(live)?;
        let wanted = body::read_patched(kind, &cx, || match patch_type {
            PatchType::Json => crate::patch::json_patch(&current, &call.body),
            PatchType::Merge => crate::patch::merge_patch(&current, &document),
            _ => crate::patch::strategic_patch(&node, &current, &document),
        })?;
        resource.check_name(&cx, name, &wanted)?;
        check_uid(resource, name, &wanted, live)?;
        let mut object = scaled(resource, live, &wanted)?;
        metadata::drop_live_version(&mut object, live);
        Ok((object, Ownership::Update))
    };
    write(call, resource, &cx, &change).await
}

async fn write(
    call: &Call,
    resource: &Resource,
    cx: &WriteContext,
    change: &crate::registry::Change<'_>,
) -> Result<Answer, Status> {
    let representation = call.representation_of(kind()?)?;
    let name = &call.info.name;
    let written = resource.update(cx, name, Part::Main, "scale", change);
    let object = serde_json::from_slice(&written.await?.json).map_err(Status::internal)?;
    let answer = answer(call, representation, &resource.scale_of(&object)?)?;
    Ok(with_warnings(answer, cx))
}

fn answer(call: &Call, representation: Representation, scale: &Value) -> Result<Answer, Status> {
    let json = serde_json::to_vec(scale).map_err(Status::internal)?;
    read::transformed(call, kind()?, representation, 200, json.into())
}

/// Whoever says which object is meant by its uid does not mean another of the same name.
fn check_uid(resource: &Resource, name: &str, wanted: &Value, live: &Value) -> Result<(), Status> {
    let uid = |value: &Value| value["metadata"]["uid"].as_str().unwrap_or("").to_owned();
    let (wanted, live) = (uid(wanted), uid(live));
    if wanted.is_empty() || wanted == live {
        return Ok(());
    }
    let names = resource.kind.names();
    let why =
        format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {live}");
    let plural = format!("{}/scale", names.plural);
    Err(Status::conflict(names.group, &plural, name, &why))
}

/// How many a `Scale` asks for.
fn replicas(resource: &Resource, name: &str, scale: &Value) -> Result<i64, Status> {
    let asked = scale["spec"].get("replicas").and_then(Value::as_i64);
    if asked.is_none() && resource.kind.is_custom() {
        let path = path_of(resource)?;
        let why = format!("the spec replicas field {path:?} cannot be empty");
        return Err(Status::bad_request(why));
    }
    let replicas = asked.unwrap_or(0);
    if replicas >= 0 {
        return Ok(replicas);
    }
    let names = resource.kind.names();
    Err(match resource.kind.is_custom() {
        true => {
            let path = FieldPath::new(&path_of(resource)?);
            let error = FieldError::invalid(&path, replicas, "should be a non-negative integer");
            Status::invalid(names.group, names.kind, name, &[error])
        }
        false => {
            let path = FieldPath::new("spec.replicas");
            let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
            Status::invalid("autoscaling", "Scale", name, &[error])
        }
    })
}

/// The field that says how many, as paths of definitions are written.
fn path_of(resource: &Resource) -> Result<String, Status> {
    let paths = resource.kind.scale().ok_or_else(Status::no_such_path)?;
    Ok(paths.spec_replicas.replace('/', "."))
}

/// An object with as many as a `Scale` asks for, of the version that it names.
fn scaled(resource: &Resource, live: &Value, scale: &Value) -> Result<Value, Status> {
    let paths = resource.kind.scale().ok_or_else(Status::no_such_path)?;
    let name = live["metadata"]["name"].as_str().unwrap_or_default();
    let replicas = replicas(resource, name, scale)?;
    let mut object = live.clone();
    // The live version is nobody's wish: without one of the client's the change is tried again after a conflict.
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    if let Some(version) = metadata::wanted_version(scale) {
        object["metadata"]["resourceVersion"] = version.into();
    }
    set(&mut object, paths.spec_replicas, replicas)?;
    Ok(object)
}

/// Writes a number where a pointer leads, with the objects on the way.
fn set(object: &mut Value, pointer: &str, replicas: i64) -> Result<(), Status> {
    let mut target = object;
    for step in pointer.split('/').skip(1) {
        if !matches!(target, Value::Object(_) | Value::Null) {
            let path = pointer.replace('/', ".");
            let why = format!("{path:?} leads through what is no object");
            return Err(Status::internal(why));
        }
        target = &mut target[step];
    }
    *target = replicas.into();
    Ok(())
}

/// How many somebody applies; `None` where the configuration does not say.
fn applied(
    resource: &Resource,
    cx: &WriteContext,
    kind: &dyn AnyKind,
    name: &str,
    sent: &Value,
) -> Result<Option<i64>, Status> {
    let text = |key: &str| sent[key].as_str().unwrap_or_default();
    let (version, of) = (text("apiVersion"), text("kind"));
    if (version, of) != ("autoscaling/v1", "Scale") {
        let version = match version.is_empty() {
            true => "/",
            false => version,
        };
        let why = format!("invalid object type: {version}, Kind={of}");
        return Err(Status::bad_request(why));
    }
    resource.check_name(cx, name, sent)?;
    apply::typed::check(kind, &schema::of(kind), sent)?;
    let wanted = body::read(kind, cx, Decoded::of(sent.clone()))?;
    match wanted["spec"].get("replicas") {
        None => Ok(None),
        Some(_) => replicas(resource, name, &wanted).map(Some),
    }
}

/// An object with as many as somebody applies: who applies a number owns it.
fn apply_scale(
    cx: &WriteContext,
    resource: &Resource,
    name: &str,
    live: &Value,
    replicas: Option<i64>,
    force: bool,
) -> Result<Value, Status> {
    let paths = resource.kind.scale().ok_or_else(Status::no_such_path)?;
    let mut wanted = json!({"metadata": {"name": name}});
    if let Some(replicas) = replicas {
        set(&mut wanted, paths.spec_replicas, replicas)?;
    }
    let manager = resource.manager(cx, "scale");
    let applied = apply::apply(resource.schema(), live, &wanted, &manager, force, None)?;
    let mut applied = applied.object;
    // Who applies no number any more leaves none, and not what an object begins with.
    if live.pointer(paths.spec_replicas).is_some()
        && applied
            .pointer(paths.spec_replicas)
            .is_none_or(Value::is_null)
    {
        set(&mut applied, paths.spec_replicas, 0)?;
    }
    metadata::drop_live_version(&mut applied, live);
    Ok(applied)
}
