//! `corral logs`.

use anyhow::Context;
use clap::Args;
use futures::StreamExt;
use serde_json::Value;

use super::Scope;
use super::api::{Api, escape};
use super::resources::Resources;

/// Pods whose logs are shown together at most.
const PODS_MAX: usize = 20;

/// Show what containers say.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    scope: Scope,
    /// A pod, or TYPE/NAME of what owns pods.
    #[arg(value_name = "POD | TYPE/NAME", required_unless_present = "selector")]
    what: Option<String>,
    /// The container (default: the only one, or the one that the pod names).
    #[arg(long, short = 'c', value_name = "NAME")]
    container: Option<String>,
    /// All containers, one after the other.
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// Of all pods whose labels match.
    #[arg(long, short = 'l', value_name = "SELECTOR", conflicts_with = "what")]
    selector: Option<String>,
    /// Go on as more comes.
    #[arg(long, short = 'f')]
    follow: bool,
    /// Of the container before the last restart.
    #[arg(long, short = 'p')]
    previous: bool,
    /// Only so many lines from the end.
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what is younger, in seconds.
    #[arg(long, value_name = "SECONDS")]
    since: Option<u64>,
    /// The time of each line.
    #[arg(long)]
    timestamps: bool,
}

/// Carries the command out.
pub async fn run(args: LogsArgs) -> anyhow::Result<()> {
    let (api, namespace) = args.scope.open().await?;
    let pods = match (&args.what, &args.selector) {
        (Some(what), _) => vec![pod_of(&api, &namespace, what).await?],
        (None, selector) => selected(&api, &namespace, selector.as_deref().unwrap_or("")).await?,
    };
    anyhow::ensure!(!pods.is_empty(), "no pods in namespace {namespace} match");
    anyhow::ensure!(
        pods.len() <= PODS_MAX,
        "{} pods match; at most {PODS_MAX} are shown together",
        pods.len()
    );
    let mut streams = tokio::task::JoinSet::new();
    for pod in pods {
        for container in containers(&args, &pod) {
            let path = path(&args, &namespace, &pod, container.as_deref());
            let api = api.clone();
            if args.follow {
                streams.spawn(async move { copy(&api, &path).await });
            } else {
                copy(&api, &path).await?;
            }
        }
    }
    while let Some(done) = streams.join_next().await {
        done??;
    }
    Ok(())
}

fn containers(args: &LogsArgs, pod: &Value) -> Vec<Option<String>> {
    if !args.all_containers {
        return vec![args.container.clone()];
    }
    ["initContainers", "containers"]
        .iter()
        .flat_map(|key| pod["spec"][key].as_array().cloned().unwrap_or_default())
        .map(|container| container["name"].as_str().map(str::to_owned))
        .collect()
}

fn path(args: &LogsArgs, namespace: &str, pod: &Value, container: Option<&str>) -> String {
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let mut query = format!(
        "follow={}&previous={}&timestamps={}",
        args.follow, args.previous, args.timestamps
    );
    if let Some(container) = container {
        query.push_str(&format!("&container={container}"));
    }
    if let Some(lines) = args.tail {
        query.push_str(&format!("&tailLines={lines}"));
    }
    if let Some(seconds) = args.since {
        query.push_str(&format!("&sinceSeconds={seconds}"));
    }
    format!("/api/v1/namespaces/{namespace}/pods/{name}/log?{query}")
}

async fn copy(api: &Api, path: &str) -> anyhow::Result<()> {
    let mut pieces = api.bytes(path).await?;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        if out.write_all(&piece).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    }
    Ok(())
}

async fn selected(api: &Api, namespace: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
    let path = format!(
        "/api/v1/namespaces/{namespace}/pods?labelSelector={}",
        escape(selector)
    );
    Ok(api.get(&path).await?["items"]
        .as_array()
        .cloned()
        .unwrap_or_default())
}

/// The pod that an argument means: itself, or the first of what it owns.
pub async fn pod_of(api: &Api, namespace: &str, what: &str) -> anyhow::Result<Value> {
    let (kind, name) = what.split_once('/').unwrap_or(("pod", what));
    let resources = Resources::discover(api).await?;
    let resource = resources.find(kind)?;
    let object = api.get(&resource.path(Some(namespace), Some(name))).await?;
    if resource.kind == "Pod" {
        return Ok(object);
    }
    let selector = match &object["spec"]["selector"] {
        Value::Object(map)
            if map.contains_key("matchLabels") || map.contains_key("matchExpressions") =>
        {
            let selector = serde_json::from_value(object["spec"]["selector"].clone())?;
            corral_api::LabelSelector::from_object(Some(&selector))
                .map_err(anyhow::Error::msg)?
                .to_string()
        }
        Value::Object(map) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
                .collect();
            pairs.join(",")
        }
        _ => anyhow::bail!("a {} has no pods of its own", resource.singular),
    };
    let pods = selected(api, namespace, &selector).await?;
    let running = pods.iter().find(|pod| pod["status"]["phase"] == "Running");
    running
        .or(pods.first())
        .cloned()
        .with_context(|| format!("{what} has no pods"))
}
