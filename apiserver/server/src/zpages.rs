//! `/statusz` and `/flagz`: what this process is and how it was started, for people, or as objects for those who ask for one by
//! group, version and kind. `/configz`: the configurations in effect, for programs.

use corral_api::status::Status;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Shared;
use crate::handlers::Call;
use crate::paths::{KUBERNETES_MINOR, KUBERNETES_VERSION};
use crate::response::{self, Answer};
use crate::traces::TracingConfig;

const GROUP: &str = "config.k8s.io";
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
const NAME: &str = "apiserver";
/// The paths that the page tells of.
const PATHS: [&str; 8] = [
    "/configz", "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version",
];
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";

/// How a page is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json(&'static str),
    Yaml(&'static str),
}

/// Chooses the form. Objects are only for those who name them; their fields may change.
fn form(headers: &HeaderMap, kind: &str) -> Result<Form, Status> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let accept = accept.unwrap_or_default();
    if accept.trim().is_empty() {
        return Ok(Form::Text);
    }
    let chosen = accept.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let media_type = parts.next()?;
        let parameter = |name: &str| {
            let mut pairs = clause.split(';').filter_map(|part| part.split_once('='));
            let pair = pairs.find(|(key, _)| key.trim() == name);
            pair.map(|(_, value)| value.trim().to_owned())
        };
        let is_named =
            parameter("as").as_deref() == Some(kind) && parameter("g").as_deref() == Some(GROUP);
        let version = parameter("v");
        let version = VERSIONS
            .into_iter()
            .find(|v| version.as_deref() == Some(*v));
        match (media_type, version.filter(|_| is_named)) {
            ("text/plain" | "text/*" | "*/*", _) => Some(Form::Text),
            ("application/json", Some(version)) => Some(Form::Json(version)),
            ("application/yaml", Some(version)) => Some(Form::Yaml(version)),
            _ => None,
        }
    });
    const OFFERED: &str = "application/json, application/yaml, text/plain";
    chosen.ok_or_else(|| Status::not_acceptable(OFFERED))
}

fn answer(
    form: Form,
    kind: &str,
    fields: Value,
    text: impl FnOnce() -> String,
) -> Result<Answer, Status> {
    let (version, format) = match form {
        Form::Text => return Ok(response::text(200, text())),
        Form::Json(version) => (version, "json"),
        Form::Yaml(version) => (version, "yaml"),
    };
    let mut object = json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": {"name": NAME},
    });
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    let text = match format {
        "json" => serde_json::to_string_pretty(&object).map_err(Status::internal)?,
        _ => serde_saphyr::to_string(&object).map_err(Status::internal)?,
    };
    let mut answer = response::text(200, text);
    let media_type = format!("application/{format};g={GROUP};v={version};as={kind}");
    let media_type = HeaderValue::from_str(&media_type).map_err(Status::internal)?;
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(answer)
}

/// `/statusz`.
///
/// # Errors
/// 406 when the client takes none of the forms.
pub fn statusz(call: &Call) -> Result<Answer, Status> {
    const KIND: &str = "Statusz";
    let form = form(call.headers(), KIND)?;
    let (started, now) = (call.shared.started, Timestamp::now());
    let up = u64::try_from(now.as_second() - started.as_second()).unwrap_or(0);
    let (major, _, version) = KUBERNETES_VERSION;
    let version = version.trim_start_matches('v');
    let emulated = format!("{major}.{KUBERNETES_MINOR}");
    let fields = json!({
        "startTime": corral_api::time::format_seconds(started), "uptimeSeconds": up, "goVersion": "none",
        "binaryVersion": version, "emulationVersion": emulated, "paths": PATHS,
    });
    answer(form, KIND, fields, || {
        let began = started.strftime("%a %b %e %H:%M:%S UTC %Y");
        let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
        let paths = PATHS.join(" ");
        format!(
            "\n{NAME} statusz\n{WARNING}\n\nStarted: {began}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\n\
             Go version: none\nBinary version: {version}\nEmulation version: {emulated}\nPaths: {paths}\n"
        )
    })
}

/// `/flagz`.
///
/// # Errors
/// 406 when the client takes none of the forms.
pub fn flagz(call: &Call) -> Result<Answer, Status> {
    const KIND: &str = "Flagz";
    let form = form(call.headers(), KIND)?;
    let flags = &call.shared.serving.flags;
    answer(form, KIND, json!({"flags": flags}), || {
        let lines = flags
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"));
        let lines: String = lines.collect();
        format!("\n{NAME} flagz\n{WARNING}\n{lines}")
    })
}

/// `/configz`: by what they configure, as a file would write them. Configurations of encryption are not among them, as they
/// hold keys.
pub fn configz(call: &Call) -> Answer {
    let shared = &call.shared;
    let mut configurations = json!({
        "admission": shared.admission_configuration,
        "authentication": shared.authenticator.configuration(),
        "authorization": shared.authorizer.configuration(),
    });
    let tracing = shared.serving.tracing.as_ref();
    for (name, configuration) in [
        ("audit", shared.audit.policy()),
        ("tracing", tracing.map(TracingConfig::configuration)),
    ] {
        if let Some(configuration) = configuration {
            configurations[name] = configuration;
        }
    }
    let mut answer = response::text(200, configurations.to_string());
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

/// The pages that there are.
pub async fn index(shared: &Shared) -> Vec<String> {
    let mut paths: Vec<String> = PATHS.iter().map(|path| (*path).to_owned()).collect();
    paths.push("/metrics/slis".to_owned());
    for endpoint in ["healthz", "livez", "readyz"] {
        let names = crate::health::names(shared, endpoint).await;
        paths.extend(names.iter().map(|name| format!("/{endpoint}/{name}")));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_for_those_who_name_them() {
        let of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header"));
            form(&headers, "Statusz").map_err(|status| status.code)
        };
        assert_eq!(of("*/*"), Ok(Form::Text));
        assert_eq!(of("application/json"), Err(406));
        assert_eq!(of("application/json, text/plain"), Ok(Form::Text));
        let named = "application/json;v=v1beta1;g=config.k8s.io;as=Statusz";
        assert_eq!(of(named), Ok(Form::Json("v1beta1")));
        assert_eq!(
            of(&named.replace("json", "yaml")),
            Ok(Form::Yaml("v1beta1"))
        );
        assert_eq!(of(&named.replace("v1beta1", "v1")), Err(406));
        assert_eq!(of(&named.replace("Statusz", "Flagz")), Err(406));
        assert_eq!(form(&HeaderMap::new(), "Statusz").ok(), Some(Form::Text));
    }
}
