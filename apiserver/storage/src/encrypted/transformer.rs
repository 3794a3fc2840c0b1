//! Which provider seals and which opens: by resource, then by the prefix that a stored value carries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::cipher::Cipher;
use super::kms::Kms;
use super::metrics::{EncryptionMetrics, Way};
use super::{Failure, NamedKey, Provider, Rule};
use crate::Key;
use crate::validate::ENCRYPTED_PREFIX;

const AES_GCM_PREFIX: &str = "k8s:enc:aesgcm:v1:";
const AES_CBC_PREFIX: &str = "k8s:enc:aescbc:v1:";
const SECRETBOX_PREFIX: &str = "k8s:enc:secretbox:v1:";
const KMS_PREFIX: &str = "k8s:enc:kms:v2:";

/// All resources of all groups.
const EVERYTHING: &str = "*.*";

/// The check of all plugins, as kube-apiserver names it; each is one of `kms-provider-N` beside it.
const PLUGINS_CHECK: &str = "kms-providers";

/// The providers of every resource that is encrypted.
pub struct Transformers {
    by_resource: HashMap<String, Vec<Arc<Transformer>>>,
    plugins: Vec<Arc<Kms>>,
    metrics: EncryptionMetrics,
}

impl std::fmt::Debug for Transformers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transformers").finish_non_exhaustive()
    }
}

struct Transformer {
    prefix: String,
    means: Means,
}

enum Means {
    Identity,
    /// By the names of keys, each followed by a colon.
    Keys(Vec<(String, Cipher)>, &'static str),
    Kms(Arc<Kms>),
}

impl Transformers {
    /// The transformers that rules mean. Plugins are asked for their state; one that does not answer is asked again in
    /// the background.
    ///
    /// # Errors
    /// When a key is of no use, or a rule is behind one that covers it.
    pub async fn new(rules: &[Rule], metrics: EncryptionMetrics) -> Result<Self, String> {
        let mut by_resource: HashMap<String, Vec<Arc<Transformer>>> = HashMap::new();
        let mut plugins = Vec::new();
        for rule in rules {
            let mut transformers = Vec::new();
            for provider in &rule.providers {
                let transformer = Transformer::new(provider, &metrics).await?;
                if let Means::Kms(kms) = &transformer.means {
                    plugins.push(kms.clone());
                }
                transformers.push(Arc::new(transformer));
            }
            for resource in &rule.resources {
                let group = group_wildcard(resource);
                for wider in [group.as_str(), EVERYTHING] {
                    if by_resource.contains_key(wider) {
                        return Err(format!(
                            "resource {resource:?} is masked by earlier rule {wider:?}"
                        ));
                    }
                }
                let list = by_resource.entry(resource.clone()).or_default();
                list.extend(transformers.iter().cloned());
            }
        }
        Ok(Self {
            by_resource,
            plugins,
            metrics,
        })
    }

    /// How long all plugins together may take to answer.
    pub(super) fn timeouts(&self) -> Duration {
        self.plugins.iter().map(|kms| kms.timeout()).sum()
    }

    /// Whether every plugin is well, and each by itself.
    pub async fn checks(&self) -> Vec<(String, Result<(), String>)> {
        let mut checks = Vec::new();
        let mut failed = Vec::new();
        for (index, kms) in self.plugins.iter().enumerate() {
            let name = format!("kms-provider-{index}");
            let outcome = kms.check().await;
            if let Err(why) = &outcome {
                failed.push(format!("{name}: {why}"));
            }
            checks.push((name, outcome));
        }
        if !checks.is_empty() {
            let all = match failed.is_empty() {
                true => Ok(()),
                false => Err(aggregate(&failed)),
            };
            checks.insert(0, (PLUGINS_CHECK.to_owned(), all));
        }
        checks
    }

    fn of(&self, resource: Option<&str>) -> Option<&[Arc<Transformer>]> {
        let resource = resource?;
        let get = |name: &str| self.by_resource.get(name).map(Vec::as_slice);
        get(resource)
            .or_else(|| get(&group_wildcard(resource)))
            .or_else(|| get(EVERYTHING))
    }

    /// Whether values of a resource go through a provider.
    pub(super) fn covers(&self, resource: Option<&str>) -> bool {
        self.of(resource).is_some()
    }

    pub(super) async fn seal(
        &self,
        resource: Option<&str>,
        key: &Key,
        value: Bytes,
    ) -> Result<Bytes, Failure> {
        let Some(transformer) = self.of(resource).and_then(<[_]>::first) else {
            return Ok(value);
        };
        let began = Instant::now();
        let resource = resource.unwrap_or_default();
        let sealed = transformer.seal(&self.metrics, resource, key, value).await;
        let took = began.elapsed();
        let prefix = &transformer.prefix;
        self.metrics
            .record(resource, Way::To, prefix, took, &sealed);
        sealed
    }

    /// The value, and whether a write would leave other bytes.
    pub(super) async fn open(
        &self,
        resource: Option<&str>,
        key: &Key,
        value: Bytes,
    ) -> Result<(Bytes, bool), Failure> {
        let Some(transformers) = self.of(resource) else {
            return identity(&value).map(|()| (value, false));
        };
        let resource = resource.unwrap_or_default();
        let mut failures = Vec::new();
        for (index, transformer) in transformers.iter().enumerate() {
            if !value.starts_with(transformer.prefix.as_bytes()) {
                continue;
            }
            let began = Instant::now();
            let opened = transformer.open(&self.metrics, resource, key, &value).await;
            if opened.is_err() && transformer.prefix.is_empty() {
                // What is encrypted is the next provider's.
                continue;
            }
            let label = match transformer.prefix.as_str() {
                "" => "identity",
                prefix => prefix,
            };
            self.metrics
                .record(resource, Way::From, label, began.elapsed(), &opened);
            match opened {
                Ok((opened, stale)) => return Ok((opened, stale || index > 0)),
                // Another provider of the same kind may have the key.
                Err(failure) => failures.push(failure),
            }
        }
        Err(reduce(failures).unwrap_or_else(|| {
            let failed = Failure::of("no matching prefix found");
            let outcome: Result<(), _> = Err(failed.clone());
            let metrics = &self.metrics;
            metrics.record(resource, Way::From, "unknown", Duration::ZERO, &outcome);
            failed
        }))
    }
}

/// `*.group` of a resource; `*.` of one of the core group.
fn group_wildcard(resource: &str) -> String {
    let group = resource.split_once('.').map_or("", |(_, group)| group);
    format!("*.{group}")
}

fn identity(value: &Bytes) -> Result<(), Failure> {
    match value.starts_with(ENCRYPTED_PREFIX) {
        true => Err(Failure::of(
            "identity transformer tried to read encrypted data",
        )),
        false => Ok(()),
    }
}

/// One failure of several, as Kubernetes puts them together.
fn reduce(mut failures: Vec<Failure>) -> Option<Failure> {
    match failures.len() {
        0 | 1 => failures.pop(),
        _ => {
            let texts: Vec<String> = failures.iter().map(|f| f.text.clone()).collect();
            let code = failures.iter().find_map(|failure| failure.code);
            let text = aggregate(&texts);
            Some(Failure { text, code })
        }
    }
}

/// Several errors in one text; the same is told once.
pub(super) fn aggregate(texts: &[String]) -> String {
    let mut told: Vec<&str> = Vec::new();
    for text in texts {
        if !told.contains(&text.as_str()) {
            told.push(text);
        }
    }
    match told.as_slice() {
        [one] => (*one).to_owned(),
        several => format!("[{}]", several.join(", ")),
    }
}

impl Transformer {
    async fn new(provider: &Provider, metrics: &EncryptionMetrics) -> Result<Self, String> {
        let of_keys = |prefix: &str, keys, what| Self {
            prefix: prefix.to_owned(),
            means: Means::Keys(keys, what),
        };
        Ok(match provider {
            Provider::Identity => Self {
                prefix: String::new(),
                means: Means::Identity,
            },
            Provider::AesGcm(keys) => of_keys(AES_GCM_PREFIX, named(keys, Cipher::gcm)?, "AES"),
            Provider::AesCbc(keys) => of_keys(AES_CBC_PREFIX, named(keys, Cipher::cbc)?, "AES"),
            Provider::Secretbox(keys) => of_keys(
                SECRETBOX_PREFIX,
                named(keys, Cipher::secretbox)?,
                "Secretbox",
            ),
            Provider::Kms(config) => Self {
                prefix: format!("{KMS_PREFIX}{}:", config.name),
                means: Means::Kms(Kms::start(config.clone(), metrics.clone()).await?),
            },
        })
    }

    async fn seal(
        &self,
        metrics: &EncryptionMetrics,
        resource: &str,
        key: &Key,
        value: Bytes,
    ) -> Result<Bytes, Failure> {
        let mut out = self.prefix.clone().into_bytes();
        match &self.means {
            Means::Identity => return Ok(value),
            Means::Keys(keys, _) => {
                let (name, cipher) = keys
                    .first()
                    .ok_or_else(|| Failure::of("the provider has no keys"))?;
                let began = Instant::now();
                let sealed = cipher.seal(key.as_str(), &value);
                metrics.record(resource, Way::To, name, began.elapsed(), &sealed);
                out.extend_from_slice(name.as_bytes());
                out.extend(sealed?);
            }
            Means::Kms(kms) => out.extend(kms.seal(key.as_str(), &value)?),
        }
        Ok(out.into())
    }

    async fn open(
        &self,
        metrics: &EncryptionMetrics,
        resource: &str,
        key: &Key,
        value: &Bytes,
    ) -> Result<(Bytes, bool), Failure> {
        let rest = value.slice(self.prefix.len()..);
        match &self.means {
            Means::Identity => identity(value).map(|()| (value.clone(), false)),
            Means::Kms(kms) => {
                let (opened, stale) = kms.open(key.as_str(), &rest).await?;
                Ok((opened.into(), stale))
            }
            Means::Keys(keys, what) => {
                let mut failures = Vec::new();
                for (index, (name, cipher)) in keys.iter().enumerate() {
                    let Some(sealed) = rest.strip_prefix(name.as_bytes()) else {
                        continue;
                    };
                    let began = Instant::now();
                    let opened = cipher.open(key.as_str(), sealed);
                    metrics.record(resource, Way::From, name, began.elapsed(), &opened);
                    match opened {
                        Ok(opened) => return Ok((opened.into(), index > 0)),
                        Err(failure) => failures.push(failure),
                    }
                }
                Err(reduce(failures).unwrap_or_else(|| {
                    let why =
                        format!("no matching key was found for the provided {what} transformer");
                    Failure::of(why)
                }))
            }
        }
    }
}

fn named(
    keys: &[NamedKey],
    make: fn(&[u8]) -> Result<Cipher, String>,
) -> Result<Vec<(String, Cipher)>, String> {
    if keys.is_empty() {
        return Err("a provider has no valid keys".to_owned());
    }
    keys.iter()
        .map(|key| {
            let cipher = make(&key.secret).map_err(|why| {
                let name = &key.name;
                format!("error while creating cipher for named key {name}: {why}")
            })?;
            Ok((format!("{}:", key.name), cipher))
        })
        .collect()
}
