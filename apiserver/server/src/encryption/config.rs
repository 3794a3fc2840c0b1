//! `EncryptionConfiguration`: which resources are encrypted in the store, how, and with which keys.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_api::field::{FieldError, FieldPath};
use corral_storage::encrypted::{KmsConfig, NamedKey, Provider, Rule};
use serde::Deserialize;

use crate::duration;

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
/// How long a plugin has for an answer unless the configuration says otherwise, as in Kubernetes.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Lengths of keys in bytes.
const AES_KEY_SIZES: &[usize] = &[16, 24, 32];
const SECRETBOX_KEY_SIZES: &[usize] = &[32];

const RESOURCE_NAME: &str = "resource name should not contain capital letters";
const STAR: &str =
    "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources";
const NOT_REST: &str = "resources which do not have REST API/s cannot be encrypted";
const EVENTS: &str = "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file";
const EXTENSIONS: &str = "'extensions' group has been removed and cannot be used for encryption";
const ACROSS_GROUPS: &str = "encrypting the same resource across groups is not supported";
const DUPLICATE: &str = "the same resource cannot be specified multiple times";
const OVERLAP: &str = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
const NO_PROVIDER: &str = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
const MORE_THAN_ONE: &str = "more than one provider specified in a single element, should split into different list elements";
const KMS_V1: &str =
    "KMSv1 is deprecated and is not offered by this server. Use KMSv2 instead: apiVersion: v2";

/// The configuration, as its file writes it. Nothing here is ever shown: it holds keys.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EncryptionConfiguration {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    resources: Vec<ResourceConfiguration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceConfiguration {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<ProviderConfiguration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderConfiguration {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Identity>,
    kms: Option<Kms>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kms {
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    #[serde(default)]
    name: String,
    cachesize: Option<i64>,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
}

impl EncryptionConfiguration {
    /// Reads a configuration and says what it means.
    ///
    /// # Errors
    /// What is wrong with it, in Kubernetes' words. No key is in them.
    pub fn parse(text: &str) -> Result<Vec<Rule>, String> {
        // The parser shows the line that it stumbles over, which may be a key's.
        let config: Self = serde_saphyr::from_str(text).map_err(|error| redacted(&error))?;
        if config.api_version != API_VERSION || config.kind != KIND {
            return Err(format!(
                "no kind {:?} is registered for version {:?}; expected {KIND} of {API_VERSION}",
                config.kind, config.api_version
            ));
        }
        let mut errors = Vec::new();
        let rules = config.rules(&mut errors);
        match errors.is_empty() {
            true => Ok(rules),
            false => Err(FieldError::aggregate(&errors)),
        }
    }

    fn rules(&self, errors: &mut Vec<FieldError>) -> Vec<Rule> {
        let root = FieldPath::new("resources");
        if self.resources.is_empty() {
            errors.push(FieldError::required(&root, at_least_one("resources")));
        }
        let mut plugins = BTreeSet::new();
        let rules = self.resources.iter().enumerate().map(|(index, rule)| {
            let at = root.index(index);
            let (resources, providers) = (at.child("resources"), at.child("providers"));
            if rule.resources.is_empty() {
                let what = at_least_one(resources.as_str());
                errors.push(FieldError::required(&resources, what));
            }
            check_overlap(&rule.resources, &resources, errors);
            for (index, name) in rule.resources.iter().enumerate() {
                if let Some(why) = refused(name) {
                    errors.push(FieldError::invalid(&resources.index(index), name, why));
                }
            }
            if rule.providers.is_empty() {
                let what = at_least_one(providers.as_str());
                errors.push(FieldError::required(&providers, what));
            }
            Rule {
                resources: rule.resources.iter().map(|name| normal(name)).collect(),
                providers: rule
                    .providers
                    .iter()
                    .enumerate()
                    .filter_map(|(n, p)| p.provider(&providers.index(n), &mut plugins, errors))
                    .collect(),
            }
        });
        rules.collect()
    }
}

/// The first line of a parser's error, without words that may be keys.
fn redacted(error: &serde_saphyr::Error) -> String {
    /// No word of the format is as long, and no key is shorter.
    const WORD_CHARS_MAX: usize = 20;
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    let of_key = |c: char| c.is_ascii_alphanumeric() || "+/=_-".contains(c);
    let mut shown = String::new();
    for piece in line.split_inclusive(|c| !of_key(c)) {
        let word = piece.trim_end_matches(|c| !of_key(c));
        match word.len() > WORD_CHARS_MAX {
            true => shown.extend(["REDACTED", &piece[word.len()..]]),
            false => shown.push_str(piece),
        }
    }
    shown
}

fn at_least_one(what: &str) -> String {
    format!("at least one {what} is required")
}

/// Group and resource of `resource.group`.
fn split(name: &str) -> (&str, &str) {
    match name.split_once('.') {
        Some((resource, group)) => (group, resource),
        None => ("", name),
    }
}

/// `secrets.` is `secrets`, and `*.` is what it is.
fn normal(name: &str) -> String {
    match split(name) {
        ("", "*") => "*.".to_owned(),
        ("", resource) => resource.to_owned(),
        (group, resource) => format!("{resource}.{group}"),
    }
}

fn refused(name: &str) -> Option<&'static str> {
    let (group, resource) = split(name);
    if name.chars().any(char::is_uppercase) {
        return Some(RESOURCE_NAME);
    }
    match name {
        "*" => return Some(STAR),
        "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations" => {
            return Some(NOT_REST);
        }
        _ => {}
    }
    match group {
        "events.k8s.io" => Some(EVENTS),
        "extensions" => Some(EXTENSIONS),
        "*" if resource != "*" => Some(ACROSS_GROUPS),
        _ => None,
    }
}

fn check_overlap(names: &[String], path: &FieldPath, errors: &mut Vec<FieldError>) {
    let shown = || format!("[{}]", names.join(","));
    let (mut duplicate, mut overlap) = (false, false);
    for (i, one) in names.iter().enumerate() {
        for (j, other) in names.iter().enumerate() {
            if i == j {
                continue;
            }
            let (one, other) = (split(one), split(other));
            if one == other {
                duplicate = true;
            } else {
                let wide = one.1 == "*" || other.1 == "*";
                overlap |= one == ("*", "*") || (one.0 == other.0 && wide);
            }
        }
    }
    if duplicate {
        errors.push(FieldError::invalid(path, shown(), DUPLICATE));
    }
    if overlap {
        errors.push(FieldError::invalid(path, shown(), OVERLAP));
    }
}

impl ProviderConfiguration {
    fn provider(
        &self,
        path: &FieldPath,
        plugins: &mut BTreeSet<String>,
        errors: &mut Vec<FieldError>,
    ) -> Option<Provider> {
        let Self {
            aesgcm,
            aescbc,
            secretbox,
            identity,
            kms,
        } = self;
        let given = [
            aesgcm.is_some(),
            aescbc.is_some(),
            secretbox.is_some(),
            identity.is_some(),
            kms.is_some(),
        ];
        let why = match given.iter().filter(|given| **given).count() {
            0 => NO_PROVIDER,
            1 => "",
            _ => MORE_THAN_ONE,
        };
        if !why.is_empty() {
            errors.push(FieldError::invalid(path, "REDACTED", why));
            return None;
        }
        let mut named = |keys: &Keys, name: &str, sizes| {
            keys.named(&path.child(name).child("keys"), sizes, errors)
        };
        if let Some(keys) = aesgcm {
            return Some(Provider::AesGcm(named(keys, "aesgcm", AES_KEY_SIZES)));
        }
        if let Some(keys) = aescbc {
            return Some(Provider::AesCbc(named(keys, "aescbc", AES_KEY_SIZES)));
        }
        if let Some(keys) = secretbox {
            let keys = named(keys, "secretbox", SECRETBOX_KEY_SIZES);
            return Some(Provider::Secretbox(keys));
        }
        if let Some(kms) = kms {
            return Some(Provider::Kms(kms.config(
                &path.child("kms"),
                plugins,
                errors,
            )));
        }
        Some(Provider::Identity)
    }
}

impl Keys {
    fn named(
        &self,
        path: &FieldPath,
        sizes: &[usize],
        errors: &mut Vec<FieldError>,
    ) -> Vec<NamedKey> {
        if self.keys.is_empty() {
            errors.push(FieldError::required(path, at_least_one("keys")));
        }
        let keys = self.keys.iter().enumerate();
        keys.filter_map(|(index, key)| key.named(&path.index(index), sizes, errors))
            .collect()
    }
}

impl Key {
    fn named(
        &self,
        path: &FieldPath,
        sizes: &[usize],
        errors: &mut Vec<FieldError>,
    ) -> Option<NamedKey> {
        let mandatory = |name: &str| format!("{name} is a mandatory field for a key");
        if self.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), mandatory("name")));
        }
        let at = path.child("secret");
        if self.secret.is_empty() {
            errors.push(FieldError::required(&at, mandatory("secret")));
            return None;
        }
        let Ok(secret) = STANDARD.decode(&self.secret) else {
            let why = "secrets must be base64 encoded";
            errors.push(FieldError::invalid(&at, "REDACTED", why));
            return None;
        };
        if !sizes.contains(&secret.len()) {
            let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
            let why = format!(
                "secret is not of the expected length, got {}, expected one of [{}]",
                secret.len(),
                sizes.join(" ")
            );
            errors.push(FieldError::invalid(&at, "REDACTED", why));
            return None;
        }
        Some(NamedKey {
            name: self.name.clone(),
            secret,
        })
    }
}

impl Kms {
    fn config(
        &self,
        path: &FieldPath,
        plugins: &mut BTreeSet<String>,
        errors: &mut Vec<FieldError>,
    ) -> KmsConfig {
        let Self {
            api_version,
            name,
            cachesize,
            endpoint,
            timeout,
        } = self;
        self.check_name(&path.child("name"), plugins, errors);
        let timeout = match timeout.as_deref().map(duration::parse) {
            None => PLUGIN_TIMEOUT,
            Some(Ok(timeout)) if !timeout.is_zero() => timeout,
            Some(_) => {
                let why = "timeout should be a positive value";
                let shown = timeout.clone();
                errors.push(FieldError::invalid(&path.child("timeout"), shown, why));
                PLUGIN_TIMEOUT
            }
        };
        let at = path.child("endpoint");
        match endpoint.split_once("://") {
            _ if endpoint.is_empty() => {
                let why = "endpoint is a mandatory field for a kms";
                errors.push(FieldError::invalid(&at, "", why));
            }
            Some(("unix", _)) => {}
            scheme => {
                let scheme = scheme.map_or("", |(scheme, _)| scheme);
                let why = format!(
                    "unsupported scheme {scheme:?} for KMS provider, only unix is supported"
                );
                errors.push(FieldError::invalid(&at, endpoint, why));
            }
        }
        if let Some(size) = cachesize.filter(|_| api_version == "v2") {
            let why = "cachesize is not supported in v2";
            errors.push(FieldError::invalid(&path.child("cachesize"), size, why));
        }
        let at = path.child("apiVersion");
        match api_version.as_str() {
            "v2" => {}
            // Kubernetes' own default.
            "" | "v1" => errors.push(FieldError::invalid(&at, "v1", KMS_V1)),
            _ => {
                let why = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
                errors.push(FieldError::invalid(&at, api_version, why));
            }
        }
        KmsConfig {
            name: name.clone(),
            endpoint: endpoint.clone(),
            timeout,
        }
    }

    fn check_name(
        &self,
        path: &FieldPath,
        plugins: &mut BTreeSet<String>,
        errors: &mut Vec<FieldError>,
    ) {
        let name = &self.name;
        if name.is_empty() {
            let why = "name is a mandatory field for a provider";
            errors.push(FieldError::required(path, why));
        }
        if name.contains(':') {
            let why = format!("invalid KMS provider name {name}, must not contain ':'");
            errors.push(FieldError::invalid(path, name, why));
        }
        if !plugins.insert(name.clone()) {
            let why = format!("duplicate KMS provider name {name}, names must be unique");
            errors.push(FieldError::invalid(path, name, why));
        }
    }
}

#[cfg(test)]
mod tests;
