//! Subresources: status and other parts, scale, binding, eviction, finalize, token, and the streams of a pod.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::authentication::v1::{
    TokenRequest, TokenRequestSpec, TokenRequestStatus,
};
use corral_api::k8s::api::core::v1::ServiceAccount;
use corral_api::status::Status;
use corral_api::time::Time;
use corral_kinds::all;
use serde_json::{Value, json};

use super::{Call, eviction, object_answer, with_warnings, write};
use crate::authn::tokens::{Bound, Grant, ISSUER, LIFE_SECONDS_MAX, LIFE_SECONDS_MIN};
use crate::authz::node;
use crate::negotiate;
use crate::registry::{Ownership, Part, Resource, metadata};
use crate::request::Verb;
use crate::response::{self, Answer};

/// Answers a request on a subresource.
pub(super) async fn handle(call: Call) -> Result<Answer, Status> {
    let resource = call.resource()?;
    let kind = &resource.kind;
    let is_described = match call.info.subresource.as_str() {
        "status" => kind.has_status(),
        "scale" => kind.scale().is_some(),
        _ => true,
    };
    if kind.is_custom() && !is_described {
        return Err(resource.not_found(&call.info.name));
    }
    let pods = kind.names().group.is_empty() && kind.names().kind == "Pod";
    match (call.info.subresource.as_str(), call.info.verb) {
        ("status", Verb::Get) if kind.has_status() => super::read::get(&call, &resource).await,
        ("status", Verb::Update) if kind.has_status() => {
            write::replace_part(&call, &resource, Part::Status).await
        }
        ("status", Verb::Patch) if kind.has_status() => {
            write::patch_part(&call, &resource, Part::Status).await
        }
        ("approval", Verb::Get) if kind.has_approval() => super::read::get(&call, &resource).await,
        ("approval", Verb::Update) if kind.has_approval() => {
            write::replace_part(&call, &resource, Part::Approval).await
        }
        ("approval", Verb::Patch) if kind.has_approval() => {
            write::patch_part(&call, &resource, Part::Approval).await
        }
        (part, verb) if kind.parts().contains(&part) => {
            let known = kind.parts().iter().find(|known| **known == part);
            let part = Part::Of(known.expect("it is contained"));
            change_part(&call, &resource, part, verb).await
        }
        ("scale", verb) if kind.scale().is_some() => scale(&call, &resource, verb).await,
        ("finalize", Verb::Update) if kind.names().kind == "Namespace" => {
            finalize(&call, &resource).await
        }
        ("token", Verb::Create) if kind.names().kind == "ServiceAccount" => {
            token(&call, &resource).await
        }
        ("binding", Verb::Create) if pods => bind(&call, &resource).await,
        ("eviction", Verb::Create) if pods => eviction::evict(&call, &resource).await,
        ("proxy", _) if pods || matches!(kind.names().kind, "Service" | "Node") => {
            crate::proxy::handle(call).await
        }
        ("log", Verb::Get) if pods => crate::node_proxy::logs(call).await,
        ("exec" | "attach" | "portforward", Verb::Get | Verb::Create) if pods => {
            crate::node_proxy::stream(call).await
        }
        ("status" | "scale" | "finalize" | "token" | "binding" | "eviction" | "log", _) => {
            Err(Status::method_not_allowed())
        }
        _ => Err(Status::no_such_path()),
    }
}

/// A part that the kind has rules for.
async fn change_part(
    call: &Call,
    resource: &Resource,
    part: Part,
    verb: Verb,
) -> Result<Answer, Status> {
    match verb {
        Verb::Get => super::read::get(call, resource).await,
        Verb::Update => write::replace_part(call, resource, part).await,
        Verb::Patch => write::patch_part(call, resource, part).await,
        _ => Err(Status::method_not_allowed()),
    }
}

fn scale_of(resource: &Resource, object: &Value) -> Result<Value, Status> {
    let paths = resource.kind.scale().ok_or_else(Status::no_such_path)?;
    let metadata = &object["metadata"];
    let number = |path| object.pointer(path).and_then(Value::as_i64);
    let wanted = number(paths.spec_replicas);
    if wanted.is_none() && resource.kind.is_custom() {
        let path = paths.spec_replicas.replace('/', ".");
        return Err(Status::internal(format!(
            "the spec replicas field {path:?} does not exist"
        )));
    }
    let selector = match object.pointer(paths.selector) {
        // A custom resource keeps the selector as a text.
        Some(Value::String(text)) => text.clone(),
        other => scale_selector(other.cloned().unwrap_or(Value::Null)).to_string(),
    };
    let mut status = json!({"replicas": number(paths.status_replicas).unwrap_or(0)});
    if !(selector.is_empty() && resource.kind.is_custom()) {
        status["selector"] = selector.into();
    }
    Ok(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": wanted.unwrap_or(0)},
        "status": status,
    }))
}

/// The selector of a kind that scales: a `LabelSelector`, or a plain map of labels.
fn scale_selector(selector: Value) -> corral_api::LabelSelector {
    if let Ok(labels) = serde_json::from_value::<BTreeMap<String, String>>(selector.clone()) {
        return corral_api::LabelSelector::from_set(&labels);
    }
    let selector = serde_json::from_value(selector).ok();
    corral_api::LabelSelector::from_object(selector.as_ref()).unwrap_or_default()
}

async fn scale(call: &Call, resource: &Resource, verb: Verb) -> Result<Answer, Status> {
    let name = &call.info.name;
    let representation = call.whole_representation()?;
    if verb == Verb::Get {
        let key = resource.key(&call.info.namespace, name);
        let entry = resource
            .fetch(&key)
            .await?
            .ok_or_else(|| resource.not_found(name))?;
        let json = crate::object::with_revision(&entry.value, entry.revision);
        let object = serde_json::from_slice(&json).map_err(Status::internal)?;
        return Ok(response::object(
            200,
            representation,
            &scale_of(resource, &object)?,
        ));
    }
    let cx = call.write_context()?;
    let paths = resource.kind.scale().ok_or_else(Status::no_such_path)?;
    let patch = match verb {
        Verb::Update => None,
        Verb::Patch => Some(negotiate::patch_type(call.headers())?),
        _ => return Err(Status::method_not_allowed()),
    };
    let node = all::kind("autoscaling", "v1", "Scale")
        .map(corral_kinds::schema::of)
        .unwrap_or(corral_kinds::schema::Node::Any);
    let document = match patch {
        None => Some(call.decoded(&node)?.value),
        Some((negotiate::PatchType::Json, _)) => None,
        Some((_, format)) => Some(call.decoded_patch(format)?.value),
    };
    let change = |live: &Value| {
        let current = scale_of(resource, live)?;
        let wanted = match (patch, &document) {
            (None, Some(sent)) => sent.clone(),
            (
                Some((negotiate::PatchType::Strategic | negotiate::PatchType::Apply, _)),
                Some(sent),
            ) => crate::patch::strategic_patch(&node, &current, sent)?,
            (_, Some(sent)) => crate::patch::merge_patch(&current, sent)?,
            (_, None) => crate::patch::json_patch(&current, &call.body)?,
        };
        resource.check_name(&cx, name, &wanted)?;
        let replicas = wanted["spec"]
            .get("replicas")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if replicas < 0 || replicas > i64::from(i32::MAX) {
            let path = FieldPath::new("spec.replicas");
            let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", name, &[error]));
        }
        let mut object = live.clone();
        // The live version is nobody's wish: without one of the client's the change is tried again after a conflict.
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        if let Some(version) = metadata::wanted_version(&wanted) {
            object["metadata"]["resourceVersion"] = version.into();
        }
        let steps = paths.spec_replicas.split('/').skip(1);
        let mut target = &mut object;
        for step in steps {
            if !matches!(target, Value::Object(_) | Value::Null) {
                let path = paths.spec_replicas.replace('/', ".");
                return Err(Status::internal(format!(
                    "{path:?} leads through what is no object"
                )));
            }
            target = &mut target[step];
        }
        *target = replicas.into();
        if patch.is_some() {
            metadata::drop_live_version(&mut object, live);
        }
        Ok((object, Ownership::Update))
    };
    let written = resource
        .update(&cx, name, Part::Main, "scale", &change)
        .await?;
    let object = serde_json::from_slice(&written.json).map_err(Status::internal)?;
    let answer = response::object(200, representation, &scale_of(resource, &object)?);
    Ok(with_warnings(answer, &cx))
}

/// Replaces the finalizers of a namespace's spec.
async fn finalize(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let cx = call.write_context()?;
    let sent = resource.read_body(&cx, call.decoded(resource.schema())?)?;
    let change = |live: &Value| {
        let mut object = live.clone();
        let finalizers = sent["spec"]
            .get("finalizers")
            .cloned()
            .unwrap_or_else(|| json!([]));
        object["spec"]["finalizers"] = finalizers;
        match sent["metadata"].get("resourceVersion") {
            Some(version) => object["metadata"]["resourceVersion"] = version.clone(),
            None => metadata::drop_live_version(&mut object, live),
        }
        Ok((object, Ownership::Update))
    };
    let written = resource
        .update(&cx, &call.info.name, Part::Whole, "finalize", &change)
        .await?;
    object_answer(call, resource, 200, written.json)
}

/// Gives a pod to a node; the body names the pod.
pub(super) async fn bind_by_collection(call: &Call) -> Result<Answer, Status> {
    let body = call.decoded_kind("", "v1", "Binding")?.value;
    let name = body["metadata"]["name"].as_str().unwrap_or("").to_owned();
    if name.is_empty() {
        return Err(Status::bad_request("metadata.name must name the pod"));
    }
    let pods = call.shared.api.core("pods").clone();
    bind_to(call, &pods, &name, &body).await
}

/// Gives a pod to a node.
async fn bind(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let body = call.decoded_kind("", "v1", "Binding")?.value;
    bind_to(call, resource, &call.info.name, &body).await
}

async fn bind_to(
    call: &Call,
    resource: &Resource,
    name: &str,
    body: &Value,
) -> Result<Answer, Status> {
    let cx = call.write_context()?;
    let target = &body["target"];
    let node = target["name"].as_str().unwrap_or("").to_owned();
    if node.is_empty() {
        let error = FieldError::required(&FieldPath::new("target.name"), "");
        return Err(Status::invalid("", "Binding", name, &[error]));
    }
    if let Some(kind) = target["kind"]
        .as_str()
        .filter(|k| !matches!(*k, "" | "Node"))
    {
        let error =
            FieldError::not_supported(&FieldPath::new("target.kind"), kind, &["Node", "<empty>"]);
        return Err(Status::invalid("", "Binding", name, &[error]));
    }
    let change = |live: &Value| {
        let names = resource.kind.names();
        let refuse = |why: String| Status::conflict(names.group, "pods/binding", name, &why);
        let sent_uid = body["metadata"]["uid"].as_str().unwrap_or("");
        let live_uid = live["metadata"]["uid"].as_str().unwrap_or("");
        if !sent_uid.is_empty() && sent_uid != live_uid {
            return Err(refuse(format!(
                "Precondition failed: UID in precondition: {sent_uid}, UID in object meta: {live_uid}"
            )));
        }
        if live["metadata"].get("deletionTimestamp").is_some() {
            return Err(refuse(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        if let Some(current) = live["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
            return Err(refuse(format!(
                "pod {name} is already assigned to node {current:?}"
            )));
        }
        if live["spec"]["schedulingGates"]
            .as_array()
            .is_some_and(|g| !g.is_empty())
        {
            return Err(refuse(format!(
                "pod {name} has non-empty .spec.schedulingGates"
            )));
        }
        let mut pod = live.clone();
        pod["spec"]["nodeName"] = node.clone().into();
        for (key, value) in body["metadata"]["annotations"]
            .as_object()
            .into_iter()
            .flatten()
        {
            pod["metadata"]["annotations"][key] = value.clone();
        }
        let now = corral_api::time::format_seconds(cx.now);
        set_condition(
            &mut pod,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}),
        );
        metadata::drop_live_version(&mut pod, live);
        Ok((pod, Ownership::Update))
    };
    resource
        .update(&cx, name, Part::Whole, "binding", &change)
        .await?;
    let status = Status {
        code: 201,
        ..Status::success(None)
    };
    super::status_answer(call, resource, &status)
}

/// Sets a condition of a pod that did not hold, or not for this reason.
pub(super) fn set_condition(pod: &mut Value, condition: Value) {
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|other| other["type"] != condition["type"]);
        conditions.push(condition);
    }
}

/// Makes a token of a ServiceAccount.
async fn token(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let info = &call.info;
    let cx = call.write_context()?;
    let body = call.decoded_kind("authentication.k8s.io", "v1", "TokenRequest")?;
    let mut request: TokenRequest = serde_json::from_value(body.value)
        .map_err(|e| Status::bad_request(format!("TokenRequest cannot be read: {e}")))?;
    let key = resource.key(&info.namespace, &info.name);
    let entry = resource
        .fetch(&key)
        .await?
        .ok_or_else(|| resource.not_found(&info.name))?;
    let account: ServiceAccount = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    let invalid =
        |error: FieldError| Status::invalid("authentication.k8s.io", "TokenRequest", "", &[error]);
    let mut spec = request.spec.take().unwrap_or_default();
    let seconds = spec.expiration_seconds.unwrap_or(3600);
    let path = FieldPath::new("spec.expirationSeconds");
    if seconds < LIFE_SECONDS_MIN {
        return Err(invalid(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration less than 10 minutes",
        )));
    }
    if seconds > LIFE_SECONDS_MAX {
        return Err(invalid(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        )));
    }
    let mut audiences = std::mem::take(&mut spec.audiences).unwrap_or_default();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let (pod, node) = bound_pod(call, &spec).await?;
    let bound_by_uid = spec
        .bound_object_ref
        .as_ref()
        .is_some_and(|reference| reference.uid.as_deref().is_some_and(|uid| !uid.is_empty()));
    if let Some(me) = node::name_of(&call.user) {
        // A node has tokens only for what runs on it, and they die with that.
        let refuse = |why| Status::forbidden("", "serviceaccounts", &info.name, why);
        if pod.is_none() {
            return Err(refuse("node requested token not bound to a pod"));
        }
        if !bound_by_uid {
            return Err(refuse(
                "node requested token with a pod binding without a uid",
            ));
        }
        if node.as_ref().is_none_or(|node| node.name != me) {
            return Err(refuse(
                "node requested token bound to a pod scheduled on a different node",
            ));
        }
    }
    let grant = Grant {
        namespace: &info.namespace,
        account: Bound {
            name: info.name.clone(),
            uid: account.metadata.uid.unwrap_or_default(),
        },
        pod,
        node,
        audiences: audiences.clone(),
        seconds,
    };
    let (token, expires) = call.shared.authenticator.tokens().issue(grant, cx.now)?;
    spec.audiences = Some(audiences);
    spec.expiration_seconds = Some(seconds);
    request.spec = Some(spec);
    request.metadata.name = Some(info.name.clone());
    request.metadata.namespace = Some(info.namespace.clone());
    request.metadata.creation_timestamp = Some(Time(cx.now));
    request.status = Some(TokenRequestStatus {
        token: Some(token),
        expiration_timestamp: Some(Time(expires)),
    });
    Ok(response::object(
        201,
        call.whole_representation()?,
        &request,
    ))
}

/// The pod that a token shall be bound to, and its node.
async fn bound_pod(
    call: &Call,
    spec: &TokenRequestSpec,
) -> Result<(Option<Bound>, Option<Bound>), Status> {
    let Some(reference) = &spec.bound_object_ref else {
        return Ok((None, None));
    };
    let name = reference.name.clone().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("");
    if kind != "Pod" {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount to object of type {kind:?}; Pod is supported"
        )));
    }
    let pods = call.shared.api.core("pods");
    let key = pods.key(&call.info.namespace, &name);
    let entry = pods
        .fetch(&key)
        .await?
        .ok_or_else(|| pods.not_found(&name))?;
    let pod: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    let text = |path: &str| {
        pod.pointer(path)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let uid = text("/metadata/uid");
    if reference
        .uid
        .as_deref()
        .is_some_and(|wanted| !wanted.is_empty() && wanted != uid)
    {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            reference.uid.as_deref().unwrap_or("")
        );
        return Err(Status::conflict("", "Pod", &name, &why));
    }
    if text("/spec/serviceAccountName") != call.info.name {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            call.info.name
        )));
    }
    let node = text("/spec/nodeName");
    let nodes = call.shared.api.core("nodes");
    let live = nodes.cacher.peek(&nodes.key("", &node));
    let node = live.map(|stored| Bound {
        uid: stored
            .value()
            .ok()
            .and_then(|v| v["metadata"]["uid"].as_str().map(str::to_owned))
            .unwrap_or_default(),
        name: node,
    });
    Ok((Some(Bound { name, uid }), node))
}
