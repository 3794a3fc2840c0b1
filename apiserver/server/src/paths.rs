//! Paths that are no resources: discovery, health, version, metrics, OpenAPI, and joining.

use std::collections::BTreeSet;

use corral_api::status::Status;
use http::Method;
use prometheus::{Encoder, Registry, TextEncoder};
use serde_json::json;

use crate::Shared;
use crate::authn::issuer;
use crate::discovery;
use crate::flow::dump;
use crate::handlers::Call;
use crate::health;
use crate::join;
use crate::negotiate::{self, Offer, Representation};
use crate::openapi;
use crate::profiling;
use crate::response::{self, Answer};
use crate::zpages;

/// The version of Kubernetes whose API this is.
pub const KUBERNETES_VERSION: (&str, &str, &str) = ("1", "36", "v1.36.3");
/// The minor version of that.
pub const KUBERNETES_MINOR: u32 = 36;

/// What paths answer that are no part of the API's types.
const JSON_ONLY: Offer = Offer {
    protobuf: false,
    ..Offer::WHOLE
};

/// Answers a path that is no resource.
///
/// # Errors
/// 404 for a path that is not served, 405 where only GET is.
pub async fn handle(call: &Call) -> Result<Answer, Status> {
    let method = &call.parts.method;
    let path = call.info.path.as_str();
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').skip(1).collect();
    if *method == Method::POST && path == "/corral/v1/node-certificates" {
        return join::node_certificate(call).await;
    }
    // What describes the API is asked for with GET, and may end with a slash. The rest answers any method alike, and only to
    // its own name.
    if let Some(described) = description(call, &parts) {
        let answer = described?;
        return match *method {
            Method::GET => Ok(answer),
            _ => Err(Status::method_not_allowed()),
        };
    }
    match parts.as_slice() {
        [] => Ok(response::object(
            200,
            for_people(negotiate::accept(
                call.headers(),
                &call.info.query,
                JSON_ONLY,
            )?),
            &json!({"paths": index(&call.shared).await}),
        )),
        ["apis"] => discovery::groups(call),
        ["apis", group] => discovery::group(call, group),
        _ if path.ends_with('/') && !path.starts_with("/debug/") => Ok(nothing_here()),
        [endpoint @ ("healthz" | "livez" | "readyz"), check @ ..] => {
            health::handle(call, endpoint, &check.join("/")).await
        }
        ["statusz"] => zpages::statusz(call),
        ["configz"] => Ok(zpages::configz(call)),
        ["flagz"] => zpages::flagz(call),
        ["metrics"] => {
            call.shared.metrics.observe(&call.shared);
            metrics(&call.shared.registry)
        }
        ["metrics", "slis"] => metrics(&call.shared.metrics.indicators.registry),
        ["debug", "pprof", rest @ ..] if matches!(*method, Method::GET | Method::HEAD) => {
            profiling::handle(call, rest).await
        }
        ["debug", "api_priority_and_fairness", page] => fairness_page(call, page),
        ["openapi", "v2"] => openapi::v2(call),
        ["openapi", "v3"] => openapi::v3_index(call),
        ["openapi", "v3", rest @ ..] => openapi::v3(call, &rest.join("/")),
        _ => Ok(nothing_here()),
    }
}

/// As Kubernetes answers what people read: always indented.
fn for_people(accepted: Representation) -> Representation {
    Representation {
        pretty: true,
        ..accepted
    }
}

/// What describes versions of the API, and the issuer of tokens. `None` for other paths.
fn description(call: &Call, parts: &[&str]) -> Option<Result<Answer, Status>> {
    let tokens = call.shared.authenticator.tokens();
    Some(match parts {
        ["api"] => discovery::core(call),
        ["api", version] => discovery::resources(call, "", version),
        ["apis", group, version] => discovery::resources(call, group, version),
        ["version"] => negotiate::accept(call.headers(), &call.info.query, JSON_ONLY)
            .map(|accepted| response::object(200, for_people(accepted), &version())),
        _ if call.info.path == issuer::CONFIGURATION_PATH => {
            let told = issuer::configuration(tokens.issuer(), tokens.public_keys());
            Ok(document("application/json", &told))
        }
        _ if call.info.path == issuer::KEYS_PATH => Ok(document(
            issuer::KEYS_TYPE,
            &issuer::set(tokens.public_keys()),
        )),
        _ => return None,
    })
}

/// What is no part of the API at all is not answered in its types.
fn nothing_here() -> Answer {
    const NO_SNIFF: http::HeaderValue = http::HeaderValue::from_static("nosniff");
    let mut answer = response::text(404, "404 page not found\n");
    let headers = answer.headers_mut();
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    answer
}

async fn index(shared: &Shared) -> Vec<String> {
    const FIXED: [&str; 12] = [
        issuer::CONFIGURATION_PATH,
        "/api",
        "/apis",
        "/apis/",
        // Nothing of these is stored, so that no cache has them.
        "/apis/authentication.k8s.io",
        "/apis/authentication.k8s.io/v1",
        "/apis/authorization.k8s.io",
        "/apis/authorization.k8s.io/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        issuer::KEYS_PATH,
    ];
    let mut paths: BTreeSet<String> = FIXED.iter().map(|path| (*path).to_owned()).collect();
    paths.extend(zpages::index(shared).await);
    for resource in shared.api.resources() {
        let names = resource.kind.names();
        if names.group.is_empty() {
            paths.insert(format!("/api/{}", names.version));
        } else {
            paths.insert(format!("/apis/{}", names.group));
            paths.insert(format!("/apis/{}/{}", names.group, names.version));
        }
    }
    paths.into_iter().collect()
}

/// A document of the issuer of tokens, which those who check them may keep for a while.
fn document(media_type: &'static str, content: &serde_json::Value) -> Answer {
    const KEPT: http::HeaderValue = http::HeaderValue::from_static("public, max-age=3600");
    let mut answer = response::answer(200, media_type, response::full(content.to_string()));
    let headers = answer.headers_mut();
    headers.insert(http::header::CACHE_CONTROL, KEPT);
    answer
}

/// What the server says of its version.
pub(crate) fn version() -> serde_json::Value {
    let (major, minor, git) = KUBERNETES_VERSION;
    json!({
        "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": (KUBERNETES_MINOR - 1).to_string(), "gitVersion": format!("{git}+corral.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH.replace("x86_64", "amd64")),
    })
}

/// How things stand at the priority levels.
fn fairness_page(call: &Call, name: &str) -> Result<Answer, Status> {
    let details = call.info.query.get("includeRequestDetails");
    let details = details.is_some_and(|text| !text.is_empty());
    let fairness = call.shared.flow.fairness.as_ref();
    let page = fairness.and_then(|fairness| dump::page(fairness, name, details));
    Ok(page.map_or_else(nothing_here, |page| response::text(200, page)))
}

fn metrics(registry: &Registry) -> Result<Answer, Status> {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .map_err(Status::internal)?;
    Ok(response::answer(
        200,
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
        response::full(text),
    ))
}
