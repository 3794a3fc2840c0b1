//! EventRateLimit: how many Events are taken, of all or of each namespace, user, or source and object.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::Event;
use corral_api::status::{Status, StatusReason};
use corral_kinds::Object;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::Attributes;

const VERSION: &str = "eventratelimit.admission.k8s.io/v1alpha1";
/// Buckets of a limit where nobody says otherwise.
const BUCKETS: usize = 4096;

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    #[serde(rename = "type", default)]
    sort: String,
    #[serde(default)]
    qps: i32,
    #[serde(default)]
    burst: i32,
    #[serde(default)]
    cache_size: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    limits: Vec<Limit>,
}

/// Reads a configuration.
///
/// # Errors
/// What is wrong with it.
pub fn read(value: Value) -> Result<Vec<Limit>, String> {
    let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
    super::settings::check_kind(&file.api_version, &file.kind, VERSION)?;
    check(&file.limits)?;
    Ok(file.limits)
}

/// Checks limits.
///
/// # Errors
/// What is wrong with them.
pub fn check(limits: &[Limit]) -> Result<(), String> {
    const SORTS: &[&str] = &["Namespace", "Server", "SourceAndObject", "User"];
    let path = FieldPath::new("limits");
    let mut errors = Vec::new();
    if limits.is_empty() {
        errors.push(FieldError::invalid(&path, Value::Null, "must not be empty"));
    }
    for (index, limit) in limits.iter().enumerate() {
        let path = path.index(index);
        if !SORTS.contains(&limit.sort.as_str()) {
            let path = path.child("type");
            errors.push(FieldError::not_supported_of(&path, &limit.sort, SORTS));
        }
        for (name, value) in [("burst", limit.burst), ("qps", limit.qps)] {
            if value <= 0 {
                errors.push(FieldError::invalid(
                    &path.child(name),
                    value,
                    "must be positive",
                ));
            }
        }
        if limit.sort != "Server" && limit.cache_size < 0 {
            let path = path.child("cacheSize");
            errors.push(FieldError::invalid(
                &path,
                limit.cache_size,
                "must not be negative",
            ));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(FieldError::aggregate(&errors)),
    }
}

/// The limits in force.
pub struct EventLimits(Vec<Enforced>);

struct Enforced {
    limit: Limit,
    /// By what is counted apart. Guards nothing else.
    buckets: Mutex<HashMap<String, Bucket>>,
}

/// What may still be taken.
struct Bucket {
    left: f64,
    at: Instant,
}

impl EventLimits {
    /// With nothing taken yet.
    pub fn new(limits: Vec<Limit>) -> Self {
        let enforced = |limit| Enforced {
            limit,
            buckets: Mutex::default(),
        };
        Self(limits.into_iter().map(enforced).collect())
    }

    /// Counts an Event.
    ///
    /// # Errors
    /// 429 when there are too many.
    pub(super) fn check(&self, attributes: &Attributes<'_>, object: &Object) -> Result<(), Status> {
        let names = attributes.kind.names();
        if !names.group.is_empty() || names.kind != "Event" || attributes.cx.dry_run {
            return Ok(());
        }
        let mut reached = Vec::new();
        for enforced in &self.0 {
            let sort = enforced.limit.sort.as_str();
            let key = match sort {
                "Namespace" => attributes.cx.namespace.clone(),
                "User" => attributes.cx.user.name.clone(),
                "SourceAndObject" => object.get::<Event>().map(about).unwrap_or_default(),
                _ => String::new(),
            };
            if !enforced.takes(&key, Instant::now()) {
                reached.push(format!("limit reached on type {sort} for key {key}"));
            }
        }
        let why = match &reached[..] {
            [] => return Ok(()),
            [why] => why.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        let message = format!("Too many requests: {why}");
        Err(Status::failure(429, StatusReason::TooManyRequests, message))
    }
}

/// What an Event is about and who tells it.
fn about(event: &Event) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let source = event.source.clone().unwrap_or_default();
    let object = &event.involved_object;
    [
        text(&source.component),
        text(&source.host),
        text(&object.kind),
        text(&object.namespace),
        text(&object.name),
        text(&object.uid),
        text(&object.api_version),
    ]
    .concat()
}

impl Enforced {
    fn takes(&self, key: &str, now: Instant) -> bool {
        let burst = f64::from(self.limit.burst);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(key) {
            let most = match usize::try_from(self.limit.cache_size) {
                Ok(0) | Err(_) => BUCKETS,
                Ok(most) => most,
            };
            if buckets.len() >= most {
                // Whoever was quiet longest begins anew.
                let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at);
                let oldest = oldest.map(|(key, _)| key.clone());
                oldest.and_then(|key| buckets.remove(&key));
            }
            let full = Bucket {
                left: burst,
                at: now,
            };
            buckets.insert(key.to_owned(), full);
        }
        let Some(bucket) = buckets.get_mut(key) else {
            return false;
        };
        let come = now.duration_since(bucket.at).as_secs_f64() * f64::from(self.limit.qps);
        bucket.at = now;
        bucket.left = (bucket.left + come).min(burst);
        let takes = bucket.left >= 1.0;
        if takes {
            bucket.left -= 1.0;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_checked() {
        let limit = |limits: Value| {
            read(json!({"apiVersion": VERSION, "kind": "Configuration", "limits": limits}))
        };
        assert!(limit(json!([{"type": "Server", "qps": 1, "burst": 2}])).is_ok());
        let wrong = limit(json!([{"type": "Nobody", "qps": 0, "burst": -1}]));
        assert_eq!(
            wrong.expect_err("refused"),
            "[limits[0].type: Unsupported value: \"Nobody\": supported values: \"Namespace\", \"Server\", \
             \"SourceAndObject\", \"User\", limits[0].burst: Invalid value: -1: must be positive, \
             limits[0].qps: Invalid value: 0: must be positive]"
        );
        let none = limit(json!([])).expect_err("refused");
        assert_eq!(none, "limits: Invalid value: null: must not be empty");
    }

    #[test]
    fn tokens_come_back_and_the_quietest_is_forgotten() {
        let limit = Limit {
            sort: "Namespace".to_owned(),
            qps: 2,
            burst: 2,
            cache_size: 2,
        };
        let limits = EventLimits::new(vec![limit]);
        let (enforced, start) = (&limits.0[0], Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert!(enforced.takes("a", at(0)) && enforced.takes("a", at(0)));
        assert!(!enforced.takes("a", at(400)));
        assert!(enforced.takes("a", at(500)));
        assert!(enforced.takes("b", at(600)));
        assert!(!enforced.takes("a", at(700)));
        // There is room for two: the third comes for the second, which was quiet for longer.
        assert!(enforced.takes("c", at(800)));
        assert_eq!(enforced.buckets.lock().expect("no panic").len(), 2);
        assert!(!enforced.takes("a", at(800)));
    }
}
