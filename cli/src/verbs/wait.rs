//! `corral wait`.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::api::{Api, escape, is_not_found};
use super::resources::{Resource, Resources, targets};
use super::{Scope, print};

/// How often objects are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    Condition {
        kind: String,
        status: String,
    },
    Field {
        pointer: String,
        value: Option<String>,
    },
    Delete,
    Create,
}

/// Wait until something holds of objects.
#[derive(Debug, Args)]
pub struct WaitArgs {
    #[command(flatten)]
    scope: Scope,
    /// Types and names: pod/web-0, "deployment web".
    #[arg(required = true, value_name = "TYPE/NAME")]
    what: Vec<String>,
    /// condition=Ready, condition=Ready=false, jsonpath={.status.phase}=Running, delete or create.
    #[arg(long = "for", required = true, value_name = "WHAT", value_parser = goal)]
    goal: Goal,
    /// Only objects whose labels match.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Seconds after which to give up.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    timeout: u64,
}

fn goal(text: &str) -> Result<Goal, String> {
    if text == "delete" || text == "create" {
        return Ok(if text == "delete" {
            Goal::Delete
        } else {
            Goal::Create
        });
    }
    if let Some(rest) = text.strip_prefix("condition=") {
        let (kind, status) = rest.split_once('=').unwrap_or((rest, "true"));
        return Ok(Goal::Condition {
            kind: kind.to_lowercase(),
            status: status.to_lowercase(),
        });
    }
    if let Some(rest) = text.strip_prefix("jsonpath=") {
        let rest = rest.trim_matches(['\'', '"']);
        let (path, value) = match rest.split_once('=') {
            Some((path, value)) => (path, Some(value.to_owned())),
            None => (rest, None),
        };
        let path = path.trim_start_matches('{').trim_end_matches('}');
        let steps = path.split('.').filter(|s| !s.is_empty());
        let pointer = steps
            .map(|step| format!("/{}", step.replace('[', "/").replace(']', "")))
            .collect();
        return Ok(Goal::Field { pointer, value });
    }
    Err("wait for condition=NAME[=VALUE], jsonpath={.PATH}[=VALUE], delete or create".to_owned())
}

fn reached(goal: &Goal, object: &Value) -> bool {
    match goal {
        Goal::Create => true,
        Goal::Delete => false,
        Goal::Condition { kind, status } => {
            let conditions = object["status"]["conditions"].as_array();
            let found = conditions.into_iter().flatten().find(|c| {
                c["type"]
                    .as_str()
                    .is_some_and(|t| t.to_lowercase() == *kind)
            });
            // A status that is older than the spec says nothing about it.
            let generation = object["metadata"]["generation"].as_i64();
            let observed = object["status"]["observedGeneration"].as_i64();
            let current = observed.is_none() || observed >= generation;
            current
                && found.is_some_and(|c| {
                    c["status"]
                        .as_str()
                        .is_some_and(|s| s.to_lowercase() == *status)
                })
        }
        Goal::Field { pointer, value } => match (object.pointer(pointer), value) {
            (None | Some(Value::Null), _) => false,
            (Some(_), None) => true,
            (Some(Value::String(found)), Some(wanted)) => found == wanted,
            (Some(found), Some(wanted)) => {
                let found = found.to_string();
                found == *wanted
            }
        },
    }
}

/// Carries the command out.
pub async fn run(args: WaitArgs) -> anyhow::Result<()> {
    let (api, namespace) = args.scope.open().await?;
    let resources = Resources::discover(&api).await?;
    let limit = Duration::from_secs(args.timeout);
    let work = async {
        for (resource, names) in targets(&resources, &args.what)? {
            let names = match (names.is_empty(), &args.selector) {
                (false, _) => names,
                (true, Some(selector)) => list(&api, resource, &namespace, selector).await?,
                (true, None) => bail!(
                    "name the {} to wait for, or select some with -l",
                    resource.plural
                ),
            };
            for name in names {
                one(&api, resource, &namespace, &name, &args.goal).await?;
                let what = if args.goal == Goal::Delete {
                    "deleted"
                } else {
                    "condition met"
                };
                print(&format!("{}/{name} {what}\n", resource.qualified()));
            }
        }
        Ok(())
    };
    tokio::time::timeout(limit, work).await.with_context(|| {
        format!(
            "timed out after {} s waiting for what --for names",
            args.timeout
        )
    })?
}

async fn list(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    selector: &str,
) -> anyhow::Result<Vec<String>> {
    let path = format!(
        "{}?labelSelector={}",
        resource.path(Some(namespace), None),
        escape(selector)
    );
    let items = api.get(&path).await?["items"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    anyhow::ensure!(
        !items.is_empty(),
        "no {} match {selector:?}",
        resource.plural
    );
    Ok(items
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

async fn one(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    name: &str,
    goal: &Goal,
) -> anyhow::Result<()> {
    let path = resource.path(Some(namespace), Some(name));
    if *goal == Goal::Delete {
        return super::delete::until_gone(api, &path).await;
    }
    loop {
        match api.get(&path).await {
            Ok(object) if reached(goal, &object) => return Ok(()),
            Err(error) if is_not_found(&error) && *goal == Goal::Create => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn goals_parse_and_hold() {
        let ready = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        for (text, holds) in [
            ("condition=Ready", true),
            ("condition=ready=false", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath={.status.conditions[0].type}=Ready", true),
            ("jsonpath={.status.nothing}", false),
            ("create", true),
        ] {
            assert_eq!(reached(&goal(text).expect(text), &ready), holds, "{text}");
        }
        assert!(goal("ready").is_err());
    }
}
