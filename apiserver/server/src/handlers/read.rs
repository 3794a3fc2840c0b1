//! GET and LIST.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use corral_api::field::{FieldError, FieldPath};
use corral_api::selector::{FieldSelector, LabelSelector};
use corral_api::status::Status;
use corral_kinds::AnyKind;
use corral_kinds::protobuf::Layout;
use corral_storage::{Key, ListOptions, Revision};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Call;
use crate::audit;
use crate::cacher::{Snapshot, storage_status};
use crate::decode::Format;
use crate::negotiate::{Representation, Transform};
use crate::object::{Stored, go_type};
use crate::pretty::Indenter;
use crate::registry::{Resource, parse_revision};
use crate::response::{self, Answer};
use crate::select::Predicate;
use crate::table::{self, Include};
use crate::wire;

/// Bytes of a list that are put together before they go out.
const PIECE_BYTES: usize = 64 * 1024;
/// Entries read from the store at a time where a page comes from history.
const STORE_PAGE: usize = 500;

/// What a LIST or WATCH selects, from the URL.
pub(super) fn predicate(call: &Call, resource: &Resource) -> Result<Predicate, Status> {
    let query = &call.info.query;
    let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or(""))
        .map_err(Status::bad_request)?;
    let mut fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or(""))
        .map_err(Status::bad_request)?;
    let known = &resource.cacher.shape().fields;
    for requirement in &fields.requirements {
        let field = requirement.field.as_str();
        if !matches!(field, "metadata.name" | "metadata.namespace")
            && !known.iter().any(|name| name == field)
        {
            if resource.kind.is_custom() {
                let why = format!("field label not supported: {field}");
                return Err(Status::bad_request(why));
            }
            let why = match known.is_empty() {
                true => format!(
                    "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                ),
                false => format!("field label not supported: {field}"),
            };
            return Err(Status::bad_request(why));
        }
    }
    // A name in the URL of a watch is the same as a field selector.
    if !call.info.name.is_empty() {
        fields
            .requirements
            .push(corral_api::selector::FieldRequirement {
                field: "metadata.name".to_owned(),
                value: call.info.name.clone(),
                equals: true,
            });
    }
    let namespace = Some(call.info.namespace.as_str())
        .filter(|n| !n.is_empty() && resource.kind.names().namespaced);
    Ok(Predicate::new(
        resource.cacher.prefix(),
        namespace,
        labels,
        fields,
    ))
}

/// Which part of objects a Table carries.
///
/// # Errors
/// 400 for what is no part.
pub(super) fn include(call: &Call) -> Result<Include, Status> {
    match call.info.query.get("includeObject") {
        Some("None") => Ok(Include::None),
        Some("Object") => Ok(Include::Object),
        None | Some("" | "Metadata") => Ok(Include::Metadata),
        Some(other) => {
            let path = FieldPath::new("includeObject");
            let why = "must be 'Metadata', 'Object', 'None', or empty";
            let error = FieldError::invalid(&path, other, why);
            let why = format!("Unable to convert to Table as requested: {error}");
            Err(Status::bad_request(why))
        }
    }
}

/// GET of one object.
pub(super) async fn get(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let info = &call.info;
    let representation = call.representation(resource)?;
    let resource = shown_of(resource, representation.transform);
    let key = resource.key(&info.namespace, &info.name);
    let json = match info.query.get("resourceVersion") {
        Some(text) if !text.is_empty() => {
            let snapshot = match parse_revision(text)? {
                Revision(0) => {
                    resource.cacher.started().await?;
                    resource.cacher.snapshot()
                }
                revision => resource.cacher.at_least(revision).await?,
            };
            snapshot.objects.get(&key).map(|stored| stored.json.clone())
        }
        _ => resource
            .fetch(&key)
            .await?
            .map(|entry| crate::object::with_revision(&entry.value, entry.revision)),
    };
    let json = json.ok_or_else(|| resource.not_found(&info.name))?;
    transformed(call, &*resource.kind, representation, 200, json)
}

/// The resource as a client sees it: whoever wants no more than metadata needs no conversion.
pub(super) fn shown_of(resource: &Resource, transform: Transform) -> &Resource {
    match transform {
        Transform::PartialMetadata | Transform::PartialMetadataList => resource.for_metadata(),
        Transform::None | Transform::Table => resource,
    }
}

/// One object as the client wants to see it.
pub(super) fn transformed(
    call: &Call,
    kind: &dyn AnyKind,
    representation: Representation,
    code: u16,
    json: Bytes,
) -> Result<Answer, Status> {
    Ok(match representation.transform {
        Transform::None => response::json(code, representation, json),
        Transform::PartialMetadata => {
            let partial = versioned(table::partial(&json), representation);
            response::object(code, representation, &partial)
        }
        Transform::PartialMetadataList => {
            let what =
                "you requested PartialObjectMetadataList, but the requested object is not a list";
            let found = go_type(kind, "");
            return Err(Status::not_transformable(format!("{what} ({found})")));
        }
        Transform::Table => {
            let row = table::row(kind, &json, include(call)?, Timestamp::now());
            let revision = table::partial(&json)["metadata"]["resourceVersion"].clone();
            let metadata = json!({"resourceVersion": revision});
            let table = table::table(Some(kind), metadata, vec![row]);
            response::object(code, representation, &versioned(table, representation))
        }
    })
}

/// A table or metadata in the version that the client wants.
pub(super) fn versioned(mut value: Value, representation: Representation) -> Value {
    value["apiVersion"] = representation.meta_version.into();
    value
}

/// Where the next page begins.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    /// The revision of the whole list; -1 goes on at the newest.
    rv: i64,
    /// The key after which the page begins, without the resource's prefix.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    fn encode(revision: i64, last: &str) -> String {
        let token = Self {
            v: TOKEN_VERSION.to_owned(),
            rv: revision,
            start: format!("{last}\0"),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let invalid = |why: &str| {
            Status::bad_request(format!(
                "invalid continue token: continue key is not valid: {why}"
            ))
        };
        let text = text.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|error| invalid(&corral_api::base64::told(&error, text.len())))?;
        let token: Self =
            serde_json::from_slice(&bytes).map_err(|_| invalid("not a token of this server"))?;
        if token.v != TOKEN_VERSION || token.start.contains("..") {
            return Err(invalid("server does not recognize this encoded version"));
        }
        Ok(token)
    }
}

/// A page of selected objects.
pub(super) struct Listing {
    pub(super) items: Vec<Arc<Stored>>,
    revision: Revision,
    continue_token: Option<String>,
    remaining: Option<usize>,
}

impl Listing {
    /// The metadata of the list. Lists without a type of their own always say whether there is more.
    pub(super) fn metadata(&self, untyped: bool) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if untyped {
            metadata["continue"] = "".into();
        }
        if let Some(token) = &self.continue_token {
            metadata["continue"] = token.clone().into();
            if let Some(remaining) = self.remaining {
                metadata["remainingItemCount"] = remaining.into();
            }
        }
        metadata
    }
}

/// LIST.
pub(super) async fn list(call: &Call, resource: &Resource) -> Result<Answer, Status> {
    let representation = call.representation(resource)?;
    if representation.transform == Transform::PartialMetadata {
        let what = "you requested PartialObjectMetadata, but the requested object is a list";
        let kind = go_type(&*resource.kind, "List");
        return Err(Status::not_transformable(format!("{what} ({kind})")));
    }
    let resource = shown_of(resource, representation.transform);
    let listing = select(call, resource).await?;
    let untyped = resource.kind.is_custom() && representation.transform == Transform::None;
    let metadata = listing.metadata(untyped);
    match representation.transform {
        Transform::Table => {
            let (now, include) = (Timestamp::now(), include(call)?);
            let kind = resource.kind.clone();
            let head = table::head(&*kind, representation.meta_version, &metadata);
            let row = move |stored: &Stored, out: &mut BytesMut| {
                table::write_row(&*kind, &stored.json, include, now, out);
            };
            Ok(listed(representation, pieces(head, listing.items, row)))
        }
        Transform::PartialMetadata | Transform::PartialMetadataList
            if representation.format == Format::Protobuf =>
        {
            let shown = wire::Shown::metadata(representation.meta_version);
            let pieces = shown.list(&metadata, listing.items).await?;
            Ok(streamed(representation, futures::stream::iter(pieces)))
        }
        Transform::PartialMetadata | Transform::PartialMetadataList => {
            let version = representation.meta_version;
            let head = head("PartialObjectMetadataList", version, &metadata);
            let item = |stored: &Stored, out: &mut BytesMut| {
                table::write_partial(version, &stored.json, out);
            };
            Ok(listed(representation, pieces(head, listing.items, item)))
        }
        Transform::None => whole_list(resource, representation, metadata, listing.items).await,
    }
}

/// A list of whole objects, streamed where its format allows it.
async fn whole_list(
    resource: &Resource,
    representation: Representation,
    metadata: Value,
    items: Vec<Arc<Stored>>,
) -> Result<Answer, Status> {
    let names = resource.kind.names();
    if let (Format::Protobuf, Some(layout), false) = (
        representation.format,
        Layout::of_node(resource.schema()),
        is_recorded(),
    ) {
        let shown = wire::Shown::whole(layout, &names);
        let pieces = shown.list(&metadata, items).await?;
        return Ok(streamed(representation, futures::stream::iter(pieces)));
    }
    let head = head(&resource.kind.list_kind(), &names.api_version(), &metadata);
    let type_prefix = type_prefix(&*resource.kind);
    let item = move |stored: &Stored, out: &mut BytesMut| match stored
        .json
        .strip_prefix(type_prefix.as_bytes())
    {
        Some(rest) => {
            out.extend_from_slice(b"{");
            out.extend_from_slice(rest);
        }
        None => out.extend_from_slice(&stored.json),
    };
    Ok(listed(representation, pieces(head, items, item)))
}

/// Answers a list in pieces, where its format allows that.
fn listed(
    representation: Representation,
    mut pieces: impl Iterator<Item = Bytes> + Send + 'static,
) -> Answer {
    // A record holds the answer whole, so that nothing is won by pieces.
    if is_recorded() || representation.format != Format::Json {
        let whole: BytesMut = pieces.flatten().collect();
        return response::json(200, representation, whole.freeze());
    }
    if !representation.pretty {
        let pieces = pieces.map(Ok);
        return streamed(representation, futures::stream::iter(pieces));
    }
    let mut indenter = Indenter::default();
    let indented = std::iter::from_fn(move || {
        let piece = pieces.next()?;
        let mut out = Vec::with_capacity(piece.len() * 2);
        indenter.add(&piece, &mut out);
        Some(Ok(out.into()))
    });
    streamed(representation, futures::stream::iter(indented))
}

fn is_recorded() -> bool {
    audit::current().is_some_and(|record| record.wants_answer())
}

/// A list as far as its items.
fn head(kind: &str, version: &str, metadata: &Value) -> String {
    format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
    )
}

fn streamed(
    representation: Representation,
    pieces: impl futures::Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> Answer {
    let media_type = representation.format.media_type();
    response::answer(200, media_type, response::try_stream(pieces))
}

/// How the stored JSON of a kind begins. The items of a list leave it out, since the list says it once; those of kinds that
/// clients have described keep it. No object begins with what stands for those.
fn type_prefix(kind: &dyn AnyKind) -> String {
    let names = kind.names();
    if kind.is_custom() {
        return "-".to_owned();
    }
    let (version, kind) = (names.api_version(), names.kind);
    format!("{{\"apiVersion\":\"{version}\",\"kind\":\"{kind}\",")
}

/// The JSON of a list, piece by piece: stored bytes with commas between them, without their type.
fn pieces(
    head: String,
    items: Vec<Arc<Stored>>,
    mut write: impl FnMut(&Stored, &mut BytesMut),
) -> impl Iterator<Item = Bytes> {
    let mut items = items.into_iter();
    let mut first = true;
    let mut state = Some(BytesMut::from(head.as_bytes()));
    std::iter::from_fn(move || {
        let mut piece = state.take()?;
        while piece.len() < PIECE_BYTES {
            let Some(item) = items.next() else {
                piece.extend_from_slice(b"]}\n");
                return Some(piece.freeze());
            };
            if !first {
                piece.extend_from_slice(b",");
            }
            first = false;
            write(&item, &mut piece);
        }
        state = Some(BytesMut::with_capacity(PIECE_BYTES + 4096));
        Some(piece.freeze())
    })
}

fn forbidden(field: &str, why: &str) -> Status {
    let error = FieldError::forbidden(&FieldPath::new(field), why);
    Status::invalid("meta.k8s.io", "ListOptions", "", &[error])
}

/// Checks `resourceVersionMatch`, which a list and a watch share.
pub(super) fn version_match(call: &Call) -> Result<Option<&str>, Status> {
    let query = &call.info.query;
    let field = "resourceVersionMatch";
    let Some(kind) = query.get(field).filter(|m| !m.is_empty()) else {
        return Ok(None);
    };
    let version = query.get("resourceVersion").unwrap_or("");
    if !matches!(kind, "Exact" | "NotOlderThan") {
        let allowed = ["Exact", "NotOlderThan", ""];
        let error = FieldError::not_supported_of(&FieldPath::new(field), kind, &allowed);
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]));
    }
    if query.get("sendInitialEvents").is_none() {
        if version.is_empty() {
            return Err(forbidden(
                field,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if query.get("continue").is_some_and(|c| !c.is_empty()) {
            return Err(forbidden(
                field,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if kind == "Exact" && version == "0" {
            return Err(forbidden(
                field,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    Ok(Some(kind))
}

/// The objects that a request means: all, a page, or those of some version.
pub(super) async fn select(call: &Call, resource: &Resource) -> Result<Listing, Status> {
    let query = &call.info.query;
    let predicate = predicate(call, resource)?;
    if query.get("sendInitialEvents").is_some() {
        let why = "sendInitialEvents is forbidden for list";
        return Err(forbidden("sendInitialEvents", why));
    }
    let matching = version_match(call)?;
    // Only watches last as long as that says.
    query.integer("timeoutSeconds")?;
    let limit = query
        .integer("limit")?
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0);
    if let Some(text) = query.get("continue").filter(|c| !c.is_empty()) {
        if query
            .get("resourceVersion")
            .is_some_and(|v| !v.is_empty() && v != "0")
        {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return next_page(resource, &predicate, Token::decode(text)?, limit).await;
    }
    let version = query
        .get("resourceVersion")
        .filter(|v| !v.is_empty())
        .map(parse_revision)
        .transpose()
        .map_err(|status| {
            Status::bad_request(format!("invalid resource version: {}", status.message))
        })?;
    let snapshot = match (version, matching) {
        (None, _) => resource.cacher.fresh().await?,
        (Some(Revision(0)), _) => {
            resource.cacher.started().await?;
            resource.cacher.snapshot()
        }
        (Some(revision), Some("Exact")) => {
            return from_store(resource, &predicate, Some(revision), None, limit).await;
        }
        (Some(revision), None) if limit > 0 => {
            return from_store(resource, &predicate, Some(revision), None, limit).await;
        }
        (Some(revision), _) => resource.cacher.at_least(revision).await?,
    };
    Ok(from_snapshot(resource, &predicate, &snapshot, None, limit))
}

async fn next_page(
    resource: &Resource,
    predicate: &Predicate,
    token: Token,
    limit: usize,
) -> Result<Listing, Status> {
    let start = format!(
        "{}{}",
        resource.cacher.prefix(),
        token.start.trim_end_matches('\0')
    );
    let after = Key::new(start);
    let Ok(revision) = u64::try_from(token.rv) else {
        let snapshot = resource.cacher.fresh().await?;
        return Ok(from_snapshot(
            resource,
            predicate,
            &snapshot,
            Some(after),
            limit,
        ));
    };
    let snapshot = resource.cacher.snapshot();
    if snapshot.revision == Revision(revision) {
        return Ok(from_snapshot(
            resource,
            predicate,
            &snapshot,
            Some(after),
            limit,
        ));
    }
    match from_store(
        resource,
        predicate,
        Some(Revision(revision)),
        Some(after),
        limit,
    )
    .await
    {
        Err(status) if status.code == 410 => {
            let mut expired = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter, or use the continue token in this response to retrieve the \
                 remainder of the results. Continuing with the provided token results in an inconsistent list - \
                 objects that were created, modified, or deleted between the time the first chunk was returned and \
                 now may show up in the list.",
            );
            let next = Token::encode(-1, token.start.trim_end_matches('\0'));
            expired.metadata.insert("continue".into(), next.into());
            Err(expired)
        }
        other => other,
    }
}

fn token(resource: &Resource, revision: Revision, last: &Stored) -> String {
    let start = last
        .key
        .as_str()
        .strip_prefix(resource.cacher.prefix())
        .unwrap_or("");
    Token::encode(i64::try_from(revision.0).unwrap_or(i64::MAX), start)
}

fn from_snapshot(
    resource: &Resource,
    predicate: &Predicate,
    snapshot: &Snapshot,
    after: Option<Key>,
    limit: usize,
) -> Listing {
    let mut matching = snapshot.select(predicate, after.as_ref());
    if limit == 0 {
        return Listing {
            items: matching.cloned().collect(),
            revision: snapshot.revision,
            continue_token: None,
            remaining: None,
        };
    }
    let items: Vec<Arc<Stored>> = matching.by_ref().take(limit).cloned().collect();
    let remaining = if predicate.is_everything() {
        matching.count()
    } else {
        usize::from(matching.next().is_some())
    };
    let continue_token = items
        .last()
        .filter(|_| remaining > 0)
        .map(|last| token(resource, snapshot.revision, last));
    Listing {
        items,
        revision: snapshot.revision,
        continue_token,
        remaining: predicate.is_everything().then_some(remaining),
    }
}

/// A page from the store's history.
async fn from_store(
    resource: &Resource,
    predicate: &Predicate,
    revision: Option<Revision>,
    after: Option<Key>,
    limit: usize,
) -> Result<Listing, Status> {
    let mut options = ListOptions {
        revision,
        limit: STORE_PAGE,
        after,
    };
    let mut items: Vec<Arc<Stored>> = Vec::new();
    loop {
        let page = resource
            .storage
            .list(predicate.prefix(), options.clone())
            .await
            .map_err(|e| storage_status(&e))?;
        let revision = page.revision;
        for stored in resource.cacher.read_entries(&page.entries).await? {
            if !predicate.selects(&stored) {
                continue;
            }
            if limit > 0 && items.len() == limit {
                let last = items.last();
                let continue_token = last.map(|last| token(resource, revision, last));
                // An estimate, as the API has it: how many there are by now. Counting those of a past revision would read
                // all of them for each page.
                let remaining = last.filter(|_| predicate.is_everything()).map(|last| {
                    let snapshot = resource.cacher.snapshot();
                    // There is one at least: this one.
                    snapshot.select(predicate, Some(&last.key)).count().max(1)
                });
                return Ok(Listing {
                    items,
                    revision,
                    continue_token,
                    remaining,
                });
            }
            items.push(Arc::new(stored));
        }
        options.revision = Some(revision);
        options.after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            return Ok(Listing {
                items,
                revision,
                continue_token: None,
                remaining: None,
            });
        }
    }
}
