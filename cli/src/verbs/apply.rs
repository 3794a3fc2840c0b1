//! `corral apply`: server-side apply.

use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::api::Api;
use super::resources::Resources;
use super::{Scope, manifest, print};

/// The name under which fields are owned.
const MANAGER: &str = "corral";

/// Make objects as manifests describe them.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    scope: Scope,
    /// A manifest, a folder of manifests, or - for standard input.
    #[arg(long = "filename", short = 'f', required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Folders within folders too.
    #[arg(long, short = 'R')]
    recursive: bool,
    /// Take over fields that others own.
    #[arg(long)]
    force_conflicts: bool,
    /// Let the server check everything and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Carries the command out; every object is tried, the first failure is told at the end.
pub async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    let (api, namespace) = args.scope.open().await?;
    let mut objects = manifest::read(&args.files, args.recursive)?;
    // What others need comes first, whatever the order of files.
    objects.sort_by_key(|object| object["kind"] != "Namespace");
    let resources = Resources::discover(&api).await?;
    let mut n_failed = 0;
    for object in &objects {
        if let Err(error) = apply(&api, &resources, &namespace, &args, object).await {
            n_failed += 1;
            let name = object["metadata"]["name"].as_str().unwrap_or("");
            eprintln!(
                "{} {name}: {}",
                object["kind"].as_str().unwrap_or("object"),
                crate::told(&error)
            );
        }
    }
    anyhow::ensure!(
        n_failed == 0,
        "{n_failed} of {} objects could not be applied",
        objects.len()
    );
    Ok(())
}

async fn apply(
    api: &Api,
    resources: &Resources,
    namespace: &str,
    args: &ApplyArgs,
    object: &Value,
) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let resource = resources.of_object(&text(&object["apiVersion"]), &text(&object["kind"]))?;
    let name = text(&object["metadata"]["name"]);
    anyhow::ensure!(!name.is_empty(), "metadata.name is missing; apply needs it");
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or(namespace);
    let path = resource.path(Some(namespace), Some(&name));
    let before = api
        .get(&path)
        .await
        .ok()
        .map(|o| o["metadata"]["resourceVersion"].clone());
    let mut query = format!(
        "fieldManager={MANAGER}&fieldValidation=Strict&force={}",
        args.force_conflicts
    );
    if args.dry_run {
        query.push_str("&dryRun=All");
    }
    let answer = api
        .write(
            Method::PATCH,
            &format!("{path}?{query}"),
            "application/apply-patch+yaml",
            object,
        )
        .await?;
    for warning in answer.warnings {
        eprintln!("Warning: {warning}");
    }
    let outcome = match before {
        _ if answer.code == 201 => "created",
        Some(version) if version == answer.value["metadata"]["resourceVersion"] => "unchanged",
        _ => "configured",
    };
    let dry = if args.dry_run {
        " (server dry run)"
    } else {
        ""
    };
    print(&format!("{}/{name} {outcome}{dry}\n", resource.qualified()));
    Ok(())
}
