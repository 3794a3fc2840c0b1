//! `corral events`.

use clap::Args;
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::Value;

use super::api::Api;
use super::resources::Resources;
use super::table::align;
use super::{Scope, print};

/// Show what happened.
#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    scope: Scope,
    /// Only events about one object, TYPE/NAME.
    #[arg(long = "for", value_name = "TYPE/NAME")]
    about: Option<String>,
    /// Of all namespaces.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Go on as more happens.
    #[arg(long, short = 'w')]
    watch: bool,
}

/// Carries the command out.
pub async fn run(args: EventsArgs) -> anyhow::Result<()> {
    let (api, namespace) = args.scope.open().await?;
    let within = if args.all_namespaces {
        String::new()
    } else {
        format!("/namespaces/{namespace}")
    };
    let mut selector = String::new();
    if let Some(about) = &args.about {
        let (kind, name) = about
            .split_once('/')
            .ok_or_else(|| anyhow::anyhow!("--for takes TYPE/NAME"))?;
        let resources = Resources::discover(&api).await?;
        let kind = &resources.find(kind)?.kind;
        selector =
            format!("fieldSelector=involvedObject.kind%3D{kind}%2CinvolvedObject.name%3D{name}");
    }
    let events = list(&api, &format!("/api/v1{within}/events?{selector}")).await?;
    if events.0.is_empty() && !args.watch {
        eprintln!("No events found.");
        return Ok(());
    }
    print(&rows(&events.0, args.all_namespaces, true));
    if args.watch {
        let path = format!(
            "/api/v1{within}/events?watch=true&resourceVersion={}&{selector}",
            events.1
        );
        let mut lines = api.lines(&path, "application/json").await?;
        while let Some(line) = lines.next().await {
            let event: Value = serde_json::from_str(&line?)?;
            if event["type"] == "ERROR" {
                anyhow::bail!(
                    "{}",
                    event["object"]["message"]
                        .as_str()
                        .unwrap_or("the watch failed")
                );
            }
            if event["type"] != "DELETED" {
                print(&rows(
                    &[event["object"].clone()],
                    args.all_namespaces,
                    false,
                ));
            }
        }
    }
    Ok(())
}

/// Events in the order in which they were last seen, and the version of the list.
pub async fn list(api: &Api, path: &str) -> anyhow::Result<(Vec<Value>, String)> {
    let answer = api.get(path).await?;
    let mut events = answer["items"].as_array().cloned().unwrap_or_default();
    events.sort_by_key(last_seen);
    Ok((
        events,
        answer["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or("")
            .to_owned(),
    ))
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ]
    .iter()
    .find_map(|pointer| event.pointer(pointer)?.as_str()?.parse().ok())
}

/// Events as a table.
pub fn rows(events: &[Value], namespaces: bool, heading: bool) -> String {
    let now = Timestamp::now();
    let text = |value: &Value| value.as_str().unwrap_or("").trim().replace('\n', " ");
    let mut rows: Vec<Vec<String>> = Vec::new();
    if heading {
        let heads = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"].map(str::to_owned);
        rows.push(
            namespaces
                .then(|| "NAMESPACE".to_owned())
                .into_iter()
                .chain(heads)
                .collect(),
        );
    }
    for event in events {
        let age = last_seen(event)
            .map(|at| corral_api::time::human_duration(now.as_second() - at.as_second()));
        let object = &event["involvedObject"];
        let cells = [
            age.unwrap_or_else(|| "<unknown>".to_owned()),
            text(&event["type"]),
            text(&event["reason"]),
            format!(
                "{}/{}",
                text(&object["kind"]).to_lowercase(),
                text(&object["name"])
            ),
            text(&event["message"]),
        ];
        let namespace = namespaces.then(|| text(&event["metadata"]["namespace"]));
        rows.push(namespace.into_iter().chain(cells).collect());
    }
    align(&rows)
}
