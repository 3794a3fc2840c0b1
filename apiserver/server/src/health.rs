//! `/livez`, `/readyz` and `/healthz`: named checks, all at once or one by its path.
//!
//! What a server does when it starts is a check of its own, under the name that kube-apiserver gives the same thing: done,
//! or done by a task that must go on running.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use corral_api::status::Status;
use http::HeaderValue;
use http::header::X_CONTENT_TYPE_OPTIONS;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use tokio::task::{AbortHandle, JoinHandle};

use crate::Shared;
use crate::handlers::Call;
use crate::response::{self, Answer};

const HOOK: &str = "poststarthook/";

/// What was done when the server started.
#[derive(Default)]
pub struct Hooks {
    // Guards the list, which is complete once the server listens. Held for copies only.
    list: Mutex<Vec<(&'static str, Option<AbortHandle>)>>,
}

impl Hooks {
    /// Something is done.
    pub fn done(&self, name: &'static str) {
        self.add(name, None);
    }

    /// A task was started that does something until the server stops.
    pub fn runs(&self, name: &'static str, task: &JoinHandle<()>) {
        self.add(name, Some(task.abort_handle()));
    }

    fn add(&self, name: &'static str, task: Option<AbortHandle>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((name, task));
    }

    fn checks(&self) -> Vec<Check> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let check = |(name, task): &(&'static str, Option<AbortHandle>)| Check {
            name: format!("{HOOK}{name}"),
            outcome: match task {
                Some(task) if task.is_finished() => Err("it has ended".to_owned()),
                _ => Ok(()),
            },
        };
        list.iter().map(check).collect()
    }
}

/// The outcomes of checks as they were last found, for those who compute objectives of service from them.
pub struct Indicators {
    /// Apart from other metrics: these are read often.
    pub registry: Registry,
    last: IntGaugeVec,
    total: IntCounterVec,
}

impl Indicators {
    /// None yet.
    ///
    /// # Errors
    /// Never: the names are constants, and valid.
    pub fn new() -> Result<Self, prometheus::Error> {
        let last = Opts::new("kubernetes_healthcheck", "Whether a check passed last.");
        let total = Opts::new("kubernetes_healthchecks_total", "Checks made.");
        let indicators = Self {
            registry: Registry::new(),
            last: IntGaugeVec::new(last, &["name", "type"])?,
            total: IntCounterVec::new(total, &["name", "status", "type"])?,
        };
        let registry = &indicators.registry;
        registry.register(Box::new(indicators.last.clone()))?;
        registry.register(Box::new(indicators.total.clone()))?;
        Ok(indicators)
    }

    fn found(&self, endpoint: &str, check: &Check) {
        let (passed, status) = match check.outcome {
            Ok(()) => (1, "success"),
            Err(_) => (0, "error"),
        };
        let name = check.name.as_str();
        self.last.with_label_values(&[name, endpoint]).set(passed);
        let total = self.total.with_label_values(&[name, status, endpoint]);
        total.inc();
    }
}

/// The outcome of one check.
struct Check {
    name: String,
    outcome: Result<(), String>,
}

impl Check {
    fn new(name: &str, outcome: Result<(), String>) -> Self {
        Self {
            name: name.to_owned(),
            outcome,
        }
    }
}

/// The names of an endpoint's checks.
pub async fn names(shared: &Shared, endpoint: &str) -> Vec<String> {
    let checks = checks(shared, endpoint).await;
    checks.into_iter().map(|check| check.name).collect()
}

async fn checks(shared: &Shared, endpoint: &str) -> Vec<Check> {
    let store = shared.api.storage.health().await;
    let store = store.map_err(|error| error.to_string());
    let mut checks = vec![
        Check::new("ping", Ok(())),
        Check::new("etcd", store.clone()),
    ];
    let further = shared.api.storage.checks().await;
    checks.extend(
        further
            .iter()
            .map(|(name, outcome)| Check::new(name, outcome.clone())),
    );
    if endpoint == "readyz" {
        let resources = shared.api.resources();
        let behind = resources.filter(|r| !r.cacher.is_settled());
        let behind: Vec<&str> = behind.map(|r| r.kind.names().plural).collect();
        let synced = match behind.len() {
            0 => Ok(()),
            n => Err(format!("{n} caches are not filled yet: {behind:?}")),
        };
        checks.push(Check::new("etcd-readiness", store));
        checks.push(Check::new("informer-sync", synced));
    }
    checks.extend(shared.hooks.checks());
    if endpoint == "readyz" {
        let going = match shared.leaves() {
            true => Err("process is shutting down".to_owned()),
            false => Ok(()),
        };
        checks.push(Check::new("shutdown", going));
    }
    checks
}

/// Answers an endpoint: all of its checks but those that the client excludes, or the one of a path.
///
/// # Errors
/// 404 for a check that there is not.
pub async fn handle(call: &Call, endpoint: &str, one: &str) -> Result<Answer, Status> {
    let checks = checks(&call.shared, endpoint).await;
    let indicators = &call.shared.metrics.indicators;
    if one.is_empty() {
        checks
            .iter()
            .for_each(|check| indicators.found(endpoint, check));
        return Ok(all(call, endpoint, &checks));
    }
    let check = checks.iter().find(|check| check.name == one);
    let check = check.ok_or_else(Status::no_such_path)?;
    indicators.found(endpoint, check);
    Ok(match &check.outcome {
        Ok(()) => response::text(200, "ok"),
        Err(why) => plain(500, format!("internal server error: {why}\n")),
    })
}

fn all(call: &Call, endpoint: &str, checks: &[Check]) -> Answer {
    let query = &call.info.query;
    let mut excluded: BTreeSet<&str> = query.all("exclude").iter().map(String::as_str).collect();
    let mut text = String::new();
    let mut failed = Vec::new();
    for Check { name, outcome } in checks {
        match outcome {
            _ if excluded.remove(name.as_str()) => {
                text.push_str(&format!("[+]{name} excluded: ok\n"));
            }
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed.push(format!("{name}: {why}"));
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(", ");
        let warning = "warn: some health checks cannot be excluded: no matches for";
        text.push_str(&format!("{warning} {names}\n"));
    }
    if !failed.is_empty() {
        // Whoever asks may be anybody, and is not told why.
        let failed = failed.join("; ");
        tracing::info!(endpoint, failed, "a health check has failed");
        return plain(500, format!("{text}{endpoint} check failed\n"));
    }
    if query.get("verbose").is_none() {
        return plain(200, "ok".to_owned());
    }
    plain(200, format!("{text}{endpoint} check passed\n"))
}

fn plain(code: u16, text: String) -> Answer {
    let mut answer = response::text(code, text);
    let headers = answer.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
