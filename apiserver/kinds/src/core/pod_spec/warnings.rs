//! Warnings about what a pod's spec asks for and Corral does not do yet, or Kubernetes has given up.

mod mistakes;

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::{PodSpec, PodTemplateSpec, SecurityContext, Volume};

use super::validation::volume_sources;

/// Kinds of volumes that are mounted.
const HONOURED_VOLUMES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "secret",
    "configMap",
    "downwardAPI",
    "projected",
    "image",
];
const NOT_HONOURED: &str = "accepted, but not honoured by this server yet";

/// Warnings about a template.
pub fn of_template(path: &str, template: Option<&PodTemplateSpec>) -> Vec<String> {
    let spec = template.and_then(|t| t.spec.as_ref());
    spec.map_or_else(Vec::new, |spec| of_spec(&format!("{path}.spec"), spec))
}

/// Annotations that once were what fields are now, and are nothing any more.
pub fn of_annotations(
    annotations: Option<&BTreeMap<String, String>>,
    spec: &PodSpec,
) -> Vec<String> {
    const OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let profile =
        |context: Option<&SecurityContext>| context.is_some_and(|c| c.seccomp_profile.is_some());
    let context = spec.security_context.as_ref();
    let mut keys = Vec::new();
    if context.is_none_or(|context| context.seccomp_profile.is_none()) {
        keys.push(OF_POD.to_owned());
    }
    let init = spec.init_containers.iter().flatten();
    for container in init.chain(&spec.containers) {
        if !profile(container.security_context.as_ref()) {
            keys.push(format!("{OF_CONTAINER}{}", container.name));
        }
    }
    keys.retain(|key| annotations.is_some_and(|all| all.contains_key(key)));
    let texts = keys.iter().map(|key| {
        format!("metadata.annotations[{key}]: non-functional in v1.27+; use the \"seccompProfile\" field instead")
    });
    texts.collect()
}

/// Warnings about a spec at a path.
pub fn of_spec(path: &str, spec: &PodSpec) -> Vec<String> {
    let mut fields: Vec<String> = pod_fields(spec)
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(field, _)| field.to_owned())
        .collect();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        fields.extend(volume_fields(volume).map(|f| format!("volumes[{index}].{f}")));
    }
    let init = spec.init_containers.iter().flatten().enumerate();
    let main = spec.containers.iter().enumerate();
    let all = init
        .map(|c| ("initContainers", c))
        .chain(main.map(|c| ("containers", c)));
    for (list, (index, container)) in all {
        let context = container.security_context.as_ref();
        for (field, given) in [
            (
                "volumeDevices",
                container
                    .volume_devices
                    .as_ref()
                    .is_some_and(|d| !d.is_empty()),
            ),
            (
                "restartPolicyRules",
                container
                    .restart_policy_rules
                    .as_ref()
                    .is_some_and(|r| !r.is_empty()),
            ),
            (
                "resources.claims",
                container
                    .resources
                    .as_ref()
                    .is_some_and(|r| r.claims.is_some()),
            ),
            (
                "securityContext.appArmorProfile",
                context.is_some_and(|c| c.app_armor_profile.is_some()),
            ),
            (
                "securityContext.seLinuxOptions",
                context.is_some_and(|c| c.se_linux_options.is_some()),
            ),
            (
                "securityContext.windowsOptions",
                context.is_some_and(|c| c.windows_options.is_some()),
            ),
        ] {
            if given {
                fields.push(format!("{list}[{index}].{field}"));
            }
        }
    }
    let mut warnings: Vec<String> = fields
        .into_iter()
        .map(|field| format!("{path}.{field}: {NOT_HONOURED}"))
        .collect();
    warnings.extend(mistakes::of_spec(path, spec));
    warnings
}

fn pod_fields(spec: &PodSpec) -> [(&'static str, bool); 12] {
    let affinity = spec.affinity.as_ref();
    let context = spec.security_context.as_ref();
    let some = |n: Option<usize>| n.is_some_and(|n| n > 0);
    [
        (
            "topologySpreadConstraints",
            some(spec.topology_spread_constraints.as_ref().map(Vec::len)),
        ),
        (
            "affinity.podAffinity",
            affinity.is_some_and(|a| a.pod_affinity.is_some()),
        ),
        (
            "affinity.podAntiAffinity",
            affinity.is_some_and(|a| a.pod_anti_affinity.is_some()),
        ),
        (
            "ephemeralContainers",
            some(spec.ephemeral_containers.as_ref().map(Vec::len)),
        ),
        (
            "resourceClaims",
            some(spec.resource_claims.as_ref().map(Vec::len)),
        ),
        ("resources", spec.resources.is_some()),
        ("schedulingGroup", spec.scheduling_group.is_some()),
        ("hostUsers", spec.host_users == Some(false)),
        (
            "securityContext.appArmorProfile",
            context.is_some_and(|c| c.app_armor_profile.is_some()),
        ),
        (
            "securityContext.seLinuxOptions",
            context.is_some_and(|c| c.se_linux_options.is_some()),
        ),
        (
            "securityContext.windowsOptions",
            context.is_some_and(|c| c.windows_options.is_some()),
        ),
        (
            "os",
            spec.os.as_ref().is_some_and(|os| os.name == "windows"),
        ),
    ]
}

fn volume_fields(volume: &Volume) -> impl Iterator<Item = &'static str> {
    let sources = volume_sources(volume).into_iter();
    sources.filter(|source| !HONOURED_VOLUMES.contains(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_honours_brings_no_warning() {
        let spec = serde_json::from_value(serde_json::json!({
            "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}], "fsGroup": 1,
                "fsGroupChangePolicy": "OnRootMismatch"},
            "setHostnameAsFQDN": true,
            "containers": [{"name": "c", "lifecycle": {"stopSignal": "SIGUSR1"},
                "resources": {"limits": {"ephemeral-storage": "1Gi"}}}],
            "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "i", "image": {"reference": "x"}}],
        }))
        .expect("a spec");
        assert_eq!(of_spec("spec", &spec), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_honoured_is_named() {
        let spec = serde_json::from_value(serde_json::json!({
            "hostUsers": false, "affinity": {"podAffinity": {}},
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "c"}}],
        }))
        .expect("a spec");
        assert_eq!(
            of_spec("spec", &spec),
            [
                "spec.affinity.podAffinity: accepted, but not honoured by this server yet",
                "spec.hostUsers: accepted, but not honoured by this server yet",
                "spec.volumes[1].persistentVolumeClaim: accepted, but not honoured by this server yet",
            ]
        );
    }
}
