//! AppArmor profiles as annotations, which was their place before they had fields: a new pod gets the fields that its
//! annotations mean, and whoever creates it is told.

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::{AppArmorProfile, PodSpec};

/// Followed by the name of a container.
pub const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

type Annotations = BTreeMap<String, String>;

/// What the value of an annotation means.
fn profile(text: &str) -> Option<AppArmorProfile> {
    let of = |type_: &str, localhost_profile: Option<String>| {
        Some(AppArmorProfile {
            type_: type_.to_owned(),
            localhost_profile,
        })
    };
    match text {
        "unconfined" => of("Unconfined", None),
        "runtime/default" => of("RuntimeDefault", None),
        _ => {
            let name = text.strip_prefix("localhost/")?;
            (!name.is_empty()).then(|| of("Localhost", Some(name.to_owned())))?
        }
    }
}

/// The names of the containers whose annotation says something else than the pod does.
fn annotated<'a>(annotations: &'a Annotations, spec: &PodSpec) -> Vec<(&'a str, &'a str)> {
    let whole = spec.security_context.as_ref();
    let whole = whole.and_then(|context| context.app_armor_profile.as_ref());
    let all = annotations
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(ANNOTATION)?, value.as_str())));
    all.filter(|(_, value)| whole.is_none() || profile(value).as_ref() != whole)
        .collect()
}

/// Gives containers without a profile the one of their annotation.
pub fn take_up(annotations: Option<&Annotations>, spec: &mut PodSpec) {
    let Some(annotations) = annotations else {
        return;
    };
    for (name, value) in annotated(annotations, spec) {
        let init = spec.init_containers.iter_mut().flatten();
        let mut containers = init.chain(&mut spec.containers);
        let (Some(container), Some(profile)) = (
            containers.find(|container| container.name == name),
            profile(value),
        ) else {
            continue;
        };
        let context = container.security_context.get_or_insert_default();
        context.app_armor_profile.get_or_insert(profile);
    }
}

/// What is told of the annotations of a new pod.
pub fn warnings(annotations: Option<&Annotations>, spec: &PodSpec) -> Vec<String> {
    let Some(annotations) = annotations else {
        return Vec::new();
    };
    let names = annotated(annotations, spec).into_iter();
    names
        .map(|(name, _)| {
            format!(
                "metadata.annotations[{ANNOTATION}{name}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn taken_up(annotations: &Value, spec: Value) -> (Value, usize) {
        let annotations: Annotations = annotations
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| {
                let value = value.as_str().unwrap_or_default().to_owned();
                (format!("{ANNOTATION}{name}"), value)
            })
            .collect();
        let mut spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        take_up(Some(&annotations), &mut spec);
        let n_warnings = warnings(Some(&annotations), &spec).len();
        let spec = serde_json::to_value(&spec).expect("JSON");
        (spec["containers"][0]["securityContext"].clone(), n_warnings)
    }

    #[test]
    fn annotations_become_fields() {
        let container = json!({"name": "c"});
        let spec = json!({"containers": [container]});
        for (value, profile) in [
            ("unconfined", json!({"type": "Unconfined"})),
            ("runtime/default", json!({"type": "RuntimeDefault"})),
            (
                "localhost/x",
                json!({"type": "Localhost", "localhostProfile": "x"}),
            ),
        ] {
            let (context, n_warnings) = taken_up(&json!({"c": value}), spec.clone());
            assert_eq!(
                (context, n_warnings),
                (json!({"appArmorProfile": profile}), 1)
            );
        }
        for value in ["", "localhost/"] {
            let taken = taken_up(&json!({"c": value}), spec.clone());
            assert_eq!(taken, (Value::Null, 1), "{value}");
        }
        assert_eq!(taken_up(&json!({}), spec), (Value::Null, 0));
    }

    #[test]
    fn what_the_pod_says_already_is_not_said_again() {
        let whole = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        let spec = json!({"containers": [{"name": "c"}], "securityContext": whole});
        let same = taken_up(&json!({"c": "runtime/default"}), spec.clone());
        assert_eq!(same, (Value::Null, 0));
        let (other, n_warnings) = taken_up(&json!({"c": "unconfined"}), spec);
        assert_eq!(
            (other["appArmorProfile"]["type"].as_str(), n_warnings),
            (Some("Unconfined"), 1)
        );
    }
}
