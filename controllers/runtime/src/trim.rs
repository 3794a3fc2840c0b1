//! What caches need not keep. A process holds every pod of the cluster in memory, so each field counts.

use corral_api::k8s::api::core::v1::{Container, Pod, PodSpec, Volume};

/// The whole manifest again, for kubectl.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes away from a pod what neither controllers nor the scheduler ask about: how its containers are run, and volumes
/// that any node can provide. What places, groups, owns and ends the pod stays, as does its whole status.
///
/// A pod that was trimmed must not be written back as a whole; patches are fine.
pub fn pod(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(spec) = &mut pod.spec {
        self::spec(spec);
    }
    // Decoded lists have room for four.
    if let Some(conditions) = pod.status.as_mut().and_then(|s| s.conditions.as_mut()) {
        conditions.shrink_to_fit();
    }
}

fn spec(spec: &mut PodSpec) {
    let containers = std::mem::take(&mut spec.containers);
    spec.containers = containers.into_iter().map(container).collect();
    let init = spec.init_containers.take();
    spec.init_containers = init.map(|init| init.into_iter().map(container).collect());
    let volumes = spec.volumes.take().unwrap_or_default();
    let bound: Vec<_> = volumes.into_iter().filter(is_bound).collect();
    spec.volumes = Some(bound).filter(|volumes| !volumes.is_empty());
    if let Some(tolerations) = &mut spec.tolerations {
        tolerations.shrink_to_fit();
    }
    spec.dns_config = None;
    spec.dns_policy = None;
    spec.ephemeral_containers = None;
    spec.host_aliases = None;
    spec.image_pull_secrets = None;
    spec.security_context = None;
    spec.service_account = None;
    spec.service_account_name = None;
}

/// Whether a volume says something about where the pod may run.
fn is_bound(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
}

fn container(container: Container) -> Container {
    Container {
        name: container.name,
        image: container.image,
        ports: container.ports.map(|mut ports| {
            ports.shrink_to_fit();
            ports
        }),
        resources: container.resources,
        restart_policy: container.restart_policy,
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::object;

    #[test]
    fn what_places_and_ends_a_pod_stays() {
        let resources = json!({"requests": {"cpu": "1"}});
        let container = json!({
            "name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": 2}], "resources": resources,
        });
        let mut with_more = container.clone();
        with_more["env"] = json!([{"name": "A", "value": "b"}]);
        with_more["livenessProbe"] = json!({"exec": {"command": ["true"]}});
        let sidecar = json!({"name": "s", "restartPolicy": "Always"});
        let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}});
        let stays = json!({
            "nodeName": "n", "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "priority": 3,
            "initContainers": [sidecar], "hostname": "h", "subdomain": "d", "schedulerName": "other",
        });
        let mut before = stays.clone();
        before["containers"] = json!([with_more]);
        before["volumes"] = json!([{"name": "config", "configMap": {"name": "m"}}, claim]);
        before["serviceAccountName"] = json!("default");
        let mut after = stays;
        after["containers"] = json!([container]);
        after["volumes"] = json!([claim]);
        let status = json!({"phase": "Running", "podIP": "10.0.0.1"});
        let annotations = json!({"a": "b", LAST_APPLIED: "{}"});
        let mut trimmed = object(json!({
            "metadata": {"name": "p", "annotations": annotations}, "spec": before, "status": status,
        }));
        pod(&mut trimmed);
        let expected: Pod = object(json!({
            "metadata": {"name": "p", "annotations": {"a": "b"}}, "spec": after, "status": status,
        }));
        assert_eq!(trimmed, expected);
    }
}
