//! Paths that are no resources: discovery, health, version, metrics, OpenAPI, and joining.

use std::collections::BTreeSet;

use corral_api::status::Status;
use http::Method;
use prometheus::{Encoder, TextEncoder};
use serde_json::json;

use crate::Shared;
use crate::authn::issuer;
use crate::discovery;
use crate::flow::dump;
use crate::handlers::Call;
use crate::health;
use crate::join;
use crate::negotiate::{self, Offer};
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
/// 404 for a path that is not served.
pub async fn handle(call: &Call) -> Result<Answer, Status> {
    let path = call.info.path.trim_end_matches('/');
    if call.parts.method == Method::POST && path == "/corral/v1/node-certificates" {
        return join::node_certificate(call).await;
    }
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        [] => Ok(response::object(
            200,
            negotiate::accept(call.headers(), &call.info.query, JSON_ONLY)?,
            &json!({"paths": index(&call.shared).await}),
        )),
        ["api"] => discovery::core(call),
        ["apis"] => discovery::groups(call),
        ["api", version] => discovery::resources(call, "", version),
        ["apis", group] => discovery::group(call, group),
        ["apis", group, version] => discovery::resources(call, group, version),
        ["version"] => Ok(response::object(
            200,
            negotiate::accept(call.headers(), &call.info.query, JSON_ONLY)?,
            &version(),
        )),
        [endpoint @ ("healthz" | "livez" | "readyz"), check @ ..] => {
            health::handle(call, endpoint, &check.join("/")).await
        }
        ["statusz"] => zpages::statusz(call),
        ["flagz"] => zpages::flagz(call),
        ["metrics"] => metrics(call),
        ["debug", "pprof", rest @ ..] => profiling::handle(call, rest).await,
        ["debug", "api_priority_and_fairness", page] => fairness_page(call, page),
        _ if path == issuer::CONFIGURATION_PATH => {
            let tokens = call.shared.authenticator.tokens();
            let told = issuer::configuration(tokens.issuer(), tokens.public_keys());
            Ok(document("application/json", &told))
        }
        _ if path == issuer::KEYS_PATH => {
            let tokens = call.shared.authenticator.tokens();
            Ok(document(
                issuer::KEYS_TYPE,
                &issuer::set(tokens.public_keys()),
            ))
        }
        ["openapi", "v2"] => openapi::v2(call),
        ["openapi", "v3"] => openapi::v3_index(call),
        ["openapi", "v3", rest @ ..] => openapi::v3(call, &rest.join("/")),
        _ => Ok(nothing_here()),
    }
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
    const FIXED: [&str; 7] = [
        issuer::CONFIGURATION_PATH,
        "/api",
        "/apis",
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

fn version() -> serde_json::Value {
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

fn metrics(call: &Call) -> Result<Answer, Status> {
    let mut text = Vec::new();
    call.shared.metrics.observe(&call.shared);
    TextEncoder::new()
        .encode(&call.shared.registry.gather(), &mut text)
        .map_err(Status::internal)?;
    Ok(response::answer(
        200,
        "text/plain; version=0.0.4",
        response::full(text),
    ))
}
