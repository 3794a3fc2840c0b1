//! Levels and versions of the pod security standards, and how a namespace names them.

use std::collections::BTreeMap;
use std::fmt;

use corral_api::field::{FieldError, FieldPath};

const PREFIX: &str = "pod-security.kubernetes.io/";
const BAD_VERSION: &str = "must be \"latest\" or \"v1.x\"";

/// How much a pod may do, from everything to little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to give a pod more than its due.
    Baseline,
    /// What is needed only.
    Restricted,
}

impl Level {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// Which names there are.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

/// The version of Kubernetes whose standards are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1.x`.
    Minor(u32),
    /// That of the server.
    Latest,
}

impl Version {
    /// Reads `latest` or `v1.x`.
    ///
    /// # Errors
    /// That it is neither.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let digits = text.strip_prefix("v1.").ok_or(BAD_VERSION)?;
        let plain = digits == "0" || !digits.starts_with('0');
        let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        match digits.parse() {
            Ok(minor) if plain && all_digits => Ok(Self::Minor(minor)),
            _ => Err(BAD_VERSION),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// A level in a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// How much.
    pub level: Level,
    /// As of when.
    pub version: Version,
}

impl Standard {
    /// Everything.
    pub const PRIVILEGED: Self = Self {
        level: Level::Privileged,
        version: Version::Latest,
    };

    /// Whether both mean the same; the version does not matter where everything is allowed.
    fn is_like(self, other: Self) -> bool {
        self == other || (self.level == Level::Privileged && other.level == Level::Privileged)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level.as_str(), self.version)
    }
}

/// What holds in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Pods that break it are refused.
    pub enforce: Standard,
    /// Pods that break it are told of in the audit log.
    pub audit: Standard,
    /// Whoever writes what breaks it is warned.
    pub warn: Standard,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enforce: Standard::PRIVILEGED,
            audit: Standard::PRIVILEGED,
            warn: Standard::PRIVILEGED,
        }
    }
}

impl Policy {
    /// Whether nothing is refused, audited or warned of.
    pub fn allows_everything(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .iter()
            .all(|standard| standard.level == Level::Privileged)
    }

    /// Whether both mean the same.
    pub fn is_like(&self, other: &Self) -> bool {
        self.enforce.is_like(other.enforce)
            && self.audit.is_like(other.audit)
            && self.warn.is_like(other.warn)
    }

    /// What the labels of a namespace say, with what is wrong with them. Where the level that is enforced cannot be read,
    /// the strictest is.
    pub fn of(
        labels: Option<&BTreeMap<String, String>>,
        defaults: &Self,
    ) -> (Self, Vec<FieldError>) {
        let mut policy = *defaults;
        let mut errors = Vec::new();
        let Some(labels) = labels else {
            return (policy, errors);
        };
        let get = |name: &str| labels.get(&format!("{PREFIX}{name}")).map(String::as_str);
        let mut readable = false;
        if let Some(text) = get("enforce") {
            let read = Level::parse(text);
            readable = read.is_ok();
            policy.enforce.level = read.unwrap_or_else(|why| {
                errors.push(wrong("enforce", text, why));
                Level::Restricted
            });
        }
        version(
            &mut policy.enforce,
            &mut errors,
            "enforce-version",
            get("enforce-version"),
        );
        lenient(&mut policy.audit, &mut errors, "audit", get("audit"));
        version(
            &mut policy.audit,
            &mut errors,
            "audit-version",
            get("audit-version"),
        );
        lenient(&mut policy.warn, &mut errors, "warn", get("warn"));
        version(
            &mut policy.warn,
            &mut errors,
            "warn-version",
            get("warn-version"),
        );
        // Who enforces wants to know beforehand, in workloads.
        if get("warn").is_none() && readable && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if get("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// What the labels of a namespace that is exempt say in vain.
    pub fn in_vain(&self, labels: Option<&BTreeMap<String, String>>) -> String {
        let has = |name: &str| {
            labels.is_some_and(|labels| labels.contains_key(&format!("{PREFIX}{name}")))
        };
        let modes = [
            ("enforce", "enforce-version", self.enforce),
            ("audit", "audit-version", self.audit),
            ("warn", "warn-version", self.warn),
        ];
        let said = modes.into_iter().filter(|(level, version, standard)| {
            standard.level != Level::Privileged && (has(level) || has(version))
        });
        let said: Vec<String> = said
            .map(|(mode, _, standard)| format!("{mode}={standard}"))
            .collect();
        said.join(", ")
    }
}

fn wrong(label: &str, value: &str, why: &str) -> FieldError {
    let path = FieldPath::new("metadata.labels").key(&format!("{PREFIX}{label}"));
    FieldError::invalid(&path, value, why)
}

fn lenient(standard: &mut Standard, errors: &mut Vec<FieldError>, label: &str, text: Option<&str>) {
    if let Some(text) = text {
        standard.level = Level::parse(text).unwrap_or_else(|why| {
            errors.push(wrong(label, text, why));
            Level::Privileged
        });
    }
}

fn version(standard: &mut Standard, errors: &mut Vec<FieldError>, label: &str, text: Option<&str>) {
    if let Some(text) = text {
        standard.version = Version::parse(text).unwrap_or_else(|why| {
            errors.push(wrong(label, text, why));
            Version::Latest
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[(&str, &str)]) -> (Policy, Vec<String>) {
        let labels = labels
            .iter()
            .map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        let (policy, errors) = Policy::of(Some(&labels.collect()), &Policy::default());
        (policy, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn who_enforces_is_warned_as_well() {
        let (policy, errors) = of(&[("enforce", "baseline"), ("enforce-version", "v1.30")]);
        assert_eq!(
            (policy.warn.to_string(), errors.len()),
            ("baseline:v1.30".to_owned(), 0)
        );
        let (policy, _) = of(&[("enforce", "baseline"), ("warn", "restricted")]);
        assert_eq!(policy.warn.to_string(), "restricted:latest");
        assert_eq!(policy.audit, Standard::PRIVILEGED);
    }

    #[test]
    fn what_cannot_be_read_is_strict_where_it_counts() {
        let (policy, errors) = of(&[
            ("enforce", "loose"),
            ("audit", "loose"),
            ("warn-version", "v1.07"),
        ]);
        assert_eq!(
            (policy.enforce.level, policy.audit.level),
            (Level::Restricted, Level::Privileged)
        );
        assert_eq!(policy.warn, Standard::PRIVILEGED);
        assert_eq!(
            errors,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"loose\": must be one of privileged, \
                 baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"loose\": must be one of privileged, \
                 baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.07\": must be \"latest\" or \
                 \"v1.x\"",
            ]
        );
    }
}
