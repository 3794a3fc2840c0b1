//! Sequences written by hand, `cases/*.yaml`: each step rests on those before it, in a namespace of its own.

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::case::Request;

/// The sequences, as files.
const FILES: [(&str, &str); 8] = [
    ("admission", include_str!("../../cases/admission.yaml")),
    ("apply", include_str!("../../cases/apply.yaml")),
    ("custom", include_str!("../../cases/custom.yaml")),
    ("lists", include_str!("../../cases/lists.yaml")),
    ("patches", include_str!("../../cases/patches.yaml")),
    ("policies", include_str!("../../cases/policies.yaml")),
    ("workloads", include_str!("../../cases/workloads.yaml")),
    ("writes", include_str!("../../cases/writes.yaml")),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sequence {
    name: String,
    steps: Vec<StepOf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepOf {
    /// `METHOD path`, where `{ns}` is the sequence's namespace and a path without a slash is inside it.
    ask: String,
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    accept: String,
    #[serde(default)]
    patient: bool,
    #[serde(default)]
    until: Option<u16>,
    /// The body as an object.
    #[serde(default)]
    body: Value,
    /// The body as text.
    #[serde(default)]
    text: String,
}

/// All steps of all sequences.
///
/// # Errors
/// When a file is wrong.
pub fn all() -> anyhow::Result<Vec<Request>> {
    let mut found = Vec::new();
    for (file, text) in FILES {
        let sequences: Vec<Sequence> =
            serde_saphyr::from_str(text).with_context(|| format!("cases/{file}.yaml"))?;
        for (number, sequence) in sequences.iter().enumerate() {
            found.extend(requests(file, number, sequence)?);
        }
    }
    Ok(found)
}

fn requests(file: &str, number: usize, sequence: &Sequence) -> anyhow::Result<Vec<Request>> {
    let namespace = format!("{file}-{number}");
    let step = |name: String, method: &str, path: String, body: String| Request {
        name: format!("{file}/{}/{name}", sequence.name),
        method: method.to_owned(),
        path,
        content: if body.is_empty() {
            String::new()
        } else {
            "application/json".into()
        },
        accept: String::new(),
        body,
        ordered: true,
        patient: false,
        until: None,
    };
    let named = |name: &str| format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let mut found = vec![
        step(
            "namespace".into(),
            "POST",
            "/api/v1/namespaces".into(),
            named(&namespace),
        ),
        step("account".into(), "POST", accounts, named("default")),
    ];
    for (index, one) in sequence.steps.iter().enumerate() {
        let (method, path) = one
            .ask
            .split_once(' ')
            .with_context(|| format!("{}: {}", sequence.name, one.ask))?;
        let path = match path.starts_with('/') {
            true => path.replace("{ns}", &namespace),
            false => format!("/api/v1/namespaces/{namespace}/{path}"),
        };
        let body = match &one.body {
            Value::Null => one.text.clone(),
            body => body.to_string(),
        };
        let body = body.replace("{ns}", &namespace);
        let mut request = step(format!("{index}-{}", one.ask), method, path, body);
        if let Some(content) = &one.content {
            request.content.clone_from(content);
        }
        request.accept.clone_from(&one.accept);
        request.patient = one.patient;
        request.until = one.until;
        found.push(request);
    }
    Ok(found)
}
