//! What an administrator says of pod security: `PodSecurityConfiguration`.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::names;
use serde::Deserialize;

use super::level::{Level, Policy, Standard, Version};

/// Versions of the configuration that are read.
const VERSIONS: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];

/// What holds where a namespace says nothing, and what is exempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSecurityConfig {
    /// Where a namespace says nothing.
    pub(super) defaults: Policy,
    /// What is never checked.
    pub(super) exemptions: Exemptions,
}

/// What is never checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exemptions {
    /// Users.
    pub usernames: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Runtime classes of pods.
    pub runtime_classes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    exemptions: Exemptions,
}

impl PodSecurityConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(value: serde_json::Value) -> Result<Self, String> {
        let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if file.kind != "PodSecurityConfiguration" || !VERSIONS.contains(&file.api_version.as_str())
        {
            return Err(format!(
                "no kind {:?} is registered for version {:?}",
                file.kind, file.api_version
            ));
        }
        let mut errors = Vec::new();
        let given = &file.defaults;
        let defaults = Policy {
            enforce: standard(
                &mut errors,
                "enforce",
                &given.enforce,
                &given.enforce_version,
            ),
            warn: standard(&mut errors, "warn", &given.warn, &given.warn_version),
            audit: standard(&mut errors, "audit", &given.audit, &given.audit_version),
        };
        exemptions(&mut errors, &file.exemptions);
        if !errors.is_empty() {
            return Err(FieldError::aggregate(&errors));
        }
        Ok(Self {
            defaults,
            exemptions: file.exemptions,
        })
    }
}

fn standard(errors: &mut Vec<FieldError>, mode: &str, level: &str, version: &str) -> Standard {
    let path = FieldPath::new("defaults");
    let mut standard = Standard::PRIVILEGED;
    if !level.is_empty() {
        match Level::parse(level) {
            Ok(level) => standard.level = level,
            Err(why) => errors.push(FieldError::invalid(&path.child(mode), level, why)),
        }
    }
    if !version.is_empty() {
        let path = path.child(&format!("{mode}-version"));
        match Version::parse(version) {
            Ok(version) => standard.version = version,
            Err(why) => errors.push(FieldError::invalid(&path, version, why)),
        }
    }
    standard
}

fn exemptions(errors: &mut Vec<FieldError>, exemptions: &Exemptions) {
    type Rule = fn(&str) -> Vec<String>;
    let username: Rule = |name| match name {
        "" => vec!["username must not be empty".to_owned()],
        _ => Vec::new(),
    };
    let lists: [(&str, &[String], Rule); 3] = [
        ("namespaces", &exemptions.namespaces, names::dns1123_label),
        (
            "runtimeClasses",
            &exemptions.runtime_classes,
            names::dns1123_subdomain,
        ),
        ("usernames", &exemptions.usernames, username),
    ];
    for (field, list, rule) in lists {
        let path = FieldPath::new("exemptions").child(field);
        let mut seen = BTreeSet::new();
        for (index, name) in list.iter().enumerate() {
            let path = path.index(index);
            let wrong = rule(name);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(&path, name.as_str(), wrong.join(", ")));
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(&path, name.as_str()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(defaults: Value, exemptions: Value) -> Result<PodSecurityConfig, String> {
        PodSecurityConfig::read(json!({
            "apiVersion": VERSIONS[0], "kind": "PodSecurityConfiguration",
            "defaults": defaults, "exemptions": exemptions,
        }))
    }

    #[test]
    fn a_configuration_says_what_holds_by_default_and_what_is_exempt() {
        let config = read(
            json!({"enforce": "baseline", "warn-version": "v1.20"}),
            json!({"namespaces": ["a"]}),
        );
        let config = config.expect("a configuration");
        assert_eq!(config.defaults.enforce.to_string(), "baseline:latest");
        assert_eq!(config.defaults.warn.to_string(), "privileged:v1.20");
        assert_eq!(config.exemptions.namespaces, ["a"]);
        assert_eq!(
            read(json!({"audit": "x"}), json!({"usernames": ["", "u", "u"]})).expect_err("wrong"),
            "[defaults.audit: Invalid value: \"x\": must be one of privileged, baseline, restricted, \
             exemptions.usernames[0]: Invalid value: \"\": username must not be empty, exemptions.usernames[2]: Duplicate \
             value: \"u\"]"
        );
        assert!(read(json!({"enforced": "x"}), json!({})).is_err());
    }
}
