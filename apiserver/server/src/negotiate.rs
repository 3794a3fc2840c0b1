//! Which representation a client wants (`Accept`) and which one it sent (`Content-Type`).
//!
//! The rules are those of kube-apiserver, its routes included: a route looks whether a client takes one of its media types
//! at all, without parameters; only then are clauses weighed, where wildcards and parameters count.

use corral_api::status::Status;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};

use crate::decode::Format;
use crate::request::Query;

/// What the object is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    None,
    /// `Table`, as `kubectl get` asks for.
    Table,
    /// `PartialObjectMetadata`.
    PartialMetadata,
    /// `PartialObjectMetadataList`.
    PartialMetadataList,
}

/// A representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Representation {
    /// Bytes on the wire.
    pub format: Format,
    /// What is shown.
    pub transform: Transform,
    /// The version of a table or metadata: `meta.k8s.io/v1`, or `v1beta1` for old clients.
    pub meta_version: &'static str,
    /// Indented, for people.
    pub pretty: bool,
}

impl Default for Representation {
    fn default() -> Self {
        Self {
            format: Format::Json,
            transform: Transform::None,
            meta_version: META_VERSION,
            pretty: false,
        }
    }
}

const META_VERSION: &str = "meta.k8s.io/v1";
const META_VERSION_OLD: &str = "meta.k8s.io/v1beta1";

/// Clauses of a header that are looked at. Clients send a handful, and each is compared with those before it.
const CLAUSES_MAX: usize = 64;

/// What a place of the API can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Tables and metadata alone, too.
    pub transforms: bool,
    /// Protobuf, too, which there is for built-in types only.
    pub protobuf: bool,
    /// Metadata alone in protobuf, of whatever type.
    pub metadata_in_protobuf: bool,
    /// Streams of events, too.
    pub streams: bool,
}

impl Offer {
    /// Whole objects of a type of Kubernetes.
    pub const WHOLE: Self = Self {
        transforms: false,
        protobuf: true,
        metadata_in_protobuf: false,
        streams: false,
    };

    fn formats(self) -> &'static [Format] {
        match self.protobuf || self.metadata_in_protobuf {
            true => &[Format::Json, Format::Yaml, Format::Protobuf],
            false => &[Format::Json, Format::Yaml],
        }
    }

    fn media_types(self) -> String {
        let types: Vec<&str> = self.formats().iter().map(|f| f.media_type()).collect();
        types.join(", ")
    }

    fn streamed(self) -> &'static str {
        match self.protobuf || self.metadata_in_protobuf {
            true => {
                "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
            }
            false => "application/json;stream=watch",
        }
    }

    /// What the route takes, as its refusal lists it.
    fn routed(self) -> String {
        match self.streams {
            true => format!("{}, {}", self.media_types(), self.streamed()),
            false => self.media_types(),
        }
    }
}

/// One clause of an `Accept` header.
struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    /// Reads a clause; `None` for what is no media type.
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let (kind, subtype) = match parts.next()?.split_once('/') {
            Some((kind, subtype)) if !subtype.contains('/') => (kind.trim(), subtype.trim()),
            None if text.trim().starts_with('*') => ("*", "*"),
            _ => return None,
        };
        let mut clause = Self {
            kind,
            subtype,
            quality: 1.0,
            parameters: Vec::new(),
        };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim() {
                "" => {}
                // What is no number counts as nothing, and nothing is still taken where there is nothing better.
                "q" => clause.quality = value.trim().parse().unwrap_or(0.0),
                name => clause.parameters.push((name, value.trim())),
            }
        }
        Some(clause)
    }

    fn takes(&self, format: Format) -> bool {
        let (kind, subtype) = format.media_type().split_once('/').unwrap_or_default();
        (self.kind == kind && (self.subtype == subtype || self.subtype == "*"))
            || (self.kind == "*" && self.subtype == "*")
    }

    /// Whether it is moved before the one in front of it. No order in the strict sense: a clause that names what it means
    /// passes a wildcard of better quality, but not the other way round.
    fn passes(&self, before: &Self) -> bool {
        self.quality > before.quality
            || (self.kind != "*" && before.kind == "*")
            || (self.subtype != "*" && before.subtype == "*")
    }

    fn choose(&self, format: Format, offer: Offer) -> Option<Representation> {
        let get = |name: &str| {
            let found = self.parameters.iter().rev().find(|(n, _)| *n == name);
            found.map(|(_, value)| *value)
        };
        let mut chosen = Representation {
            format,
            pretty: get("pretty") == Some("1"),
            ..Representation::default()
        };
        let stream = get("stream").unwrap_or("");
        if !stream.is_empty() && (stream != "watch" || format == Format::Yaml) {
            return None;
        }
        if get("sv").is_some_and(|version| !version.is_empty()) {
            return None;
        }
        let asked = [get("as"), get("g"), get("v")];
        if asked == [None; 3] {
            let has_form = format != Format::Protobuf || offer.protobuf;
            return has_form.then_some(chosen);
        }
        let [kind, group, version] = asked.map(Option::unwrap_or_default);
        chosen.meta_version = match (group, version) {
            ("meta.k8s.io", "v1") => META_VERSION,
            ("meta.k8s.io", "v1beta1") => META_VERSION_OLD,
            _ => return None,
        };
        chosen.transform = match kind {
            // Cells of a table have no types, which protobuf needs.
            "Table" if format != Format::Protobuf => Transform::Table,
            "PartialObjectMetadata" => Transform::PartialMetadata,
            "PartialObjectMetadataList" => Transform::PartialMetadataList,
            _ => return None,
        };
        offer.transforms.then_some(chosen)
    }
}

/// Chooses what to answer.
///
/// # Errors
/// 406 when the client takes nothing that there is.
pub fn accept(headers: &HeaderMap, query: &Query, offer: Offer) -> Result<Representation, Status> {
    let text = accepted(headers);
    if !text.is_empty() && !is_routed(text, offer) {
        return Err(Status::no_such_representation(&offer.routed()));
    }
    let chosen = weigh(text, offer).ok_or_else(|| Status::not_acceptable(&offer.media_types()))?;
    Ok(for_people(chosen, headers, query))
}

/// Chooses how events are told.
///
/// # Errors
/// 406 when the client takes nothing that there is.
pub fn accept_stream(
    headers: &HeaderMap,
    query: &Query,
    offer: Offer,
) -> Result<Representation, Status> {
    let chosen = accept(headers, query, offer)?;
    match chosen.format {
        Format::Yaml => Err(Status::not_acceptable(offer.streamed())),
        _ => Ok(chosen),
    }
}

/// How a client is told that its request failed, whatever else it takes.
pub fn accept_failure(headers: &HeaderMap, query: &Query) -> Representation {
    let chosen = weigh(accepted(headers), Offer::WHOLE).unwrap_or_default();
    for_people(chosen, headers, query)
}

fn accepted(headers: &HeaderMap) -> &str {
    let text = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    text.unwrap_or("").trim()
}

fn is_routed(text: &str, offer: Offer) -> bool {
    let mut types = text.split(',').map(|clause| {
        let media_type = clause.split(';').next().unwrap_or_default();
        media_type.trim()
    });
    types.any(|media_type| {
        let mut formats = offer.formats().iter();
        media_type == "*/*" || formats.any(|format| format.media_type() == media_type)
    })
}

fn weigh(text: &str, offer: Offer) -> Option<Representation> {
    if text.is_empty() {
        return Some(Representation::default());
    }
    let read = text.split(',').filter_map(Clause::read);
    let mut clauses: Vec<Clause<'_>> = read.take(CLAUSES_MAX).collect();
    for index in 1..clauses.len() {
        let mut at = index;
        while at > 0 && clauses[at].passes(&clauses[at - 1]) {
            clauses.swap(at, at - 1);
            at -= 1;
        }
    }
    clauses.iter().find_map(|clause| {
        let mut formats = offer
            .formats()
            .iter()
            .filter(|format| clause.takes(**format));
        formats.find_map(|format| clause.choose(*format, offer))
    })
}

/// Indents for those who ask for it, and for browsers and command line tools.
fn for_people(chosen: Representation, headers: &HeaderMap, query: &Query) -> Representation {
    const PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];
    let asked = match query.get("pretty") {
        Some(text) if !text.is_empty() => {
            matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
        }
        _ => {
            let agent = headers
                .get(USER_AGENT)
                .and_then(|value| value.to_str().ok());
            agent.is_some_and(|agent| PEOPLE.iter().any(|person| agent.starts_with(person)))
        }
    };
    Representation {
        pretty: chosen.pretty || asked,
        ..chosen
    }
}

/// The format of a body that holds an object.
///
/// # Errors
/// 415 for a format that this place does not read.
pub fn content(headers: &HeaderMap, offer: Offer) -> Result<Format, Status> {
    let text = headers.get(CONTENT_TYPE).map(|value| value.to_str().ok());
    let Some(text) = text.unwrap_or(Some("")).filter(|text| !text.is_empty()) else {
        return Ok(Format::Json);
    };
    let media_type = media_type(text);
    let mut formats = offer.formats().iter();
    let found = formats.find(|format| Some(format.media_type()) == media_type.as_deref());
    found
        .copied()
        .ok_or_else(|| Status::unsupported_media_type(&offer.media_types()))
}

/// The media type of a header without its parameters; `None` if it is none.
fn media_type(text: &str) -> Option<String> {
    let mut parts = text.split(';');
    let media_type = parts.next()?.trim().to_ascii_lowercase();
    let mut rest: Vec<&str> = parts.map(str::trim).collect();
    if rest.last() == Some(&"") {
        rest.pop();
    }
    let is_token = |text: &str| {
        let special = |c: char| "()<>@,;:\\\"/[]?=".contains(c) || c.is_whitespace();
        !text.is_empty() && !text.contains(special)
    };
    let is_parameter = |text: &&str| {
        text.split_once('=').is_some_and(|(name, value)| {
            let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            is_token(name.trim_end()) && (quoted.is_some() || is_token(value))
        })
    };
    rest.iter().all(is_parameter).then_some(media_type)
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

    const OBJECTS: Offer = Offer {
        transforms: true,
        protobuf: true,
        metadata_in_protobuf: false,
        streams: false,
    };
    const JSON: &str = "application/json";
    const TABLE: &str = ";as=Table;v=v1;g=meta.k8s.io";
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

    fn of(text: &str) -> Result<Representation, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().expect("header"));
        accept(&headers, &Query::default(), OBJECTS)
    }

    /// What kube-apiserver v1.36.3 answers to the same headers.
    #[test]
    fn the_format_is_chosen_as_kube_apiserver_does() {
        let cases = [
            (String::new(), Format::Json),
            (JSON.to_owned(), Format::Json),
            ("*/*".to_owned(), Format::Json),
            (format!("{JSON};q=0"), Format::Json),
            (format!("{JSON};q=0,application/yaml"), Format::Yaml),
            (format!("{JSON};q=0.5,{PROTOBUF}"), Format::Protobuf),
            (format!("{PROTOBUF},{JSON}"), Format::Protobuf),
            (format!("*/*;q=0.1,{PROTOBUF};q=0.05"), Format::Protobuf),
            (format!("{PROTOBUF};q=0.05,*/*;q=0.1"), Format::Json),
            (format!("application/*,{PROTOBUF}"), Format::Protobuf),
            (
                format!("*/*;q=0.9,application/yaml;q=0.8,{PROTOBUF};q=0.1"),
                Format::Yaml,
            ),
            (format!("{PROTOBUF}{TABLE},{JSON}"), Format::Json),
            (format!("{JSON};foo=bar;charset=utf-8"), Format::Json),
            (format!("{JSON};stream=watch"), Format::Json),
            (format!("{JSON} ; q=x"), Format::Json),
            (format!("application/cbor,{JSON}"), Format::Json),
            (
                format!("application/yaml;stream=watch,{JSON}"),
                Format::Json,
            ),
        ];
        for (text, format) in cases {
            assert_eq!(of(&text).expect("some").format, format, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_in_the_words_of_the_route_or_of_the_choice() {
        for text in [
            "text/html",
            "application/*",
            "APPLICATION/JSON",
            "garbage",
            ";",
            "*/json",
        ] {
            let status = of(text).expect_err("none");
            assert!(status.message.starts_with("406: Not Acceptable"), "{text}");
        }
        for parameters in [
            ";as=Table;v=v2;g=meta.k8s.io",
            ";as=Foo",
            ";g=x",
            ";stream=foo",
            ";sv=1",
            ";as=Table",
        ] {
            let status = of(&format!("{JSON}{parameters}")).expect_err("none");
            let head = "only the following media types are accepted: application/json";
            assert!(status.message.starts_with(head), "{parameters}");
        }
        assert_eq!(
            of(&format!("{PROTOBUF}{TABLE}")).expect_err("none").code,
            406
        );
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, "application/yaml".parse().expect("header"));
        let refused = accept_stream(&headers, &Query::default(), OBJECTS);
        assert_eq!(refused.expect_err("none").code, 406);
    }

    #[test]
    fn tables_and_metadata_have_a_version() {
        let table = of(&format!("{JSON}{TABLE},{JSON}")).expect("some");
        assert_eq!(table.transform, Transform::Table);
        let old = of(&format!(
            "{JSON};as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io"
        ));
        let old = old.expect("some");
        assert_eq!(old.transform, Transform::PartialMetadata);
        assert_eq!(old.meta_version, META_VERSION_OLD);
    }

    #[test]
    fn bodies_have_a_media_type_with_parameters_or_none() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().expect("header"));
            content(&headers, OBJECTS).map_err(|status| status.code)
        };
        assert_eq!(
            content(&HeaderMap::new(), OBJECTS).expect("JSON"),
            Format::Json
        );
        assert_eq!(read("Application/JSON; charset=utf-8"), Ok(Format::Json));
        assert_eq!(read("application/yaml;"), Ok(Format::Yaml));
        assert_eq!(read(PROTOBUF), Ok(Format::Protobuf));
        for text in [
            "text/yaml",
            "*/*",
            "application/cbor",
            "application/json; x",
        ] {
            assert_eq!(read(text), Err(415), "{text}");
        }
    }
}
