//! POST, PUT, PATCH and DELETE.

use corral_api::k8s::apimachinery::pkg::apis::meta::v1 as meta;
use corral_api::status::Status;
use corral_kinds::schema;
use serde_json::Value;

use super::{Call, object_answer, read, status_answer, with_warnings};
use crate::audit;
use crate::authz::{Access, Decision};
use crate::crd;
use crate::decode::{Decoded, Format};
use crate::negotiate::{self, PatchType};
use crate::patch;
use crate::registry::delete::unreadable;
use crate::registry::{
    DeleteOptions, FieldValidation, Ownership, Part, Resource, WriteContext, Written, metadata,
};
use crate::response::Answer;

/// POST to a collection.
pub(super) async fn create(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    if resource.kind.names().namespaced && call.info.namespace.is_empty() {
        return Err(Status::method_not_allowed());
    }
    if crd::is_closed(resource) {
        return Err(Status::method_not_allowed());
    }
    let cx = call.write_context()?;
    let body = call.decoded(resource.schema())?;
    let written = resource.create(&cx, body).await?;
    Ok(with_warnings(
        object_answer(call, resource, 201, written.json)?,
        &cx,
    ))
}

/// PUT.
pub(super) async fn replace(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    replace_part(call, resource, Part::Main).await
}

/// PUT of a part.
pub(super) async fn replace_part(
    call: &Call,
    resource: &Resource,
    part: Part,
) -> Result<Answer, Status> {
    let cx = call.write_context()?;
    let body = call.decoded(resource.schema())?;
    let written = resource.replace(&cx, &call.info.name, part, body).await?;
    finish(call, resource, &cx, written)
}

fn finish(
    call: &Call,
    resource: &Resource,
    cx: &WriteContext,
    written: Written,
) -> Result<Answer, Status> {
    let code = if written.created { 201 } else { 200 };
    Ok(with_warnings(
        object_answer(call, resource, code, written.json)?,
        cx,
    ))
}

/// PATCH.
pub(super) async fn patch(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    patch_part(call, resource, Part::Main).await
}

/// PATCH of a part.
pub(super) async fn patch_part(
    call: &Call,
    resource: &Resource,
    part: Part,
) -> Result<Answer, Status> {
    let cx = call.write_context()?;
    let written = apply_patch(call, resource, &cx, part).await?;
    finish(call, resource, &cx, written)
}

async fn apply_patch(
    call: &Call,
    resource: &Resource,
    cx: &WriteContext,
    part: Part,
) -> Result<Written, Status> {
    let (kind, format) = negotiate::patch_type(call.headers())?;
    if kind == PatchType::Strategic && resource.kind.is_custom() {
        // Only types of Kubernetes' own say how their lists merge.
        return Err(Status::unsupported_media_type(
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        ));
    }
    let name = &call.info.name;
    let force = call.info.query.flag("force");
    if kind == PatchType::Apply {
        if call
            .info
            .query
            .get("fieldManager")
            .is_none_or(str::is_empty)
        {
            let path = corral_api::FieldPath::new("fieldManager");
            let error = corral_api::FieldError::required(&path, "is required for apply patch");
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]));
        }
        // Configurations are mostly JSON, which is YAML too, and reads faster as such.
        let is_json = call.body.trim_ascii_start().first() == Some(&b'{');
        let format = if is_json { Format::Json } else { format };
        let body = call.decoded_configuration(format)?;
        return resource.apply(cx, name, part, body, force).await;
    }
    if force {
        let path = corral_api::FieldPath::new("force");
        let error =
            corral_api::FieldError::forbidden(&path, "may not be specified for non-apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]));
    }
    let Decoded {
        value: document,
        duplicates,
        ..
    } = match kind {
        PatchType::Json => {
            if let (Some(record), Ok(patch)) =
                (audit::current(), serde_json::from_slice(&call.body))
            {
                record.patched(&patch);
            }
            Decoded::of(Value::Null)
        }
        _ => call.decoded_patch(kind, format)?,
    };
    report_duplicates(cx, &duplicates)?;
    let subresource = part.subresource();
    let change = |live: &Value| {
        let mut patched = resource.read_patched(cx, || match kind {
            PatchType::Json => as_version(cx, resource, patch::json_patch(live, &call.body)?),
            PatchType::Merge => as_version(cx, resource, patch::merge_patch(live, &document)?),
            _ => patch::strategic_patch(resource.schema(), live, &document),
        })?;
        resource.check_name(cx, name, &patched)?;
        resource.same_identity(name, &patched, live)?;
        metadata::drop_live_version(&mut patched, live);
        Ok((patched, Ownership::Update))
    };
    resource.update(cx, name, part, subresource, &change).await
}

/// What a patch has made of an object, as the version that it says it is. One that says none is read in none at all, and
/// there no field has a name.
fn as_version(cx: &WriteContext, resource: &Resource, patched: Value) -> Result<Value, Status> {
    let names = resource.kind.names();
    let is_said = patched["apiVersion"]
        .as_str()
        .is_some_and(|v| !v.is_empty());
    let Value::Object(map) = &patched else {
        return Ok(patched);
    };
    let wrong = !matches!(patched["apiVersion"], Value::Null | Value::String(_));
    if is_said || wrong || resource.kind.is_custom() {
        return Ok(patched);
    }
    let unknown = map
        .keys()
        .filter(|key| !matches!(key.as_str(), "apiVersion" | "kind"));
    let mut unknown: Vec<String> = unknown
        .map(|key| format!("unknown field {key:?}"))
        .collect();
    unknown.sort();
    match cx.validation {
        FieldValidation::Strict => {
            let why = format!("strict decoding error: {}", unknown.join(", "));
            let path = corral_api::FieldPath::new("patch");
            let error = corral_api::FieldError::invalid(&path, patched.to_string(), why);
            return Err(Status::invalid("", "", "", &[error]));
        }
        FieldValidation::Warn => unknown.into_iter().for_each(|text| cx.warn(text)),
        FieldValidation::Ignore => {}
    }
    Ok(serde_json::json!({"apiVersion": names.api_version(), "kind": names.kind}))
}

fn report_duplicates(cx: &WriteContext, duplicates: &[String]) -> Result<(), Status> {
    match cx.validation {
        FieldValidation::Strict if !duplicates.is_empty() => Err(Status::bad_request(format!(
            "strict decoding error: {}",
            duplicates.join(", ")
        ))),
        FieldValidation::Warn => {
            duplicates.iter().for_each(|text| cx.warn(text.as_str()));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Options of a deletion: those of the body, or, without one, those of the URL.
pub(super) fn delete_options(call: &Call) -> Result<DeleteOptions, Status> {
    if !call.body.is_empty() {
        let body = call.decoded(&schema::of_type::<meta::DeleteOptions>())?;
        let kind = body.value["kind"].as_str().unwrap_or("");
        if !matches!(kind, "" | "DeleteOptions") {
            return Err(Status::bad_request(format!(
                "converting (v1.{kind}) to (v1.DeleteOptions): unknown conversion"
            )));
        }
        return serde_json::from_value(body.value)
            .map_err(|e| Status::bad_request(format!("DeleteOptions cannot be read: {e}")));
    }
    let query = &call.info.query;
    let flag = |name| query.get(name).map(|_| query.flag(name));
    let dry_run = query.all("dryRun");
    Ok(DeleteOptions {
        grace_period_seconds: query.integer("gracePeriodSeconds")?,
        preconditions: None,
        orphan_dependents: flag("orphanDependents"),
        propagation_policy: query.get("propagationPolicy").map(str::to_owned),
        dry_run: (!dry_run.is_empty()).then(|| dry_run.to_vec()),
        ignore_read_error: flag("ignoreStoreReadErrorWithClusterBreakingPotential"),
    })
}

/// DELETE of one object.
pub(super) async fn delete(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let options = delete_options(call)?;
    options.validate()?;
    let cx = call.context(options.is_dry_run())?;
    if options.ignores_read_error() {
        return delete_unreadable(call, resource, &cx, &options).await;
    }
    let written = resource.delete(&cx, &call.info.name, &options).await?;
    let answer = if written.removed && !returns_object(resource) {
        status_answer(call, resource, &resource.deleted_status(&written)?)
    } else {
        // Of old, who asked for dependents to go as well was told that they had not gone yet.
        let is_told = !written.removed && options.orphan_dependents == Some(false);
        object_answer(
            call,
            resource,
            if is_told { 202 } else { 200 },
            written.json,
        )
    };
    Ok(with_warnings(answer?, &cx))
}

/// DELETE of an object that cannot be read.
async fn delete_unreadable(
    call: &Call,
    resource: &Resource,
    cx: &WriteContext,
    options: &DeleteOptions,
) -> Result<Answer, Status> {
    audit::annotate(unreadable::AUDIT_ANNOTATION, "");
    let name = &call.info.name;
    let names = resource.kind.names();
    let access = Access {
        verb: unreadable::VERB.to_owned(),
        group: names.group.to_owned(),
        version: names.version.to_owned(),
        resource: names.plural.to_owned(),
        namespace: cx.namespace.clone(),
        name: name.clone(),
        ..Default::default()
    };
    let (decision, reason) = call.shared.authorizer.decide(&cx.user, &access).await;
    if decision != Decision::Allow {
        return Err(unreadable::forbidden(resource, name, &reason));
    }
    let status = resource.delete_unreadable(cx, name, options).await?;
    Ok(with_warnings(status_answer(call, resource, &status)?, cx))
}

/// Kinds whose deletion answers the object even when it is gone at once, as in Kubernetes.
fn returns_object(resource: &Resource) -> bool {
    matches!(
        resource.kind.names().kind,
        "Pod" | "Service" | "ServiceAccount" | "PodTemplate"
    )
}

/// An item of a list: the list says its type, unless a client has described the kind.
fn item(resource: &Resource, mut item: Value) -> Value {
    if let (Value::Object(map), false) = (&mut item, resource.kind.is_custom()) {
        map.remove("apiVersion");
        map.remove("kind");
    }
    item
}

/// DELETE of a collection, or of a page of it.
pub(super) async fn delete_collection(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let options = delete_options(call)?;
    options.validate()?;
    unreadable::refuse_for_collections(&options)?;
    let mut cx = call.context(options.is_dry_run())?;
    cx.asked.collection = true;
    let selected = read::select(call, resource).await?;
    for stored in &selected.items {
        let (namespace, name) = stored.namespace_and_name(resource.cacher.prefix());
        namespace.clone_into(&mut cx.namespace);
        match resource.delete(&cx, name, &options).await {
            Err(status) if status.is(corral_api::StatusReason::NotFound) => {}
            other => {
                other?;
            }
        }
    }
    let names = resource.kind.names();
    let items = selected.items.iter().filter_map(|s| s.value().ok());
    let list = serde_json::json!({
        "kind": resource.kind.list_kind(), "apiVersion": names.api_version(),
        "metadata": selected.metadata(resource.kind.is_custom()),
        "items": items.map(|value| item(resource, value)).collect::<Vec<_>>(),
    });
    let answer = crate::response::object(200, call.representation(resource)?, &list);
    Ok(with_warnings(answer, &cx))
}
