use corral_api::k8s::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::*;
use crate::core::pod_spec::defaults;
use crate::rules::{at, texts};

fn problems(value: Value) -> Vec<String> {
    let mut pod_spec: PodSpec = serde_json::from_value(value).expect("a spec");
    defaults::spec(&mut pod_spec);
    defaults::pod_only(&mut pod_spec);
    let mut errors = Errors::new();
    spec(
        &mut errors,
        &at("spec"),
        &pod_spec,
        Owner::Pod(&ObjectMeta::default()),
    );
    texts(&errors)
}

fn with_container(mut container: Value) -> Value {
    container["name"] = "a".into();
    container["image"] = "x".into();
    json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]})
}

#[test]
fn a_usual_pod_is_right() {
    let none: Vec<String> = Vec::new();
    assert_eq!(
        problems(with_container(json!({
            "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "value": "1"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "readinessProbe": {"httpGet": {"port": "http"}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
            "resources": {"requests": {"cpu": "100m", "example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}},
            "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false},
        }))),
        none
    );
}

#[test]
fn a_pod_needs_containers_with_names_and_images() {
    assert_eq!(problems(json!({})), ["spec.containers: Required value"]);
    assert_eq!(
        problems(
            json!({"containers": [{"name": "A"}, {"name": "b", "image": "x"}, {"name": "b", "image": "x"}]})
        ),
        [
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric \
             characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used \
             for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.containers[0].image: Required value",
            "spec.containers[2].name: Duplicate value: \"b\"",
        ]
    );
}

#[test]
fn environment_and_mounts_are_checked() {
    assert_eq!(
        problems(with_container(json!({
            "env": [{"name": "A=B"}, {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
                {"name": "X", "valueFrom": {}}],
            "volumeMounts": [{"name": "w", "mountPath": "/v"}, {"name": "v", "mountPath": "/v", "subPath": "../x"}],
        }))),
        [
            "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of \
             printable ASCII characters other than '='",
            "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \
             \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \
             \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
             `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
        ]
    );
}

#[test]
fn probes_and_resources_are_checked() {
    assert_eq!(
        problems(with_container(json!({
            "livenessProbe": {"successThreshold": 2, "tcpSocket": {"port": 0}},
            "startupProbe": {},
            "resources": {"requests": {"cpu": "2", "disk": "1"}, "limits": {"cpu": "1"}},
        }))),
        [
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].resources.requests[disk]: Invalid value: \"disk\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.requests[disk]: Invalid value: \"disk\": must be a standard resource for containers",
            "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].startupProbe: Required value: must specify a handler type",
        ]
    );
}

#[test]
fn scheduling_and_security_are_checked() {
    let mut spec = with_container(json!({
        "securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1},
    }));
    spec["tolerations"] =
        json!([{"operator": "Equal"}, {"key": "k", "operator": "Exists", "value": "v"}]);
    spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "In"}]}]}}});
    spec["restartPolicy"] = "Sometimes".into();
    spec["activeDeadlineSeconds"] = 0.into();
    assert_eq!(
        problems(spec),
        [
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.containers[0].securityContext: Invalid value: \
             {\"allowPrivilegeEscalation\":false,\"privileged\":true,\"runAsUser\":-1}: cannot set `allowPrivilegeEscalation` to \
             false and `privileged` to true",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0]\
             .values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \
             \"match all values and all keys\"",
            "spec.tolerations[1].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
        ]
    );
}

#[test]
fn init_containers_have_no_probes_unless_they_are_sidecars() {
    let init = |policy: Value| {
        json!({
            "containers": [{"name": "a", "image": "x"}],
            "initContainers": [{"name": "i", "image": "x", "restartPolicy": policy,
                "readinessProbe": {"exec": {"command": ["true"]}}}],
        })
    };
    assert_eq!(
        problems(init(Value::Null)),
        [
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"
        ]
    );
    assert_eq!(problems(init("Always".into())), Vec::<String>::new());
}
