//! The requests: one for each way in which a field of a kind can be right or wrong, and sequences written by hand.
//!
//! Nearly all generated requests are dry runs, so that they do not depend on each other: a creation of an object with one
//! field changed, and an update of a stored object to it.

pub mod fields;
pub mod kinds;
pub mod mutations;
pub mod sequences;

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;

use crate::case::Request;
use crate::target::Target;
use fields::{Field, Path, Schemas};
use kinds::Kind;
use mutations::Mutation;

/// The namespace that everything generated is in.
pub const NAMESPACE: &str = "oracle";

/// How many generated requests a kind has at most, of each verb. Those that are left out are chosen by the hash of
/// their names, so that the choice is the same each time and spreads over all fields.
const CREATES_MAX: usize = 4000;
const UPDATES_MAX: usize = 1500;

/// Makes the corpus from the peer's OpenAPI documents.
///
/// # Errors
/// When a document is not there or an object or case of ours cannot be read.
pub async fn generate(peer: &Target) -> anyhow::Result<Vec<Request>> {
    let kinds = kinds::all()?;
    let mut documents: BTreeMap<String, Schemas> = BTreeMap::new();
    let mut requests = preparations();
    requests.extend(kinds.iter().flat_map(described));
    requests.extend(kinds.iter().filter(|kind| kind.stored).map(stored));
    for kind in &kinds {
        let document = kind.document();
        if let Some(schema) = kind.own_schema() {
            documents.insert(document.clone(), Schemas::new(schema));
        }
        if !documents.contains_key(&document) {
            let json = peer.get(&format!("/openapi/v3/{document}")).await?;
            documents.insert(document.clone(), Schemas::new(json));
        }
        let fields = documents[&document]
            .fields(&kind.api_version(), &kind.kind())
            .with_context(|| format!("{} {}", kind.api_version(), kind.kind()))?;
        requests.extend(of_kind(kind, &fields));
    }
    requests.extend(sequences::all()?);
    Ok(requests)
}

/// What the objects of the corpus need.
fn preparations() -> Vec<Request> {
    let namespace = format!(r#"{{"metadata":{{"name":"{NAMESPACE}"}}}}"#);
    let account = r#"{"metadata":{"name":"default"}}"#.to_owned();
    [
        ("/api/v1/namespaces".to_owned(), namespace),
        (
            format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"),
            account,
        ),
    ]
    .into_iter()
    .map(|(path, body)| Request {
        name: format!("preparation{path}"),
        method: "POST".into(),
        path,
        content: "application/json".into(),
        body,
        accept: String::new(),
        ordered: true,
        patient: false,
        until: None,
    })
    .collect()
}

/// A kind that is not Kubernetes' own is described first, and used when it is served.
fn described(kind: &Kind) -> Vec<Request> {
    let Some(definition) = &kind.definition else {
        return Vec::new();
    };
    let define = Request {
        name: format!("{}/defined", kind.label()),
        path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(),
        ordered: true,
        ..json("POST", definition)
    };
    let wait = Request {
        name: format!("{}/served", kind.label()),
        path: kind.collection.clone(),
        ordered: true,
        patient: true,
        until: None,
        content: String::new(),
        body: String::new(),
        ..json("GET", &Value::Null)
    };
    vec![define, wait]
}

fn stored(kind: &Kind) -> Request {
    Request {
        name: format!("{}/stored", kind.label()),
        path: kind.collection.clone(),
        ordered: true,
        ..json("POST", &kind.object)
    }
}

fn json(method: &str, body: &Value) -> Request {
    Request {
        name: String::new(),
        method: method.into(),
        path: String::new(),
        content: "application/json".into(),
        accept: String::new(),
        body: body.to_string(),
        ordered: false,
        patient: false,
        until: None,
    }
}

fn of_kind(kind: &Kind, fields: &[Field]) -> Vec<Request> {
    let mut creates = Vec::new();
    let mut updates = Vec::new();
    for field in fields.iter().filter(|field| kind.wants(&field.path)) {
        for mutation in mutations::of(field) {
            creates.extend(create(kind, field, &mutation));
            if kind.stored && mutation.fits_update() {
                updates.extend(update(kind, field, &mutation));
            }
        }
    }
    limited(creates, CREATES_MAX)
        .into_iter()
        .chain(limited(updates, UPDATES_MAX))
        .collect()
}

fn create(kind: &Kind, field: &Field, mutation: &Mutation) -> Option<Request> {
    let mut object = kind.object.clone();
    if kind.stored && !field.path.is("metadata.name") {
        object["metadata"]["name"] = "fresh".into();
        overlay(&mut object, &kind.fresh);
    }
    let body = mutation.apply(&mut object, &field.path)?;
    Some(Request {
        name: format!("{}/create/{}/{}", kind.label(), field.path, mutation.name),
        path: format!("{}?dryRun=All&fieldValidation=Strict", kind.collection),
        body,
        ..json("POST", &Value::Null)
    })
}

/// Lays fields over an object.
fn overlay(object: &mut Value, fields: &Value) {
    match (object, fields) {
        (Value::Object(object), Value::Object(fields)) => {
            for (key, inner) in fields {
                overlay(object.entry(key.as_str()).or_insert(Value::Null), inner);
            }
        }
        (_, Value::Null) => {}
        (object, fields) => *object = fields.clone(),
    }
}

fn update(kind: &Kind, field: &Field, mutation: &Mutation) -> Option<Request> {
    let mut object = kind.object.clone();
    let name = object["metadata"]["name"].as_str()?.to_owned();
    let body = mutation.apply(&mut object, &field.path)?;
    let status = field.path.starts_with("status") && kind.status;
    let (verb, subresource) = if status {
        ("update-status", "/status")
    } else {
        ("update", "")
    };
    Some(Request {
        name: format!("{}/{verb}/{}/{}", kind.label(), field.path, mutation.name),
        path: format!(
            "{}/{name}{subresource}?dryRun=All&fieldValidation=Strict",
            kind.collection
        ),
        body,
        method: if kind.patched { "PATCH" } else { "PUT" }.to_owned(),
        content: if kind.patched {
            "application/merge-patch+json"
        } else {
            "application/json"
        }
        .to_owned(),
        ..json("", &Value::Null)
    })
}

fn limited(mut requests: Vec<Request>, max: usize) -> Vec<Request> {
    if requests.len() <= max {
        return requests;
    }
    let hash = |request: &Request| hash(&request.name);
    let mut hashes: Vec<u64> = requests.iter().map(hash).collect();
    hashes.sort_unstable();
    let limit = hashes[max];
    requests.retain(|request| hash(request) < limit);
    requests
}

/// Whether `path` is one that another kind tries just as well.
fn is_common(path: &Path) -> bool {
    path.starts_with("metadata") && !path.is("metadata.name") && !path.is("metadata")
}

/// FNV-1a: the same on every machine and in every version.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
