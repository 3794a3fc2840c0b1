//! Which representation a client wants (`Accept`) and which one it sent (`Content-Type`).

use corral_api::status::Status;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use crate::decode::Format;

/// What the object is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    None,
    /// `Table`, as `kubectl get` asks for.
    Table,
    /// `PartialObjectMetadata`, or its list.
    PartialMetadata,
}

/// A representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Representation {
    /// Bytes on the wire.
    pub format: Format,
    /// What is shown.
    pub transform: Transform,
    /// Indented, for people (`?pretty`).
    pub pretty: bool,
}

impl Default for Representation {
    fn default() -> Self {
        Self {
            format: Format::Json,
            transform: Transform::None,
            pretty: false,
        }
    }
}

/// The representations that this server makes, as a 406 lists them.
const ACCEPTED: &str = "application/json, application/yaml";
/// The formats of bodies that this server reads, as a 415 lists them.
const READ: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Chooses what to answer.
///
/// # Errors
/// 406 when the client takes nothing that there is.
pub fn accept(headers: &HeaderMap) -> Result<Representation, Status> {
    choose(headers, |_| true)
}

/// Chooses what to answer where only whole objects make sense.
///
/// # Errors
/// 406 when the client takes only tables or metadata, or nothing that there is.
pub fn accept_whole(headers: &HeaderMap) -> Result<Representation, Status> {
    choose(headers, |choice| choice.transform == Transform::None)
}

fn choose(
    headers: &HeaderMap,
    takes: impl Fn(&Representation) -> bool,
) -> Result<Representation, Status> {
    let mut known = false;
    let Some(text) = headers.get(ACCEPT).and_then(|v| v.to_str().ok()) else {
        return Ok(Representation::default());
    };
    let mut choices: Vec<(f32, Representation)> = Vec::new();
    for clause in text.split(',') {
        let format = clause.split(';').next().unwrap_or_default();
        known |= format_of(format).is_some();
        choices.extend(choice(clause).filter(|(_, choice)| takes(choice)));
    }
    // The first of the best: the sort is stable.
    choices.sort_by(|a, b| b.0.total_cmp(&a.0));
    match choices.first() {
        Some((_, representation)) => Ok(*representation),
        None if text.trim().is_empty() => Ok(Representation::default()),
        None if known => Err(Status::not_acceptable(ACCEPTED)),
        None => Err(Status::no_such_representation(ACCEPTED)),
    }
}

fn format_of(media_type: &str) -> Option<Format> {
    match media_type.trim() {
        "application/json" | "*/*" | "application/*" => Some(Format::Json),
        "application/yaml" => Some(Format::Yaml),
        _ => None,
    }
}

fn choice(clause: &str) -> Option<(f32, Representation)> {
    let mut parts = clause.split(';').map(str::trim);
    let format = format_of(parts.next()?)?;
    let mut quality = 1.0;
    let mut transform = Transform::None;
    let mut version = "";
    let mut pretty = false;
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("q", q)) => quality = q.parse().ok()?,
            Some(("as", "Table")) => transform = Transform::Table,
            Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                transform = Transform::PartialMetadata;
            }
            Some(("as", "APIGroupDiscoveryList")) => {}
            Some(("as", _)) => return None,
            Some(("v", v)) => version = v,
            Some(("g", _)) => {}
            Some(("pretty", p)) => pretty = p != "0",
            // Streams of items (`stream=watch`) and parameters of no meaning here.
            _ => {}
        }
    }
    // Only meta.k8s.io/v1 is made; clients name v1beta1 as a fallback.
    if transform != Transform::None && !matches!(version, "v1" | "") {
        return None;
    }
    let representation = Representation {
        format,
        transform,
        pretty,
    };
    (quality > 0.0).then_some((quality, representation))
}

/// The format of a body that holds an object.
///
/// # Errors
/// 415 for a format that this server does not read.
pub fn content(headers: &HeaderMap) -> Result<Format, Status> {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    match text.split(';').next().unwrap_or("").trim() {
        "" | "application/json" | "*/*" => Ok(Format::Json),
        "application/yaml" | "text/yaml" => Ok(Format::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Format::Protobuf),
        _ => Err(Status::unsupported_media_type(READ)),
    }
}

/// How a PATCH says what it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Strategic merge patch.
    Strategic,
    /// Server-side apply.
    Apply,
}

/// The type of a PATCH.
///
/// # Errors
/// 415 for one that there is not.
pub fn patch_type(headers: &HeaderMap) -> Result<(PatchType, Format), Status> {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    match text.split(';').next().unwrap_or("").trim() {
        "application/json-patch+json" => Ok((PatchType::Json, Format::Json)),
        "application/merge-patch+json" => Ok((PatchType::Merge, Format::Json)),
        "application/strategic-merge-patch+json" => Ok((PatchType::Strategic, Format::Json)),
        "application/apply-patch+yaml" => Ok((PatchType::Apply, Format::Yaml)),
        "application/apply-patch+json" => Ok((PatchType::Apply, Format::Json)),
        _ => Err(Status::no_such_patch()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Representation, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().expect("header"));
        accept(&headers)
    }

    #[test]
    fn what_kubectl_and_go_clients_ask_for_is_chosen() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl).expect("some").transform, Transform::Table);
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(of(go).expect("some"), Representation::default());
        assert_eq!(
            of("application/json;q=0.5, application/yaml")
                .expect("some")
                .format,
            Format::Yaml
        );
        assert_eq!(of("text/html").expect_err("none").code, 406);
    }
}
