//! Subresources: status and other parts, scale, binding, eviction, finalize, token, and the streams of a pod.

use corral_api::field::{FieldError, FieldPath};
use corral_api::gvk::GroupVersionKind;
use corral_api::k8s::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use corral_api::k8s::api::core::v1::ServiceAccount;
use corral_api::status::Status;
use corral_kinds::{AnyKind, all};
use serde_json::{Value, json};

use super::{Call, eviction, object_answer, scale, with_warnings, write};
use crate::admission::request::{Operation, Request};
use crate::admission::{namespace_lifecycle, node_restriction};
use crate::apply::{self, Manager, Owners, Views, take_managed};
use crate::authn::tokens::{Binding, Bound, Grant, LIFE_SECONDS_MAX, LIFE_SECONDS_MIN};
use crate::authz::node;
use crate::decode::Decoded;
use crate::registry::{Ownership, Part, Resource, WriteContext, body, metadata};
use crate::request::Verb;
use crate::response::{self, Answer};

/// The life of a token for which none is asked.
const LIFE_SECONDS: i64 = 3600;

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
    connect(&call, &resource).await?;
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
        ("scale", verb) if kind.scale().is_some() => scale::handle(&call, &resource, verb).await,
        ("finalize", Verb::Update) if kind.names().kind == "Namespace" => {
            finalize(&call, &resource).await
        }
        ("token", Verb::Create) if kind.names().kind == "ServiceAccount" => {
            token(&call, &resource).await
        }
        ("binding", Verb::Create) if pods => bind(&call, &resource).await,
        ("eviction", Verb::Create) if pods => Box::pin(eviction::evict(&call, &resource)).await,
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

/// Asks webhooks about a connection to what an object stands for.
async fn connect(call: &Call, resource: &Resource) -> Result<(), Status> {
    let kind = match (resource.kind.names().plural, call.info.subresource.as_str()) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", "proxy") => "PodProxyOptions",
        ("services", "proxy") => "ServiceProxyOptions",
        ("nodes", "proxy") => "NodeProxyOptions",
        _ => return Ok(()),
    };
    if !resource.kind.names().group.is_empty() {
        return Ok(());
    }
    let cx = call.write_context()?;
    let kind = GroupVersionKind {
        group: String::new(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
    };
    let request = Request::about(resource, &cx, Operation::Connect, &call.info.name)
        .of_subresource(&call.info.subresource, kind);
    let options = connect_options(call, &request.kind.kind);
    let admission = &resource.admission;
    admission.admit_other(&request, options).await.map(drop)
}

/// What a client says about its connection, as an object.
fn connect_options(call: &Call, kind: &str) -> Value {
    let query = &call.info.query;
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if kind.ends_with("ProxyOptions") {
        options["path"] = call
            .parts
            .uri
            .path()
            .rsplit_once("/proxy")
            .map_or("", |(_, path)| path)
            .into();
        return options;
    }
    if kind == "PodPortForwardOptions" {
        let ports: Vec<i64> = query
            .all("ports")
            .iter()
            .filter_map(|port| port.parse().ok())
            .collect();
        if !ports.is_empty() {
            options["ports"] = ports.into();
        }
        return options;
    }
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = query.get("container") {
        options["container"] = container.into();
    }
    if kind == "PodExecOptions" {
        options["command"] = query.all("command").to_vec().into();
    }
    options
}

/// Writes into the body of a subresource the namespace that it is sent to, and leaves out of its metadata what says
/// nothing.
fn place(body: &mut Value, namespace: &str) {
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.retain(|_, value| !value.is_null() && *value != "" && *value != 0);
        metadata.insert("namespace".to_owned(), namespace.into());
    }
}

/// Asks webhooks about the body of a subresource, which is of another kind than the resource; answers what they make of
/// it.
pub(super) async fn admit_other(
    call: &Call,
    resource: &Resource,
    cx: &WriteContext,
    kind: &dyn AnyKind,
    mut body: Value,
) -> Result<Value, Status> {
    let names = kind.names();
    let kind = GroupVersionKind {
        group: names.group.to_owned(),
        version: names.version.to_owned(),
        kind: names.kind.to_owned(),
    };
    body["kind"] = names.kind.into();
    body["apiVersion"] = names.api_version().into();
    place(&mut body, &call.info.namespace);
    let request = Request::about(resource, cx, Operation::Create, &call.info.name)
        .of_subresource(&call.info.subresource, kind);
    resource.admission.admit_other(&request, body).await
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
    Ok(with_warnings(
        object_answer(call, resource, 200, written.json)?,
        &cx,
    ))
}

/// Gives a pod to a node; the body names the pod.
pub(super) async fn bind_by_collection(call: &Call) -> Result<Answer, Status> {
    let body = call.decoded_kind("", "v1", "Binding")?.value;
    let name = body["metadata"]["name"].as_str().unwrap_or("").to_owned();
    if name.is_empty() {
        return Err(Status::bad_request("metadata.name must name the pod"));
    }
    let pods = call.shared.api.core("pods").clone();
    bind_to(call, &pods, &name, body).await
}

/// Gives a pod to a node.
async fn bind(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let body = call.decoded_kind("", "v1", "Binding")?.value;
    bind_to(call, resource, &call.info.name, body).await
}

/// What a pod is given to must be a node.
///
/// # Errors
/// 500, as kube-apiserver, which gives these errors no code of their own.
fn check_target(target: &Value) -> Result<(), Status> {
    let text = |key: &str| target[key].as_str().unwrap_or("");
    let mut errors = Vec::new();
    if !matches!(text("kind"), "" | "Node") {
        let path = FieldPath::new("target.kind");
        errors.push(FieldError::not_supported(
            &path,
            text("kind"),
            &["Node", "<empty>"],
        ));
    }
    if text("name").is_empty() {
        errors.push(FieldError::required(&FieldPath::new("target.name"), ""));
    }
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match told.as_slice() {
        [] => Ok(()),
        [one] => Err(Status::unexpected(one.as_str())),
        many => Err(Status::unexpected(format!("[{}]", many.join(", ")))),
    }
}

async fn bind_to(
    call: &Call,
    resource: &Resource,
    name: &str,
    body: Value,
) -> Result<Answer, Status> {
    let cx = call.write_context()?;
    let binding = all::kind("", "v1", "Binding")
        .ok_or_else(|| Status::internal("there is no kind Binding"))?;
    let mut body = body::read(binding, &cx, Decoded::of(body))?;
    let kind = GroupVersionKind {
        group: String::new(),
        version: "v1".to_owned(),
        kind: "Binding".to_owned(),
    };
    place(&mut body, &call.info.namespace);
    let request = Request::about(resource, &cx, Operation::Create, name);
    let request = request.of_subresource("binding", kind);
    let body = resource.admission.admit_binding(&request, body).await?;
    let target = &body["target"];
    let node = target["name"].as_str().unwrap_or("").to_owned();
    check_target(target)?;
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
        for map in ["annotations", "labels"] {
            for (key, value) in body["metadata"][map].as_object().into_iter().flatten() {
                pod["metadata"][map][key] = value.clone();
            }
        }
        let now = corral_api::time::format_seconds(cx.now);
        set_condition(
            &mut pod,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}),
        );
        metadata::drop_live_version(&mut pod, live);
        // Nobody owns what a binding writes.
        Ok((pod, Ownership::Applied))
    };
    resource
        .update(&cx, name, Part::Whole, "binding", &change)
        .await?;
    let status = Status {
        code: 201,
        ..Status::success(None)
    };
    Ok(with_warnings(
        super::status_answer(call, resource, &status)?,
        &cx,
    ))
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
    const GROUP: &str = "authentication.k8s.io";
    const KIND: &str = "TokenRequest";
    let info = &call.info;
    let cx = call.write_context()?;
    let kind = all::kind(GROUP, "v1", KIND).ok_or_else(Status::no_such_path)?;
    let schema = corral_kinds::schema::of(kind);
    let mut sent = body::read(kind, &cx, call.decoded(&schema)?)?;
    metadata::check_namespace(&cx, &sent)?;
    if !sent["spec"].is_object() {
        sent["spec"] = json!({});
    }
    if sent["spec"]["expirationSeconds"].is_null() {
        sent["spec"]["expirationSeconds"] = LIFE_SECONDS.into();
    }
    let owners = take_managed(&mut sent);
    let manager = Manager {
        api_version: kind.names().api_version(),
        ..resource.manager(&cx, "token")
    };
    let owners = Owners {
        stored: None,
        sent: owners.as_ref(),
        kind: Some(KIND),
    };
    let mut managed = apply::update(&schema, None, &sent, owners, &manager, &Views::default());
    for entry in managed.iter_mut().filter_map(Value::as_array_mut).flatten() {
        // To Go an empty request has it already, as null, so that nobody owns that it is there.
        let reference = entry["fieldsV1"].pointer_mut("/f:spec/f:boundObjectRef");
        if let Some(fields) = reference.and_then(Value::as_object_mut) {
            fields.remove(".");
        }
    }
    namespace_lifecycle::check_there(&call.shared.api, &info.namespace).await?;
    let mut answer = admit_other(call, resource, &cx, kind, sent).await?;
    let invalid = |name: &str, error: FieldError| Status::invalid(GROUP, KIND, name, &[error]);
    let request: TokenRequest = serde_json::from_value(answer.clone())
        .map_err(|e| Status::bad_request(format!("TokenRequest cannot be read: {e}")))?;
    if let Some(name) = request.metadata.name.filter(|name| *name != info.name) {
        let why = "must match the service account name if specified";
        let error = FieldError::invalid(&FieldPath::new("metadata.name"), name, why);
        return Err(invalid(&info.name, error));
    }
    let key = resource.key(&info.namespace, &info.name);
    let entry = resource
        .fetch(&key)
        .await?
        .ok_or_else(|| resource.not_found(&info.name))?;
    let account: ServiceAccount = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    let uid = account.metadata.uid.unwrap_or_default();
    if let Some(wanted) = request.metadata.uid.filter(|wanted| *wanted != uid) {
        let why = format!(
            "the UID in the token request ({wanted}) does not match the UID of the service account ({uid})"
        );
        return Err(Status::conflict(GROUP, KIND, &info.name, &why));
    }
    let mut spec = request.spec.unwrap_or_default();
    let seconds = spec.expiration_seconds.unwrap_or(LIFE_SECONDS);
    let out_of_bounds = match seconds {
        ..LIFE_SECONDS_MIN => Some("may not specify a duration less than 10 minutes"),
        LIFE_SECONDS_MIN..=LIFE_SECONDS_MAX => None,
        _ => Some("may not specify a duration larger than 2^32 seconds"),
    };
    if let Some(why) = out_of_bounds {
        let path = FieldPath::new("spec.expirationSeconds");
        return Err(invalid("", FieldError::invalid(&path, seconds, why)));
    }
    let tokens = call.shared.authenticator.tokens();
    if let Some(me) = node::name_of(&call.user) {
        // A node has tokens only for what runs on it, and they die with that.
        let asked = node_restriction::tokens::Asked {
            api: &call.shared.api,
            authorizer: &call.shared.authorizer,
            user: &call.user,
            node: me,
            namespace: &info.namespace,
            account: &info.name,
        };
        asked.check(&spec).await?;
    }
    let mut audiences = std::mem::take(&mut spec.audiences).unwrap_or_default();
    if audiences.is_empty() {
        audiences.extend(tokens.audiences().iter().cloned());
    }
    let binding = binding(call, &spec).await?;
    let grant = Grant {
        namespace: &info.namespace,
        account: Bound {
            name: info.name.clone(),
            uid: uid.clone(),
        },
        binding,
        audiences: audiences.clone(),
        seconds,
    };
    let issued = tokens.issue(grant, cx.now)?;
    let id = format!("JTI={}", issued.id);
    crate::audit::annotate("authentication.kubernetes.io/issued-credential-id", &id);
    let text = |at| Value::from(corral_api::time::format_seconds(at));
    let metadata = &mut answer["metadata"];
    metadata["name"] = info.name.clone().into();
    metadata["namespace"] = info.namespace.clone().into();
    metadata["uid"] = uid.into();
    metadata["creationTimestamp"] = text(cx.now);
    metadata["managedFields"] = managed.unwrap_or_default();
    answer["spec"]["audiences"] = audiences.into();
    answer["spec"]["boundObjectRef"] = answer["spec"]["boundObjectRef"].take();
    answer["status"] = json!({"token": issued.token, "expirationTimestamp": text(issued.expires)});
    let answer = response::object(201, call.whole_representation()?, &answer);
    Ok(with_warnings(answer, &cx))
}

/// What a token shall be bound to; with a pod, its node.
async fn binding(call: &Call, spec: &TokenRequestSpec) -> Result<Binding, Status> {
    let mut binding = Binding::default();
    let Some(reference) = &spec.bound_object_ref else {
        return Ok(binding);
    };
    let version = reference.api_version.as_deref().unwrap_or("");
    let kind = reference.kind.as_deref().unwrap_or("");
    let (group, version) = match version.split_once('/') {
        None => ("", version),
        Some((group, version)) if !version.contains('/') => (group, version),
        Some(_) => ("", ""),
    };
    let (plural, place) = match (group, kind) {
        ("", "Pod") => ("pods", &mut binding.pod),
        ("", "Node") => ("nodes", &mut binding.node),
        ("", "Secret") => ("secrets", &mut binding.secret),
        _ => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let name = reference.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let resource = call.shared.api.core(plural);
    let namespace = if plural == "nodes" {
        ""
    } else {
        call.info.namespace.as_str()
    };
    let entry = resource.fetch(&resource.key(namespace, &name)).await?;
    let entry = entry.ok_or_else(|| resource.not_found(&name))?;
    let object: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("");
    if plural == "pods" && text("/spec/serviceAccountName") != call.info.name {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            call.info.name
        )));
    }
    let uid = text("/metadata/uid").to_owned();
    let wanted = reference.uid.as_deref().unwrap_or("");
    if !wanted.is_empty() && wanted != uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", kind, &name, &why));
    }
    *place = Some(Bound { name, uid });
    if plural == "pods" {
        let nodes = call.shared.api.core("nodes");
        let node = text("/spec/nodeName");
        let live = nodes.cacher.peek(&nodes.key("", node));
        binding.node = live.map(|stored| Bound {
            name: node.to_owned(),
            uid: stored
                .value()
                .ok()
                .and_then(|v| v["metadata"]["uid"].as_str().map(str::to_owned))
                .unwrap_or_default(),
        });
    }
    Ok(binding)
}
