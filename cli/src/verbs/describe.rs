//! `corral describe`: everything about an object in an order for people, its events last.

use std::fmt::Write;

use clap::Args;
use serde_json::Value;

use super::resources::{Resource, Resources, targets};
use super::{Scope, events, print};

/// Show everything about objects.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    #[command(flatten)]
    scope: Scope,
    /// Types and names: pod/web-0, "deployment web".
    #[arg(required = true, value_name = "TYPE/NAME")]
    what: Vec<String>,
}

/// Carries the command out.
pub async fn run(args: DescribeArgs) -> anyhow::Result<()> {
    let (api, namespace) = args.scope.open().await?;
    let resources = Resources::discover(&api).await?;
    let mut first = true;
    for (resource, names) in targets(&resources, &args.what)? {
        let objects = if names.is_empty() {
            let list = api.get(&resource.path(Some(&namespace), None)).await?;
            list["items"].as_array().cloned().unwrap_or_default()
        } else {
            let mut objects = Vec::new();
            for name in &names {
                objects.push(
                    api.get(&resource.path(Some(&namespace), Some(name)))
                        .await?,
                );
            }
            objects
        };
        for object in objects {
            let uid = object["metadata"]["uid"].as_str().unwrap_or("");
            let within = object["metadata"]["namespace"].as_str();
            let within = within
                .map(|n| format!("/namespaces/{n}"))
                .unwrap_or_default();
            let path = format!("/api/v1{within}/events?fieldSelector=involvedObject.uid%3D{uid}");
            let (happened, _) = events::list(&api, &path).await.unwrap_or_default();
            let gap = if std::mem::take(&mut first) {
                ""
            } else {
                "\n\n"
            };
            print(&format!("{gap}{}", described(resource, &object, &happened)));
        }
    }
    Ok(())
}

fn described(resource: &Resource, object: &Value, happened: &[Value]) -> String {
    let mut out = String::new();
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    line(&mut out, 0, "Name", &text(&metadata["name"]));
    if resource.namespaced {
        line(&mut out, 0, "Namespace", &text(&metadata["namespace"]));
    }
    for (heading, key) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let map = metadata[key].as_object();
        let pairs: Vec<String> = map
            .into_iter()
            .flatten()
            .map(|(k, v)| format!("{k}={}", text(v)))
            .collect();
        line(
            &mut out,
            0,
            heading,
            &if pairs.is_empty() {
                "<none>".to_owned()
            } else {
                pairs.join(", ")
            },
        );
    }
    line(
        &mut out,
        0,
        "Created",
        &text(&metadata["creationTimestamp"]),
    );
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        line(
            &mut out,
            0,
            "Controlled By",
            &format!("{}/{}", text(&owner["kind"]), text(&owner["name"])),
        );
    }
    let secret = resource.kind == "Secret";
    for (key, value) in object.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if secret && matches!(key.as_str(), "data" | "stringData") {
            // The values stay secret; only their sizes are told.
            let sizes = value.as_object().into_iter().flatten();
            let _ = writeln!(out, "Data:");
            for (name, value) in sizes {
                line(
                    &mut out,
                    1,
                    name,
                    &format!("{} characters of base64", text(value).len()),
                );
            }
            continue;
        }
        tree(&mut out, 0, &heading(key), value);
    }
    if happened.is_empty() {
        line(&mut out, 0, "Events", "<none>");
    } else {
        let _ = writeln!(out, "Events:");
        for row in events::rows(happened, false, true).lines() {
            let _ = writeln!(out, "  {row}");
        }
    }
    out
}

fn line(out: &mut String, depth: usize, key: &str, value: &str) {
    let indent = "  ".repeat(depth);
    let width = 22usize.saturating_sub(indent.len());
    let _ = writeln!(
        out,
        "{}",
        format!("{indent}{:width$} {value}", format!("{key}:")).trim_end()
    );
}

/// `minReadySeconds` as `Min Ready Seconds`.
fn heading(key: &str) -> String {
    let mut out = String::new();
    for (index, c) in key.chars().enumerate() {
        if index == 0 {
            out.extend(c.to_uppercase());
        } else {
            if c.is_uppercase() && !out.ends_with(|p: char| p.is_uppercase()) {
                out.push(' ');
            }
            out.push(c);
        }
    }
    out
}

fn tree(out: &mut String, depth: usize, key: &str, value: &Value) {
    match value {
        Value::Object(map) if map.is_empty() => line(out, depth, key, "{}"),
        Value::Object(map) => {
            line(out, depth, key, "");
            for (name, inner) in map {
                tree(out, depth + 1, &heading(name), inner);
            }
        }
        Value::Array(items) if items.iter().all(|i| !i.is_object() && !i.is_array()) => {
            let texts: Vec<String> = items.iter().map(scalar).collect();
            line(out, depth, key, &texts.join(" "));
        }
        Value::Array(items) => {
            line(out, depth, key, "");
            for (index, item) in items.iter().enumerate() {
                let name = ["name", "type", "key"]
                    .iter()
                    .find_map(|k| item[k].as_str());
                tree(out, depth + 1, name.unwrap_or(&format!("{index}")), item);
            }
        }
        other => line(out, depth, key, &scalar(other)),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim_end().replace('\n', "\n      "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_read_as_words() {
        assert_eq!(heading("minReadySeconds"), "Min Ready Seconds");
        assert_eq!(heading("clusterIP"), "Cluster IP");
    }
}
