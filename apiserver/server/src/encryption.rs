//! Encryption at rest: the configuration of the layer that keeps values encrypted, and its changes.
//!
//! Without a configuration Secrets are encrypted with a key that is made at the first start and kept in a file beside
//! the store, for its owner only. All servers of one store need the same file; one that has another does not start.

mod config;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_storage::encrypted::{EncryptedStore, EncryptionMetrics, ResourceOf, Transformers};
use corral_storage::{Error as StorageError, Key, Storage};
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use rand::TryRngCore;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

pub use self::config::EncryptionConfiguration;
use crate::pki;

/// How often a configuration that may change is looked at, as in Kubernetes.
const RELOAD_PERIOD: Duration = Duration::from_secs(60);
/// How long the plugins of a changed configuration have to become well.
const PLUGINS_WELL_MAX: Duration = Duration::from_secs(10);
const PLUGINS_LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Bytes of a key that is made.
const KEY_BYTES: usize = 32;
/// Largest configuration that is read.
const CONFIGURATION_BYTES_MAX: u64 = 1024 * 1024;
/// Whose rules the agreement on keys goes by.
const GENERATED_FOR: &str = "secrets";

/// How keys begin unless somebody wants them elsewhere.
pub const KEYS: &str = "/registry";

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file of the administrator's.
    Given {
        /// The file.
        path: PathBuf,
        /// Whether its changes are taken while the server runs.
        reload: bool,
    },
    /// A file that is made when it is not there.
    Generated(PathBuf),
}

/// Puts the layer over a store whose keys begin with `prefix`.
///
/// # Errors
/// When the configuration is of no use, or other servers of the store have other keys.
pub async fn over(
    inner: Arc<dyn Storage>,
    source: Source,
    prefix: &str,
    registry: &Registry,
    stop: CancellationToken,
) -> Result<Arc<dyn Storage>, String> {
    let metrics = EncryptionMetrics::register(registry).map_err(|error| error.to_string())?;
    // A machine without a name has a server without one.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let metrics = metrics.of_host(host.trim_end());
    let reloads = ReloadMetrics::register(registry).map_err(|error| error.to_string())?;
    let path = match &source {
        Source::Given { path, .. } => path,
        Source::Generated(path) => {
            generate(path).await?;
            path
        }
    };
    let text = read(path).await?;
    let transformers = transformers(path, &text, &metrics).await?;
    let store = EncryptedStore::new(inner, transformers, resources(prefix));
    reloads.taken(&text);
    match source {
        Source::Generated(path) => agree(&store, prefix, &path).await?,
        Source::Given { path, reload: true } => {
            let reload = Reload {
                store: store.clone(),
                path,
                metrics,
                reloads,
                known: text,
            };
            tokio::spawn(reload.run(RELOAD_PERIOD, stop));
        }
        Source::Given { reload: false, .. } => {}
    }
    Ok(store)
}

async fn read(path: &Path) -> Result<String, String> {
    let told = |why: &dyn std::fmt::Display| {
        let path = path.display();
        format!("error reading encryption provider configuration file \"{path}\": {why}")
    };
    let size = tokio::fs::metadata(path).await.map_err(|e| told(&e))?.len();
    if size > CONFIGURATION_BYTES_MAX {
        return Err(told(&format!(
            "{size} bytes, at most {CONFIGURATION_BYTES_MAX} are read"
        )));
    }
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| told(&error))?;
    match text.is_empty() {
        true => Err(told(&"it is empty")),
        false => Ok(text),
    }
}

async fn transformers(
    path: &Path,
    text: &str,
    metrics: &EncryptionMetrics,
) -> Result<Transformers, String> {
    let rules = EncryptionConfiguration::parse(text).map_err(|error| {
        let path = path.display();
        format!("error decoding encryption provider configuration file \"{path}\": {error}")
    })?;
    Transformers::new(&rules, metrics.clone())
        .await
        .map_err(|error| format!("error while building transformers: {error}"))
}

/// Makes the file with a key of its own unless it is there.
async fn generate(path: &Path) -> Result<(), String> {
    let there = tokio::fs::try_exists(path).await;
    if there.map_err(|error| format!("cannot look for {}: {error}", path.display()))? {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        let made = tokio::fs::create_dir_all(directory).await;
        made.map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    }
    let mut key = [0; KEY_BYTES];
    rand::rngs::OsRng
        .try_fill_bytes(&mut key)
        .map_err(|error| format!("no random bytes for a key: {error}"))?;
    let text = format!(
        "# The key that Secrets are encrypted with. Without this file they cannot be read: keep a copy with every copy of\n\
         # the store, and give the same file to every server of one etcd.\n\
         apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         - resources: [{GENERATED_FOR}]\n  \
           providers:\n  \
           - secretbox:\n      \
               keys:\n      \
               - name: key1\n        \
                 secret: {}\n  \
           - identity: {{}}\n",
        STANDARD.encode(key)
    );
    pki::write_private(path, &text).map_err(|error| error.to_string())
}

/// Whoever starts first leaves a word in the store that the others must be able to read.
async fn agree(store: &EncryptedStore, prefix: &str, path: &Path) -> Result<(), String> {
    let key = Key::new(format!("{prefix}/claims/encryption"));
    match store.agree_on_keys(GENERATED_FOR, key).await {
        Ok(()) => Ok(()),
        Err(StorageError::Unreadable { why, .. }) => Err(format!(
            "this store was encrypted with other keys than those of {} ({why}): all servers of a store need the same keys. \
             Copy pki/encryption-config.yaml from the data directory of a server that works (or from your backup of it) to \
             that place, or name the right configuration by --encryption-provider-config",
            path.display()
        )),
        Err(error) => Err(error.to_string()),
    }
}

fn resources(prefix: &str) -> Arc<ResourceOf> {
    let prefix = prefix.to_owned();
    Arc::new(move |key| {
        let rest = key.strip_prefix(&prefix)?;
        resource_of(&format!("{KEYS}{rest}"))
    })
}

/// The resource of a key of the store, as an `EncryptionConfiguration` names it.
fn resource_of(key: &str) -> Option<String> {
    static BUILT_IN: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
        let mut resources = HashMap::new();
        for kind in corral_kinds::all::RESOURCES {
            let names = kind.names();
            // Of two groups with the same objects, the first is the one that stores them.
            resources
                .entry(names.storage_prefix())
                .or_insert_with(|| corral_api::gvk::qualified(names.plural, names.group));
        }
        resources
    });
    let rest = key.strip_prefix("/registry/")?;
    let (first, tail) = rest.split_once('/')?;
    let shallow = BUILT_IN.get(&format!("/registry/{first}/"));
    if let Some(resource) = shallow {
        return Some(resource.clone());
    }
    let (second, _) = tail.split_once('/')?;
    let deep = BUILT_IN.get(&format!("/registry/{first}/{second}/"));
    deep.cloned()
        // The groups of custom resources have a dot.
        .or_else(|| first.contains('.').then(|| format!("{second}.{first}")))
}

/// What is counted of changes, by the names that kube-apiserver gives it.
struct ReloadMetrics {
    total: IntCounterVec,
    last: GaugeVec,
    info: IntGaugeVec,
    server: String,
}

impl ReloadMetrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let name = |what: &str| format!("apiserver_encryption_config_controller_{what}");
        let metrics = Self {
            total: IntCounterVec::new(
                Opts::new(
                    name("automatic_reloads_total"),
                    "Total number of reload successes and failures of encryption configuration.",
                ),
                &["status", "apiserver_id_hash"],
            )?,
            last: GaugeVec::new(
                Opts::new(
                    name("automatic_reload_last_timestamp_seconds"),
                    "Timestamp of the last successful or failed reload of encryption configuration.",
                ),
                &["status", "apiserver_id_hash"],
            )?,
            info: IntGaugeVec::new(
                Opts::new(
                    name("last_config_info"),
                    "The last encryption configuration that was taken, by its hash.",
                ),
                &["apiserver_id_hash", "hash"],
            )?,
            server: hash(uuid::Uuid::new_v4().as_bytes()),
        };
        registry.register(Box::new(metrics.total.clone()))?;
        registry.register(Box::new(metrics.last.clone()))?;
        registry.register(Box::new(metrics.info.clone()))?;
        Ok(metrics)
    }

    fn taken(&self, text: &str) {
        self.info.reset();
        let labels = [self.server.as_str(), &hash(text.as_bytes())];
        self.info.with_label_values(&labels).set(1);
    }

    fn reloaded(&self, well: bool) {
        let status = if well { "success" } else { "failure" };
        let labels = [status, self.server.as_str()];
        self.total.with_label_values(&labels).inc();
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        self.last.with_label_values(&labels).set(now);
    }
}

fn hash(bytes: &[u8]) -> String {
    let digits = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect::<String>();
    format!("sha256:{digits}")
}

/// Takes the changes of a configuration.
struct Reload {
    store: Arc<EncryptedStore>,
    path: PathBuf,
    metrics: EncryptionMetrics,
    reloads: ReloadMetrics,
    known: String,
}

impl Reload {
    async fn run(mut self, period: Duration, stop: CancellationToken) {
        let mut told = String::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(period) => {}
            }
            let path = self.path.display().to_string();
            match self.look().await {
                Ok(false) => {}
                Ok(true) => {
                    told.clear();
                    self.reloads.reloaded(true);
                    tracing::info!(
                        path,
                        "the encryption configuration has changed and is taken"
                    );
                }
                Err(error) => {
                    self.reloads.reloaded(false);
                    if error != told {
                        tracing::error!(
                            path,
                            error,
                            "the encryption configuration has changed and is refused; the last one stays"
                        );
                        told = error;
                    }
                }
            }
        }
    }

    /// Whether the file says something else, which is in use then.
    async fn look(&mut self) -> Result<bool, String> {
        let text = read(&self.path).await?;
        if text == self.known {
            return Ok(false);
        }
        let new = transformers(&self.path, &text, &self.metrics).await?;
        wait_until_well(&new).await?;
        self.store.replace(new);
        self.reloads.taken(&text);
        self.known = text;
        Ok(true)
    }
}

/// Keys that cannot be had are worse than those that are in use.
async fn wait_until_well(transformers: &Transformers) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + PLUGINS_WELL_MAX;
    loop {
        let checks = transformers.checks().await;
        let Some(why) = checks.into_iter().find_map(|(_, outcome)| outcome.err()) else {
            return Ok(());
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(format!("health check for new transformers failed: {why}"));
        }
        tokio::time::sleep(PLUGINS_LOOK_PERIOD).await;
    }
}

#[cfg(test)]
mod tests;
