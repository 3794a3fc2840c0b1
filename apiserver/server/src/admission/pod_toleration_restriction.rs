//! PodTolerationRestriction: a namespace, or the administrator, says what its pods tolerate and what they may.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{Pod, Toleration};
use corral_api::status::Status;
use corral_kinds::Object;
use corral_kinds::core::pod_spec::{check_tolerations, qos};
use serde::Deserialize;
use serde_json::Value;

use super::{Attributes, namespace_lifecycle};
use crate::api::Api;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const VERSION: &str = "podtolerationrestriction.admission.k8s.io/v1alpha1";
/// The taint of nodes that are short of memory, which only pods without requests have to mind.
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// What holds where a namespace says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tolerations {
    default: Vec<Toleration>,
    allowed: Vec<Toleration>,
}

// Tolerations hold nothing that is not equal to itself.
impl Eq for Tolerations {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    default: Vec<Toleration>,
    #[serde(default)]
    whitelist: Vec<Toleration>,
}

impl Tolerations {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(value: Value) -> Result<Self, String> {
        let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
        super::settings::check_kind(&file.api_version, &file.kind, VERSION)?;
        let path = FieldPath::new("podtolerationrestriction");
        let mut errors = check_tolerations(&path.child("default"), &file.default);
        errors.extend(check_tolerations(&path.child("whitelist"), &file.whitelist));
        if !errors.is_empty() {
            return Err(format!(
                "invalid config: {}",
                FieldError::aggregate(&errors)
            ));
        }
        Ok(Self {
            default: file.default,
            allowed: file.whitelist,
        })
    }

    /// Gives a pod what its namespace wants it to tolerate, and checks the result.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) async fn admit(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &mut Object,
        is_new: bool,
    ) -> Result<(), Status> {
        let mut more = Vec::new();
        if is_new {
            let given = of_namespace(api, attributes, DEFAULTS).await?;
            more = given.unwrap_or_else(|| self.default.clone());
        }
        let Some(pod) = object.get_mut::<Pod>() else {
            return Ok(());
        };
        let class = pod
            .status
            .as_ref()
            .and_then(|status| status.qos_class.clone());
        let spec = pod.spec.get_or_insert_default();
        if class.unwrap_or_else(|| qos::class(spec).to_owned()) != "BestEffort" {
            more.push(Toleration {
                key: Some(MEMORY_PRESSURE.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoSchedule".to_owned()),
                ..Toleration::default()
            });
        }
        if !more.is_empty() {
            let own = spec.tolerations.take().unwrap_or_default();
            spec.tolerations = Some(merged(own, more));
        }
        self.check(api, attributes, object).await
    }

    /// Checks what a pod tolerates.
    ///
    /// # Errors
    /// 500, as in Kubernetes, when it tolerates more than its namespace allows, or when what that says cannot be read.
    pub(super) async fn check(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Object,
    ) -> Result<(), Status> {
        let spec = object.get::<Pod>().and_then(|pod| pod.spec.as_ref());
        let tolerations = spec.and_then(|spec| spec.tolerations.as_deref());
        let tolerations = tolerations.unwrap_or_default();
        if tolerations.is_empty() {
            return Ok(());
        }
        let given = of_namespace(api, attributes, ALLOWED).await?;
        let (allowed, scope) = match &given {
            Some(given) => (given, "namespace"),
            None => (&self.allowed, "cluster"),
        };
        let is_allowed = |own: &Toleration| allowed.iter().any(|wide| covers(wide, own));
        if allowed.is_empty() || tolerations.iter().all(is_allowed) {
            return Ok(());
        }
        Err(Status::unexpected(format!(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
        )))
    }
}

/// What a namespace says; nothing if it does not.
async fn of_namespace(
    api: &Api,
    attributes: &Attributes<'_>,
    annotation: &str,
) -> Result<Option<Vec<Toleration>>, Status> {
    let name = &attributes.cx.namespace;
    let Some(namespace) = namespace_lifecycle::find(api, name).await? else {
        return Err(Status::not_found("", "namespaces", name));
    };
    let annotations = namespace.metadata.annotations.unwrap_or_default();
    match annotations.get(annotation).map(String::as_str) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => serde_json::from_str(text)
            .map(Some)
            .map_err(|error| Status::unexpected(error.to_string())),
    }
}

/// Both without what others of them cover.
fn merged(mut all: Vec<Toleration>, more: Vec<Toleration>) -> Vec<Toleration> {
    all.extend(more);
    let mut merged: Vec<Toleration> = Vec::new();
    for (at, one) in all.iter().enumerate() {
        let is_covered = merged.iter().any(|wide| covers(wide, one))
            || all[at + 1..]
                .iter()
                .any(|wide| wide != one && covers(wide, one));
        if !is_covered {
            merged.push(one.clone());
        }
    }
    merged
}

/// Whether one toleration tolerates everything that another does.
fn covers(wide: &Toleration, one: &Toleration) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if wide == one {
        return true;
    }
    let operator = text(&wide.operator);
    let all_keys = text(&wide.key).is_empty() && operator == "Exists";
    if text(&one.key) != text(&wide.key) && !all_keys {
        return false;
    }
    let effect = text(&wide.effect);
    if text(&one.effect) != effect && !effect.is_empty() {
        return false;
    }
    if effect == "NoExecute"
        && let Some(most) = wide.toleration_seconds
        && one.toleration_seconds.is_none_or(|seconds| seconds > most)
    {
        return false;
    }
    match operator.as_str() {
        "Equal" | "" => text(&one.operator) == "Equal" && text(&one.value) == text(&wide.value),
        operator => operator == "Exists",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tolerations(of: Value) -> Vec<Toleration> {
        serde_json::from_value(of).expect("tolerations")
    }

    #[test]
    fn what_is_covered_is_left_out() {
        let own = json!([{"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"},
            {"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}]);
        let more = json!([{"key": "a", "operator": "Exists"},
            {"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]);
        let kept = json!([{"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10},
            {"key": "a", "operator": "Exists"}]);
        let merged = merged(tolerations(own), tolerations(more));
        assert_eq!(merged, tolerations(kept));
    }

    #[test]
    fn a_configuration_is_checked() {
        let read = |default: Value| {
            let file = json!({"apiVersion": VERSION, "kind": "Configuration", "default": default});
            Tolerations::read(file)
        };
        assert!(read(json!([{"key": "a", "operator": "Exists"}])).is_ok());
        assert_eq!(
            read(json!([{"key": "a", "operator": "Exists", "value": "b"}])).expect_err("refused"),
            "invalid config: podtolerationrestriction.default[0].operator: Invalid value: \"b\": value must be empty \
             when `operator` is 'Exists'"
        );
    }
}
