//! Annotations of pods that mean something to Kubernetes.

use std::collections::BTreeMap;

use corral_api::field::{FieldError, FieldPath, go_quote};
use corral_api::k8s::api::core::v1::PodSpec;

use super::super::app_armor::ANNOTATION as APP_ARMOR;
use super::every_container;
use crate::rules::{self, Errors, text};

/// Says that a pod is the image of one that its node has from elsewhere.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
/// How dear it is to delete the pod, among those of its owner.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const LOCALHOST: &str = "localhost/";

type Annotations = BTreeMap<String, String>;

/// What is wrong with a pod's or a template's.
pub(crate) fn annotations(
    errors: &mut Errors,
    path: &FieldPath,
    annotations: Option<&Annotations>,
    spec: &PodSpec,
) {
    let nothing = Annotations::new();
    let annotations = annotations.unwrap_or(&nothing);
    if let Some(mirror) = annotations.get(MIRROR)
        && text(&spec.node_name).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(
            &path.key(MIRROR),
            mirror.as_str(),
            detail,
        ));
    }
    if let Some(cost) = annotations.get(DELETION_COST).filter(|c| !is_cost(c)) {
        let path = path.key(DELETION_COST);
        let detail = "must be a 32bit integer";
        errors.push(FieldError::invalid(&path, cost.as_str(), detail));
    }
    if let Some(profile) = annotations.get(SECCOMP_OF_POD) {
        seccomp(errors, &path.child(SECCOMP_OF_POD), profile);
    }
    for (key, profile) in annotations {
        if key.starts_with(SECCOMP_OF_CONTAINER) {
            seccomp(errors, &path.child(key), profile);
        }
    }
    for (key, profile) in annotations {
        let Some(container) = key.strip_prefix(APP_ARMOR) else {
            continue;
        };
        let path = path.key(key);
        let containers = every_container(&path, spec);
        if !containers.iter().any(|(_, c)| c.name == container) {
            errors.push(FieldError::invalid(&path, container, "container not found"));
        }
        let known = matches!(profile.as_str(), "" | "runtime/default" | "unconfined");
        if !known && !profile.starts_with(LOCALHOST) {
            let detail = format!("invalid AppArmor profile name: {}", go_quote(profile));
            errors.push(FieldError::invalid(&path, profile.as_str(), detail));
        }
    }
}

/// A number of 32 bits without a plus sign or zeros before it.
fn is_cost(text: &str) -> bool {
    let starts = text == "0" || text.starts_with(|c: char| matches!(c, '-' | '1'..='9'));
    starts && text.parse::<i32>().is_ok()
}

fn seccomp(errors: &mut Errors, path: &FieldPath, profile: &str) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        other => match other.strip_prefix(LOCALHOST) {
            Some(file) => rules::local_path(errors, path, file),
            None => errors.push(FieldError::invalid(
                path,
                other,
                "must be a valid seccomp profile",
            )),
        },
    }
}

/// What an update may not do to a pod's.
pub(crate) fn changes(
    errors: &mut Errors,
    path: &FieldPath,
    new: Option<&Annotations>,
    old: Option<&Annotations>,
) {
    let nothing = Annotations::new();
    let (new, old) = (new.unwrap_or(&nothing), old.unwrap_or(&nothing));
    let mut forbid = |key: &str, what: &str| {
        let subject = if key == MIRROR {
            "mirror pod annotation"
        } else if key.starts_with(APP_ARMOR) {
            "AppArmor annotations"
        } else {
            return;
        };
        let detail = format!("may not {what} {subject}");
        errors.push(FieldError::forbidden(&path.key(key), detail));
    };
    for (key, value) in old {
        if new.get(key) != Some(value) {
            forbid(key, "remove or update");
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        forbid(key, "add");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{at, texts};

    fn map(pairs: &[(&str, &str)]) -> Annotations {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn annotations_with_a_meaning_are_checked() {
        let mut errors = Errors::new();
        let given = map(&[
            (MIRROR, "x"),
            (DELETION_COST, "+1"),
            (SECCOMP_OF_POD, "other"),
            ("container.apparmor.security.beta.kubernetes.io/a", "none"),
        ]);
        annotations(
            &mut errors,
            &at("annotations"),
            Some(&given),
            &PodSpec::default(),
        );
        assert_eq!(
            texts(&errors),
            [
                "annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod \
                 annotation is set",
                "annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer",
                "annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"other\": must be a valid seccomp \
                 profile",
                "annotations[container.apparmor.security.beta.kubernetes.io/a]: Invalid value: \"a\": container not found",
                "annotations[container.apparmor.security.beta.kubernetes.io/a]: Invalid value: \"none\": invalid AppArmor \
                 profile name: \"none\"",
            ]
        );
    }

    #[test]
    fn a_mirror_stays_one() {
        let mut errors = Errors::new();
        let (mirror, other) = (map(&[(MIRROR, "x")]), map(&[("a", "b")]));
        changes(&mut errors, &at("annotations"), Some(&other), Some(&mirror));
        changes(&mut errors, &at("annotations"), Some(&mirror), Some(&other));
        assert_eq!(
            texts(&errors),
            [
                "annotations[kubernetes.io/config.mirror]: Forbidden: may not remove or update mirror pod annotation",
                "annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
            ]
        );
    }
}
