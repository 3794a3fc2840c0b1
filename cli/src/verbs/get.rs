//! `corral get`.

use clap::{Args, ValueEnum};
use futures::StreamExt;
use serde_json::{Value, json};

use super::api::{Api, escape};
use super::resources::{Resource, Resources, targets};
use super::table::{View, align, cells};
use super::{Scope, print};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// The form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// A table with more columns.
    Wide,
    /// TYPE/NAME, a line each.
    Name,
}

/// Show objects.
#[derive(Debug, Args)]
pub struct GetArgs {
    #[command(flatten)]
    scope: Scope,
    /// Types and names: pods, deployment/web, "service web", or several types with commas.
    #[arg(required = true, value_name = "TYPE [NAME]")]
    what: Vec<String>,
    /// Of all namespaces.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects whose labels match, as app=web,tier!=back.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects whose fields match, as status.phase=Running.
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// The form of the result.
    #[arg(long, short = 'o', value_enum)]
    output: Option<Output>,
    /// Go on and show changes.
    #[arg(long, short = 'w')]
    watch: bool,
    /// Leave out the heading.
    #[arg(long)]
    no_headers: bool,
}

/// Carries the command out.
pub async fn run(args: GetArgs) -> anyhow::Result<()> {
    let (api, namespace) = args.scope.open().await?;
    let resources = Resources::discover(&api).await?;
    let targets = targets(&resources, &args.what)?;
    let within = (!args.all_namespaces).then_some(namespace.as_str());
    let several = targets.len() > 1;
    if args.watch {
        anyhow::ensure!(!several, "--watch shows one type at a time");
        return watch(
            &api,
            &args,
            targets[0].0,
            within,
            targets[0].1.first().map(String::as_str),
        )
        .await;
    }
    let mut objects = Vec::new();
    let mut shown = 0;
    for (resource, names) in &targets {
        let paths: Vec<String> = if names.is_empty() {
            vec![format!("{}?{}", resource.path(within, None), query(&args))]
        } else {
            names
                .iter()
                .map(|name| resource.path(Some(&namespace), Some(name)))
                .collect()
        };
        for path in paths {
            match args.output {
                None | Some(Output::Wide) => {
                    let table = api.get_as(&path, TABLE).await?;
                    let qualified = resource.qualified();
                    let view = View {
                        wide: args.output == Some(Output::Wide),
                        namespace: args.all_namespaces && resource.namespaced,
                        prefix: several.then_some(qualified.as_str()),
                        no_headers: args.no_headers,
                    };
                    let n_rows = table["rows"].as_array().map_or(0, Vec::len);
                    if n_rows > 0 {
                        let gap = if shown > 0 && names.is_empty() {
                            "\n"
                        } else {
                            ""
                        };
                        print(&format!("{gap}{}", align(&cells(&table, view))));
                    }
                    shown += n_rows;
                }
                Some(_) => collect(&api.get(&path).await?, resource, &mut objects),
            }
        }
    }
    match args.output {
        None | Some(Output::Wide) if shown == 0 => match within {
            Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
            None => eprintln!("No resources found"),
        },
        None | Some(Output::Wide) => {}
        Some(output) => print(&rendered(
            output,
            objects,
            targets.iter().all(|(_, names)| names.len() == 1),
        )?),
    }
    Ok(())
}

fn query(args: &GetArgs) -> String {
    let mut parts = Vec::new();
    if let Some(selector) = &args.selector {
        parts.push(format!("labelSelector={}", escape(selector)));
    }
    if let Some(selector) = &args.field_selector {
        parts.push(format!("fieldSelector={}", escape(selector)));
    }
    parts.join("&")
}

fn collect(answer: &Value, resource: &Resource, out: &mut Vec<(String, Value)>) {
    let items = match answer["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![answer.clone()],
    };
    out.extend(items.into_iter().map(|item| (resource.qualified(), item)));
}

fn rendered(output: Output, objects: Vec<(String, Value)>, single: bool) -> anyhow::Result<String> {
    if output == Output::Name {
        let line = |(kind, object): &(String, Value)| {
            format!(
                "{kind}/{}\n",
                object["metadata"]["name"].as_str().unwrap_or("")
            )
        };
        return Ok(objects.iter().map(line).collect());
    }
    let mut items: Vec<Value> = objects.into_iter().map(|(_, object)| object).collect();
    for item in &mut items {
        if let Some(metadata) = item["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    let value = if single && items.len() == 1 {
        items.remove(0)
    } else {
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
    };
    Ok(match output {
        Output::Yaml => serde_saphyr::to_string(&value)?,
        _ => format!("{}\n", serde_json::to_string_pretty(&value)?),
    })
}

async fn watch(
    api: &Api,
    args: &GetArgs,
    resource: &Resource,
    within: Option<&str>,
    name: Option<&str>,
) -> anyhow::Result<()> {
    let mut path = format!("{}?watch=true&{}", resource.path(within, None), query(args));
    if let Some(name) = name {
        path.push_str(&format!("&fieldSelector=metadata.name%3D{}", escape(name)));
    }
    let mut lines = api.lines(&path, TABLE).await?;
    let mut columns = Value::Null;
    let mut first = !args.no_headers;
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        let mut table = event["object"].clone();
        if event["type"] == "ERROR" {
            anyhow::bail!(
                "{}",
                table["message"].as_str().unwrap_or("the watch failed")
            );
        }
        // Only the first table of a watch has the heading.
        if table["columnDefinitions"].is_array() {
            columns = table["columnDefinitions"].clone();
        } else {
            table["columnDefinitions"] = columns.clone();
        }
        let view = View {
            wide: args.output == Some(Output::Wide),
            namespace: args.all_namespaces && resource.namespaced,
            no_headers: !std::mem::take(&mut first),
            ..Default::default()
        };
        print(&align(&cells(&table, view)));
    }
    Ok(())
}
