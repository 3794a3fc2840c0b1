//! `corral delete`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::json;

use super::api::{Api, escape, is_not_found};
use super::resources::{Resource, Resources, targets};
use super::{Scope, manifest, print};

/// How often an object that is being deleted is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// What happens to objects that a deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// Delete objects.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    scope: Scope,
    /// Types and names: pod web-0, deployment/web.
    #[arg(value_name = "TYPE NAME", required_unless_present = "files")]
    what: Vec<String>,
    /// Delete what these manifests describe.
    #[arg(
        long = "filename",
        short = 'f',
        value_name = "FILE",
        conflicts_with = "what"
    )]
    files: Vec<PathBuf>,
    /// Only objects whose labels match.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// All objects of the type in the namespace.
    #[arg(long)]
    all: bool,
    /// Seconds that a pod gets to end (default: what the pod says).
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    /// What happens to objects that it owns.
    #[arg(long, value_enum, default_value = "background")]
    cascade: Cascade,
    /// Return at once instead of when the objects are gone.
    #[arg(long)]
    no_wait: bool,
    /// Do not mind objects that are not there.
    #[arg(long)]
    ignore_not_found: bool,
}

/// Carries the command out.
pub async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    let (api, namespace) = args.scope.open().await?;
    let resources = Resources::discover(&api).await?;
    let mut gone: Vec<(&Resource, String, String)> = Vec::new();
    if args.files.is_empty() {
        for (resource, names) in targets(&resources, &args.what)? {
            for name in selected(&api, &args, resource, &namespace, names).await? {
                gone.push((resource, namespace.clone(), name));
            }
        }
    } else {
        for object in manifest::read(&args.files, false)? {
            let text = |pointer: &str| {
                object
                    .pointer(pointer)
                    .and_then(|v| v.as_str())
                    .unwrap_or("")
                    .to_owned()
            };
            let resource = resources.of_object(&text("/apiVersion"), &text("/kind"))?;
            let within = Some(text("/metadata/namespace"))
                .filter(|n| !n.is_empty())
                .unwrap_or(namespace.clone());
            gone.push((resource, within, text("/metadata/name")));
        }
    }
    let mut waiting = Vec::new();
    for (resource, namespace, name) in gone {
        let path = resource.path(Some(&namespace), Some(&name));
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": format!("{:?}", args.cascade)});
        if let Some(seconds) = args.grace_period {
            options["gracePeriodSeconds"] = seconds.into();
        }
        match api
            .write(Method::DELETE, &path, "application/json", &options)
            .await
        {
            Ok(_) => {
                print(&format!("{} {name:?} deleted\n", resource.qualified()));
                waiting.push(path);
            }
            Err(error) if args.ignore_not_found && is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if !args.no_wait {
        for path in waiting {
            until_gone(&api, &path).await?;
        }
    }
    Ok(())
}

async fn selected(
    api: &Api,
    args: &DeleteArgs,
    resource: &Resource,
    namespace: &str,
    names: Vec<String>,
) -> anyhow::Result<Vec<String>> {
    if !names.is_empty() {
        return Ok(names);
    }
    anyhow::ensure!(
        args.all || args.selector.is_some(),
        "name the {} to delete, or select some with -l, or all with --all",
        resource.plural
    );
    let selector = escape(args.selector.as_deref().unwrap_or(""));
    let list = api
        .get(&format!(
            "{}?labelSelector={selector}",
            resource.path(Some(namespace), None)
        ))
        .await?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

/// Waits until there is no object at a path.
pub async fn until_gone(api: &Api, path: &str) -> anyhow::Result<()> {
    let uid = match api.get(path).await {
        Err(error) if is_not_found(&error) => return Ok(()),
        other => other?["metadata"]["uid"].clone(),
    };
    loop {
        match api.get(path).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            // Another object of the same name is not the one that was deleted.
            Ok(object) if object["metadata"]["uid"] != uid => return Ok(()),
            _ => tokio::time::sleep(LOOK_PERIOD).await,
        }
    }
}
