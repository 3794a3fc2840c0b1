//! From a request that is allowed to an answer: what is asked, of which resource, in which representation.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use corral_api::status::Status;
use corral_kinds::kind::Verbs;
use corral_kinds::protobuf::Layout;
use corral_kinds::schema::{self, Node};
use corral_kinds::{AnyKind, KindRef, all};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use serde_json::Value;

use crate::Shared;
use crate::audit::{self, Record};
use crate::authn::User;
use crate::chain::REQUEST_TIMEOUT;
use crate::decode::{self, Decoded, Format};
use crate::flow::Seat;
use crate::negotiate::{self, Offer, PatchType, Representation};
use crate::registry::{Asked, FieldValidation, Resource, Warnings, WriteContext};
use crate::request::{RequestInfo, Verb};
use crate::response::{self, Answer};

mod component_status;
mod eviction;
mod read;
mod review;
mod scale;
mod subresource;
mod watch;
mod write;

/// Longest name of a field manager, as in Kubernetes.
const MANAGER_LENGTH_MAX: usize = 128;

/// A request with everything that the chain has found out.
pub struct Call {
    /// The server.
    pub shared: Arc<Shared>,
    /// Who asks.
    pub user: Arc<User>,
    /// What is asked.
    pub info: Arc<RequestInfo>,
    /// Method, URL, headers, extensions.
    pub parts: Parts,
    /// The body, whole.
    pub body: Bytes,
    /// What the client is to be warned of.
    pub warnings: Warnings,
    /// The seat of a watch until it has begun.
    pub begins: Mutex<Option<Seat>>,
}

impl Call {
    /// The resource asked about.
    fn resource(&self) -> Result<Arc<Resource>, Status> {
        let info = &self.info;
        let api = &self.shared.api;
        let resource = api.find(&info.group, &info.version, &info.resource);
        resource.ok_or_else(Status::no_such_path)
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// What the client wants of a resource.
    fn representation(&self, resource: &Resource) -> Result<Representation, Status> {
        self.representation_of(&*resource.kind)
    }

    /// What the client wants of objects of a kind.
    fn representation_of(&self, kind: &dyn AnyKind) -> Result<Representation, Status> {
        let offer = Offer {
            transforms: true,
            // Without asking for the schema, which is built when somebody does.
            protobuf: !kind.is_custom(),
            metadata_in_protobuf: true,
            streams: matches!(self.info.verb, Verb::List | Verb::Watch),
        };
        match self.info.verb {
            Verb::Watch => negotiate::accept_stream(self.headers(), &self.info.query, offer),
            _ => negotiate::accept(self.headers(), &self.info.query, offer),
        }
    }

    /// What the client wants where only whole objects make sense.
    pub(crate) fn whole_representation(&self) -> Result<Representation, Status> {
        negotiate::accept(self.headers(), &self.info.query, Offer::WHOLE)
    }

    /// The body as a tree: an object of the given shape, in the format that the client says.
    fn decoded(&self, shape: &Node) -> Result<Decoded, Status> {
        let offer = Offer {
            protobuf: Layout::of_node(shape).is_some(),
            ..Offer::WHOLE
        };
        let format = negotiate::content(self.headers(), offer)?;
        let decoded = decode::decode(&self.body, format, shape)?;
        if let Some(record) = audit::current() {
            record.requested(&self.recorded(&record, shape, &decoded.value));
        }
        Ok(decoded)
    }

    /// The object of a request as the record tells it: with its type and defaults.
    fn recorded(&self, record: &Record, shape: &Node, value: &Value) -> Value {
        if !record.wants_request() {
            return value.clone();
        }
        let is_options = matches!(shape, Node::Struct { definition, .. }
            if definition.name().ends_with("meta.v1.DeleteOptions"));
        if is_options {
            let mut options = value.clone();
            options["kind"] = "DeleteOptions".into();
            options["apiVersion"] = "meta.k8s.io/__internal".into();
            return options;
        }
        let info = &self.info;
        if !matches!(
            info.subresource.as_str(),
            "" | "status" | "finalize" | "approval"
        ) {
            return value.clone();
        }
        let api = &self.shared.api;
        let kind = api.kind(&info.group, &info.version, &info.resource);
        let defaulted = kind.and_then(|kind| {
            let mut object = kind.decode(value.clone()).ok()?;
            kind.default(&mut object);
            let mut defaulted = kind.encode(&object).ok()?;
            kind.schema().complete(&mut defaulted);
            Some(defaulted)
        });
        defaulted.unwrap_or_else(|| value.clone())
    }

    /// The body as a tree: a patch, in a format that names its fields.
    fn decoded_patch(&self, kind: PatchType, format: Format) -> Result<Decoded, Status> {
        let decoded = decode::decode_text(&self.body, format);
        let decoded = decoded.map_err(|wrong| wrong.of_patch(kind))?;
        if let Some(record) = audit::current() {
            record.patched(&decoded.value);
        }
        Ok(decoded)
    }

    /// The body as a tree: a configuration to apply.
    fn decoded_configuration(&self, format: Format) -> Result<Decoded, Status> {
        let decoded = decode::decode_text(&self.body, format);
        let decoded = decoded.map_err(decode::Undecodable::of_configuration)?;
        if let Some(record) = audit::current() {
            record.patched(&decoded.value);
        }
        match &decoded.value {
            Value::Object(_) | Value::Null => Ok(decoded),
            other => Err(Status::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value \
                 of type map[string]interface {{}}",
                crate::patch::go_kind(other)
            ))),
        }
    }

    /// What the options of this request are called in errors.
    fn options(&self) -> &'static str {
        match self.info.verb {
            Verb::Update => "UpdateOptions",
            Verb::Patch => "PatchOptions",
            Verb::Delete | Verb::DeleteCollection => "DeleteOptions",
            _ => "CreateOptions",
        }
    }

    /// The body as a tree: an object of a kind that is met only as the body of a subresource or as a review.
    fn decoded_kind(&self, group: &str, version: &str, kind: &str) -> Result<Decoded, Status> {
        let kind = all::kind(group, version, kind).ok_or_else(Status::no_such_path)?;
        self.decoded(&schema::of(kind))
    }

    /// The circumstances of a write.
    fn write_context(&self) -> Result<WriteContext, Status> {
        let query = &self.info.query;
        let dry_run = match query.all("dryRun") {
            [] => false,
            all if all.iter().all(|v| v == "All") => true,
            other => {
                let path = corral_api::FieldPath::new("dryRun");
                let given = serde_json::Value::from(other.to_vec());
                let error = corral_api::FieldError::not_supported(&path, given, &["All"]);
                return Err(Status::invalid("meta.k8s.io", self.options(), "", &[error]));
            }
        };
        self.context(dry_run)
    }

    /// The same, where it is known whether the write is to change anything.
    fn context(&self, dry_run: bool) -> Result<WriteContext, Status> {
        let query = &self.info.query;
        let validation = match query.get("fieldValidation") {
            None | Some("" | "Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let error = corral_api::FieldError::not_supported(
                    &corral_api::FieldPath::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                );
                return Err(Status::invalid("meta.k8s.io", self.options(), "", &[error]));
            }
        };
        let text = |name| {
            query
                .get(name)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        Ok(WriteContext {
            user: (*self.user).clone(),
            namespace: self.info.namespace.clone(),
            manager: self.manager()?,
            dry_run,
            validation,
            now: Timestamp::now(),
            warnings: self.warnings.clone(),
            asked: Asked {
                field_manager: text("fieldManager"),
                field_validation: text("fieldValidation"),
                deadline: Some(Instant::now() + REQUEST_TIMEOUT),
                collection: false,
                admitted: false,
            },
            audit: Mutex::default(),
        })
    }

    /// The field manager: what the client says, else the program in its `User-Agent`.
    fn manager(&self) -> Result<String, Status> {
        if let Some(name) = self
            .info
            .query
            .get("fieldManager")
            .filter(|n| !n.is_empty())
        {
            let path = corral_api::FieldPath::new("fieldManager");
            let mut errors = Vec::new();
            if name.len() > MANAGER_LENGTH_MAX {
                errors.push(corral_api::FieldError::too_long(&path, MANAGER_LENGTH_MAX));
            }
            for (at, c) in name.chars().enumerate().filter(|(_, c)| c.is_control()) {
                let why = format!(
                    "invalid character U+{:04X} (at position {at})",
                    u32::from(c)
                );
                errors.push(corral_api::FieldError::invalid(&path, name, why));
            }
            if !errors.is_empty() {
                return Err(Status::invalid("meta.k8s.io", self.options(), "", &errors));
            }
            return Ok(name.to_owned());
        }
        let agent = self
            .headers()
            .get(http::header::USER_AGENT)
            .and_then(|v| v.to_str().ok());
        let program = agent
            .unwrap_or("unknown")
            .split('/')
            .next()
            .unwrap_or("unknown");
        Ok(program.chars().take(MANAGER_LENGTH_MAX).collect())
    }
}

/// Answers a request.
///
/// # Errors
/// The Status to answer instead.
pub async fn handle(call: Call) -> Result<Answer, Status> {
    let info = &call.info;
    if !info.is_resource {
        return crate::paths::handle(&call).await;
    }
    let api = &call.shared.api;
    let kind = api.kind(&info.group, &info.version, &info.resource);
    let kind = kind.ok_or_else(Status::no_such_path)?;
    // What lies behind a proxy has paths and methods of its own.
    if info.subresource != "proxy" {
        if !info.rest.is_empty() {
            return Err(Status::no_such_path());
        }
        if call.parts.method == Method::HEAD {
            return Err(Status::method_not_allowed());
        }
    }
    if kind.deprecation().is_some() {
        call.shared.metrics.deprecated(info);
    }
    let mut answer = route(call, &kind).await?;
    if let Some(text) = kind.deprecation() {
        warn(&mut answer, text);
    }
    Ok(answer)
}

async fn route(call: Call, kind: &KindRef) -> Result<Answer, Status> {
    if !call.info.subresource.is_empty() {
        return Box::pin(subresource::handle(call)).await;
    }
    let info = &call.info;
    if kind.verbs() == Verbs::CreateOnly {
        return match info.verb {
            Verb::Create => review::create(&call).await,
            _ => Err(Status::method_not_allowed()),
        };
    }
    if kind.verbs() == Verbs::ReadOnly {
        return component_status::read(&call, kind).await;
    }
    let resource = call.resource()?;
    // Who cannot be answered changes nothing. Reads begin with the same question.
    if !matches!(info.verb, Verb::Get | Verb::List | Verb::Watch) {
        call.representation(&resource)?;
    }
    match info.verb {
        Verb::Get => read::get(&call, &resource).await,
        Verb::List => read::list(&call, &resource).await,
        Verb::Watch => watch::watch(&call, &resource).await,
        Verb::Create if info.name.is_empty() => write::create(&call, &resource).await,
        Verb::Update if !info.name.is_empty() => write::replace(&call, &resource).await,
        Verb::Patch if !info.name.is_empty() => write::patch(&call, &resource).await,
        Verb::Delete => write::delete(&call, &resource).await,
        // Nobody empties all namespaces at once.
        Verb::DeleteCollection
            if resource.kind.verbs() == Verbs::All
                && resource.kind.names().namespaced != info.namespace.is_empty() =>
        {
            write::delete_collection(&call, &resource).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// An object in the representation that the client wants.
fn object_answer(
    call: &Call,
    resource: &Resource,
    code: u16,
    json: Bytes,
) -> Result<Answer, Status> {
    let representation = call.representation(resource)?;
    read::transformed(call, &*resource.kind, representation, code, json)
}

/// Adds the warnings of a write to its answer.
fn with_warnings(answer: Answer, cx: &WriteContext) -> Answer {
    warned(answer, &cx.warnings)
}

/// Adds warnings to an answer.
pub fn warned(mut answer: Answer, warnings: &Warnings) -> Answer {
    let warnings = std::mem::take(&mut *warnings.lock().expect("no panic under the lock"));
    let fitting = fitting(&warnings);
    fitting.iter().for_each(|text| warn(&mut answer, text));
    answer
}

/// The warnings that a response has room for. When they are too much in all, each is cut and the first stay.
fn fitting(warnings: &[String]) -> Vec<&str> {
    /// Characters of all warnings of a response, as in Kubernetes: clients and proxies bound headers.
    const CHARACTERS_MAX: usize = 4096;
    /// Characters of each where they are cut.
    const CUT: usize = 256;
    let length = |text: &str| text.chars().count();
    let total: usize = warnings.iter().map(|text| length(text)).sum();
    if total <= CHARACTERS_MAX {
        return warnings.iter().map(String::as_str).collect();
    }
    let mut room = CHARACTERS_MAX;
    let cut = warnings.iter().map(|text| {
        let end = text
            .char_indices()
            .nth(CUT)
            .map_or(text.len(), |(at, _)| at);
        &text[..end]
    });
    cut.take_while(|text| {
        let fits = length(text) <= room;
        room = room.saturating_sub(length(text));
        fits
    })
    .collect()
}

fn warn(answer: &mut Answer, text: &str) {
    let quoted = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace(['\n', '\r'], " ");
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
        answer.headers_mut().append(http::header::WARNING, value);
    }
}

/// A `Status` of success in the representation that the client wants.
fn status_answer(call: &Call, resource: &Resource, status: &Status) -> Result<Answer, Status> {
    let representation = call.representation(resource)?;
    Ok(response::status(status, representation))
}
