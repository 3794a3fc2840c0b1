//! OpenAPI: the shape of all kinds for clients that explain, validate and merge.
//!
//! Documents are made from the kinds' schemas when they are asked for; clients ask once and cache, so nothing is kept.

mod protobuf;

use corral_api::k8s::api::authentication::v1::TokenRequest;
use corral_api::k8s::api::autoscaling::v1::Scale;
use corral_api::k8s::api::policy::v1::Eviction;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1 as meta;
use corral_api::status::Status;
use corral_kinds::schema::{self, facts, raw_type};
use corral_kinds::{AnyKind, KindRef};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, EXPIRES, LOCATION};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::handlers::Call;
use crate::negotiate::{self, Offer};
use crate::response::{self, Answer};

/// The version of the API that the documents are about.
const INFO_VERSION: &str = "1.36";

/// What a list says of itself.
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Where definitions live in one version of the format.
#[derive(Clone, Copy)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn group_versions(kinds: &[KindRef]) -> Vec<(&str, &str)> {
    let mut list: Vec<(&str, &str)> = Vec::new();
    for kind in kinds {
        let pair = (kind.names().group, kind.names().version);
        if !list.contains(&pair) {
            list.push(pair);
        }
    }
    list
}

fn kinds_of<'a>(kinds: &'a [KindRef], group: &str, version: &str) -> Vec<&'a dyn AnyKind> {
    let all = kinds.iter().map(|kind| &**kind);
    all.filter(|k| k.names().group == group && k.names().version == version)
        .collect()
}

/// Tells the document about some kinds from those about others: clients keep one as long as this stays.
fn tag(salt: &str, kinds: &[&dyn AnyKind]) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(salt);
    for kind in kinds {
        let names = kind.names();
        for text in [names.group, names.version, names.plural, kind.shape_text()] {
            hash.update(text);
            hash.update([0]);
        }
    }
    let hash = hash.finalize();
    hash.iter().take(16).map(|b| format!("{b:02X}")).collect()
}

/// `/openapi/v3`.
///
/// # Errors
/// None; the type is that of every handler.
pub fn v3_index(call: &Call) -> Result<Answer, Status> {
    let mut paths = Map::new();
    let kinds = call.shared.api.kinds();
    for (group, version) in group_versions(&kinds) {
        let path = path_of(group, version);
        let hash = tag(&path, &kinds_of(&kinds, group, version));
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    let aggregation = &call.shared.aggregation;
    let known = aggregation.known(&call.shared.api);
    crate::aggregation::openapi::index(aggregation, &known, &mut paths);
    Ok(response::document(&json!({"paths": paths})))
}

/// How long a document that is asked for by its hash may be kept, as in Kubernetes: a year.
const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(365 * 24);

/// `/openapi/v3/api/v1` and the like.
///
/// # Errors
/// 404 for a version that there is not.
pub fn v3(call: &Call, path: &str) -> Result<Answer, Status> {
    let kinds = call.shared.api.kinds();
    let found = group_versions(&kinds)
        .into_iter()
        .find(|(group, version)| path_of(group, version) == path);
    let (group, version) = found.ok_or_else(Status::no_such_path)?;
    let kinds = kinds_of(&kinds, group, version);
    let tag = tag(path, &kinds);
    let asked = call.info.query.get("hash");
    if asked.is_some_and(|asked| asked != tag) {
        return Ok(moved(&format!("/openapi/v3/{path}?hash={tag}")));
    }
    let mut answer = response::tagged(call.headers(), &tag, || {
        let document = json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": INFO_VERSION},
            "paths": paths(&kinds, Dialect::V3),
            "components": {"schemas": definitions(&kinds, Dialect::V3)},
        });
        response::document(&document)
    });
    if asked.is_some() {
        keep(&mut answer);
    }
    Ok(answer)
}

/// What is asked for by its hash never changes, and may be kept.
fn keep(answer: &mut Answer) {
    const FOR_EVER: HeaderValue = HeaderValue::from_static("public, immutable");
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, FOR_EVER);
    let expires = jiff::Timestamp::now() + KEPT;
    let expires = expires.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
    if let Ok(expires) = HeaderValue::from_str(&expires) {
        headers.insert(EXPIRES, expires);
    }
}

/// Sends a client to the document as it is now.
fn moved(to: &str) -> Answer {
    let mut answer = response::answer(301, "application/json", response::full(""));
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

/// `/openapi/v2`.
///
/// # Errors
/// 406 for a client that takes neither JSON nor protobuf.
pub fn v2(call: &Call) -> Result<Answer, Status> {
    let as_protobuf = protobuf::is_wanted(call.headers());
    if !as_protobuf {
        let offer = Offer {
            protobuf: false,
            ..Offer::WHOLE
        };
        negotiate::accept(call.headers(), &call.info.query, offer)?;
    }
    let kinds = call.shared.api.kinds();
    let kinds: Vec<&dyn AnyKind> = kinds.iter().map(|kind| &**kind).collect();
    let aggregation = &call.shared.aggregation;
    let known = aggregation.known(&call.shared.api);
    let others = crate::aggregation::openapi::tag(aggregation, &known);
    let tag = tag(&format!("v2 {others}"), &kinds);
    Ok(response::tagged(call.headers(), &tag, || {
        let mut document = json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": INFO_VERSION},
            "paths": paths(&kinds, Dialect::V2),
            "definitions": definitions(&kinds, Dialect::V2),
        });
        crate::aggregation::openapi::merge(aggregation, &known, &mut document);
        match as_protobuf {
            true => {
                let message = protobuf::encode(&document);
                response::answer(200, protobuf::MEDIA_TYPE, response::full(message))
            }
            false => response::document(&document),
        }
    }))
}

fn definitions(kinds: &[&dyn AnyKind], dialect: Dialect) -> Map<String, Value> {
    let mut out = Map::new();
    for kind in kinds {
        let (root, definitions) = kind.openapi();
        let names = kind.names();
        let root = root["$ref"]
            .as_str()
            .and_then(|r| r.rsplit('/').next())
            .unwrap_or("")
            .to_owned();
        for (name, source) in definitions {
            let is_of_client = kind.is_custom() && name == root;
            out.entry(name.clone())
                .or_insert_with(|| match is_of_client {
                    true => of_client(source, dialect),
                    false => converted(&name, source, dialect),
                });
        }
        let gvk = json!([{"group": names.group, "version": names.version, "kind": names.kind}]);
        if let Some(definition) = out.get_mut(&root) {
            definition["x-kubernetes-group-version-kind"] = gvk;
        }
        let own = |field: &str| match out.get(&root).map(|own| &own["properties"][field]) {
            Some(property @ Value::Object(_)) => property.clone(),
            _ => json!({"type": "string"}),
        };
        let reference = |name: &str| {
            let reference = json!({"$ref": format!("{}{name}", dialect.prefix())});
            match dialect {
                Dialect::V2 => reference,
                Dialect::V3 => json!({"allOf": [reference], "default": {}}),
            }
        };
        let list = json!({
            "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": own("apiVersion"), "kind": own("kind"),
                "items": {"type": "array", "items": reference(&root)},
                "metadata": reference(LIST_META),
            },
            "x-kubernetes-group-version-kind":
                [{"group": names.group, "version": names.version, "kind": kind.list_kind()}],
        });
        out.insert(format!("{root}List"), list);
    }
    out.extend(common(kinds, dialect));
    out
}

/// The definitions of what requests and answers hold besides objects.
fn common(kinds: &[&dyn AnyKind], dialect: Dialect) -> Map<String, Value> {
    let mut found = vec![
        (raw_type::<meta::APIGroup>(), None),
        (raw_type::<meta::APIResourceList>(), None),
        (raw_type::<meta::APIVersions>(), None),
        (raw_type::<meta::DeleteOptions>(), None),
        (raw_type::<meta::ListMeta>(), None),
        (raw_type::<meta::Status>(), Some(("", "v1", "Status"))),
    ];
    let has = |kind: &str| {
        kinds
            .iter()
            .any(|one| !one.is_custom() && one.names().kind == kind)
    };
    if kinds.iter().any(|kind| kind.scale().is_some()) {
        let gvk = ("autoscaling", "v1", "Scale");
        found.push((raw_type::<Scale>(), Some(gvk)));
    }
    if has("Pod") || has("PodDisruptionBudget") {
        let gvk = ("policy", "v1", "Eviction");
        found.push((raw_type::<Eviction>(), Some(gvk)));
    }
    if has("ServiceAccount") {
        let gvk = ("authentication.k8s.io", "v1", "TokenRequest");
        found.push((raw_type::<TokenRequest>(), Some(gvk)));
    }
    let mut out = Map::new();
    for ((root, definitions), gvk) in found {
        let root = root["$ref"].as_str().and_then(|r| r.rsplit('/').next());
        let root = root.unwrap_or_default().to_owned();
        for (name, source) in definitions {
            out.entry(name.clone())
                .or_insert_with(|| converted(&name, source, dialect));
        }
        if let (Some((group, version, kind)), Some(definition)) = (gvk, out.get_mut(&root)) {
            definition["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": version, "kind": kind}]);
        }
    }
    out
}

fn converted(name: &str, mut source: Value, dialect: Dialect) -> Value {
    references(&mut source, dialect);
    if let Some(properties) = source.get_mut("properties").and_then(Value::as_object_mut) {
        for (field, property) in properties {
            if let Some(facts) = facts(name, field) {
                extend(property, facts, dialect);
            }
        }
    }
    if schema::is_atomic(name) {
        source["x-kubernetes-map-type"] = "atomic".into();
    }
    if let (Some(required), Value::Object(map)) = (schema::required(name), &mut source) {
        match required.is_empty() {
            true => map.remove("required"),
            false => map.insert("required".into(), required.into()),
        };
    }
    match (name.rsplit('.').next(), dialect) {
        (Some("IntOrString"), Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Some("IntOrString"), Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (Some("Quantity"), Dialect::V2) => json!({"type": "string"}),
        (Some("Quantity"), Dialect::V3) => {
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
        }
        // Either of two kinds, for which version 2 has no words.
        (Some("JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray"), Dialect::V2)
        // Any value at all.
        |         (Some("JSON"), _) => json!({"description": source["description"].take()}),
        _ => source,
    }
}

/// The schema of a kind that a client has described. Version 2 has no place for all of it, and what kubectl makes of the
/// rest must not forbid what the server accepts.
fn of_client(mut source: Value, dialect: Dialect) -> Value {
    if let Dialect::V2 = dialect {
        if source["x-kubernetes-preserve-unknown-fields"] == true {
            return json!({"type": "object"});
        }
        plain(&mut source);
    }
    if let Some(metadata) = source["properties"].get_mut("metadata") {
        references(metadata, dialect);
    }
    source
}

/// Takes out of a schema what version 2 does not have.
fn plain(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for junctor in ["allOf", "oneOf", "anyOf", "not"] {
        // The metadata of the whole are a reference in such a list.
        let list = map.get(junctor);
        if list.is_none_or(|list| list[0]["$ref"].is_null()) {
            map.remove(junctor);
        }
    }
    let flag = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    let preserves = flag(map, "x-kubernetes-preserve-unknown-fields");
    let nullable = flag(map, "nullable");
    map.remove("nullable");
    if preserves || nullable {
        map.remove("items");
        map.remove("properties");
    }
    let is = |map: &Map<String, Value>, kind: &str| map.get("type").is_some_and(|t| t == kind);
    let is_open_list = is(map, "array") && !map.contains_key("items");
    if nullable || is_open_list || (preserves && is(map, "object")) {
        map.remove("type");
    }
    if flag(map, "x-kubernetes-int-or-string") {
        map.remove("type");
    }
    without_nullable_required(map);
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            plain(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(plain);
    }
}

/// A field that may be `null` is none that must be there, as far as kubectl can tell.
fn without_nullable_required(map: &mut Map<String, Value>) {
    let nullable: Vec<Value> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| property["nullable"] == true)
        .map(|(name, _)| name.as_str().into())
        .collect();
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !nullable.contains(name));
        if required.is_empty() {
            map.remove("required");
        }
    }
}

/// What the schemas leave out, as extensions.
fn extend(property: &mut Value, facts: &schema::FieldFacts, dialect: Dialect) {
    if !facts.values.is_empty() {
        let values = facts.values.iter().map(|value| &**value).collect();
        match property.get_mut("items") {
            Some(items) => items["enum"] = values,
            None => property["enum"] = values,
        }
    }
    if let Some(kind) = &facts.list_type {
        property["x-kubernetes-list-type"] = kind.as_str().into();
    }
    if !facts.list_keys.is_empty() {
        property["x-kubernetes-list-map-keys"] = facts.list_keys.iter().map(|k| &**k).collect();
    }
    if let Some(kind) = &facts.map_type {
        property["x-kubernetes-map-type"] = kind.as_str().into();
    }
    if !facts.strategy.is_empty() {
        property["x-kubernetes-patch-strategy"] = facts.strategy.as_str().into();
    }
    if let Some(key) = &facts.merge_key {
        property["x-kubernetes-patch-merge-key"] = (**key).into();
    }
    // Version 2 tells no defaults.
    if let Dialect::V3 = dialect {
        let elements = facts.go_type.strip_prefix("[]").or_else(|| {
            let (_, element) = facts.go_type.strip_prefix("map[")?.split_once(']')?;
            Some(element)
        });
        for key in ["items", "additionalProperties"] {
            if let (Some(element), Some(inner)) = (elements, property.get_mut(key)) {
                default(inner, element, false, None);
            }
        }
        let own = facts.default.as_ref();
        default(property, &facts.go_type, facts.omit_zero, own);
    }
}

/// Tells the default of a value: its own, or what Go makes of one that is not there.
fn default(property: &mut Value, go_type: &str, omits_zero: bool, own: Option<&Value>) {
    /// Structs that Go reads and writes by themselves.
    const VALUES: [&str; 9] = [
        "Time",
        "MicroTime",
        "Duration",
        "Quantity",
        "IntOrString",
        "RawExtension",
        "FieldsV1",
        "JSON",
        "byte",
    ];
    if let Some(own) = own {
        property["default"] = own.clone();
        return;
    }
    let name = go_type.rsplit('.').next().unwrap_or(go_type);
    if go_type.starts_with(['*', '[']) || go_type.starts_with("map[") || VALUES.contains(&name) {
        return;
    }
    if let Some(reference) = property.get("$ref").cloned() {
        *property = json!({"allOf": [{"$ref": reference}]});
    }
    let zero = match property["type"].as_str() {
        None if property["allOf"].is_array() => json!({}),
        Some("string") if !omits_zero => "".into(),
        Some("integer" | "number") if !omits_zero => 0.into(),
        Some("boolean") if !omits_zero => false.into(),
        _ => return,
    };
    property["default"] = zero;
}

/// References point into the document. In version 2 a reference stands alone; in version 3 it may be wrapped.
fn references(value: &mut Value, dialect: Dialect) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                let name = reference.rsplit('/').next().unwrap_or("").to_owned();
                *reference = format!("{}{name}", dialect.prefix());
            }
            for (key, inner) in map.iter_mut() {
                match (key.as_str(), inner) {
                    // These are names, whatever they look like.
                    ("properties", Value::Object(properties)) => {
                        let properties = properties.values_mut();
                        properties.for_each(|inner| references(inner, dialect));
                    }
                    (_, inner) => references(inner, dialect),
                }
            }
            let wrapped = map.get("allOf").and_then(|all| all[0].get("$ref")).cloned();
            if let (Dialect::V2, Some(reference)) = (dialect, wrapped) {
                map.remove("allOf");
                map.insert("$ref".into(), reference);
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|inner| references(inner, dialect)),
        _ => {}
    }
}

/// The paths with what clients look for: that writes take `fieldValidation` and `dryRun`.
fn paths(kinds: &[&dyn AnyKind], dialect: Dialect) -> Map<String, Value> {
    let mut out = Map::new();
    for kind in kinds {
        let names = kind.names();
        let root = path_of(names.group, names.version);
        let base = if names.namespaced {
            format!("/{root}/namespaces/{{namespace}}/{}", names.plural)
        } else {
            format!("/{root}/{}", names.plural)
        };
        let gvk = json!({"group": names.group, "version": names.version, "kind": names.kind});
        let operation = |action: &str, writes: bool| {
            let mut parameters = Vec::new();
            if writes {
                parameters.push(parameter("dryRun", dialect));
                parameters.push(parameter("fieldManager", dialect));
                parameters.push(parameter("fieldValidation", dialect));
            }
            json!({
                "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk,
                "parameters": parameters, "responses": {"200": {"description": "OK"}},
            })
        };
        out.insert(
            base.clone(),
            json!({"get": operation("list", false), "post": operation("post", true)}),
        );
        out.insert(
            format!("{base}/{{name}}"),
            json!({
                "get": operation("get", false), "put": operation("put", true),
                "patch": operation("patch", true), "delete": operation("delete", false),
            }),
        );
    }
    out
}

fn parameter(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"name": name, "in": "query", "type": "string", "uniqueItems": true}),
        Dialect::V3 => {
            json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
        }
    }
}
