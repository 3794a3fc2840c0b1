//! Paths that are no resources: discovery, health, version, metrics, OpenAPI, and joining.

use corral_api::status::Status;
use http::Method;
use prometheus::{Encoder, TextEncoder};
use serde_json::json;

use crate::authn::issuer;
use crate::discovery;
use crate::flow::dump;
use crate::handlers::Call;
use crate::join;
use crate::negotiate::{self, Offer};
use crate::openapi;
use crate::response::{self, Answer};

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
            &json!({"paths": index()}),
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
        ["healthz" | "livez" | "readyz"] => health(call, parts[0], None).await,
        ["healthz" | "livez" | "readyz", check] => health(call, parts[0], Some(check)).await,
        ["metrics"] => metrics(call),
        ["debug", "api_priority_and_fairness", page] => fairness_page(call, page),
        _ if path == issuer::CONFIGURATION_PATH => {
            Ok(document("application/json", &issuer::configuration()))
        }
        _ if path == issuer::KEYS_PATH => {
            let key = call.shared.authenticator.tokens().public_key();
            Ok(document(issuer::KEYS_TYPE, &key.set()))
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

fn index() -> Vec<&'static str> {
    vec![
        issuer::CONFIGURATION_PATH,
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        issuer::KEYS_PATH,
        "/readyz",
        "/version",
    ]
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
        "major": major, "minor": minor, "gitVersion": format!("{git}+corral.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH.replace("x86_64", "amd64")),
    })
}

/// Runs the named checks; those that the client excludes count as passed.
async fn health(call: &Call, endpoint: &str, only: Option<&str>) -> Result<Answer, Status> {
    let shared = &call.shared;
    let caches: Vec<String> = shared
        .api
        .resources()
        .filter(|r| !r.cacher.is_settled())
        .map(|r| r.kind.names().plural.to_owned())
        .collect();
    let store = shared.api.storage.health().await;
    let further = shared.api.storage.checks().await;
    let mut checks = vec![("ping", true), ("store", store.is_ok())];
    checks.extend(further.iter().map(|(name, ok)| (name.as_str(), ok.is_ok())));
    if endpoint != "livez" {
        checks.push(("informer-sync", caches.is_empty()));
        checks.push(("shutdown", !shared.stop.is_cancelled()));
    }
    if let Some(only) = only {
        checks.retain(|(name, _)| *name == only);
        if checks.is_empty() {
            return Err(Status::no_such_path());
        }
    }
    let excluded = call.info.query.all("exclude");
    let failed = checks
        .iter()
        .any(|(name, ok)| !ok && excluded.iter().all(|e| e != name));
    let verbose = call.info.query.get("verbose").is_some();
    if !failed && !verbose {
        return Ok(response::text(200, "ok"));
    }
    let mut text = String::new();
    for (name, ok) in checks {
        let (sign, word) = match (ok, excluded.iter().any(|e| e == name)) {
            (_, true) => ('+', "excluded: ok"),
            (true, _) => ('+', "ok"),
            (false, _) => ('-', "failed: reason withheld"),
        };
        text.push_str(&format!("[{sign}]{name} {word}\n"));
    }
    let outcome = if failed { "failed" } else { "passed" };
    text.push_str(&format!("{endpoint} check {outcome}\n"));
    Ok(response::text(if failed { 500 } else { 200 }, text))
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
    call.shared.metrics.observe(&call.shared.api);
    TextEncoder::new()
        .encode(&call.shared.registry.gather(), &mut text)
        .map_err(Status::internal)?;
    Ok(response::answer(
        200,
        "text/plain; version=0.0.4",
        response::full(text),
    ))
}
