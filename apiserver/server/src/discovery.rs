//! Discovery: which groups, versions and resources there are, plain and aggregated.

use std::sync::Arc;

use base64::Engine as _;
use corral_api::status::Status;
use corral_kinds::kind::Verbs;
use corral_kinds::{AnyKind, KindRef};
use http::HeaderValue;
use http::header::{ACCEPT, CACHE_CONTROL};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::aggregation::Known;
use crate::handlers::Call;
use crate::response::{self, Answer};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A resource or subresource as discovery tells it.
struct Entry<'a> {
    subresource: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'a str,
    verbs: &'static [&'static str],
}

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const ALL_CUSTOM: &[&str] = &[
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
const NO_COLLECTION: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const CHANGE: &[&str] = &["get", "patch", "update"];
const STREAM: &[&str] = &["create", "get"];
const CREATE: &[&str] = &["create"];
const READ: &[&str] = &["get", "list"];

const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

/// Whether a kind has such a subresource.
pub fn has_subresource(kind: &dyn AnyKind, name: &str) -> bool {
    subresources(kind)
        .iter()
        .any(|entry| entry.subresource == name)
}

fn subresources(kind: &dyn AnyKind) -> Vec<Entry<'_>> {
    let names = kind.names();
    let own = |subresource, verbs| Entry {
        subresource,
        group: "",
        version: "",
        kind: names.kind,
        verbs,
    };
    let other = |subresource, group, version, kind, verbs| Entry {
        subresource,
        group,
        version,
        kind,
        verbs,
    };
    let mut entries = Vec::new();
    if names.group.is_empty() && names.kind == "Pod" {
        entries.push(other("attach", "", "", "PodAttachOptions", STREAM));
        entries.push(other("binding", "", "", "Binding", CREATE));
        entries.push(other("eviction", "policy", "v1", "Eviction", CREATE));
        entries.push(other("exec", "", "", "PodExecOptions", STREAM));
        entries.push(own("log", &["get"]));
        entries.push(other(
            "portforward",
            "",
            "",
            "PodPortForwardOptions",
            STREAM,
        ));
        entries.push(other("proxy", "", "", "PodProxyOptions", PROXY));
    }
    if names.group.is_empty() && names.kind == "Service" {
        entries.push(other("proxy", "", "", "ServiceProxyOptions", PROXY));
    }
    if names.group.is_empty() && names.kind == "Node" {
        entries.push(other("proxy", "", "", "NodeProxyOptions", PROXY));
    }
    if names.kind == "Namespace" {
        entries.push(own("finalize", &["update"]));
    }
    if names.kind == "ServiceAccount" {
        entries.push(other(
            "token",
            "authentication.k8s.io",
            "v1",
            "TokenRequest",
            CREATE,
        ));
    }
    entries.extend(kind.parts().iter().map(|part| own(part, CHANGE)));
    // In order of the alphabet, but for kinds that clients have described.
    let scale = kind.scale().is_some();
    let scale = scale.then(|| other("scale", "autoscaling", "v1", "Scale", CHANGE));
    let (scale, described) = match kind.is_custom() {
        true => (None, scale),
        false => (scale, None),
    };
    entries.extend(scale);
    if kind.has_approval() {
        entries.push(own("approval", CHANGE));
    }
    if kind.has_status() {
        entries.push(own("status", CHANGE));
    }
    entries.extend(described);
    entries
}

fn verbs(kind: &dyn AnyKind) -> &'static [&'static str] {
    match kind.verbs() {
        // In the order in which Kubernetes tells those of clients' kinds.
        Verbs::All if kind.is_custom() => ALL_CUSTOM,
        Verbs::All => ALL,
        Verbs::NoDeleteCollection => NO_COLLECTION,
        Verbs::CreateOnly => CREATE,
        Verbs::ReadOnly => READ,
    }
}

/// The kinds of a version, by the names of their resources.
fn of_version<'a>(kinds: &'a [KindRef], group: &str, version: &str) -> Vec<&'a dyn AnyKind> {
    let mut kinds: Vec<&dyn AnyKind> = kinds
        .iter()
        .map(|kind| &**kind)
        .filter(|kind| kind.names().group == group && kind.names().version == version)
        .collect();
    kinds.sort_by(|a, b| a.names().plural.cmp(b.names().plural));
    kinds
}

/// Named groups with their versions, the preferred one first: those of this program in the order of Kubernetes' own list,
/// then those of clients by name.
fn named_groups(kinds: &[KindRef]) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    let n_built_in = kinds
        .iter()
        .filter(|kind| matches!(kind, KindRef::BuiltIn(_)))
        .count();
    let mut n_groups = 0;
    for (index, kind) in kinds.iter().enumerate() {
        let names = kind.names();
        if names.group.is_empty() {
            continue;
        }
        match groups.iter_mut().find(|(group, _)| *group == names.group) {
            Some((_, versions)) if versions.contains(&names.version) => {}
            Some((_, versions)) => versions.push(names.version),
            None => groups.push((names.group, vec![names.version])),
        }
        if index < n_built_in {
            n_groups = groups.len();
        }
    }
    let custom = &mut groups[n_groups..];
    custom.sort();
    for (_, versions) in custom {
        versions.sort_by_key(|version| {
            std::cmp::Reverse(corral_api::gvk::VersionPriority::of(version))
        });
    }
    groups
}

/// Tells clients that move objects to a new version in the store when there is one.
fn storage_version_hash(kind: &dyn AnyKind) -> String {
    /// Bytes of the digest that are told, as in Kubernetes.
    const TOLD: usize = 8;
    let names = kind.names();
    let (group, version) = kind.storage_version();
    let digest = Sha256::digest(format!("{group}/{version}/{}", names.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..TOLD])
}

fn plain_resource(kind: &dyn AnyKind) -> Value {
    let names = kind.names();
    let mut out = json!({
        "name": names.plural, "singularName": names.singular, "namespaced": names.namespaced,
        "kind": names.kind, "verbs": verbs(kind),
    });
    if !matches!(kind.verbs(), Verbs::CreateOnly | Verbs::ReadOnly) {
        out["storageVersionHash"] = storage_version_hash(kind).into();
    }
    if !names.short_names.is_empty() {
        out["shortNames"] = json!(names.short_names.to_vec());
    }
    if !names.categories.is_empty() {
        out["categories"] = json!(names.categories.to_vec());
    }
    out
}

fn plain_subresource(kind: &dyn AnyKind, entry: &Entry<'_>) -> Value {
    let names = kind.names();
    let mut out = json!({
        "name": format!("{}/{}", names.plural, entry.subresource), "singularName": "",
        "namespaced": names.namespaced, "kind": entry.kind, "verbs": entry.verbs,
    });
    if !entry.version.is_empty() {
        out["group"] = entry.group.into();
        out["version"] = entry.version.into();
    }
    out
}

fn aggregated_resource(kind: &dyn AnyKind) -> Value {
    let names = kind.names();
    let scope = if names.namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    // Kubernetes says of its own kinds only what they are called.
    let (group, version) = match kind.is_custom() {
        true => (names.group, names.version),
        false => ("", ""),
    };
    let own = json!({"group": group, "version": version, "kind": names.kind});
    let mut out = json!({
        "resource": names.plural, "responseKind": own, "scope": scope,
        "singularResource": names.singular, "verbs": verbs(kind),
    });
    if !names.short_names.is_empty() {
        out["shortNames"] = json!(names.short_names.to_vec());
    }
    if !names.categories.is_empty() {
        out["categories"] = json!(names.categories.to_vec());
    }
    let subresources: Vec<Value> = subresources(kind)
        .iter()
        .map(|entry| {
            let (group, version) = if entry.version.is_empty() {
                (group, version)
            } else {
                (entry.group, entry.version)
            };
            json!({
                "subresource": entry.subresource, "verbs": entry.verbs,
                "responseKind": {"group": group, "version": version, "kind": entry.kind},
            })
        })
        .collect();
    if !subresources.is_empty() {
        out["subresources"] = subresources.into();
    }
    out
}

fn aggregated_group(
    call: &Call,
    known: &Known,
    kinds: &[KindRef],
    group: &str,
    versions: &[String],
) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            if known.remote(group, version).is_some() {
                let facts = call.shared.aggregation.facts(group, version);
                let freshness = if facts.current { "Current" } else { "Stale" };
                return json!({
                    "version": version, "freshness": freshness, "resources": facts.resources,
                });
            }
            let resources: Vec<Value> = of_version(kinds, group, version)
                .into_iter()
                .map(aggregated_resource)
                .collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({})
    } else {
        json!({"name": group})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn wants_aggregated(call: &Call) -> bool {
    let accept = call
        .parts
        .headers
        .get(ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    // Only the stable version is made; a client that asks for another first falls back to the next clause.
    let clause = accept
        .split(',')
        .find(|clause| clause.trim().starts_with("application/json"));
    clause.is_some_and(|clause| {
        let has = |part: &str| clause.split(';').any(|p| p.trim() == part);
        has("as=APIGroupDiscoveryList") && has("v=v2") && has("g=apidiscovery.k8s.io")
    })
}

/// All that is served, unless the client says that it has it.
fn aggregated(call: &Call, groups: Vec<Value>) -> Result<Answer, Status> {
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups,
    });
    let mut body = serde_json::to_vec(&list).map_err(Status::internal)?;
    body.push(b'\n');
    let tag = Sha256::digest(&body);
    let tag: String = tag.iter().map(|byte| format!("{byte:02X}")).collect();
    let make = || response::answer(200, AGGREGATED, response::full(body));
    let mut answer = response::tagged(call.headers(), &tag, make);
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(answer)
}

fn plain(call: &Call, value: &Value) -> Result<Answer, Status> {
    Ok(response::object(200, call.whole_representation()?, value))
}

/// `/api`.
///
/// # Errors
/// None; the type is that of every handler.
pub fn core(call: &Call) -> Result<Answer, Status> {
    if wants_aggregated(call) {
        let (kinds, known) = (call.shared.api.kinds(), known(call));
        let versions = ["v1".to_owned()];
        return aggregated(
            call,
            vec![aggregated_group(call, &known, &kinds, "", &versions)],
        );
    }
    let address = call.shared.address.to_string();
    plain(
        call,
        &json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        }),
    )
}

fn known(call: &Call) -> Arc<Known> {
    call.shared.aggregation.known(&call.shared.api)
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let of = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let list: Vec<Value> = versions.iter().map(of).collect();
    json!({"name": group, "versions": list, "preferredVersion": list[0]})
}

/// `/apis`.
///
/// # Errors
/// None; the type is that of every handler.
pub fn groups(call: &Call) -> Result<Answer, Status> {
    let kinds = call.shared.api.kinds();
    let known = known(call);
    let groups = known.merged(&named_groups(&kinds));
    if wants_aggregated(call) {
        let groups = groups.iter();
        let told =
            groups.map(|(group, versions)| aggregated_group(call, &known, &kinds, group, versions));
        return aggregated(call, told.collect());
    }
    let list: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| group_value(group, versions))
        .collect();
    plain(
        call,
        &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}),
    )
}

/// `/apis/GROUP`.
///
/// # Errors
/// 404 for a group that there is not.
pub fn group(call: &Call, name: &str) -> Result<Answer, Status> {
    let kinds = call.shared.api.kinds();
    let groups = known(call).merged(&named_groups(&kinds));
    let found = groups.iter().find(|(group, _)| *group == name);
    let (group, versions) = found.ok_or_else(Status::no_such_path)?;
    let mut value = group_value(group, versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    plain(call, &value)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
///
/// # Errors
/// 404 for a version that there is not.
pub fn resources(call: &Call, group: &str, version: &str) -> Result<Answer, Status> {
    let kinds = call.shared.api.kinds();
    let kinds = of_version(&kinds, group, version);
    if kinds.is_empty() {
        return Err(Status::no_such_path());
    }
    let mut resources = Vec::new();
    for kind in kinds {
        resources.push(plain_resource(kind));
        resources.extend(
            subresources(kind)
                .iter()
                .map(|entry| plain_subresource(kind, entry)),
        );
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let mut list = json!({
        "kind": "APIResourceList", "groupVersion": group_version, "resources": resources,
    });
    // The core group is older than the version of its discovery.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    plain(call, &list)
}
