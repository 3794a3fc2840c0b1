//! Defaults of a pod's spec: those of every spec, templates included, and those that only a Pod itself gets.

use std::collections::{BTreeMap, BTreeSet};

use corral_api::k8s::api::core::v1::{
    Container, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, LifecycleHandler,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceFieldSelector, ResourceRequirements, Volume, VolumeProjection,
};
use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::quantity::Quantity;

use super::image;
use crate::fill;

const HUGE_PAGES: &str = "hugepages-";
const TERMINATION_GRACE_SECONDS: i64 = 30;
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;
/// `rw-r--r--`, of files in volumes made from objects.
const VOLUME_FILE_MODE: i32 = 0o644;

/// Defaults of a template.
pub fn template(template: &mut PodTemplateSpec) {
    let pod_spec = template.spec.get_or_insert_default();
    spec(pod_spec);
}

/// Defaults of any pod spec.
pub fn spec(spec: &mut PodSpec) {
    fill::text(&mut spec.dns_policy, "ClusterFirst");
    fill::text(&mut spec.restart_policy, "Always");
    fill::absent(&mut spec.security_context, PodSecurityContext::default());
    fill::absent(
        &mut spec.termination_grace_period_seconds,
        TERMINATION_GRACE_SECONDS,
    );
    fill::text(&mut spec.scheduler_name, "default-scheduler");
    service_account_alias(spec);
    for c in spec.init_containers.iter_mut().flatten() {
        container(c);
    }
    spec.containers.iter_mut().for_each(container);
    for c in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral(c);
    }
    spec.volumes.iter_mut().flatten().for_each(volume);
    if let Some(resources) = &mut spec.resources {
        round_up(resources);
    }
}

/// The old name of `serviceAccountName` always has the same value.
pub fn service_account_alias(spec: &mut PodSpec) {
    if spec
        .service_account_name
        .as_ref()
        .is_none_or(String::is_empty)
    {
        spec.service_account_name = spec.service_account.clone().filter(|n| !n.is_empty());
    }
    spec.service_account = spec.service_account_name.clone();
}

/// What only a Pod gets, after [`spec`].
pub fn pod_only(spec: &mut PodSpec) {
    let containers = spec.init_containers.iter_mut().flatten();
    for c in containers.chain(&mut spec.containers) {
        if let Some(resources) = &mut c.resources {
            requests_from_limits(resources);
        }
    }
    pod_level_huge_pages(spec);
    pod_level_requests(spec);
    fill::absent(&mut spec.enable_service_links, true);
    if spec.host_network == Some(true) {
        let containers = spec.init_containers.iter_mut().flatten();
        for port in containers
            .chain(&mut spec.containers)
            .flat_map(|c| c.ports.iter_mut().flatten())
        {
            fill::zero(&mut port.host_port, port.container_port);
        }
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else {
        return;
    };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests
            .entry(name.clone())
            .or_insert_with(|| limit.clone());
    }
    if requests.is_empty() {
        resources.requests = None;
    }
}

/// Requests of the pod as a whole, where it has limits: what its containers request, else its limits.
fn pod_level_requests(spec: &mut PodSpec) {
    let totals: BTreeMap<String, Quantity> = ["cpu", "memory"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), containers_request(spec, name)?)))
        .collect();
    let Some(resources) = &mut spec.resources else {
        return;
    };
    let Some(limits) = resources.limits.clone().filter(|l| !l.is_empty()) else {
        return;
    };
    let requests = resources.requests.get_or_insert_default();
    for (name, total) in totals {
        requests.entry(name).or_insert_with(|| total.to_wire());
    }
    for (name, limit) in limits {
        // Of what a pod as a whole cannot have, validation tells.
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with(HUGE_PAGES) {
            requests.entry(name).or_insert(limit);
        }
    }
    if requests.is_empty() {
        resources.requests = None;
    }
}

/// Huge pages that the containers may use are the pod's too, if it has resources as a whole.
fn pod_level_huge_pages(spec: &mut PodSpec) {
    let limits = |c: &Container| c.resources.as_ref()?.limits.clone();
    let init = spec.init_containers.iter().flatten();
    let names: BTreeSet<String> = spec
        .containers
        .iter()
        .chain(init)
        .filter_map(limits)
        .flat_map(BTreeMap::into_keys)
        .filter(|name| name.starts_with(HUGE_PAGES))
        .collect();
    let sums: Vec<(String, Quantity)> = names
        .into_iter()
        .filter_map(|name| most_at_once(spec, &name, limits).map(|sum| (name, sum)))
        .collect();
    let Some(resources) = &mut spec.resources else {
        return;
    };
    let given =
        |list: &Option<BTreeMap<String, Wire>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if !given(&resources.limits) && !given(&resources.requests) {
        return;
    }
    for (name, sum) in sums {
        let requested = resources.requests.as_ref().and_then(|r| r.get(&name));
        if requested.is_none() {
            let limits = resources.limits.get_or_insert_default();
            limits.entry(name).or_insert_with(|| sum.to_wire());
        }
    }
}

fn containers_request(spec: &PodSpec, name: &str) -> Option<Quantity> {
    most_at_once(spec, name, |c| c.resources.as_ref()?.requests.clone())
}

/// The most that a pod's containers have of a resource at one time: sidecars and containers together, or an init
/// container beside the sidecars started before it.
pub(super) fn most_at_once(
    spec: &PodSpec,
    name: &str,
    amounts: impl Fn(&Container) -> Option<BTreeMap<String, Wire>>,
) -> Option<Quantity> {
    let of = |c: &Container| Quantity::from_wire(amounts(c)?.get(name)?).ok();
    let mut found = false;
    let mut sidecars = Quantity::default();
    let mut init_max = Quantity::default();
    for c in spec.init_containers.iter().flatten() {
        let Some(q) = of(c) else { continue };
        found = true;
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars + q;
            init_max = init_max.max(sidecars);
        } else {
            init_max = init_max.max(sidecars + q);
        }
    }
    let mut total = sidecars;
    for q in spec.containers.iter().filter_map(of) {
        found = true;
        total = total + q;
    }
    found.then(|| total.max(init_max))
}

fn round_up(resources: &mut ResourceRequirements) {
    fill::round_up(&mut resources.limits);
    fill::round_up(&mut resources.requests);
}

macro_rules! default_container {
    ($container:expr) => {{
        let c = $container;
        let policy = image::pull_policy(c.image.as_deref().unwrap_or_default());
        fill::text(&mut c.image_pull_policy, policy);
        fill::text(&mut c.termination_message_path, "/dev/termination-log");
        fill::text(&mut c.termination_message_policy, "File");
        round_up(c.resources.get_or_insert_default());
        for port in c.ports.iter_mut().flatten() {
            fill::text(&mut port.protocol, "TCP");
        }
        for probe in [
            &mut c.liveness_probe,
            &mut c.readiness_probe,
            &mut c.startup_probe,
        ] {
            if let Some(probe) = probe {
                default_probe(probe);
            }
        }
        if let Some(lifecycle) = &mut c.lifecycle {
            default_lifecycle(lifecycle);
        }
        c.env.iter_mut().flatten().for_each(env);
    }};
}

fn container(container: &mut Container) {
    default_container!(container);
}

fn ephemeral(container: &mut EphemeralContainer) {
    default_container!(container);
}

fn default_probe(probe: &mut Probe) {
    fill::zero(&mut probe.timeout_seconds, 1);
    fill::zero(&mut probe.period_seconds, 10);
    fill::zero(&mut probe.success_threshold, 1);
    fill::zero(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        http_get(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        fill::absent(&mut grpc.service, String::new());
    }
}

fn http_get(action: &mut HTTPGetAction) {
    fill::text(&mut action.path, "/");
    fill::text(&mut action.scheme, "HTTP");
}

fn default_lifecycle(lifecycle: &mut Lifecycle) {
    let handler = |handler: &mut Option<LifecycleHandler>| {
        if let Some(http) = handler.as_mut().and_then(|h| h.http_get.as_mut()) {
            http_get(http);
        }
    };
    handler(&mut lifecycle.post_start);
    handler(&mut lifecycle.pre_stop);
}

fn env(variable: &mut EnvVar) {
    let Some(from) = &mut variable.value_from else {
        return;
    };
    if let Some(field) = &mut from.field_ref {
        field_ref(field);
    }
    if let Some(resource) = &mut from.resource_field_ref {
        resource_field_ref(resource);
    }
    if let Some(file) = &mut from.file_key_ref {
        fill::absent(&mut file.optional, false);
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    fill::text(&mut field.api_version, "v1");
}

fn resource_field_ref(resource: &mut ResourceFieldSelector) {
    fill::absent(&mut resource.divisor, Wire("0".to_owned()));
}

/// A volume that names no kind of source is an empty directory.
fn volume(volume: &mut Volume) {
    let sourceless = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    if *volume == sourceless {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(secret) = &mut volume.secret {
        fill::absent(&mut secret.default_mode, VOLUME_FILE_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        fill::absent(&mut config_map.default_mode, VOLUME_FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        fill::absent(&mut downward.default_mode, VOLUME_FILE_MODE);
        for file in downward.items.iter_mut().flatten() {
            file.field_ref.iter_mut().for_each(field_ref);
            file.resource_field_ref
                .iter_mut()
                .for_each(resource_field_ref);
        }
    }
    if let Some(projected) = &mut volume.projected {
        fill::absent(&mut projected.default_mode, VOLUME_FILE_MODE);
        projected.sources.iter_mut().flatten().for_each(projection);
    }
    if let Some(host_path) = &mut volume.host_path {
        fill::absent(&mut host_path.type_, String::new());
    }
    if let Some(image_source) = &mut volume.image {
        let reference = image_source.reference.as_deref().unwrap_or_default();
        let policy = image::pull_policy(reference);
        fill::text(&mut image_source.pull_policy, policy);
    }
    foreign_volume(volume);
}

fn projection(projection: &mut VolumeProjection) {
    if let Some(token) = &mut projection.service_account_token {
        fill::absent(&mut token.expiration_seconds, TOKEN_EXPIRATION_SECONDS);
    }
    let items = projection.downward_api.iter_mut();
    for file in items.flat_map(|d| d.items.iter_mut().flatten()) {
        file.field_ref.iter_mut().for_each(field_ref);
        file.resource_field_ref
            .iter_mut()
            .for_each(resource_field_ref);
    }
}

/// Volumes that are accepted with a warning only; they keep Kubernetes' defaults all the same.
pub(crate) fn foreign_volume(volume: &mut Volume) {
    if let Some(iscsi) = &mut volume.iscsi {
        fill::text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut volume.rbd {
        fill::text(&mut rbd.pool, "rbd");
        fill::text(&mut rbd.user, "admin");
        fill::text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut volume.azure_disk {
        fill::absent(&mut disk.caching_mode, "ReadWrite".to_owned());
        fill::absent(&mut disk.fs_type, "ext4".to_owned());
        fill::absent(&mut disk.kind, "Shared".to_owned());
        fill::absent(&mut disk.read_only, false);
    }
    if let Some(scale_io) = &mut volume.scale_io {
        fill::text(&mut scale_io.storage_mode, "ThinProvisioned");
        fill::text(&mut scale_io.fs_type, "xfs");
    }
    let claim = volume.ephemeral.iter_mut();
    for template in claim.flat_map(|e| e.volume_claim_template.iter_mut()) {
        fill::absent(&mut template.spec.volume_mode, "Filesystem".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn defaulted(value: serde_json::Value) -> serde_json::Value {
        let mut pod_spec: PodSpec = serde_json::from_value(value).expect("a spec");
        spec(&mut pod_spec);
        pod_only(&mut pod_spec);
        serde_json::to_value(pod_spec).expect("JSON")
    }

    #[test]
    fn the_smallest_pod_gets_every_default() {
        assert_eq!(
            defaulted(json!({"containers": [{"name": "a", "image": "x:1"}]})),
            json!({
                "containers": [{
                    "name": "a", "image": "x:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            })
        );
    }

    #[test]
    fn requests_come_from_limits_and_host_ports_from_container_ports() {
        let spec = defaulted(json!({"hostNetwork": true, "containers": [{
            "name": "a", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
            "livenessProbe": {"httpGet": {"port": 80}},
        }], "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}]}));
        let container = &spec["containers"][0];
        assert_eq!(container["resources"]["requests"], json!({"cpu": "1"}));
        assert_eq!(
            container["ports"][0],
            json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})
        );
        assert_eq!(container["livenessProbe"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(container["livenessProbe"]["failureThreshold"], 3);
        assert_eq!(spec["volumes"][0], json!({"name": "v", "emptyDir": {}}));
        assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
    }
}
